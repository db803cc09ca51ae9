package node_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

// FM 8: without the proof the workload would write to the node's own disk.
func TestPublishRefusesAnUnmountedStagingPath(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	want(t, v.publish(), codes.FailedPrecondition, "not staged")
	mkdir(t, v.staging)
	want(t, v.publish(), codes.FailedPrecondition, "not staged")

	ok(t, v.stage())
	m.Reboot()
	m.restart()
	want(t, v.publish(), codes.FailedPrecondition, iscsi.ErrNotAttached.Error())
	if exists(v.path) {
		t.Errorf("%s was made", v.path)
	}
	ok(t, v.stage(), m.Mounts().Unmount(v.staging))
	want(t, v.publish(), codes.FailedPrecondition, "nothing is mounted on")
	m.MountForeign(v.staging)
	want(t, v.publish(), codes.FailedPrecondition, "/dev/vda1")
}

func TestPublishTwiceBindsOnce(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish(), v.publish(), v.publish())
	if diff := cmp.Diff(m.Mounted(), []string{v.staging, v.path}); diff != "" {
		t.Errorf("mounts differ (-got +want):\n%s", diff)
	}
	ok(t, v.unpublish(), v.unpublish())
	if exists(v.path) {
		t.Errorf("%s is left", v.path)
	}
	ok(t, v.unstage())
	m.nothingLeft()
}

func TestPublishAsSomethingElseIsRefused(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish())
	v.ro = true
	want(t, v.publish(), codes.AlreadyExists, "read-only")
	v.ro = false
	v.cap = mountCap("ext4", writer)
	want(t, v.publish(), codes.FailedPrecondition, "staged as mount xfs")
	v.cap = blockCap(writer)
	want(t, v.publish(), codes.FailedPrecondition, "staged as mount xfs")
	v.cap = mountCap("xfs", writer)
	v.context.Target.IQN = "iqn.2013-05.com.daterainc:tc:01:sn:other"
	want(t, v.publish(), codes.FailedPrecondition, "unstage it first")
	v.context.Target = v.target
	v.staging += "2"
	mkdir(t, v.staging)
	want(t, v.publish(), codes.FailedPrecondition, "it is staged at")
}

func TestPublishReadOnlyIsReadOnly(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.ro = true
	ok(t, v.stage(), v.publish(), v.publish())
	if got := m.MountOptions(v.path)[0]; got != "ro" {
		t.Errorf("the target is %s", got)
	}
	if got := m.MountOptions(v.staging)[0]; got != "rw" {
		t.Errorf("the staging path is %s", got)
	}
	v.ro = false
	want(t, v.publish(), codes.AlreadyExists)
	ok(t, v.publishAt(v.path+"2"))
}

func TestPublishRefusesAForeignMountAtItsTarget(t *testing.T) {
	m := newMachine(t)
	v, other := m.volume("a"), m.volume("b")
	ok(t, v.stage(), other.stage())
	mkdir(t, v.path)
	m.MountForeign(v.path)
	want(t, v.publish(), codes.FailedPrecondition, "/dev/vda1")
	want(t, v.unpublish(), codes.FailedPrecondition, "/dev/vda1")

	other.path = v.path + "2"
	ok(t, other.publish())
	want(t, v.publishAt(other.path), codes.FailedPrecondition, "unmount it")
	want(t, v.unpublishAt(other.path), codes.FailedPrecondition, "not of target")
	if !slices.Contains(m.Mounted(), other.path) {
		t.Error("the other volume's bind was taken off")
	}
}

func TestUnpublishUndoesStackedBinds(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish())
	ok(t, m.Mounts().Mount(v.staging, v.path, "", []string{"bind"}), m.Mounts().Mount(v.staging, v.path, "", []string{"bind"}))
	want(t, v.publish(), codes.AlreadyExists, "3 mounts are stacked")
	ok(t, v.unpublish())
	if diff := cmp.Diff(m.Mounted(), []string{v.staging}); diff != "" {
		t.Errorf("mounts differ (-got +want):\n%s", diff)
	}
}

