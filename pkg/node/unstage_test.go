package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

func TestUnstageAfterReboot(t *testing.T) {
	for name, block := range map[string]bool{"mount": false, "block": true} {
		m := newMachine(t)
		v := m.volume("a")
		if block {
			v.cap = blockCap(writer)
		}
		ok(t, v.stage(), v.publish())
		m.Reboot()
		m.restart()
		ok(t, v.unpublish(), v.unstage(), v.unstage())
		m.nothingLeft()
		if exists(v.path) {
			t.Errorf("%s: %s is left", name, v.path)
		}
	}
}

func TestUnstageOfTheUnknownIsSuccess(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.unstage())
	mkdir(t, v.staging)
	ok(t, v.unstage())
	if got := m.Calls(); len(got) > 0 {
		t.Errorf("something was done: %v", got)
	}
}

// FM 5
func TestAnyFailureOfUnstageKeepsTheRecord(t *testing.T) {
	for op, code := range map[string]codes.Code{
		"condition": codes.Internal, "unmount": codes.FailedPrecondition, "umount": codes.FailedPrecondition, "list": codes.Unavailable,
		"detach": codes.Internal, "logout": codes.Internal, "forget": codes.Internal, "sync": codes.DataLoss,
	} {
		t.Run(op, func(t *testing.T) {
			m := newMachine(t)
			v := m.volume("a")
			ok(t, v.stage())
			m.Fail(op, errDevice)
			want(t, v.unstage(), code, "input/output error", v.id)
			if len(m.records()) != 1 {
				t.Fatal("the record is gone")
			}
			ok(t, v.unstage())
			m.nothingLeft()
			if m.calls("detach") == nil {
				t.Error("the volume was not detached")
			}
		})
	}
}

// FM 5: a session that broke while its LUN was looked for left a disk without a name, or
// the disk that came is another's. No stage can use it, and it must go.
func TestWhatIsTakenDownNeedsNoProofOfIdentity(t *testing.T) {
	for name, cause := range map[string]error{"a disk without a name": errDevice, "another LUN": iscsi.ErrForeign} {
		m := newMachine(t)
		v := m.volume("a")
		ok(t, v.stage(), v.publish())
		for range 9 {
			m.Fail("find", cause)
		}
		if err := errors.Join(v.unpublish(), v.unstage()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		m.nothingLeft()
	}
}

// FM 3, 5
func TestUnstageKeepsADeviceThatAnotherContainerUses(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage())
	ok(t, m.Mounts().Unmount(v.staging))
	v.disk().Hold(true)
	want(t, v.unstage(), codes.FailedPrecondition, iscsi.ErrBusy.Error())
	if _, err := m.Find(t.Context(), v.target); err != nil {
		t.Errorf("detached under a user: %v", err)
	}
	v.disk().Hold(false)
	ok(t, v.unstage())
	m.nothingLeft()
}

func TestUnstageNeverTouchesAForeignMount(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), m.Mounts().Unmount(v.staging))
	m.MountForeign(v.staging)
	want(t, v.unstage(), codes.FailedPrecondition, "/dev/vda1")
	if diff := cmp.Diff(m.Mounted(), []string{v.staging}); diff != "" {
		t.Errorf("mounts differ (-got +want):\n%s", diff)
	}
}

// FM 5, 6
func TestUnstageWithoutARecordIsDerivedWhole(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), os.RemoveAll(m.Config().RecordDir), v.unstage())
	m.nothingLeft()
	if diff := cmp.Diff(m.calls("umount", "detach"), []string{"umount /kubelet/a/globalmount", "detach " + v.target.IQN}); diff != "" {
		t.Errorf("calls differ (-got +want):\n%s", diff)
	}

	ok(t, v.stage(), os.RemoveAll(m.Config().RecordDir))
	m.Fail("detach", errDevice) // after the unmount nothing but the record made anew knows the target
	want(t, v.unstage(), codes.Internal)
	ok(t, v.unstage())
	if got := m.calls("detach"); len(got) != 2 {
		t.Errorf("got %v, want a detach in each life", got)
	}
	m.nothingLeft()
}

