package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needMounts(t *testing.T) {
	t.Helper()
	if may, err := mayMount(); err != nil || !may {
		t.Skip("this process may not mount: ", err)
	}
}

func TestACancelledMmdebstrapCleansUpAndLeavesNoMountAndNoProcess(t *testing.T) {
	needMounts(t)
	dir := t.TempDir()
	script := `#!/bin/sh -e
mount -t tmpfs none "$1"
trap 'umount "$1"; touch "$1/clean"; exit 1' TERM
(trap "" TERM; while echo >"$2"; do sleep 0.1; done) &
wait
`
	tree, pulse := filepath.Join(dir, "tree"), filepath.Join(dir, "pulse")
	if err := errors.Join(os.Mkdir(tree, 0o755), os.WriteFile(filepath.Join(dir, "mmdebstrap"), []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	cancelled := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for _, err := os.Stat(pulse); err != nil && t.Context().Err() == nil; _, err = os.Stat(pulse) {
			time.Sleep(10 * time.Millisecond)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), tree) {
			t.Errorf("the mount is seen from outside: %v", err)
		}
		cancel(cancelled)
	}()
	if err := Mmdebstrap(ctx, nil, tree, pulse); !errors.Is(err, cancelled) {
		t.Errorf("got %v, want the end of the context", err)
	}
	if _, err := os.Stat(filepath.Join(tree, "clean")); err != nil {
		t.Errorf("it was not let clean up: %v", err)
	}
	if err := os.Remove(pulse); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if _, err := os.Stat(pulse); err == nil {
		t.Error("what it started outlives it")
	}
}

func TestRemainsOfAKilledBuildAreNotRemovedThroughAMount(t *testing.T) {
	needMounts(t)
	runtime.LockOSThread() // and never unlock: the thread ends with the test, and its mounts with it
	if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
		t.Fatal(err)
	}
	cache, shared := t.TempDir(), t.TempDir()
	mounted := filepath.Join(cache, ".build-killed", "root", "dev", "shm")
	if err := errors.Join(os.MkdirAll(mounted, 0o755), os.MkdirAll(filepath.Join(cache, ".build-other"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Mount("none", shared, "tmpfs", 0, ""), unix.Mount(shared, mounted, "", unix.MS_BIND, ""),
		os.WriteFile(filepath.Join(shared, "segment"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	err := sweep(t.Context(), cache)
	if err == nil || !strings.Contains(err.Error(), mounted) {
		t.Errorf("got %v, want what is mounted", err)
	}
	if _, err := os.Stat(filepath.Join(shared, "segment")); err != nil {
		t.Errorf("what is mounted there was removed: %v", err)
	}
	if err := unix.Unmount(mounted, 0); err != nil {
		t.Fatal(err)
	}
	if err := sweep(t.Context(), cache); err != nil {
		t.Error(err)
	}
	if left := entries(t, filepath.Join(cache, ".*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
	if err := unix.Unmount(shared, 0); err != nil {
		t.Error(err)
	}
}
