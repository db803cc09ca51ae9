package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/internal/faultpoint"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// NodeExpandVolume makes growth of the volume visible on every path to it and
// grows the file system while it is mounted. It answers the bytes the node sees;
// fewer than asked is Unavailable, for they may still come (FM 15). A file system that
// its tool would not grow is FailedPrecondition: on any other code the kubelet would
// start no pod on the volume any more, and this one is for the next stage to try (FM 34).
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
	bytes, err := s.growHere(ctx, op, r)
	if errors.Is(err, iscsi.ErrNotAttached) { // sessions may come back; FailedPrecondition would mean not to ask again
		return 0, fmt.Errorf("%w: %w", errNotGrown, err)
	}
	return bytes, err
}

func (s *Server) growHere(ctx context.Context, op *operation, r expandRequest) (int64, error) {
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
	if err := s.keepReadOnly(ctx, op, rec); err != nil {
		return 0, err
	}
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
		err = s.runWatched(ctx, op, rec, "growing the file system", func(ctx context.Context) error {
			return s.ensureGrown(ctx, rec.FSType, device.Path, rec.Staging, bytes)
		})
		if errors.Is(err, errUngrowable) {
			noted := s.noteUngrown(rec, err.Error())
			return 0, errors.Join(fmt.Errorf("%w; once that is mended, the next pod that starts grows it: docs/troubleshoot.md, a claim grows no further", err), noted)
		}
		if err != nil {
			return 0, err
		}
	}
	faultpoint.At("expand: file system grown")
	if bytes > rec.Target.Bytes || rec.Ungrown != "" {
		rec.Target.Bytes, rec.Ungrown = max(rec.Target.Bytes, bytes), ""
		return bytes, s.records.save(rec)
	}
	return bytes, nil
}
