package node_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// kernelBroken is what the health says of file systems that the kernel has stopped,
// and of the same when they are mounted anew.
func kernelBroken(t *testing.T, fs string) {
	m, l := newKernel(t)
	v := m.kernelVolume("a", fs)
	if fs == "ext4" {
		v.cap.GetMount().MountFlags = []string{"errors=remount-ro"}
	}
	ok(t, v.stage(), v.publish())
	v.expectHealth(nil)
	later, corrupt := map[string]string{}, func(map[string]string) {}
	if fs == "xfs" {
		ok(t, exec.Command("xfs_io", "-x", "-c", "shutdown", v.staging).Run())
		v.expectHealth(map[string]string{"INACCESSIBLE/FilesystemShutDown": "delete the volume's pods"})
	} else {
		dir := filepath.Join("/sys/fs/ext4", filepath.Base(l.attached[v.target.IQN].Path))
		ok(t, os.WriteFile(filepath.Join(dir, "trigger_fs_error"), []byte("1"), 0))
		later["DEGRADED/FilesystemErrors"] = "e2fsck -f"
		corrupt = func(expected map[string]string) { // by the last error, which new kernels call EFSCORRUPTED
			code, err := os.ReadFile(filepath.Join(dir, "last_error_errcode"))
			if ok(t, err); strings.TrimSpace(string(code)) == "5" {
				expected["DATA_LOSS/FilesystemCorrupted"] = "check it on a copy"
			}
		}
		now := maps.Clone(later)
		corrupt(now)
		now["INACCESSIBLE/FilesystemReadOnly"] = "stopped writing"
		v.expectHealth(now)
		other := *v
		other.path += " other"
		want(t, v.stage(), codes.FailedPrecondition, "found an error in the file system") // FM 7: it is mounted, and not as it was
		want(t, other.publish(), codes.FailedPrecondition, "found an error in the file system")
	}
	if err := os.WriteFile(filepath.Join(v.path, "file"), nil, 0o600); err == nil {
		t.Error("it can be written to")
	}
	corrupt(later) // what the write met is the last error now, to older kernels
	ok(t, v.unpublish())
	if fs == "xfs" {
		want(t, v.unstage(), codes.DataLoss) // once: what was not synced before is lost
	}
	ok(t, v.unstage())
	time.Sleep(1100 * time.Millisecond) // both times are kept in seconds
	ok(t, v.stage(), v.publish(), os.WriteFile(filepath.Join(v.path, "file"), nil, 0o600))
	v.expectHealth(later)
	ok(t, v.unpublish(), v.unstage())
}

// kernelStrange is FM 7 and 8: what lies on the volume's paths and is not the volume
// is never used, and never taken off as if it were.
func kernelStrange(t *testing.T) {
	m, l := newKernel(t)
	v, other := m.kernelVolume("a", "xfs"), m.kernelVolume("other", "xfs")
	ok(t, v.stage(), other.stage())
	mounts := m.kernelConfig(l).Mounts
	for what, mount := range map[string]func(path string) error{
		"another volume": func(path string) error { return mounts.Mount(other.staging, path, "", []string{"bind"}) },
		"memory":         func(path string) error { return mounts.Mount("strange", path, "tmpfs", nil) },
	} {
		ok(t, mount(v.staging))
		want(t, v.publish(), codes.FailedPrecondition, v.staging)
		want(t, v.stage(), codes.FailedPrecondition, v.staging)
		want(t, v.unstage(), codes.FailedPrecondition, v.staging)
		ok(t, mounts.Unmount(v.staging))

		mkdir(t, v.path)
		ok(t, mount(v.path))
		want(t, v.publish(), codes.FailedPrecondition, v.path)
		want(t, v.unpublish(), codes.FailedPrecondition, v.path)
		ok(t, os.WriteFile(filepath.Join(v.path, "theirs"), nil, 0o600), mounts.Unmount(v.path), v.unpublish())
		if t.Failed() {
			t.Fatal(what)
		}
	}
	ok(t, v.unstage(), other.unstage())
}
