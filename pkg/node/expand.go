package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/internal/faultpoint"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// NodeExpandVolume makes growth of the volume visible on every path to it and
// grows the file system while it is mounted. It answers the bytes the node sees;
// fewer than asked is Unavailable, for they may still come (FM 15).
func (s *Server) NodeExpandVolume(ctx context.Context, req *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	r, err := parseExpand(req)
	if err != nil {
		return nil, err
	}
	op, err := s.operations.begin(ctx, r.Volume, "NodeExpandVolume")
	if err != nil {
		return nil, statusOf(err)
	}
	defer op.release()
	bytes, err := s.expand(ctx, op, r)
	if err != nil {
		return nil, statusOf(fmt.Errorf("expand volume %s: %w", r.Volume, err))
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: bytes}, nil
}

func (s *Server) expand(ctx context.Context, op *operation, r expandRequest) (int64, error) {
	rec, _, _, err := s.volumeAt(ctx, r.Volume, r.Path)
	if err != nil {
		return 0, err
	}
	grown := rec.target()
	grown.Bytes = max(grown.Bytes, r.Least) // a rescan waits for what is promised
	bytes, err := s.attacher.Rescan(ctx, grown)
	if err != nil {
		return 0, fmt.Errorf("rescan: %w", err)
	}
	faultpoint.At("expand: device grown")
	if bytes < r.Least {
		return 0, fmt.Errorf("%w: %d bytes are visible, %d are asked for; has the array grown the volume?", errNotGrown, bytes, r.Least)
	}
	if rec.Mode == modeMount && !rec.ReadOnly {
		device, err := s.attacher.Find(ctx, rec.target())
		if err != nil {
			return 0, fmt.Errorf("find the device: %w", err)
		}
		if err = s.checkStaged(rec, device); err != nil {
			return 0, err
		}
		err = s.own(ctx, op, rec, "growing the file system", func(ctx context.Context) error {
			return s.ensureGrown(ctx, rec.FSType, device.Path, rec.Staging, bytes)
		})
		if err != nil {
			return 0, err
		}
	}
	faultpoint.At("expand: file system grown")
	if bytes > rec.Target.Bytes {
		rec.Target.Bytes = bytes
		return bytes, s.records.save(rec)
	}
	return bytes, nil
}

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
	p := publication{record: rec, numbers: numbers}
	if !p.shows(s, m) {
		return nil, iscsi.Device{}, Mount{}, fmt.Errorf("%w at this path: %s is a mount of %s (device %s)", errNotFound, path, m.Source, m.Device)
	}
	return rec, device, m, nil
}
