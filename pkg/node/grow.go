package node

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// slack is how much smaller than its device a file system may stay: the last
// group of blocks may be too small to be of use.
const slack = 16 * mib

// growAtStage grows the file system as far as it lets itself be grown: one that cannot,
// as an ext4 with errors, served at this size until now, and to refuse it would keep its
// data from everybody (FM 34). The volume's health tells.
func (s *Server) growAtStage(ctx context.Context, rec *record, device iscsi.Device) error {
	err := s.ensureGrown(ctx, rec.FSType, device.Path, rec.Staging, device.Bytes)
	why := ""
	if errors.Is(err, errUngrowable) {
		klog.FromContext(ctx).Error(err, "The file system is used at the size that it has")
		why, err = err.Error(), nil
	}
	if err != nil {
		return err
	}
	return s.noteUngrown(rec, why)
}

// ensureGrown makes the file system mounted at path as large as its device: a
// volume restored into a larger one brings the smaller file system along, and no
// other RPC would grow it (FM 34). One that its tool would not grow is errUngrowable.
func (s *Server) ensureGrown(ctx context.Context, fsType, device, path string, deviceBytes int64) error {
	bytes, err := s.devices.FilesystemBytes(fsType, device, path)
	if err != nil {
		return err
	}
	if bytes+slack > deviceBytes {
		return nil
	}
	var argv []string
	switch fsType {
	case fsXFS:
		argv = []string{"xfs_growfs", "-d", path}
	case fsExt4:
		argv = []string{"resize2fs", device}
	default:
		return fmt.Errorf("%w: no way to grow %q", errForeign, fsType)
	}
	if _, err = s.runner.Run(ctx, argv...); err != nil {
		if refusal := (*iscsi.ExitError)(nil); errors.As(err, &refusal) && refusal.Code > 0 && refusal.Code < 126 {
			err = fmt.Errorf("%w: %w", errUngrowable, err)
		}
		return fmt.Errorf("grow the %s on %s from %d to %d bytes: %w", fsType, device, bytes, deviceBytes, err)
	}
	if bytes, err = s.devices.FilesystemBytes(fsType, device, path); err != nil {
		return err
	}
	if bytes+slack <= deviceBytes {
		return fmt.Errorf("the %s on %s still has %d bytes after it was grown, the device has %d: %w", fsType, device, bytes, deviceBytes, errNotGrown)
	}
	return nil
}

// noteUngrown remembers why the file system is smaller than its device, for the volume's
// health to tell; "": it is not.
func (s *Server) noteUngrown(rec *record, why string) error {
	if why == rec.Ungrown {
		return nil
	}
	rec.Ungrown = why
	return s.records.save(rec)
}
