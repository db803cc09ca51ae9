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
		"never":                  {"xfs", "", true, false, nil, []string{"is damaged", "a class with fsck: check"}},
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

// FM 16: mount(8) has the same words for a device that cannot be read and for an xfs
// that the kernel shut down over a wrong checksum (seen with Linux 6.18).
func TestAnIOErrorAtMountIsNoDamageUntilTheDeviceCanBeRead(t *testing.T) {
	const words = "can't read superblock on /dev/sdb."
	for name, c := range map[string]struct {
		fails int
		unfit bool // the device cannot be read
		code  codes.Code
		words []string
		ran   []string
	}{
		"a device that fails":            {1, true, codes.Unavailable, []string{"the device cannot be read"}, nil},
		"a device that failed for a bit": {1, false, codes.OK, nil, nil},
		"what reads well":                {2, false, codes.FailedPrecondition, []string{"is damaged, or a part of the device cannot be read", words, "e2fsck -f -n exits 0"}, []string{"e2fsck -f -n /host/dev/sdb"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			v := m.volume("a")
			v.cap = mountCap("ext4", writer)
			v.context.Filesystem.Fsck = filesystem.FsckPreen // which must not write here
			ok(t, v.stage(), v.unstage())
			v.disk().FailMounts(c.fails, words)
			if c.unfit {
				v.disk().FailReads(func(offset int64) error {
					if offset > 0 {
						return errDevice
					}
					return nil
				})
			}
			if err := v.stage(); c.code == codes.OK {
				ok(t, err)
			} else {
				want(t, err, c.code, c.words...)
			}
			if diff := cmp.Diff(m.calls("xfs_repair", "e2fsck"), c.ran); diff != "" {
				t.Errorf("checkers (-got +want):\n%s", diff)
			}
		})
	}
}

// FM 16: what mount(8) of util-linux 2.38 says of errnos.
func TestDamageIsKnownByTheWordsOfMount(t *testing.T) {
	for words, code := range map[string]codes.Code{
		"mount(2) system call failed: Structure needs cleaning.":     codes.FailedPrecondition, // EUCLEAN
		"cannot mount; probably corrupted filesystem on /dev/sdb.":   codes.FailedPrecondition, // EBADMSG
		"wrong fs type, bad option, bad superblock on /dev/sdb, ...": codes.Internal,
	} {
		m := newMachine(t)
		v := m.volume("a")
		ok(t, v.stage(), v.unstage())
		v.disk().FailMounts(1, words)
		want(t, v.stage(), code, words)
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
