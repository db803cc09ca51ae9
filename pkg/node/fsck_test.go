package node_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/internal/filesystem"
)

// FM 16: the mount comes first, a checker only where the kernel says that the file
// system is damaged and the class asks for it, and what it said is in the error.
func TestADamagedFileSystemIsLookedAtOnlyWhenAsked(t *testing.T) {
	for name, c := range map[string]struct {
		fs       string
		policy   filesystem.Fsck
		mendable bool
		readOnly bool
		ran      []string
		words    []string // of the error; none: it mounts
	}{
		"never":                  {"xfs", "", true, false, nil, []string{"is damaged", "fsck: check"}},
		"xfs, check":             {"xfs", filesystem.FsckCheck, true, false, []string{"xfs_repair -n /host/dev/sdb"}, []string{"is damaged", "xfs_repair -n says: xfs_repair: exit 4", "bad magic in block 7"}},
		"xfs is never repaired":  {"xfs", filesystem.FsckPreen, true, false, []string{"xfs_repair -n /host/dev/sdb"}, []string{"bad magic in block 7"}},
		"ext4, check":            {"ext4", filesystem.FsckCheck, true, false, []string{"e2fsck -f -n /host/dev/sdb"}, []string{"bad magic in block 7"}},
		"ext4, preen":            {"ext4", filesystem.FsckPreen, true, false, []string{"e2fsck -p /host/dev/sdb"}, nil},
		"ext4, beyond preen":     {"ext4", filesystem.FsckPreen, false, false, []string{"e2fsck -p /host/dev/sdb"}, []string{"e2fsck -p says: e2fsck: exit 4", "bad magic in block 7"}},
		"ext4, preen, read-only": {"ext4", filesystem.FsckPreen, true, true, []string{"e2fsck -f -n /host/dev/sdb"}, []string{"bad magic in block 7"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			v := m.volume("a")
			v.cap = mountCap(c.fs, writer)
			v.context.Filesystem.Fsck = c.policy
			ok(t, v.stage(), v.unstage())
			v.disk().Damage(c.mendable)
			if c.readOnly {
				v.cap = mountCap(c.fs, writer, "ro")
			}
			if err := v.stage(); c.words == nil {
				ok(t, err)
			} else {
				want(t, err, codes.FailedPrecondition, c.words...)
			}
			if diff := cmp.Diff(m.calls("xfs_repair", "e2fsck"), c.ran); diff != "" {
				t.Errorf("checkers (-got +want):\n%s", diff)
			}
			if made := m.calls("mkfs", "mke2fs"); len(made) != 1 {
				t.Errorf("a damaged file system was made anew: %v", made)
			}
		})
	}
}

func TestAMountThatFailsOtherwiseIsNoReasonToCheck(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.context.Filesystem.Fsck = filesystem.FsckPreen
	ok(t, v.stage(), v.unstage())
	m.Fail("mount", errDevice)
	want(t, v.stage(), codes.Internal, errDevice.Error())
	if ran := m.calls("xfs_repair"); ran != nil {
		t.Errorf("ran %v", ran)
	}
}

// FM 24
func TestTheClassSaysHowItsFileSystemIsMade(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.context.Filesystem = filesystem.Class{Options: "-d agcount=8 -m reflink=0", Oldest: filesystem.Kernel{Major: 4, Minor: 18}}
	ok(t, v.stage())
	want := []string{"mkfs.xfs -q -K -m inobtcount=0,bigtime=0,reflink=0 -i nrext64=0 -d agcount=8 /host/dev/sdb"}
	if diff := cmp.Diff(m.calls("mkfs"), want); diff != "" {
		t.Errorf("mkfs (-got +want):\n%s", diff)
	}
}

// What the controller should have refused is refused here again, before the record
// says that a mkfs has begun.
func TestOptionsThatDoNotFitMakeNothing(t *testing.T) {
	for options, words := range map[string]string{"-f": "overwrite", "-i nrext64=1,exchange=1": "needs Linux 6.10 on every node, and this one runs 6.1"} {
		m := newMachine(t)
		v := m.volume("a")
		v.context.Filesystem.Options = options
		want(t, v.stage(), codes.FailedPrecondition, "mkfsOptions", words)
		if made := m.calls("mkfs"); made != nil {
			t.Errorf("%s: ran %v", options, made)
		}
		m.nothingLeft()
		v.context.Filesystem.Options = ""
		ok(t, v.stage())
	}
}

// A bind of a device file keeps nobody from writing, so the device itself does.
func TestARawDeviceTakesNoWritesUntilSomebodyMayWrite(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.cap = blockCap(writer)
	ok(t, v.stage())
	publish := func(path string, readOnly, want bool) {
		t.Helper()
		v.ro = readOnly
		ok(t, v.publishAt(path), v.publishAt(path))
		if got := v.disk().ReadOnly(); got != want {
			t.Errorf("after %s, read-only %v: the device takes no writes: %v, want %v", path, readOnly, got, want)
		}
	}
	publish("/kubelet/a/one", true, true)
	publish("/kubelet/a/two", false, false)
	publish("/kubelet/a/three", true, false) // a writer goes on
	ok(t, v.unpublishAt("/kubelet/a/two"))
	publish("/kubelet/a/four", true, true)
}
