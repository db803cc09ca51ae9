package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// ListSnapshots lists one snapshot, those of a volume, or those of all volumes that
// this driver may own, a volume's by their time. A token names the last one that
// was listed, so it outlives what is made and deleted in the meantime.
func (s *Server) ListSnapshots(ctx context.Context, req *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	want, err := parseListSnapshots(req)
	if err != nil {
		return nil, err
	}
	answer, err := s.listSnapshots(ctx, want)
	if err != nil {
		return nil, withStatus(fmt.Errorf("list snapshots: %w", err))
	}
	return answer, nil
}

func (s *Server) listSnapshots(ctx context.Context, want listSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	switch {
	case want.Never:
		return &csi.ListSnapshotsResponse{}, nil
	case want.ID != (snapshotID{}):
		return s.listOne(ctx, want)
	case want.Source != (volumeID{}):
		p := snapshotPage{left: want.Most}
		done, err := s.listSource(ctx, &p, want.Source, want.From.UTCTS)
		if done {
			p.next = ""
		}
		return p.answer(), err
	}
	return s.listAll(ctx, want)
}

func (s *Server) listOne(ctx context.Context, want listSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	answer := &csi.ListSnapshotsResponse{}
	snap, err := s.getSnapshot(ctx, want.ID)
	switch {
	case errors.Is(err, errNoSnapshot), err == nil && want.Source != (volumeID{}) && want.Source != want.ID.Volume:
		return answer, nil
	case err != nil:
		return nil, err
	}
	answer.Entries = append(answer.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: snap})
	return answer, nil
}

// listSource adds the snapshots of one volume after a key; done is false when they
// were more than the page takes. A volume that is not there has none.
func (s *Server) listSource(ctx context.Context, p *snapshotPage, id volumeID, after string) (done bool, err error) {
	_, v, err := s.find(ctx, id)
	if errors.Is(err, dateraclient.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return p.add(id, v, after)
}

// listAll goes on with the volume that the token names, and then with those after
// it, backend by backend.
func (s *Server) listAll(ctx context.Context, want listSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	p := snapshotPage{left: want.Most, from: want.From.position}
	if want.From.UTCTS != "" {
		id := volumeID{Backend: want.From.Backend, Name: want.From.Place.After}
		if done, err := s.listSource(ctx, &p, id, want.From.UTCTS); err != nil || !done {
			return p.answer(), err
		}
	}
	names, err := s.backends.Names()
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		if name < p.from.Backend {
			continue
		}
		if name != p.from.Backend {
			p.from = position{Backend: name}
		}
		if done, err := s.listBackend(ctx, &p); err != nil || !done {
			return p.answer(), err
		}
	}
	p.next = ""
	return p.answer(), nil
}

// listBackend adds the snapshots of a backend's volumes after the page's position.
func (s *Server) listBackend(ctx context.Context, p *snapshotPage) (done bool, err error) {
	array, err := s.backends.array(p.from.Backend)
	if err != nil {
		return false, err
	}
	for step, err := range array.Walk(ctx, p.from.Place, stride(p.left)) {
		if err != nil {
			return false, fmt.Errorf("backend %s: %w", p.from.Backend, err)
		}
		p.from.Place = step.Place
		id := volumeID{Backend: p.from.Backend, Name: step.Name}
		if step.Volume == nil || !owned(step.Volume) || !id.speakable() {
			continue
		}
		if done, err := p.add(id, step.Volume, ""); err != nil || !done {
			return false, err
		}
	}
	return true, nil
}

// speakable says whether an app instance can be named by a volume id at all.
func (id volumeID) speakable() bool {
	parsed, err := parseVolumeID(id.String())
	return err == nil && parsed == id
}

// snapshotPage is a piece of a list while it is filled.
type snapshotPage struct {
	entries []*csi.ListSnapshotsResponse_Entry
	left    int
	from    position // of the volume that is being listed, and directly after it
	next    string
}

// add takes a volume's snapshots after a key, as many as there is room for. It asks
// for one more than that to know whether the list has ended: a token for nothing
// would be an empty page.
func (p *snapshotPage) add(id volumeID, v *dateraclient.Volume, after string) (done bool, err error) {
	own := v.OwnSnapshots()
	slices.SortFunc(own, func(a, b dateraclient.Snapshot) int { return compareKeys(a.UTCTS, b.UTCTS) })
	for _, snap := range own {
		if after != "" && compareKeys(snap.UTCTS, after) <= 0 {
			continue
		}
		if p.left == 0 {
			return false, nil
		}
		entry, err := renderSnapshot(id, v, &snap)
		if err != nil {
			return false, err
		}
		p.entries = append(p.entries, &csi.ListSnapshotsResponse_Entry{Snapshot: entry})
		p.left--
		p.next = snapshotPosition{position{id.Backend, dateraclient.Place{After: id.Name, Offset: p.from.Place.Offset}}, snap.UTCTS}.String()
	}
	return true, nil
}

// answer is the page. Its token is that of the last entry, if more came after it.
func (p *snapshotPage) answer() *csi.ListSnapshotsResponse {
	return &csi.ListSnapshotsResponse{Entries: p.entries, NextToken: p.next}
}
