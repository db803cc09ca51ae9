package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/internal/faultpoint"
)

// NodeUnpublishVolume takes every bind of the volume off the target path and
// removes the path. Nothing there is success.
func (s *Server) NodeUnpublishVolume(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	r, err := parseUnpublish(req)
	if err != nil {
		return nil, err
	}
	op, err := s.operations.begin(ctx, r.Volume, "NodeUnpublishVolume")
	if err != nil {
		return nil, statusOf(err)
	}
	defer op.release()
	if err := s.unpublish(ctx, op, r); err != nil {
		return nil, statusOf(fmt.Errorf("unpublish volume %s: %w", r.Volume, err))
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (s *Server) unpublish(ctx context.Context, op *operation, r unpublishRequest) error {
	rec, err := s.records.load(r.Volume)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	target, err := resolve(r.Target)
	switch {
	case errors.Is(err, fs.ErrNotExist): // not even its directory: nothing is there
		target = r.Target
	case err != nil:
		return err
	default:
		numbers, err := s.knownNumbers(ctx, rec)
		if err != nil {
			return err
		}
		err = op.runDetached(ctx, "unmounting the target path", func(context.Context) error { return s.takeOffTarget(rec, numbers, target) })
		if err != nil {
			return err
		}
	}
	faultpoint.At("unpublish: target removed")
	if rec == nil {
		return nil
	}
	if _, known := rec.publishedAt(target); !known {
		return nil
	}
	saved := s.records.save(rec.without(target))
	if noRoom(saved) {
		// To end pods is what frees a full disk. Reconcile takes the path out of the record.
		klog.FromContext(ctx).Error(saved, "A target path that is gone stays in the volume's record", "volume", r.Volume, "path", target)
		return nil
	}
	return saved
}

// noRoom says that a file was not written because its file system takes nothing.
func noRoom(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EROFS)
}

// takeOffTarget unmounts what a publish bound, however often, and removes the
// target. The volume itself stays mounted, so the unmount of a bind is quick.
func (s *Server) takeOffTarget(rec *record, numbers map[Number]bool, target string) error {
	mounts, err := s.mounts.List()
	if err != nil {
		return err
	}
	there := at(mounts, target)
	for _, m := range there {
		if err = s.checkTargetMount(rec, numbers, m); err != nil {
			return err
		}
	}
	for range there {
		if err = s.unmount(target); err != nil {
			return err
		}
	}
	faultpoint.At("unpublish: unmounted")
	if mounts, err = s.mounts.List(); err != nil {
		return err
	}
	if left := at(mounts, target); len(left) > 0 {
		return fmt.Errorf("%w: %s was unmounted and still is a mount of %s", errInUse, target, left[0].Source)
	}
	return removeTarget(target)
}

// checkTargetMount proves that a mount on a target path is one that this plugin
// may take off: of the recorded device, of its target by sysfs, or of a device
// that is gone. Without a record any iSCSI disk's will do: the path is the
// workload's, and the caller has named it.
func (s *Server) checkTargetMount(rec *record, numbers map[Number]bool, m Mount) error {
	number := m.Device
	if bindsFile(m) {
		n, err := s.devices.Number(m.Path)
		if err != nil {
			return fmt.Errorf("%w: %s is a mount of %s: %w", errForeign, m.Path, m.Source, err)
		}
		number = n
	}
	if numbers[number] {
		return nil
	}
	if rec != nil {
		return s.checkOrigin(rec, Mount{Device: number, Path: m.Path, Source: m.Source})
	}
	if _, err := s.devices.Origin(number); err != nil && !isGone(number, err) {
		return fmt.Errorf("%w: volume has no record here, and %s is a mount of %s: %w; unmount it by hand", errForeign, m.Path, m.Source, err)
	}
	return nil
}
