package node_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
	"github.com/datera-csi/datera-csi/pkg/node/nodetest"
)

var errDevice = errors.New("input/output error")

func TestStageMakesAFileSystemOnceAndMountsIt(t *testing.T) {
	for fs, options := range map[string]struct{ mkfs, mount string }{
		"xfs":  {"mkfs.xfs -q -K -i nrext64=0", "nouuid"},
		"ext4": {"mke2fs -q -t ext4 -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 -O none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum", ""},
	} {
		t.Run(fs, func(t *testing.T) {
			m := newMachine(t)
			v := m.volume("a")
			v.cap = mountCap(fs, csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
			ok(t, v.stage(), v.stage(), v.stage())
			want := []string{
				"attach " + v.target.IQN,
				options.mkfs + " /host/dev/sdb",
				"mount /host/dev/sdb -t " + fs + " -o " + options.mount + " /kubelet/a/globalmount",
			}
			if diff := cmp.Diff(m.calls(""), want); diff != "" {
				t.Errorf("calls differ (-got +want):\n%s", diff)
			}
			ok(t, v.unstage(), v.unstage())
			m.nothingLeft()

			ok(t, v.stage())
			if diff := cmp.Diff(len(m.calls("mkfs", "mke2fs")), 1); diff != "" {
				t.Errorf("file systems made over two lives (-got +want):\n%s", diff)
			}
		})
	}
}

func TestNoFileSystemTypeMeansXFS(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.cap = mountCap("", csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
	ok(t, v.stage(), v.publish())
	if name, _, err := v.disk().Filesystem(); err != nil || name != "xfs" {
		t.Errorf("got %q, %v, want xfs", name, err)
	}
}

// FM 1: each of these looks, to a driver that asks only blkid, like a disk to format.
func TestStageNeverFormatsWhatIsNotProvenEmpty(t *testing.T) {
	used := func(offset int64) func(*volume) {
		return func(v *volume) { ok(v.m.t, v.disk().Write([]byte("somebody's data"), offset)) }
	}
	badRead := func(at int64) func(*volume) {
		return func(v *volume) {
			v.disk().FailReads(func(offset int64) error {
				if offset >= at {
					return errDevice
				}
				return nil
			})
		}
	}
	for name, c := range map[string]struct {
		spoil func(*volume)
		code  codes.Code
		words string
	}{
		"data at the head":             {used(0), codes.FailedPrecondition, "neither empty nor known"},
		"data behind the head":         {used(3 << 20), codes.FailedPrecondition, "neither empty nor known"},
		"data in the middle":           {used(gib / 2), codes.FailedPrecondition, "neither empty nor known"},
		"data at the tail":             {used(gib - 4096), codes.FailedPrecondition, "neither empty nor known"},
		"a backup superblock of ext4":  {used(128 << 20), codes.FailedPrecondition, "neither empty nor known"},
		"an allocation group of xfs":   {used(gib / 4), codes.FailedPrecondition, "neither empty nor known"},
		"a LUKS header":                {func(v *volume) { ok(v.m.t, v.disk().Write([]byte("LUKS\xba\xbe"), 0)) }, codes.FailedPrecondition, "crypto_LUKS"},
		"a partition table":            {func(v *volume) { ok(v.m.t, v.disk().Write([]byte("EFI PART"), 512)) }, codes.FailedPrecondition, "gpt"},
		"an LVM label":                 {func(v *volume) { ok(v.m.t, v.disk().Write([]byte("LVM2 001"), 536)) }, codes.FailedPrecondition, "LVM2_member"},
		"a torn xfs superblock":        {func(v *volume) { ok(v.m.t, v.disk().Write([]byte("XFSB"), 0)) }, codes.FailedPrecondition, "unfinished xfs"},
		"a head that does not read":    {badRead(0), codes.Unavailable, "input/output error"},
		"a middle that does not read":  {badRead(gib / 2), codes.Unavailable, "input/output error"},
		"a tail that does not read":    {badRead(gib - 2<<20), codes.Unavailable, "input/output error"},
		"blkid that is missing":        {func(v *volume) { v.m.Fail("blkid", &iscsi.ExitError{Tool: "blkid", Code: 127}) }, codes.Internal, "blkid"},
		"blkid that is told nonsense":  {func(v *volume) { v.m.Fail("blkid", &iscsi.ExitError{Tool: "blkid", Code: 4}) }, codes.Internal, "blkid"},
		"blkid that finds two things":  {func(v *volume) { v.m.Fail("blkid", &iscsi.ExitError{Tool: "blkid", Code: 8}) }, codes.FailedPrecondition, "more than one format"},
		"a copy of a snapshot":         {func(v *volume) { v.context.FromSource = true }, codes.FailedPrecondition, "copy of a snapshot"},
		"an array that holds data":     {func(v *volume) { v.context.UsedBytes = 1 }, codes.FailedPrecondition, "the array holds 1 bytes"},
		"a LUN that is read-only":      {func(v *volume) { v.context.ReadOnly = true }, codes.FailedPrecondition, "read-only"},
		"a device that others hold":    {func(v *volume) { v.disk().Hold(true) }, codes.Unavailable, "held by"},
		"a device that is too small":   {func(v *volume) { ok(v.m.t, v.disk().Grow(gib/2)) }, codes.FailedPrecondition, "promised"},
		"a device that shrank":         {func(v *volume) { v.disk().Shrink(gib / 2) }, codes.FailedPrecondition, "attached were 1073741824"},
		"a device of another serial":   {func(v *volume) { v.disk(); v.context.Target.Serial = "another" }, codes.FailedPrecondition, "promised"},
		"a record that cannot be kept": {func(v *volume) { v.m.Fail("record", errDevice) }, codes.Internal, "input/output error"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			v := m.volume("a")
			c.spoil(v)
			want(t, v.stage(), c.code, c.words)
			if made := m.calls("mkfs", "mke2fs"); len(made) > 0 {
				t.Errorf("a file system was made: %v", made)
			}
			if left := m.Mounted(); len(left) > 0 {
				t.Errorf("mounted: %v", left)
			}
		})
	}
}

// Kubernetes never unstages after one of these codes.
func TestAStageThatFailsForGoodLeavesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*volume)
		code  codes.Code
	}{
		"wrong secrets":        {func(v *volume) { v.disk().Want(iscsi.CHAP{User: "u", Password: "p"}) }, codes.Unauthenticated},
		"another file system":  {func(v *volume) { ok(v.m.t, v.disk().Write([]byte("LUKS\xba\xbe"), 0)) }, codes.FailedPrecondition},
		"another serial":       {func(v *volume) { v.disk(); v.context.Target.Serial = "another" }, codes.FailedPrecondition},
		"no blkid":             {func(v *volume) { v.m.Fail("blkid", &iscsi.ExitError{Tool: "blkid", Code: 127}) }, codes.Internal},
		"a path that is taken": {func(v *volume) { v.m.Fail("attached", errDevice) }, codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			v := m.volume("a")
			c.spoil(v)
			want(t, v.stage(), c.code)
			m.nothingLeft()
			if path := v.disk().Path(); path != "" {
				t.Errorf("the volume is still attached as %s", path)
			}
		})
	}
}

