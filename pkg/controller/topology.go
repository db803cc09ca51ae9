package controller

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/internal/topology"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// fileTopology says from where the array of a backend can be reached: one place a
// line, each as key=value with commas between several; absent: from everywhere.
const fileTopology = "topology"

// topology is where a backend can be reached from; empty is everywhere.
func (b *Backends) topology(name string) (topology.Set, error) {
	dir := filepath.Join(b.cfg.Dir, name)
	var text string
	err := together(dir, func(now string) (err error) {
		text, err = optional(now, fileTopology, "")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w: %w", name, errBackend, err)
	}
	if text == "" {
		return nil, nil
	}
	set, err := topology.ParseSet(text)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w: file %s: %w", name, errBackend, filepath.Join(dir, fileTopology), err)
	}
	return set, nil
}

// Placed says whether any backend is told where it is. It is what decides whether
// the plugin offers VOLUME_ACCESSIBILITY_CONSTRAINTS; sidecars ask when they start.
func (b *Backends) Placed() bool {
	names, _ := b.Names() // none that can be read: none that is told
	return slices.ContainsFunc(names, func(name string) bool {
		set, err := b.topology(name)
		return err != nil || len(set) > 0
	})
}

// requirement is a TopologyRequirement, parsed: the places to choose from, those
// that are preferred first, as they are preferred.
type requirement struct {
	Places []topology.Segments
}

// parseRequirement takes nil for no requirement.
func parseRequirement(r *csi.TopologyRequirement) (*requirement, error) {
	if r == nil {
		return nil, nil //nolint:nilnil // none is asked for
	}
	var parsed requirement
	for _, t := range slices.Concat(r.GetPreferred(), r.GetRequisite()) {
		place := topology.Segments(t.GetSegments())
		if err := place.Check(); err != nil {
			return nil, err
		}
		if len(place) == 0 {
			return nil, errors.New("a topology without segments names no place")
		}
		parsed.Places = append(parsed.Places, place)
	}
	if len(parsed.Places) == 0 {
		return nil, errors.New("neither requisite nor preferred is set")
	}
	return &parsed, nil
}

// candidate is a backend that a volume may be made on.
type candidate struct {
	Backend string
	Where   topology.Set
}

// candidates are the backends for a class and a requirement, the preferred ones
// first. A class that names its backend has that one. Another has the default
// backend and, if places are asked for, those that are told where they are:
// between equals the default comes first, then the order is that of the names. One
// whose topology cannot be read is passed over while there is another.
func (s *Server) candidates(ctx context.Context, p parameters, need *requirement) ([]candidate, error) {
	all, unread, err := s.eligible(p, need)
	if err != nil {
		return nil, err
	}
	if need == nil {
		return all, unread
	}
	var chosen []candidate
	for _, place := range need.Places {
		for _, c := range all {
			taken := slices.ContainsFunc(chosen, func(x candidate) bool { return x.Backend == c.Backend })
			if !taken && c.Where.Meets(place) {
				chosen = append(chosen, c)
			}
		}
	}
	switch {
	case len(chosen) == 0 && unread != nil:
		return nil, unread // it may be there
	case unread != nil:
		klog.FromContext(ctx).Info("No volumes are made on backends whose topology cannot be read", "reason", unread)
	case len(chosen) == 0:
		return nil, fmt.Errorf("%w: asked for %s; %s", errPlace, topology.Set(need.Places), describe(all))
	}
	return chosen, nil
}

func describe(all []candidate) string {
	words := make([]string, len(all))
	for i, c := range all {
		words[i] = fmt.Sprintf("backend %s is at %s", c.Backend, c.Where)
	}
	return strings.Join(words, ", ")
}