func TestUnstageDerivesNothingFromAnotherVolumesMount(t *testing.T) {
	m := newMachine(t)
	other := m.volume("b")
	ok(t, other.stage())
	v := m.volume("a")
	v.staging = other.staging
	want(t, v.unstage(), codes.FailedPrecondition, other.id)
	mkdir(t, filepath.Join(m.dir, "local"))
	v.staging = filepath.Join(m.dir, "local")
	m.MountForeign(v.staging)
	want(t, v.unstage(), codes.FailedPrecondition, "unmount it by hand")
}

func TestABadRecordIsNamedAndNothingIsDone(t *testing.T) {
	for name, content := range map[string]string{
		"cut":     `{"version": 1, "volume": "CSI-pvc-a", "sta`,
		"empty":   "",
		"newer":   `{"version": 2}`,
		"of none": `{"version": 1}`,
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			v := m.volume("a")
			ok(t, v.stage())
			record := m.records()[0]
			ok(t, os.WriteFile(record, []byte(content), 0o600))
			before := m.Calls()
			for _, err := range []error{v.stage(), v.publish(), v.unpublish(), v.unstage()} {
				want(t, err, codes.Internal, record)
			}
			_, err := v.expand(v.staging, 0)
			want(t, err, codes.Internal, record)
			if diff := cmp.Diff(m.Calls(), before); diff != "" {
				t.Errorf("something was done (-got +want):\n%s", diff)
			}
			ok(t, os.Rename(record, record+".bad"), v.unstage()) // the remedy
			m.nothingLeft()
		})
	}
}

func TestUnstageOfADeadVolumeSucceeds(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish())
	v.disk().Lose()
	ok(t, v.unpublish(), v.unstage())
	m.nothingLeft()
}

// FM 5: all sessions were logged out by hand. What is mounted is the volume's map,
// which no sysfs link ties to its target any more, and it comes off all the same.
func TestAMapThatLostAllItsPathsIsTakenOff(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish())
	v.disk().LosePaths()
	ok(t, v.unpublish(), v.unstage())
	m.nothingLeft()
}

// FM 21: before it unmounts for good, the node sees whether the array has taken it
// out of the volume's ACL: what waits to be written would be waited for without end.
func TestUnstageFailsTheIOThatTheArrayRefuses(t *testing.T) {
	for name, admitted := range map[string]bool{"admitted": true, "refused": false} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			v := m.volume("a")
			ok(t, v.stage())
			v.disk().Admit(admitted)
			ok(t, v.unstage())
			m.nothingLeft()
			if got := len(m.calls("failRefusedIO")) > 0; got == admitted {
				t.Errorf("what waits was made to fail: %v, and it is admitted: %v", got, admitted)
			}
		})
	}
}

// FM 21: so it does as long as any step may wait for the device.
func TestAStepThatWaitsFailsTheIOThatTheArrayRefuses(t *testing.T) {
	for op, do := range map[string]func(*volume) error{
		"mkfs.xfs":   (*volume).stage,
		"mount":      (*volume).stage,
		"xfs_growfs": func(v *volume) error { _, err := v.expand(v.staging, 2*gib); return err },
		"unmount":    (*volume).unstage,
	} {
		t.Run(op, func(t *testing.T) {
			m := newMachine(t, func(c *node.Config) { c.WatchTime = time.Millisecond })
			v := m.volume("a")
			if op == "xfs_growfs" || op == "unmount" {
				ok(t, v.stage(), v.disk().Grow(2*gib))
			}
			v.disk().Admit(false)
			release := m.Hold(op)
			done := make(chan error, 1)
			go func() { done <- do(v) }()
			eventually(t, "the array to be asked", func() bool { return len(m.calls("failRefusedIO")) > 0 })
			release()
			ok(t, <-done)
		})
	}
}