// A volume whose device is gone may get another LUN, but not one that is another's here.
func TestAVolumeDoesNotTakeAnothersLUN(t *testing.T) {
	m := newMachine(t)
	a, b := m.volume("a"), m.volume("b")
	ok(t, a.stage(), b.stage())
	m.Reboot()
	m.restart()
	a.context.Target = b.target
	want(t, a.stage(), codes.FailedPrecondition, "is staged here as volume "+b.id)
}

// FM 1: a mkfs that was begun or done is remembered although the stage failed.
func TestAStageThatFailsForGoodRemembersItsMkfs(t *testing.T) {
	for _, op := range []string{"mkfs write", "mount"} {
		t.Run(op, func(t *testing.T) {
			m := newMachine(t)
			v := m.volume("a")
			m.Fail(op, errDevice)
			want(t, v.stage(), codes.Internal)
			if left := m.Mounted(); len(left) > 0 || v.disk().Path() != "" {
				t.Errorf("left: mounts %v, device %q", left, v.disk().Path())
			}
			m.nothingLeft()
			// Its sessions were ended; that is no outage of the array.
			health, err := m.server.NodeGetStorageHealth(m.ctx(), &csi.NodeGetStorageHealthRequest{})
			if ok(t, err); len(health.GetBackendHealth()) > 0 {
				t.Errorf("health of the storage: %v", health)
			}
			ok(t, v.stage(), v.unstage())
			m.nothingLeft()
		})
	}
}

// These codes make the caller come again, or unstage.
func TestAStageThatMaySucceedLaterKeepsWhatItHas(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.disk().FailReads(func(int64) error { return errDevice })
	want(t, v.stage(), codes.Unavailable)
	if n := len(m.records()); n != 1 || v.disk().Path() == "" {
		t.Errorf("%d records and device %q are left, want both", n, v.disk().Path())
	}
	ok(t, v.unstage())
	m.nothingLeft()
}

