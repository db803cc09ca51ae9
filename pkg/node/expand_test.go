package node_test

import (
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// FM 15
func TestExpandGrowsTheMountedFileSystem(t *testing.T) {
	for fs, tool := range map[string]string{"xfs": "xfs_growfs -d /kubelet/a/globalmount", "ext4": "resize2fs /host/dev/sdb"} {
		m := newMachine(t)
		v := m.volume("a")
		v.cap = mountCap(fs, writer)
		ok(t, v.stage(), v.publish(), v.disk().Grow(3*gib))
		for range 2 {
			got, err := v.expand(v.path, 2*gib)
			ok(t, err)
			if got != 3*gib {
				t.Errorf("%s: got %d bytes, want all that are visible, %d", fs, got, 3*gib)
			}
		}
		if _, bytes, err := v.disk().Filesystem(); err != nil || bytes != 3*gib {
			t.Errorf("%s: the file system has %d bytes, %v", fs, bytes, err)
		}
		if diff := cmp.Diff(m.calls("xfs_growfs", "resize2fs"), []string{tool}); diff != "" {
			t.Errorf("calls differ (-got +want):\n%s", diff)
		}
		m.Reboot()
		m.restart()
		ok(t, v.unpublish(), v.stage(), v.unstage()) // the old context still promises 1 GiB
	}
}

func TestExpandOfABlockVolumeIsARescan(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.cap = blockCap(writer)
	ok(t, v.stage(), v.publish(), v.disk().Grow(3*gib))
	for _, path := range []string{v.path, v.staging} {
		got, err := v.expand(path, 3*gib)
		ok(t, err)
		if got != 3*gib {
			t.Errorf("got %d bytes at %s, want %d", got, path, 3*gib)
		}
	}
	if got := m.calls("xfs_growfs", "resize2fs"); got != nil {
		t.Errorf("a raw device was grown by %v", got)
	}
}

// FM 18: a map that grows takes writes again, with the kernels of before 5.12.
func TestAReadersDeviceIsReadOnlyWhenItHasGrown(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.cap, v.ro = blockCap(writer), true
	ok(t, v.stage(), v.publish(), v.disk().Grow(3*gib), m.SetReadOnly(v.disk().Path(), false))
	_, err := v.expand(v.path, 3*gib)
	ok(t, err)
	if !v.disk().ReadOnly() {
		t.Error("the reader may write")
	}
}

func TestGrowthThatIsNotVisibleYetIsUnavailable(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage())
	_, err := v.expand(v.staging, 2*gib)
	want(t, err, codes.Unavailable, "1073741824 bytes are visible, 2147483648 are asked for")
	if got := m.calls("xfs_growfs"); got != nil {
		t.Errorf("grown all the same: %v", got)
	}
	ok(t, v.disk().Grow(2*gib))
	_, err = v.expand(v.staging, 2*gib)
	ok(t, err)
}

func TestExpandWantsThePathToBeTheVolume(t *testing.T) {
	m := newMachine(t)
	v, other := m.volume("a"), m.volume("b")
	ok(t, other.stage())
	_, err := v.expand(v.staging, gib)
	want(t, err, codes.NotFound, v.id)
	ok(t, v.stage())
	mkdir(t, filepath.Join(m.dir, "plain"))
	for _, path := range []string{other.staging, filepath.Join(m.dir, "plain"), filepath.Join(m.dir, "none"), "some/path", "/"} {
		_, err = v.expand(path, gib)
		want(t, err, codes.NotFound)
	}
	m.Fail("rescan", errDevice)
	_, err = v.expand(v.staging, gib)
	want(t, err, codes.Internal, "rescan")
}

// FM 8: nor is a file system grown that somebody mounted over the volume's place.
func TestExpandGrowsNothingButTheVolume(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish(), m.Mounts().Unmount(v.staging), v.disk().Grow(2*gib))
	m.MountForeign(v.staging)
	_, err := v.expand(v.path, 2*gib)
	want(t, err, codes.FailedPrecondition, "/dev/vda1")
	if got := m.calls("xfs_growfs"); got != nil {
		t.Errorf("grown all the same: %v", got)
	}
}

