package iscsi_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// FM 3, 21: who may write is not overlooked, and who does not tell may.
func TestWhoMayWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, want := range map[string]bool{
		"pos:\t0\nflags:\t0100000\nmnt_id:\t24\n": false,
		"pos:\t0\nflags:\t0100001\nmnt_id:\t24\n": true, // dd of=/dev/sdb
		"pos:\t0\nflags:\t0100002\nmnt_id:\t24\n": true,
		"pos:\t0\nflags:\t02540000\n":             false, // O_DIRECT, and closed upon exec
		"flags:\t100003\n":                        true,
		"flags:\tx\n":                             true,
		"pos:\t0\n":                               true,
		"":                                        true,
	} {
		path := filepath.Join(dir, "fdinfo")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := iscsi.MayWrite(path); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if !iscsi.MayWrite(filepath.Join(dir, "none")) {
		t.Error("without flags: false, want true")
	}
}

// someBlockDevice is the node of a block device that need not be there: it is only
// looked at.
func someBlockDevice(t *testing.T) (path, dev string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk")
	err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(240, 7))) // for local use, which has none
	if err == nil {
		return path, "240:7"
	}
	nodes, readErr := os.ReadDir("/dev")
	for _, n := range nodes {
		var st unix.Stat_t
		if path = "/dev/" + n.Name(); unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			return path, iscsi.DeviceNumber(st.Rdev)
		}
	}
	t.Skip("there is no block device to look at: ", errors.Join(err, readErr))
	return "", ""
}

// FM 3, 13, 21: of a disk that nobody has claimed only the programs' own descriptors tell
// who has it open.
func TestOpenersAreTheOtherProcessesWithTheDeviceOpen(t *testing.T) {
	t.Parallel()
	disk, dev := someBlockDevice(t)
	const readOnly, writeOnly = "0100000", "0100001"
	proc := t.TempDir()
	opens := func(pid, comm, what, flags string) {
		t.Helper()
		for name, text := range map[string]string{"comm": comm + "\n", "fdinfo/3": "pos:\t0\nflags:\t" + flags + "\n", "fd/x": ""} {
			path := filepath.Join(proc, pid, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(what, filepath.Join(proc, pid, "fd/3")); err != nil {
			t.Fatal(err)
		}
	}
	// No process has such numbers: the kernel's end at 4194304.
	opens("5000101", "dd", disk, writeOnly)
	opens("5000102", "blkid", disk, readOnly)
	opens("5000103", "multipathd", disk, readOnly)
	opens("5000104", "multipathd", disk, writeOnly) // whatever calls itself so
	opens("5000105", "sh", "/dev/null", writeOnly)
	opens("5000106", "sh", filepath.Join(proc, "none"), writeOnly)
	opens(strconv.Itoa(os.Getpid()), "datera-csi", disk, writeOnly)

	want := []iscsi.Opener{
		iscsi.NewOpener("process 5000101 dd", true),
		iscsi.NewOpener("process 5000102 blkid", false),
		iscsi.NewKeeper("process 5000103 multipathd"),
		iscsi.NewOpener("process 5000104 multipathd", true),
	}
	got := iscsi.Linux().Openers(proc, []string{"1:3", dev}) // the first is the number of /dev/null too, which is no block device
	inOrder := cmpopts.SortSlices(func(a, b iscsi.Opener) bool { return fmt.Sprint(a) < fmt.Sprint(b) })
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(iscsi.Opener{}), inOrder); diff != "" {
		t.Error(diff)
	}
	if got := iscsi.Linux().Openers(proc, []string{"1:3", dev + "1"}); len(got) > 0 {
		t.Errorf("another device is open in %+v", got)
	}
}