// A disk that udev still looks into is not one that somebody used before.
func TestAStageWhoseDiskIsOpenForAMomentIsNotOver(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	m.Fail("blkid", &iscsi.ExitError{Tool: "blkid", Code: 127})
	m.Fail("detach", fmt.Errorf("%w: %w: sdb", iscsi.ErrBusy, iscsi.ErrOpen))
	want(t, v.stage(), codes.Unavailable, "not taken down yet")
	ok(t, v.unstage())
	m.nothingLeft()
}

func TestAStageThatCannotBeTakenDownIsNotOver(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	m.Fail("blkid", &iscsi.ExitError{Tool: "blkid", Code: 127})
	m.Fail("detach", errDevice)
	want(t, v.stage(), codes.Unavailable, "blkid", "not taken down yet")
	ok(t, v.unstage())
	m.nothingLeft()
}

func TestARepeatedStageThatFailsLeavesTheVolumeInUse(t *testing.T) {
	for name, c := range map[string]struct {
		as   *csi.VolumeCapability
		code codes.Code
	}{
		"mount": {mountCap("xfs", writer), codes.Internal},
		"block": {blockCap(writer), codes.Unavailable}, // what is left must be unstaged, for all this stage knows
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			v := m.volume("a")
			v.cap = c.as
			ok(t, v.stage(), v.publish())
			before := m.Mounted()
			m.Fail("attach", errDevice)
			want(t, v.stage(), c.code)
			if diff := cmp.Diff(m.Mounted(), before); diff != "" || v.disk().Path() == "" {
				t.Errorf("attached as %q, mounts differ (-got +want):\n%s", v.disk().Path(), diff)
			}
			ok(t, v.stage(), v.unpublish(), v.unstage())
			m.nothingLeft()
		})
	}
}

// FM 1: an array that lost what it has reads as zeros. A pod that comes back to its
// node brings the publish context of its first start along, which says that nothing
// was written yet, and the record of then went with the unstage.
func TestStageNeverFormatsASecondTime(t *testing.T) {
	for name, between := range map[string]func(*volume){
		"after a reboot":  func(v *volume) { v.m.Reboot() },
		"after a restart": func(v *volume) { ok(v.m.t, v.unstage()) },
		"where the volume came with its file system": func(v *volume) {
			ok(v.m.t, v.unstage(), os.RemoveAll(v.m.Config().RecordDir), v.stage(), v.unstage())
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			v := m.volume("a")
			ok(t, v.stage())
			between(v)
			v.disk().Blank(true)
			m.restart()
			want(t, v.stage(), codes.FailedPrecondition, "this node found or made xfs there on 2026-11-23 12:00:00", "look at the array")
			v.disk().Blank(false)
			ok(t, v.stage())
			if got := len(m.calls("mkfs")); got != 1 {
				t.Errorf("got %d file systems made, want 1", got)
			}
		})
	}
}

// What a node remembers of file systems must not grow for ever, nor be guessed.
func TestANodesMemoryOfFileSystems(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.unstage())
	dir := filepath.Join(m.Config().RecordDir, "filesystems")
	files, err := os.ReadDir(dir)
	if ok(t, err); len(files) != 1 {
		t.Fatalf("files: %v", files)
	}
	ours := filepath.Join(dir, files[0].Name())
	for n := range 4096 {
		path := filepath.Join(dir, fmt.Sprint(n))
		touch(t, path)
		ok(t, os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour-time.Duration(n)*time.Second)))
	}
	long := time.Now().Add(-24 * time.Hour) // ours is the oldest, and is met again
	ok(t, os.Chtimes(ours, long, long), v.stage(), v.unstage())
	b := m.volume("b")
	ok(t, b.stage(), b.unstage())
	if files, err = os.ReadDir(dir); err != nil || len(files) != 4096 || !exists(ours) || exists(filepath.Join(dir, "4095")) || !exists(filepath.Join(dir, "0")) {
		t.Errorf("%d files, %v", len(files), err)
	}
	ok(t, os.WriteFile(ours, []byte("{"), 0o600))
	want(t, v.stage(), codes.Internal, ours, "remove it if the volume has one")
}

// FM 1: a memory that the node's disk does not give back is not one of nothing.
func TestAMemoryThatCannotBeReadPermitsNoMkfs(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.unstage())
	files, err := filepath.Glob(filepath.Join(m.Config().RecordDir, "filesystems", "*"))
	if ok(t, err); len(files) != 1 {
		t.Fatalf("files: %v", files)
	}
	ok(t, os.Remove(files[0]), os.Symlink(files[0], files[0])) // a loop: it cannot be read, and can be replaced
	v.disk().Blank(true)
	want(t, v.stage(), codes.Internal, "what is known of the volume's file system")
	if got := m.calls("mkfs"); len(got) != 1 {
		t.Errorf("made by %q", got)
	}
}

