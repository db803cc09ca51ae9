package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/datera-csi/datera-csi/internal/durable"
)

// formatState is how far a mkfs of ours came.
type formatState string

const (
	formatStarted  formatState = "started"
	formatFinished formatState = "finished"
)

// format is what this node knows of the file system on a LUN: that it began to make
// one, or that it made or met one. It outlives the volume's record, because the next
// stage depends on it (FM 1): the node that a pod is started on again is told the state
// of the array from before the first mkfs, and a LUN that fails by reading as zeros
// would look new.
type format struct {
	State  formatState `json:"state,omitempty"`
	FSType string      `json:"fsType,omitempty"`
	Serial string      `json:"serial,omitempty"` // of the LUN
	Time   time.Time   `json:"time,omitzero"`    // of the last change of State
}

// mostFormats is how many LUNs a node remembers, the latest: far more than it ever has.
const mostFormats = 4096

// memory is where a node keeps what it knows of file systems, beside the records.
func (r *records) memory() string { return filepath.Join(r.dir, "filesystems") }

func (r *records) formatPath(serial string) string {
	return filepath.Join(r.memory(), fileName(serial))
}

// format is what is known of the LUN with this serial number, and the file that says
// so; the zero value is nothing. What cannot be understood is errRecord: nothing may be
// made anew then.
func (r *records) format(serial string) (known format, file string, err error) {
	path := r.formatPath(serial)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return format{}, "", nil
	}
	if err != nil {
		return format{}, "", fmt.Errorf("read what is known of the volume's file system: %w", err)
	}
	var f format
	if err := json.Unmarshal(data, &f); err != nil || f.Serial != serial || f.State != formatStarted && f.State != formatFinished {
		return format{}, "", errors.Join(fmt.Errorf("%w: %s does not say what file system was made on the LUN with serial number %s; remove it if the volume has one", errRecord, path, serial), err)
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now) // the longest unused goes first; which that is, is no matter of data
	return f, path, nil
}

// saveFormat remembers it: after it has returned nil, power may fail.
func (r *records) saveFormat(f format) error {
	path := r.formatPath(f.Serial)
	data, err := json.Marshal(f)
	if err == nil {
		err = durable.MakeDir(r.memory())
	}
	if err == nil {
		err = durable.Replace(path, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write what is known of the volume's file system: %w", err)
	}
	return r.forgetOldest()
}

// forgetOldest keeps mostFormats of the files, those that were used last.
func (r *records) forgetOldest() error {
	entries, err := os.ReadDir(r.memory())
	if err != nil || len(entries) <= mostFormats {
		return err
	}
	age := func(e fs.DirEntry) time.Time {
		info, err := e.Info()
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return age(a).Compare(age(b)) })
	for _, e := range entries[:len(entries)-mostFormats] {
		if err := os.Remove(filepath.Join(r.memory(), e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