// A full disk of the node keeps no pod from ending, which is what frees it.
func TestAPodEndsAlthoughTheNodesDiskIsFull(t *testing.T) {
	for name, capability := range map[string]*csi.VolumeCapability{"mount": mountCap("xfs", writer), "block": blockCap(writer)} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			v := m.volume("a")
			v.cap = capability
			ok(t, v.stage(), v.publish())
			m.Fail("record", unix.ENOSPC)
			ok(t, v.unpublish())
			ok(t, v.unstage())
			m.nothingLeft()
		})
	}
}

// FM 18: the writer that was unpublished on a full disk is not remembered as one for ever.
func TestATargetThatIsGoneLeavesTheRecordOnceThereIsRoom(t *testing.T) {
	w := newWheel(t)
	v := w.volume("a")
	v.cap = blockCap(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
	ok(t, v.stage(), v.publish())
	v.ro = true
	ok(t, v.publishAt(v.path+"-reader"))
	w.Fail("record", unix.ENOSPC)
	ok(t, v.unpublish())
	w.reconcile(node.ReconcileObserve, 0)
	if v.disk().ReadOnly() {
		t.Error("a dry run changed it")
	}
	w.reconcile(node.ReconcileRepair, 0)
	if !v.disk().ReadOnly() {
		t.Error("the reader may write")
	}
}

func TestUnpublishNeverRemovesData(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage())
	mkdir(t, v.path)
	stray := filepath.Join(v.path, "stray")
	touch(t, stray)
	want(t, v.unpublish(), codes.FailedPrecondition, "move them away")
	if !exists(stray) {
		t.Fatal("the file was removed")
	}
	file := v.path + "-file"
	ok(t, os.WriteFile(file, []byte("x"), 0o600))
	want(t, v.unpublishAt(file), codes.FailedPrecondition, "did not make")
	ok(t, v.unpublishAt(filepath.Join(m.dir, "never/was/here")))
}

func TestABusyTargetIsAnError(t *testing.T) { // FM 13
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish())
	m.Fail("unmount", errDevice)
	want(t, v.unpublish(), codes.FailedPrecondition, "in use")
	if got := m.Mounted(); len(got) != 2 {
		t.Errorf("mounts: %v", got)
	}
	ok(t, v.unpublish(), v.unstage())
	m.nothingLeft()
}

func TestSingleWriterVolumesHaveOneTarget(t *testing.T) {
	for name, c := range map[string]*csi.VolumeCapability{
		"mount": mountCap("xfs", csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER),
		"block": blockCap(csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER),
	} {
		m := newMachine(t)
		v := m.volume("a")
		v.cap = c
		ok(t, v.stage(), v.publish(), v.publish())
		want(t, v.publishAt(v.path+"2"), codes.FailedPrecondition, v.path, "one workload")
		if exists(v.path + "2") {
			t.Errorf("%s: the second target was made", name)
		}
		ok(t, v.unpublish(), v.publishAt(v.path+"2"))
	}
}

func TestMultiWriterVolumesHaveManyTargets(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish(), v.publishAt(v.path+"2"))
	want(t, v.unstage(), codes.FailedPrecondition, v.path, v.path+"2", "unpublish it there first")
	ok(t, v.unpublish())
	want(t, v.unstage(), codes.FailedPrecondition, v.path+"2")
	ok(t, v.unpublishAt(v.path+"2"), v.unstage())
	m.nothingLeft()
}