func TestStageNamesBothFileSystemsWhenTheyDiffer(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.unstage())
	v.cap = mountCap("ext4", csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
	want(t, v.stage(), codes.FailedPrecondition, "xfs", "ext4")
}

func TestStageRefusesAFileSystemLargerThanItsDevice(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.target.Bytes, v.context.Target.Bytes = 2*gib, 2*gib
	ok(t, v.stage(), v.unstage(), v.disk().Grow(gib))
	v.context.Target.Bytes = gib
	want(t, v.stage(), codes.FailedPrecondition, "was the volume shrunk")
}

// FM 35
func TestAnInterruptedMkfsIsRepeatedOnlyWhereItHappened(t *testing.T) {
	for _, fs := range []string{"xfs", "ext4"} {
		for crash := 1; ; crash++ {
			m := newMachine(t)
			v := m.volume("a")
			v.cap = mountCap(fs, csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
			ok(t, v.disk().Grow(gib))
			m.CrashAt(crash)
			if err := v.stage(); err == nil {
				break
			}
			m.Revive()
			begun := len(m.calls("mkfs", "mke2fs")) > 0

			// Elsewhere there is no record of ours: only a device that still is empty
			// or is already done may be used.
			m.restart(func(c *node.Config) { c.RecordDir = filepath.Join(m.dir, "elsewhere") })
			elsewhere := v.stage()
			if elsewhere == nil {
				ok(t, v.unstage())
			}
			if name, _, err := v.disk().Filesystem(); err != nil || (elsewhere == nil) != (name == fs) {
				t.Fatalf("%s, crash %d: elsewhere: stage %v, but the disk holds %q, %v", fs, crash, elsewhere, name, err)
			}
			m.restart()
			if err := v.stage(); err != nil {
				t.Fatalf("%s, crash at step %d, mkfs begun %v: the retry failed: %v", fs, crash, begun, err)
			}
			ok(t, v.unstage())
			m.nothingLeft()
		}
	}
}

func TestAnInterruptedMkfsIsNoExcuseForMore(t *testing.T) {
	half := func(t *testing.T) *volume {
		t.Helper()
		m := newMachine(t)
		v := m.volume("a")
		m.Fail("mkfs write", errDevice) // the first write does not happen; the next stage crashes later
		want(t, v.stage(), codes.Internal)
		for crash := 1; ; crash++ {
			m.CrashAt(crash)
			if err := v.stage(); err == nil {
				t.Fatal("no step left the disk half made")
			}
			m.Revive()
			m.restart()
			head := make([]byte, 127)
			f, err := os.Open(v.disk().File())
			ok(t, err)
			_, err = f.ReadAt(head, 0)
			ok(t, err, f.Close())
			if string(head[:4]) == "XFSB" && head[126] == 1 {
				return v
			}
		}
	}
	t.Run("another file system", func(t *testing.T) {
		v := half(t)
		v.cap = mountCap("ext4", csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
		want(t, v.stage(), codes.FailedPrecondition, "unfinished xfs")
	})
	t.Run("another node", func(t *testing.T) {
		v := half(t)
		ok(t, v.unstage(), os.RemoveAll(v.m.Config().RecordDir))
		want(t, v.stage(), codes.FailedPrecondition, "unfinished xfs")
	})
	t.Run("a pod that comes back", func(t *testing.T) {
		v := half(t)
		ok(t, v.unstage(), v.stage())
	})
	t.Run("data on the array", func(t *testing.T) {
		v := half(t)
		v.context.UsedBytes = gib
		want(t, v.stage(), codes.FailedPrecondition, "unfinished xfs")
	})
	t.Run("nothing of it", func(t *testing.T) {
		v := half(t)
		v.context.UsedBytes = 70 << 20
		ok(t, v.stage())
	})
}

// FM 7
func TestStageAcceptsOnlyTheMountItWouldHaveMade(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*volume)
		code  codes.Code
		words string
	}{
		"a local disk":       {func(v *volume) { mkdir(v.m.t, v.staging); v.m.MountForeign(v.staging) }, codes.FailedPrecondition, "/dev/vda1"},
		"memory":             {func(v *volume) { mkdir(v.m.t, v.staging); v.m.MountMemory(v.staging) }, codes.FailedPrecondition, "tmpfs"},
		"a directory of it":  {func(v *volume) { ok(v.m.t, v.stage()); v.m.Narrow(v.staging, "/data") }, codes.FailedPrecondition, "a mount of /data within the file system"},
		"another volume":     {stageAnotherThere, codes.FailedPrecondition, "not of target"},
		"a stack":            {func(v *volume) { ok(v.m.t, v.stage()); v.m.MountForeign(v.staging) }, codes.FailedPrecondition, ""},
		"a stack of its own": {func(v *volume) { ok(v.m.t, v.stage(), v.m.Mounts().Mount(v.disk().Path(), v.staging, "xfs", nil)) }, codes.FailedPrecondition, "2 mounts are stacked"},
		"made read-only":     {func(v *volume) { ok(v.m.t, v.stage()); v.m.Remount(v.staging, []string{"ro"}, []string{"rw"}) }, codes.AlreadyExists, "read-only"},
		"an error of the disk": {func(v *volume) {
			ok(v.m.t, v.stage(), v.publish())
			v.m.Remount(v.staging, []string{"rw"}, []string{"ro"})
		}, codes.FailedPrecondition, "see the kernel's log"},
		"other flags":          {func(v *volume) { ok(v.m.t, v.stage()); v.cap = mountCap("xfs", writer, "noatime") }, codes.AlreadyExists, "flags"},
		"another type":         {func(v *volume) { ok(v.m.t, v.stage()); v.cap = mountCap("ext4", writer) }, codes.AlreadyExists, "xfs"},
		"block":                {func(v *volume) { ok(v.m.t, v.stage()); v.cap = blockCap(writer) }, codes.FailedPrecondition, "a block volume has none"},
		"another staging path": {func(v *volume) { ok(v.m.t, v.stage()); v.staging += "2" }, codes.AlreadyExists, "globalmount; unstage it first"},
		"no block":             {func(v *volume) { publishRaw(v); v.cap = mountCap("xfs", writer) }, codes.AlreadyExists, "it is staged as block"},
		"block elsewhere":      {func(v *volume) { publishRaw(v); v.staging += "2" }, codes.AlreadyExists, "globalmount; unstage it first"},
		"another target":       {func(v *volume) { ok(v.m.t, v.stage()); v.context.Target = v.m.volume("b").target }, codes.FailedPrecondition, "not of target"},
		"a file":               {func(v *volume) { mkdir(v.m.t, filepath.Dir(v.staging)); touch(v.m.t, v.staging) }, codes.FailedPrecondition, "regular file"},
		"a symbolic link":      {func(v *volume) { mkdir(v.m.t, filepath.Dir(v.staging)); ok(v.m.t, os.Symlink("/tmp", v.staging)) }, codes.FailedPrecondition, "symbolic link"},
		"a file above the path": {func(v *volume) {
			mkdir(v.m.t, filepath.Dir(filepath.Dir(v.staging)))
			touch(v.m.t, filepath.Dir(v.staging))
		}, codes.FailedPrecondition, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			v := m.volume("a")
			c.spoil(v)
			before := m.Calls()
			want(t, v.stage(), c.code, c.words)
			if diff := cmp.Diff(m.Calls(), before); diff != "" {
				t.Errorf("something was done all the same (-got +want):\n%s", diff)
			}
		})
	}
}

