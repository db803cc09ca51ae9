package node

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// checkStaged proves that the staging path is one mount of the device.
func (s *Server) checkStaged(rec *record, device iscsi.Device) error {
	mounts, err := s.mounts.List()
	if err != nil {
		return err
	}
	numbers, err := s.numbers(device)
	if err != nil {
		return err
	}
	return s.checkMount(rec, numbers, at(mounts, rec.Staging))
}

// checkMount compares the mounts on the staging path with the record.
func (s *Server) checkMount(rec *record, numbers map[Number]bool, there []Mount) error {
	if len(there) == 0 {
		return fmt.Errorf("%w: nothing is mounted on %s; %s", errNotStaged, rec.Staging, restage)
	}
	m := there[len(there)-1]
	switch {
	case len(there) > 1:
		return fmt.Errorf("%w: %d mounts are stacked on %s; unmount all but the one of %s", errForeign, len(there), rec.Staging, rec.Target.IQN)
	case !numbers[m.Device]:
		return fmt.Errorf("%w: %s is a mount of %s (device %s), not of target %s LUN %d", errForeign, rec.Staging, m.Source, m.Device, rec.Target.IQN, rec.Target.LUN)
	case m.Root != "/":
		return fmt.Errorf("%w: %s is a mount of %s within the file system, not of the whole", errForeign, rec.Staging, m.Root)
	case m.Type != rec.FSType:
		return fmt.Errorf("%w: %s is mounted as %s, and %s was asked for", errIncompatible, rec.Staging, m.Type, rec.FSType)
	case !rec.ReadOnly && slices.Contains(m.Super, "ro") && !slices.Contains(m.Options, "ro"):
		return fmt.Errorf("%w: the kernel found an error in the file system on %s and made it read-only; see the kernel's log, and %s", errStopped, rec.Staging, remount)
	case m.ReadOnly() != rec.ReadOnly:
		return fmt.Errorf("%w: %s is mounted read-only: %v; asked for read-only: %v", errIncompatible, rec.Staging, m.ReadOnly(), rec.ReadOnly)
	}
	return nil
}

// The remedies for a volume that does not work as it is mounted. A file system that
// stopped is mounted anew for whatever pod is next. What needs a stage does not get one as
// long as a pod on the node wants the volume, and a pod that is deleted may be replaced
// before it has gone.
const (
	remount = "delete the volume's pods on this node, so that it is mounted anew"
	restage = "scale what uses the volume to 0, and up again once its pods on this node are gone, so that it is staged anew"
)

// checkReadable proves that a mount can be read. A file system that the kernel shut down
// looks like any other in the mount table.
func (s *Server) checkReadable(m Mount) error {
	if err := s.devices.Alive(m.Path); isDead(err) {
		return fmt.Errorf("%w: the kernel shut the file system on %s down or cannot read it: %w; see the kernel's log, and %s", errStopped, m.Path, err, remount)
	} else if err != nil {
		return fmt.Errorf("read %s: %w", m.Path, err)
	}
	return nil
}

// checkWritable proves that a mount which is to be written takes writes. A file system
// that stopped after an error may be read still, and its mount may look as before.
func (s *Server) checkWritable(rec *record, m Mount) error {
	if rec.ReadOnly {
		return nil
	}
	stopped := slices.Contains(m.Super, "shutdown") || slices.Contains(m.Super, "emergency_ro")
	if !stopped {
		e, err := s.devices.FilesystemErrors(m.Type, m.Device)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("what the file system on %s remembers of errors: %w", m.Path, err)
		}
		if stopped, err = s.stoppedHere(rec, m, e); err != nil {
			return fmt.Errorf("whether the file system on %s takes writes: %w", m.Path, err)
		}
	}
	if stopped {
		return fmt.Errorf("%w: the kernel found an error in the file system on %s and lets nobody write to it any more; see the kernel's log, and %s", errStopped, m.Path, remount)
	}
	return nil
}

// stoppedHere says whether the file system stopped since it was mounted. The error that it
// remembers may be from another node, whose clock is another: one that was there when it
// was mounted here stopped nothing.
func (s *Server) stoppedHere(rec *record, m Mount, e FilesystemErrors) (bool, error) {
	if old := rec.OldErrors; e.Count > 0 && e.Count == old.Count && e.Time.Equal(old.Time) {
		return false, nil
	}
	return s.devices.Stopped(m, e)
}