func TestAToolThatGrowsNothingIsFoundOut(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.disk().Grow(2*gib))
	m.Fail("grow", errDevice)
	_, err := v.expand(v.staging, 2*gib)
	want(t, err, codes.Internal, "from 1073741824 to 2147483648 bytes")
	_, err = v.expand(v.staging, 2*gib)
	ok(t, err)
}

// FM 34: upon any other code the kubelet would start no pod on the volume any more. Once
// the file system is sound the next stage grows it.
func TestAFileSystemThatItsToolDoesNotGrowKeepsNobodyFromIt(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish(), v.disk().Grow(2*gib))
	m.Fail("xfs_growfs", &iscsi.ExitError{Tool: "xfs_growfs", Code: 1})
	_, err := v.expand(v.path, 2*gib)
	want(t, err, codes.FailedPrecondition, "cannot be grown", "from 1073741824 to 2147483648 bytes", "docs/troubleshoot.md")
	m.restart()
	v.expectHealth(map[string]string{"DEGRADED/FilesystemSmaller": "xfs_growfs"})
	ok(t, v.unpublish(), v.unstage(), v.stage(), v.publish())
	if _, bytes, err := v.disk().Filesystem(); err != nil || bytes != 2*gib {
		t.Errorf("got %d bytes, %v", bytes, err)
	}
	v.expectHealth(nil)
}

// FM 15: sessions that are gone for a while come back, and kubelet asks again only if it
// is not told otherwise.
func TestAVolumeWithoutADiskIsGrownLater(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish(), v.disk().Grow(2*gib))
	for _, op := range []string{"find", "rescan"} {
		m.Fail(op, iscsi.ErrNotAttached)
		_, err := v.expand(v.path, 2*gib)
		want(t, err, codes.Unavailable, "has not grown here yet", iscsi.ErrNotAttached.Error())
	}
	_, err := v.expand(v.path, 2*gib)
	ok(t, err)
}

func TestAReadOnlyVolumeIsNotGrown(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.unstage(), v.disk().Grow(2*gib))
	v.cap = mountCap("xfs", csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)
	ok(t, v.stage())
	got, err := v.expand(v.staging, 2*gib)
	ok(t, err)
	if got != 2*gib || m.calls("xfs_growfs") != nil {
		t.Errorf("got %d bytes and %v, want the bytes and no growth", got, m.calls("xfs_growfs"))
	}
}

func TestStatsOfAFileSystem(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish())
	want := []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: gib, Available: gib / 10 * 8, Used: gib - gib/10*9},
		{Unit: csi.VolumeUsage_INODES, Total: 1000, Available: 990, Used: 10},
	}
	for _, path := range []string{v.path, v.staging} {
		got, err := v.stats(path)
		ok(t, err)
		if diff := cmp.Diff(got, want, protocmp.Transform()); diff != "" {
			t.Errorf("usage at %s differs (-got +want):\n%s", path, diff)
		}
	}
}

func TestStatsOfABlockVolumeAreItsSize(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.cap = blockCap(writer)
	ok(t, v.stage(), v.publish())
	got, err := v.stats(v.path)
	ok(t, err)
	if diff := cmp.Diff(got, []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: gib}}, protocmp.Transform()); diff != "" {
		t.Errorf("usage differs (-got +want):\n%s", diff)
	}
}

func TestStatsWantThePathToBeTheVolume(t *testing.T) {
	m := newMachine(t)
	v, other := m.volume("a"), m.volume("b")
	ok(t, v.stage(), other.stage(), other.publish())
	for _, path := range []string{other.staging, other.path, v.path, "some/path", m.dir} {
		_, err := v.stats(path)
		want(t, err, codes.NotFound)
	}
	_, err := m.volume("c").stats(v.staging)
	want(t, err, codes.NotFound, "not staged here")
	m.Fail("usage", errDevice)
	_, err = v.stats(v.staging)
	want(t, err, codes.Unavailable, "input/output error")
}