const writer = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER

func stageAnotherThere(v *volume) {
	other := v.m.volume("b")
	other.staging = v.staging
	ok(v.m.t, other.stage())
}

// publishRaw is how a volume comes into use without a mount on its staging path.
func publishRaw(v *volume) {
	v.cap = blockCap(writer)
	ok(v.m.t, v.stage(), v.publish())
}

func mkdir(tb testing.TB, path string) {
	tb.Helper()
	ok(tb, os.MkdirAll(path, 0o750))
}

func touch(tb testing.TB, path string) {
	tb.Helper()
	ok(tb, os.WriteFile(path, nil, 0o600))
}

func TestStagingBelowASymlinkedDirectoryWorks(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	mkdir(t, filepath.Join(m.dir, "data"))
	ok(t, os.Symlink(filepath.Join(m.dir, "data"), filepath.Join(m.dir, "kubelet")))
	ok(t, v.stage(), v.stage(), v.publish(), v.publish())
	if diff := cmp.Diff(m.Mounted(), []string{m.dir + "/data/a/globalmount", m.dir + "/data/pod-1/a/mount"}); diff != "" {
		t.Errorf("mounts differ (-got +want):\n%s", diff)
	}
	ok(t, v.unpublish(), v.unstage())
	m.nothingLeft()
}