// FM 36
func TestBlockVolumesLeaveNothingBehind(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.cap = blockCap(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
	for range 20 {
		ok(t, v.stage(), v.stage(), v.publish(), v.publish(), v.publishAt(v.path+"2"))
		if diff := cmp.Diff(m.Mounted(), []string{v.path, v.path + "2"}); diff != "" {
			t.Fatalf("mounts differ (-got +want):\n%s", diff)
		}
		want(t, v.unstage(), codes.FailedPrecondition, v.path)
		ok(t, v.unpublish(), v.unpublishAt(v.path+"2"), v.unpublish(), v.unstage())
		m.nothingLeft()
		if exists(v.path) || exists(v.path+"2") {
			t.Fatal("targets are left")
		}
	}
	if got := m.calls("mkfs", "mke2fs"); len(got) > 0 {
		t.Errorf("a block volume was formatted: %v", got)
	}
}

func TestBlockTargetsAreFiles(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.cap = blockCap(writer)
	ok(t, v.stage())
	mkdir(t, v.path)
	want(t, v.publish(), codes.FailedPrecondition, "directory")
	ok(t, os.Remove(v.path), os.WriteFile(v.path, []byte("data"), 0o600))
	want(t, v.publish(), codes.FailedPrecondition, "regular file of 4 bytes")
	ok(t, os.Remove(v.path))
	touch(t, v.path) // as a crash leaves it
	ok(t, v.publish())
	ok(t, v.unstageAfterUnpublish())
}

func (v *volume) unstageAfterUnpublish() error {
	if err := v.unpublish(); err != nil {
		return err
	}
	return v.unstage()
}

func TestPublishGoesOnAfterTheRecordWasLost(t *testing.T) {
	for name, c := range map[string]*csi.VolumeCapability{"mount": mountCap("xfs", writer), "block": blockCap(writer)} {
		m := newMachine(t)
		v := m.volume("a")
		v.cap = c
		ok(t, v.stage(), v.publish(), os.RemoveAll(m.Config().RecordDir))
		ok(t, v.publish(), v.publishAt(v.path+"2"))
		if len(m.records()) != 1 {
			t.Errorf("%s: the record was not made anew", name)
		}
		want(t, v.unstage(), codes.FailedPrecondition, v.path)
		ok(t, v.unpublishAt(v.path+"2"), v.unstageAfterUnpublish())
		m.nothingLeft()
	}
}

func TestUnpublishWithoutARecordTakesOffOnlyISCSIMounts(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish(), os.RemoveAll(m.Config().RecordDir), v.unpublish())
	mkdir(t, v.path)
	m.MountForeign(v.path)
	want(t, v.unpublish(), codes.FailedPrecondition, "unmount it by hand")
	if got := strings.Join(m.Mounted(), " "); !strings.Contains(got, v.path) {
		t.Errorf("a local disk was unmounted: %s", got)
	}
}

// FM 7: an error that the file system brought along stopped nothing here, whatever time
// the clock of the node showed where it happened.
func TestAnErrorFromAnotherNodeStopsNothing(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.cap = mountCap("ext4", writer)
	v.disk().Err(node.FilesystemErrors{Count: 1, Where: "ext4_journal_check_start", Time: time.Now().Add(time.Hour)})
	ok(t, v.stage(), v.publish(), v.stage())
	m.restart()
	ok(t, v.publishAt(v.path+" restarted"))
	v.disk().Err(node.FilesystemErrors{Count: 2, Where: "ext4_journal_check_start", Time: time.Now()})
	want(t, v.publishAt(v.path+" too"), codes.FailedPrecondition, "lets nobody write")
}

// FM 7: an xfs that was shut down looks as it did in the mount table. As long as a pod has
// it, nobody mounts it anew.
func TestAFileSystemThatWasShutDownIsNotPublished(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish())
	too := v.path + " too"
	for _, reader := range []bool{false, true} {
		v.ro = reader
		m.Fail("alive", unix.EIO)
		want(t, v.publishAt(too), codes.FailedPrecondition, "shut the file system", "delete the volume's pods")
	}
	if exists(too) || m.calls("umount") != nil {
		t.Errorf("the target was made, or something was unmounted: %q", m.calls("umount"))
	}
	ok(t, v.publishAt(too))
}

// FM 7: the mount is there and looks as it did, and nobody may write to it.
func TestAnExt4ThatStoppedIsNotTakenForTheVolume(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.cap = mountCap("ext4", csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
	ok(t, v.stage(), v.publish())
	v.disk().Err(node.FilesystemErrors{Count: 1, Where: "ext4_journal_check_start", Time: time.Now()})
	want(t, v.stage(), codes.FailedPrecondition, "lets nobody write", "delete the volume's pods")
	want(t, v.publishAt(v.path+" too"), codes.FailedPrecondition, "lets nobody write")
	rescue := *v
	rescue.ro, rescue.path = true, v.path+" rescue"
	ok(t, rescue.publish(), rescue.unpublish())
	ok(t, v.unpublish(), v.unstage())
	m.nothingLeft()
}