// FM 21: nobody gets past a suspended map, and nobody else resumes it where multipathd
// has died.
func TestAStepThatWaitsForASuspendedMapResumesIt(t *testing.T) {
	m := newMachine(t, func(c *node.Config) { c.WatchTime = time.Millisecond })
	v := m.volume("a")
	ok(t, v.stage())
	v.disk().Suspend()
	release := m.Hold("sync")
	done := make(chan error, 1)
	go func() { done <- v.unstage() }()
	eventually(t, "the map to be resumed", func() bool { return len(m.calls("resume")) > 0 })
	release()
	ok(t, <-done)
	m.nothingLeft()
}

// lostUnheard is a machine on which something of a staged volume could not be written, in
// an unstage whose caller had left.
func lostUnheard(t *testing.T) (*machine, *volume) {
	t.Helper()
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage())
	m.Fail("sync", errDevice)
	release := m.Hold("sync")
	want(t, m.leftAt("sync", v.unstageFor), codes.Canceled)
	release()
	eventually(t, "the step's end", func() bool { return m.server.Doing(v.id) == "" })
	return m, v
}

// FM 21: a step outlives its caller, and what was lost meanwhile nobody has heard. The
// next caller does, whatever it asks for, and although the kernel tells it once and the
// plugin that heard it may be gone.
func TestALossIsToldToSomebody(t *testing.T) {
	for name, next := range map[string]func(*machine, *volume) error{
		"unstage":                 func(_ *machine, v *volume) error { return v.unstage() },
		"stage":                   func(_ *machine, v *volume) error { return v.stage() },
		"unstage after a restart": func(m *machine, v *volume) error { m.restart(); return v.unstage() },
		"stage after a restart":   func(m *machine, v *volume) error { m.restart(); return v.stage() },
		"unstage after a reboot":  func(m *machine, v *volume) error { m.Reboot(); m.restart(); return v.unstage() },
	} {
		t.Run(name, func(t *testing.T) {
			m, v := lostUnheard(t)
			want(t, next(m, v), codes.DataLoss, v.id, "input/output error")
			ok(t, v.unstage())
			m.nothingLeft()
		})
	}
}

// FM 21: where the record takes nothing any more, a loss is told once all the same.
func TestALossIsToldOnceThoughTheNodesDiskIsFull(t *testing.T) {
	m, v := lostUnheard(t)
	m.Fail("record", unix.ENOSPC)
	want(t, v.stage(), codes.DataLoss, v.id)
	ok(t, v.stage())
	ok(t, v.stage(), v.unstage())
	m.nothingLeft()
}

// FM 21: an unmount does not say that it dropped what it could not write, so it is
// tried before. It is told once, for the data will not come back; so it is of a file
// system that answers nothing any more, which may have dirty pages all the same.
func TestWhatCannotBeWrittenAtUnstageIsTold(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage())
	m.Fail("sync", errDevice)
	m.Fail("sync", errDevice)
	want(t, v.unstage(), codes.DataLoss, v.id, "lost", "input/output error")
	if got := m.Mounted(); len(got) != 1 {
		t.Errorf("mounts: %v, want it to be there still", got)
	}
	ok(t, v.unstage())
	m.nothingLeft()

	ok(t, v.stage())
	m.Fail("alive", errDevice)
	m.Fail("sync", errDevice)
	want(t, v.unstage(), codes.DataLoss) // a volume that was told of before is told of anew
	ok(t, v.unstage())
	m.nothingLeft()
	m.Fail("sync", errDevice)
	v.cap = mountCap("xfs", csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)
	ok(t, v.stage(), v.unstage()) // nothing was written
	m.nothingLeft()
}

// FM 21: a pod that comes back after a loss was told writes anew, and what is lost of
// that is told too.
func TestALossIsToldAgainOfWhatWasWrittenAfterIt(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage())
	for range 2 {
		m.Fail("sync", errDevice)
		want(t, v.unstage(), codes.DataLoss, v.id)
		ok(t, v.stage()) // it is mounted still
	}
	ok(t, v.unstage())
	m.nothingLeft()
}