func TestOneLUNIsNeverTwoVolumes(t *testing.T) {
	m := newMachine(t)
	a, b := m.volume("a"), m.volume("b")
	ok(t, a.stage())
	b.context.Target = a.target
	want(t, b.stage(), codes.FailedPrecondition, "is staged here as volume CSI-pvc-a")
}

// Nor does the publish of a raw volume whose record was lost make it two.
func TestALostRecordIsNotMadeAnewOfAnothersLUN(t *testing.T) {
	m := newMachine(t)
	a, b := m.volume("a"), m.volume("b")
	a.cap, b.cap = blockCap(writer), blockCap(writer)
	b.context.Target = a.target
	ok(t, a.stage(), os.RemoveAll(m.Config().RecordDir), b.stage())
	want(t, a.publish(), codes.FailedPrecondition, "is staged here as volume CSI-pvc-b")
	if exists(a.path) || len(m.records()) != 1 {
		t.Errorf("it was published, or has a record: %v", m.records())
	}
}

// The volume was deleted, and made anew under the same name, while its record was
// left over from a lost node.
func TestAStaleRecordOfAnEarlierVolumeDoesNotStandInTheWay(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage())
	m.Reboot()
	m.restart()
	v.target = m.volume("new").target
	v.context.Target = v.target
	ok(t, v.stage(), v.unstage())
	m.nothingLeft()
}

func TestTheDeadMountOfALostSessionIsReplaced(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage())
	v.disk().Lose()
	ok(t, v.stage())
	if diff := cmp.Diff(m.Mounted(), []string{v.staging}); diff != "" {
		t.Errorf("mounts differ (-got +want):\n%s", diff)
	}

	ok(t, v.publish())
	v.disk().Lose()
	want(t, v.stage(), codes.FailedPrecondition, "end those workloads first", v.path)
}

// FM 6, 18: kubelet stages a volume again when it was restarted, also one that pods have.
func TestARepeatedStageForgetsNoTarget(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.cap, v.ro = blockCap(writer), true
	ok(t, v.stage(), v.publish())
	before, err := os.ReadFile(m.records()[0])
	ok(t, err, v.stage())
	if !v.disk().ReadOnly() {
		t.Error("the reader may write")
	}
	after, err := os.ReadFile(m.records()[0])
	ok(t, err)
	if diff := cmp.Diff(string(after), string(before)); diff != "" || !strings.Contains(string(after), v.path) {
		t.Errorf("the record differs (-got +want):\n%s", diff)
	}
}

// FM 39
func TestTheContextMountOptionIsPassedOn(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	selinux := `context="system_u:object_r:container_file_t:s0:c1,c2"`
	v.cap = mountCap("ext4", writer, selinux, "noatime,lazytime")
	ok(t, v.stage(), v.stage())
	if got := strings.Join(m.MountOptions(v.staging), ","); !strings.Contains(got, selinux+",noatime,lazytime") {
		t.Errorf("got options %s, want %s and noatime,lazytime in them", got, selinux)
	}
}

// FM 17, 18
func TestReadersDoNotReplayTheJournal(t *testing.T) {
	reader, readers := csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	for _, c := range []struct {
		fs   string
		mode csi.VolumeCapability_AccessMode_Mode
		lun  bool
		flag string
		want string
	}{
		{"xfs", reader, false, "", "nouuid,ro"},
		{"xfs", writer, false, "ro", "nouuid,ro"},
		{"xfs", readers, false, "", "nouuid,ro,norecovery"},
		{"xfs", writer, true, "", "nouuid,ro,norecovery"},
		{"ext4", reader, false, "", "ro"},
		{"ext4", readers, false, "", "ro,noload"},
	} {
		m := newMachine(t)
		v := m.volume("a")
		v.cap = mountCap(c.fs, writer)
		ok(t, v.stage(), v.unstage())
		v.cap = mountCap(c.fs, c.mode)
		if c.flag != "" {
			v.cap = mountCap(c.fs, c.mode, c.flag)
		}
		v.context.ReadOnly = c.lun
		expect := func() {
			if got := strings.Join(m.MountOptions(v.staging), ","); !strings.HasSuffix(got, ","+c.want) {
				t.Errorf("%+v: got options %s", c, got)
			}
			if got, want := v.disk().ReadOnly(), strings.Contains(c.want, "norecovery") || strings.Contains(c.want, "noload"); got != want {
				t.Errorf("%+v: the device takes no writes: %v, want %v", c, got, want)
			}
			if got := m.MountOptions(v.path)[0]; got != "ro" {
				t.Errorf("%+v: the target is mounted %s", c, got)
			}
		}
		ok(t, v.stage(), v.stage(), v.publish(), v.publish())
		expect()
		ok(t, v.unpublish())
		m.Fail("alive", unix.EIO) // as it is to be published
		m.Fail("alive", unix.EIO) // and before it is mounted anew
		ok(t, v.publish())
		expect()
		if got := m.calls("umount"); len(got) != 3 {
			t.Errorf("%+v: unmounted by %q, want two stages and a target", c, got)
		}
	}
}

