package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/internal/filesystem"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// mountDevice mounts the device on the staging path. The mount is the first thing
// that is tried, for it replays the journal, and only the kernel's word that the
// file system is damaged makes anything look at it, if its class asks for that.
// Nothing ever throws a journal away (FM 16).
func (s *Server) mountDevice(ctx context.Context, rec *record, device iscsi.Device, r stageRequest) error {
	mount := func() error {
		return s.mounts.Mount(device.Path, rec.Staging, rec.FSType, stageOptions(rec, r.noReplay()))
	}
	err := mount()
	if errors.Is(err, ErrMountRead) {
		err = s.mountAgain(rec, device, mount)
	}
	if err == nil || !errors.Is(err, ErrDamaged) {
		return err
	}
	policy := r.Context.Filesystem.Fsck
	if policy == "" {
		return fmt.Errorf("%w; nothing was changed; go back to a snapshot, or have a copy of it looked at by a class with %s: %s (docs/troubleshoot.md)", err, filesystem.KeyFsck, filesystem.FsckCheck)
	}
	if errors.Is(err, ErrMountRead) {
		policy = filesystem.FsckCheck // what it takes for damage may be the device's
	}
	outcome, mended := s.fsck(ctx, rec, device, policy)
	if !mended {
		return fmt.Errorf("%w; %s", err, outcome)
	}
	klog.FromContext(ctx).Info("The file system was damaged and is repaired", "volume", rec.Volume, "device", device.Path, "outcome", outcome)
	if err := mount(); err != nil {
		return fmt.Errorf("%w; before that, %s", err, outcome)
	}
	return nil
}

// mountAgain tells the two reasons apart for which a mount ends with an I/O error. A
// device that cannot be read is waited for: the caller comes again. When it can be read
// and a second mount ends like the first, the file system is damaged, or the device
// just where the samples are not.
func (s *Server) mountAgain(rec *record, device iscsi.Device, mount func() error) error {
	if err := s.readable(rec, device); err != nil {
		return err
	}
	err := mount()
	if errors.Is(err, ErrMountRead) {
		err = fmt.Errorf("%w, or a part of the device cannot be read, see the kernel's log: %w", ErrDamaged, err)
	}
	return err
}

// readable reads samples of a device; one that fails is errUnreadable.
func (s *Server) readable(rec *record, device iscsi.Device) error {
	return s.whileClaimed(device, rec.Target.Bytes, func(disk Disk) error {
		if _, err := firstNonZero(disk, pieces(samples(device.Bytes), mib)); err != nil {
			return fmt.Errorf("read %s: %w", device.Path, err)
		}
		return nil
	})
}

// fsck runs the checker and says what it found. mended says that it repaired what
// there was to repair; only e2fsck -p, which does what needs no question, ever does.
func (s *Server) fsck(ctx context.Context, rec *record, device iscsi.Device, policy filesystem.Fsck) (outcome string, mended bool) {
	const corrected = 1
	ctx, cancel := context.WithTimeout(ctx, s.formatTimeout)
	defer cancel()
	argv := []string{"xfs_repair", "-n", device.Path}
	preen := policy == filesystem.FsckPreen && rec.FSType == fsExt4 && !rec.ReadOnly
	switch {
	case preen:
		argv = []string{"e2fsck", "-p", device.Path}
	case rec.FSType == fsExt4:
		argv = []string{"e2fsck", "-f", "-n", device.Path}
	}
	out, err := s.runner.Run(ctx, argv...)
	outcome = strings.Join(argv[:len(argv)-1], " ")
	var exit *iscsi.ExitError
	switch {
	case err == nil:
		outcome += " exits 0" // e2fsck -p also after small repairs, e2fsck -n also before them
	case preen && errors.As(err, &exit) && exit.Code == corrected:
		return outcome + " repaired it: " + tail(out), true
	default:
		outcome += fmt.Sprintf(" says: %v", err)
	}
	if said := tail(out); said != "" {
		outcome += ": " + said
	}
	return outcome, preen && err == nil
}

// tail is the end of what a checker said, in one line.
func tail(out []byte) string {
	const most = 512
	out = bytes.TrimSpace(out)
	if len(out) > most {
		out = append([]byte("… "), bytes.ToValidUTF8(out[len(out)-most:], nil)...)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}
