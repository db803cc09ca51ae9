package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/datera-csi/datera-csi/internal/health"
)

// FilesystemErrors is what a file system remembers of the errors that the kernel
// found in it; it outlives a reboot, and ends with a check.
type FilesystemErrors struct {
	Count   int64
	Corrupt bool      // the last one was that what is on the disk contradicts itself or its checksum
	Where   string    // of the kernel's functions, the one that found the last
	Time    time.Time // of the last
}

// filesystem says whether what is mounted on the staging path is the volume, and
// whether it works.
func (s *Server) filesystem(ctx context.Context, d *diagnosis, rec *record, numbers map[Number]bool, there []Mount, reachable bool) {
	if len(there) == 0 {
		d.Add(health.Inaccessible, "NotStaged", "nothing is mounted on "+rec.Staging+": the volume is being staged, or was taken off by hand. If it stays so, "+restage)
		return
	}
	m := there[len(there)-1]
	if len(there) > 1 {
		d.Add(health.Degraded, "StackedMounts", fmt.Sprintf("%d mounts are stacked on %s; unmount by hand all but the one of the volume", len(there), rec.Staging))
	}
	if !numbers[m.Device] {
		d.Add(health.Inaccessible, "DeviceLost", fmt.Sprintf("%s is mounted from device %s, which is not the volume's now: its device went and may have come back as another; %s", rec.Staging, m.Device, restage))
		return
	}
	const broken = "the kernel found an error in the file system and stopped writing; its log says which; " + remount + ". If it stops again, check it while it is unmounted: docs/troubleshoot.md, repair by hand"
	readOnly := m.ReadOnly() || slices.Contains(m.Super, "emergency_ro")
	if slices.Contains(m.Super, "shutdown") {
		d.Add(health.Inaccessible, "FilesystemShutDown", broken)
	} else if !rec.ReadOnly && readOnly {
		d.Add(health.Inaccessible, "FilesystemReadOnly", broken)
	}
	e, err := s.devices.FilesystemErrors(m.Type, m.Device)
	if err != nil {
		e = FilesystemErrors{} // gone meanwhile, or of a kind that keeps none
	}
	d.remembered(e)
	if rec.Ungrown != "" {
		d.Add(health.Degraded, "FilesystemSmaller", "the file system is smaller than the volume, for it could not be grown: "+rec.Ungrown+"; once that is mended, "+restage)
	}
	if reachable && s.enterRoot(ctx, d, rec, m, e) && !rec.ReadOnly && !readOnly {
		d.Add(health.Inaccessible, "FilesystemReadOnly", broken)
	}
}

// remembered tells the errors that the file system keeps a count of.
func (d *diagnosis) remembered(e FilesystemErrors) {
	if e.Count == 0 {
		return
	}
	text := fmt.Sprintf("the kernel found %d errors in the file system, the last at %s in %s; they stay noted until e2fsck -f has looked at it, unmounted: docs/troubleshoot.md, repair by hand", e.Count, e.Time.UTC().Format(time.RFC3339), e.Where)
	d.Add(health.Degraded, "FilesystemErrors", text)
	if e.Corrupt {
		d.Add(health.DataLoss, "FilesystemCorrupted", "what is on the disk contradicts itself or its checksum; check it on a copy, or go back to a snapshot")
	}
}

// enterRoot reads a name of the root directory: only so a file system that was shut
// down shows it. It also asks the kernel whether one with errors has stopped. On a
// device that hangs either may wait, so both are left behind then.
func (s *Server) enterRoot(ctx context.Context, d *diagnosis, rec *record, m Mount, e FilesystemErrors) (stopped bool) {
	stopped, err := s.looks.do(ctx, rec.Volume, s.statsTimeout, func(context.Context) (bool, error) {
		is, stoppedErr := s.stoppedHere(rec, m, e)
		return is, errors.Join(s.devices.Alive(rec.Staging), stoppedErr)
	})
	switch {
	case err == nil:
	case errors.Is(err, errNoAnswer):
		d.Add(health.Inaccessible, "NoAnswer", fmt.Sprintf("%s has a path, but does not answer; see the kernel's log and the array", rec.Staging))
	case isDead(err):
		d.Add(health.Inaccessible, "FilesystemShutDown", "the kernel shut the file system down or cannot read it ("+err.Error()+"); "+remount+", which replays its journal")
	default:
		d.Add(health.Degraded, "Unreadable", err.Error())
	}
	return stopped
}