// FM 34
func TestACloneIntoALargerVolumeIsGrownAtStage(t *testing.T) {
	for _, fs := range []string{"xfs", "ext4"} {
		m := newMachine(t)
		source, clone := m.volume("source"), m.volume("clone")
		source.cap, clone.cap = mountCap(fs, writer), mountCap(fs, writer)
		clone.target.Bytes, clone.context.Target.Bytes, clone.context.FromSource = 4*gib, 4*gib, true
		ok(t, source.stage(), source.unstage(), source.disk().Copy(clone.disk()))
		m.CrashAt(0)
		ok(t, clone.stage())
		if _, bytes, err := clone.disk().Filesystem(); err != nil || bytes != 4*gib {
			t.Errorf("%s: got %d bytes, %v, want %d", fs, bytes, err, 4*gib)
		}
		ok(t, clone.stage())
		if got := m.calls("xfs_growfs", "resize2fs"); len(got) != 1 {
			t.Errorf("%s: got %v, want to grow once", fs, got)
		}
	}
}

// FM 34: a file system with errors is mounted by the kernel and not grown by it, and its
// data is wanted all the same.
func TestAFileSystemThatCannotBeGrownIsStaged(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.unstage(), v.disk().Grow(2*gib))
	for _, killed := range []error{&iscsi.ExitError{Tool: "xfs_growfs", Code: 137}, errDevice} { // which says nothing of the file system
		m.Fail("xfs_growfs", killed)
		want(t, v.stage(), codes.Internal, "grow the xfs")
	}
	m.Fail("xfs_growfs", &iscsi.ExitError{Tool: "xfs_growfs", Code: 1})
	ok(t, v.stage(), v.publish())
	m.restart()
	v.expectHealth(map[string]string{"DEGRADED/FilesystemSmaller": "xfs_growfs"})
	if _, err := v.expand(v.path, 2*gib); err != nil {
		t.Error(err)
	}
	v.expectHealth(nil)
	if _, bytes, err := v.disk().Filesystem(); err != nil || bytes != 2*gib {
		t.Errorf("got %d bytes, %v", bytes, err)
	}
}

// FM 7: what the kernel has stopped is mounted anew as soon as nobody else uses it, for
// kubelet neither unstages nor stages a volume again that another pod waits for: it only
// publishes it.
func TestAFileSystemThatStoppedIsMountedAnew(t *testing.T) {
	for call, again := range map[string]func(*volume) error{"stage": (*volume).stage, "publish": (*volume).publish} {
		t.Run(call, func(t *testing.T) { stoppedIsMountedAnew(t, again) })
	}
}

func stoppedIsMountedAnew(t *testing.T, again func(*volume) error) {
	t.Helper()
	for name, stop := range map[string]func(*volume){
		"refuses writes": func(v *volume) {
			v.disk().Err(node.FilesystemErrors{Count: 1, Where: "ext4_journal_check_start", Time: time.Now()})
		},
		"shown read-only":    func(v *volume) { v.m.Remount(v.staging, []string{"rw"}, []string{"ro"}) },
		"shown shut down":    func(v *volume) { v.m.Remount(v.staging, []string{"rw"}, []string{"rw", "shutdown"}) },
		"shown in emergency": func(v *volume) { v.m.Remount(v.staging, []string{"rw"}, []string{"rw", "emergency_ro"}) },
		"cannot be read": func(v *volume) {
			v.m.Fail("alive", unix.EIO) // as it is to be published
			v.m.Fail("alive", unix.EIO) // and before it is mounted anew
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			v := m.volume("a")
			v.cap = mountCap("ext4", writer)
			ok(t, v.stage())
			stop(v)
			m.Fail("sync", errDevice) // what nobody heard of is told first (FM 21)
			want(t, again(v), codes.DataLoss, "could not be written")
			if name == "cannot be read" {
				stop(v)
			}
			ok(t, again(v))
			if got := m.calls("umount"); len(got) != 1 {
				t.Errorf("unmounted by %q", got)
			}
			if got := m.calls("mkfs", "mke2fs"); len(got) != 1 {
				t.Errorf("made by %q", got)
			}
			ok(t, v.publish(), v.unpublish(), v.unstage())
			m.nothingLeft()
		})
	}
}