// eligible are the backends a class may use, wherever they are. unread says what is
// wrong with those of which that cannot be told.
func (s *Server) eligible(p parameters, need *requirement) (all []candidate, unread, err error) {
	if need != nil && !s.backends.Placed() {
		return nil, nil, errPlaceless
	}
	names := []string{p.Backend}
	if !p.BackendNamed && need != nil {
		found, namesErr := s.backends.Names()
		if namesErr != nil {
			return nil, nil, namesErr
		}
		slices.SortFunc(found, func(a, b string) int {
			switch {
			case a == defaultBackend:
				return -1
			case b == defaultBackend:
				return 1
			}
			return strings.Compare(a, b)
		})
		names = found
	}
	for _, name := range names {
		where, topologyErr := s.backends.topology(name)
		switch {
		case topologyErr != nil:
			unread = errors.Join(unread, topologyErr)
		case name == p.Backend || len(where) > 0:
			all = append(all, candidate{name, where})
		}
	}
	return all, unread, nil
}

func renderTopology(set topology.Set) []*csi.Topology {
	var out []*csi.Topology
	for _, segments := range set {
		out = append(out, &csi.Topology{Segments: segments})
	}
	return out
}

const (
	// lookTimeout bounds the search for a volume on the backends that may have it.
	lookTimeout = 5 * time.Second

	// silence is how long a backend that did not answer such a search is left out of
	// others, so that one that is down does not cost every new volume that time.
	silence = 30 * time.Second
)

// holders narrows the candidates to the one that has the volume already, made by
// an earlier call whose preferences were others. All are asked at once. A backend
// that does not answer is passed over, as an outage there must not keep volumes
// from being made here: unless this process has tried to make the volume there.
func (s *Server) holders(ctx context.Context, name string, all []candidate) ([]candidate, error) {
	placed, known := s.placed.find(name)
	if known {
		if _, err := s.backends.topology(placed); err != nil { // so it is not among the candidates
			return nil, fmt.Errorf("%w: backend %s was asked to make it: %w", errUndecided, placed, err)
		}
	}
	if len(all) < 2 {
		return all, nil
	}
	search, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	found := make([]error, len(all))
	var wait sync.WaitGroup
	for i, c := range all {
		if until, _ := s.silent.find(c.Backend); c.Backend != placed && s.clock().Before(until) {
			found[i] = dateraclient.ErrUnavailable
			continue
		}
		wait.Go(func() { _, _, found[i] = s.find(search, volumeID{Backend: c.Backend, Name: name}) })
	}
	wait.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var doubt error
	for i, err := range found {
		switch backend := all[i].Backend; {
		case err == nil || errors.Is(err, dateraclient.ErrShape):
			return all[i : i+1], nil
		case errors.Is(err, dateraclient.ErrNotFound):
			s.silent.forget(backend)
		case backend == placed:
			doubt = fmt.Errorf("%w: backend %s was asked to make it: %w", errUndecided, backend, err)
		default:
			if until, _ := s.silent.find(backend); !s.clock().Before(until) {
				klog.FromContext(ctx).V(2).Info("Could not look for a volume", "volume", name, "backend", backend, "reason", err)
				s.silent.note(backend, s.clock().Add(silence))
			}
		}
	}
	return all, doubt
}

// ensurePlaced makes the volume on the first of the backends that has room for it,
// or finds it where it is. The request it gives back names that backend.
func (s *Server) ensurePlaced(ctx context.Context, want createRequest, backends []candidate) (createRequest, *dateraclient.Volume, error) {
	backends, err := s.holders(ctx, want.ID.Name, backends)
	if err != nil {
		return want, nil, err
	}
	var full error
	for _, c := range backends {
		want.ID.Backend, want.Where = c.Backend, c.Where
		s.placed.note(want.ID.Name, c.Backend)
		v, err := s.ensureVolume(ctx, want)
		if err != nil && !passing(err) {
			s.placed.forget(want.ID.Name) // there is none of ours
		}
		if !errors.Is(err, dateraclient.ErrNoSpace) || passing(err) { // else there may be one yet
			return want, v, err
		}
		full = errors.Join(full, fmt.Errorf("backend %s: %w", c.Backend, err))
	}
	return want, nil, full
}
