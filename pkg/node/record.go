package node

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/datera-csi/datera-csi/internal/durable"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

const recordVersion = 1

// record is what this node must know of a volume to take it down again, whatever
// happened in between. It is on disk before the first side effect of a stage and
// leaves after the last of an unstage (FM 5, 6, 19). It never holds a secret
// (FM 40).
type record struct {
	Version   int          `json:"version"`
	Volume    string       `json:"volume"`
	Staging   string       `json:"stagingPath"`
	Target    recordTarget `json:"target"`
	Mode      mode         `json:"mode"`
	FSType    string       `json:"fsType,omitempty"`
	Flags     []string     `json:"mountFlags,omitempty"`
	ReadOnly  bool         `json:"readOnly"`
	Targets   []published  `json:"targets,omitempty"`
	OldErrors oldErrors    `json:"oldErrors,omitzero"`
	Ungrown   string       `json:"ungrown,omitempty"`   // why the file system is smaller than its device
	Unwritten string       `json:"unwritten,omitempty"` // why something may be lost, and nobody has heard of it
	Remount   bool         `json:"remount,omitempty"`   // a publish takes the file system off the staging path and mounts it anew
	Admission string       `json:"admission,omitempty"` // publishctx.Context's
	Fenced    bool         `json:"fenced,omitempty"`    // what is mounted is of an earlier admission
}

// oldErrors are those that a file system remembered when it was mounted here.
type oldErrors struct {
	Count int64     `json:"count"`
	Time  time.Time `json:"time"` // of the last
}

// published is a target path that was bound, or was about to be.
type published struct {
	Path     string `json:"path"`
	ReadOnly bool   `json:"readOnly"`
}

// recordTarget is iscsi.Target on disk.
type recordTarget struct {
	IQN     string           `json:"iqn"`
	Portals []netip.AddrPort `json:"portals"`
	LUN     int              `json:"lun"`
	Serial  string           `json:"serial"`
	Bytes   int64            `json:"bytes"`
}

func (r *record) target() iscsi.Target { return iscsi.Target(r.Target) }

// publishedAt finds a target path among those of the record.
func (r *record) publishedAt(path string) (published, bool) {
	i := slices.IndexFunc(r.Targets, func(p published) bool { return p.Path == path })
	if i < 0 {
		return published{}, false
	}
	return r.Targets[i], true
}

// without returns a copy of the record that does not know the target path.
func (r *record) without(path string) *record {
	changed := *r
	changed.Targets = slices.DeleteFunc(slices.Clone(r.Targets), func(p published) bool { return p.Path == path })
	return &changed
}

// with returns a copy of the record that knows the target path.
func (r *record) with(p published) *record {
	changed := r.without(p.Path)
	changed.Targets = append(changed.Targets, p)
	return changed
}

// records is the directory of records, one file a volume. The caller holds the
// volume's lock.
type records struct{ dir string }

func (r *records) path(volume string) string { return filepath.Join(r.dir, fileName(volume)) }

// fileName names a file readably, and by a hash too, so that no two ids share one
// and none can point elsewhere.
func fileName(id string) string {
	sum := sha256.Sum256([]byte(id))
	readable := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			return c
		}
		return '_'
	}, id)
	return readable[:min(len(readable), 80)] + "-" + hex.EncodeToString(sum[:8]) + ".json"
}

// load returns fs.ErrNotExist when there is no record, and errRecord when there
// is one that cannot be understood: then nothing is known, and nothing may be
// done as if nothing had been there.
func (r *records) load(volume string) (*record, error) {
	rec, err := read(r.path(volume))
	if err != nil {
		return nil, err
	}
	if rec.Volume != volume {
		return nil, fmt.Errorf("%w: %s is of volume %s, not of %s; restore the file or move it away", errRecord, r.path(volume), rec.Volume, volume)
	}
	return rec, nil
}

func read(path string) (*record, error) {
	const remedy = "if the volume is still in use, repair the file; else move it away, and the mount table will do"
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the volume's record: %w", err)
	}
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, fmt.Errorf("%w: %s: %w; %s", errRecord, path, err, remedy)
	}
	if rec.Version != recordVersion {
		return nil, fmt.Errorf("%w: %s has version %d, this plugin knows %d; was it written by a newer release?", errRecord, path, rec.Version, recordVersion)
	}
	if rec.Volume == "" || rec.Staging == "" || rec.Target.IQN == "" || rec.Mode != modeBlock && rec.Mode != modeMount {
		return nil, fmt.Errorf("%w: %s lacks the volume, its staging path, its target or its mode; %s", errRecord, path, remedy)
	}
	for _, p := range append([]published{{Path: rec.Staging}}, rec.Targets...) {
		if !filepath.IsAbs(p.Path) || filepath.Clean(p.Path) != p.Path {
			return nil, fmt.Errorf("%w: %s names %q, which is no path from the root; %s", errRecord, path, p.Path, remedy)
		}
	}
	return &rec, nil
}

// save replaces the record: after it has returned nil, power may fail.
func (r *records) save(rec *record) error {
	rec.Version = recordVersion
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fmt.Errorf("write the record of volume %s: %w", rec.Volume, err)
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of records: %w", err)
	}
	if err := durable.Replace(r.path(rec.Volume), append(data, '\n')); err != nil {
		return fmt.Errorf("write the record of volume %s: %w", rec.Volume, err)
	}
	return nil
}

// remove forgets the volume. No record is success.
func (r *records) remove(volume string) error {
	if err := durable.Remove(r.path(volume)); err != nil && !errors.Is(err, fs.ErrNotExist) { // nor a directory of records
		return fmt.Errorf("remove the record of volume %s: %w", volume, err)
	}
	return nil
}

// list returns all records, and an error for each that cannot be understood.
func (r *records) list() ([]*record, []error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, []error{fmt.Errorf("list the records: %w", err)}
	}
	var all []*record
	var errs []error
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) != ".json" {
			continue
		}
		rec, err := read(filepath.Join(r.dir, entry.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		case err != nil:
			errs = append(errs, err)
		default:
			all = append(all, rec)
		}
	}
	return all, errs
}

// holderOf names the volume, other than this one, whose record speaks of the
// same LUN; "" when there is none. A record that cannot be read is an error: it
// may be the one.
func (r *records) holderOf(t iscsi.Target, but string) (string, error) {
	all, errs := r.list()
	for _, rec := range all {
		if rec.Volume != but && rec.Target.IQN == t.IQN && rec.Target.LUN == t.LUN {
			return rec.Volume, nil
		}
	}
	return "", errors.Join(errs...)
}