// FM 7, 19: a publish that mounts anew is cut off anywhere, or its mount fails, and repeated.
func TestAMountAnewThatIsCutOffIsFinished(t *testing.T) {
	for _, end := range []string{"mount", "crash"} {
		for step := 1; ; step++ {
			m := newMachine(t)
			v := m.volume("a")
			ok(t, v.stage(), v.publish(), v.unpublish())
			m.Fail("alive", unix.EIO) // as it is to be published
			m.Fail("alive", unix.EIO) // and before it is mounted anew
			if end == "mount" {
				m.Fail("mount", errDevice)
			} else {
				m.CrashAt(step)
			}
			err := v.publish()
			if m.Crashed() {
				m.Revive()
				m.restart()
			} else if err == nil {
				if end == "mount" || step < 5 {
					t.Fatalf("%s %d: nothing was cut off", end, step)
				}
				break
			}
			ok(t, v.publish(), v.unpublish(), v.unstage())
			if got := m.calls("mkfs"); len(got) != 1 {
				t.Errorf("made by %q", got)
			}
			m.nothingLeft()
			if end == "mount" {
				break
			}
		}
	}
}

// FM 6: a record that cannot be read may speak of the LUN that is asked for, but not of
// one that nothing on this host leads to.
func TestARecordThatCannotBeReadStopsNoOtherVolume(t *testing.T) {
	m := newMachine(t)
	a, b := m.volume("a"), m.volume("b")
	ok(t, a.stage())
	m.spoilRecords()
	ok(t, b.stage(), b.unstage())
	a.id = "CSI-pvc-c" // the same LUN
	want(t, a.stage(), codes.Internal, "record")
}

func TestCHAPComesFromTheStageSecretOnly(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.disk().Want(iscsi.CHAP{User: "worker", Password: "0123456789abcdef"})
	want(t, v.stage(), codes.Unauthenticated, v.target.IQN)
	v.secrets = map[string]string{"node.session.auth.username": "worker", "node.session.auth.password": "0123456789abcdef", "other": "x"}
	ok(t, v.stage())
}

func TestErrorsOfTheInitiatorKeepTheirMeaning(t *testing.T) {
	for kind, code := range map[error]codes.Code{
		iscsi.ErrAuth: codes.Unauthenticated, iscsi.ErrUnavailable: codes.Unavailable, iscsi.ErrNotReady: codes.Unavailable,
		iscsi.ErrStuck: codes.Unavailable, iscsi.ErrOutput: codes.Unavailable,
		iscsi.ErrForeign: codes.FailedPrecondition, iscsi.ErrBusy: codes.FailedPrecondition, errDevice: codes.Internal, nodetest.ErrCrashed: codes.Internal,
	} {
		m := newMachine(t)
		v := m.volume("a")
		m.Fail("attach", kind)
		want(t, v.stage(), code, kind.Error(), v.id)
		ok(t, v.stage())
	}
}

// FM 1: a PersistentVolume without a type, such as the vendor's driver left over ext4, is
// mounted as what it holds, and is that from then on; a new one gets the default.
func TestAVolumeWithoutATypeIsMountedAsWhatItHolds(t *testing.T) {
	m := newMachine(t)
	v, other := m.volume("a"), m.volume("b")
	v.cap = mountCap("ext4", writer)
	ok(t, v.stage(), v.unstage())
	v.cap = mountCap("", writer)
	ok(t, v.stage(), v.stage(), v.publish())
	if got := m.calls("mkfs", "mke2fs"); len(got) != 1 {
		t.Errorf("made by %q", got)
	}
	m.restart()
	ok(t, v.stage(), v.publish(), v.unpublish())
	if _, err := v.expand(v.staging, gib); err != nil {
		t.Error(err)
	}
	v.cap = mountCap("xfs", writer)
	want(t, v.publish(), codes.FailedPrecondition, "ext4")
	ok(t, v.unstage())
	want(t, v.stage(), codes.FailedPrecondition, "holds ext4, and xfs was asked for")
	m.nothingLeft()

	other.cap = mountCap("", writer)
	ok(t, other.stage(), other.unstage())
	if got := m.calls("mkfs.xfs -", "mke2fs"); len(got) < 2 || !strings.HasPrefix(got[len(got)-1], "mkfs.xfs") {
		t.Errorf("made by %q", got)
	}
	m.nothingLeft()
}
