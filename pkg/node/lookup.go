package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// volumeAt returns the record of a volume, its device, and the mount that path is of
// it, the staging path or a target; for a staged block volume the mount may be none. A
// volume or path that is not here is errNotFound.
func (s *Server) volumeAt(ctx context.Context, volume, path string) (*record, iscsi.Device, Mount, error) {
	rec, err := s.records.load(volume)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, iscsi.Device{}, Mount{}, fmt.Errorf("%w: %s is not staged here", errNotFound, volume)
	}
	if err != nil {
		return nil, iscsi.Device{}, Mount{}, err
	}
	path, err = resolve(path)
	if err != nil {
		return nil, iscsi.Device{}, Mount{}, fmt.Errorf("%w at this path: %w", errNotFound, err)
	}
	device, err := s.attacher.Find(ctx, rec.target())
	if err != nil {
		return nil, iscsi.Device{}, Mount{}, fmt.Errorf("find the device: %w", err)
	}
	numbers, err := s.numbers(device)
	if err != nil {
		return nil, iscsi.Device{}, Mount{}, err
	}
	mounts, err := s.mounts.List()
	if err != nil {
		return nil, iscsi.Device{}, Mount{}, err
	}
	there := at(mounts, path)
	if len(there) == 0 {
		if rec.Mode == modeBlock && path == rec.Staging {
			return rec, device, Mount{}, nil
		}
		return nil, iscsi.Device{}, Mount{}, fmt.Errorf("%w: nothing is mounted on %s", errNotFound, path)
	}
	m := there[len(there)-1]
	if !s.showsVolume(rec, numbers, m) {
		return nil, iscsi.Device{}, Mount{}, fmt.Errorf("%w at this path: %s is a mount of %s (device %s)", errNotFound, path, m.Source, m.Device)
	}
	return rec, device, m, nil
}