// noteOldErrors writes down what an ext4 remembered of errors when its mount began. One
// of the mount itself, as of what it cleans up, is none of these.
func (s *Server) noteOldErrors(rec *record, began time.Time) error {
	var old oldErrors
	if rec.FSType == fsExt4 {
		mounts, err := s.mounts.List()
		if err != nil {
			return err
		}
		for _, m := range at(mounts, rec.Staging) {
			e, unknown := s.devices.FilesystemErrors(m.Type, m.Device)
			if unknown == nil && e.Count > 0 && (e.Time.Before(began.Add(-time.Second)) || e.Time.After(s.clock().Add(time.Second))) {
				old = oldErrors{Count: e.Count, Time: e.Time.UTC()}
			}
		}
	}
	if rec.OldErrors.Count == old.Count && rec.OldErrors.Time.Equal(old.Time) {
		return nil
	}
	rec.OldErrors = old
	return s.records.save(rec)
}

// clearStale takes dead mounts of this volume off its staging path: those whose
// device the kernel no longer knows, or which it shut down. The unmount is a
// plain one.
func (s *Server) clearStale(rec *record, mounts, there []Mount) error {
	for _, m := range there {
		if err := s.checkOrigin(rec, m); err != nil {
			return err
		}
		if others := otherUses(mounts, m.Device, rec.Staging); len(others) > 0 {
			return fmt.Errorf("%w: the mount on %s is dead, and %v still use it; end those workloads first", errInUse, rec.Staging, others)
		}
	}
	for range there {
		if err := s.unmount(rec.Staging); err != nil {
			return err
		}
	}
	return nil
}

// checkOrigin proves that a mount is of the record's LUN, from the device's own
// place in sysfs, or that its device is gone for good.
func (s *Server) checkOrigin(rec *record, m Mount) error {
	origin, err := s.devices.Origin(m.Device)
	if isGone(m.Device, err) {
		return nil
	}
	if err != nil && !errors.Is(err, iscsi.ErrNotISCSI) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("what is mounted on %s: %w", m.Path, err)
	}
	if err != nil || origin.IQN != rec.Target.IQN || origin.LUN != rec.Target.LUN {
		return fmt.Errorf("%w: %s is a mount of %s (device %s), not of target %s LUN %d; unmount it, or use another path", errForeign, m.Path, m.Source, m.Device, rec.Target.IQN, rec.Target.LUN)
	}
	return nil
}

// isGone says whether an error of Origin means that the device was taken away. The
// numbers of file systems that have no device, as those of memory and of networks,
// are of major 0; the kernel never knew one as a device.
func isGone(n Number, err error) bool { return errors.Is(err, fs.ErrNotExist) && n.Major != 0 }

// otherUses lists the paths, but for one, where the file system of a device is
// mounted.
func otherUses(mounts []Mount, device Number, but string) []string {
	var paths []string
	for _, m := range mounts {
		if m.Device == device && m.Path != but {
			paths = append(paths, m.Path)
		}
	}
	return paths
}

// unmount takes the topmost mount off path. One that stays is in use, as far as
// anybody can tell: the tool's words are all there is.
func (s *Server) unmount(path string) error {
	if err := s.mounts.Unmount(path); err != nil {
		return fmt.Errorf("%w: %w", errInUse, err)
	}
	return nil
}

// usesOf lists where a device is mounted, or bound as a device file, but for the
// paths given.
func (s *Server) usesOf(mounts []Mount, numbers map[Number]bool, but ...string) []string {
	var paths []string
	for _, m := range mounts {
		if !slices.Contains(but, m.Path) && (numbers[m.Device] || s.isBound(m, numbers)) {
			paths = append(paths, m.Path)
		}
	}
	return paths
}

// showsVolume says whether a mount is one of the volume, whose device and paths have
// these numbers.
func (s *Server) showsVolume(rec *record, numbers map[Number]bool, m Mount) bool {
	if rec.Mode == modeBlock {
		return s.isBound(m, numbers)
	}
	return numbers[m.Device] && m.Root == "/"
}

// bindsFile says whether a mount may be a device file, bound onto another path. It
// shows the number of the file system the file lives in, so the file itself must be
// asked; only those of memory are, because asking others might wait for a dead server.
func bindsFile(m Mount) bool {
	return m.Root != "/" && (m.Type == "devtmpfs" || m.Type == "tmpfs")
}

// isBound says whether a mount is the device file of one of these devices.
func (s *Server) isBound(m Mount, numbers map[Number]bool) bool {
	if !bindsFile(m) {
		return false
	}
	n, err := s.devices.Number(m.Path)
	return err == nil && numbers[n]
}
