package durable_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/datera-csi/datera-csi/internal/durable"
)

func TestReplaceLeavesOneWholeFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	if err := os.WriteFile(path+durable.Suffix, []byte("half of what a crash left, and longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first", "second, longer", "", "last"} {
		if err := durable.Replace(path, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestReplaceThatFailsLeavesTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+durable.Suffix, 0o700); err != nil { // so that it cannot be written
		t.Fatal(err)
	}
	if err := durable.Replace(path, []byte("after")); err == nil {
		t.Error("wrote into a directory")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "before" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := durable.Replace(filepath.Join(t.TempDir(), "missing", "state"), nil); err == nil {
		t.Error("wrote into a directory that is not there")
	}
}

// FM 29, 35: the bytes are durable before the name says that they are there. A device
// takes what is written, and refuses to sync it.
func TestReplaceSyncsTheFileBeforeItIsSeen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	if err := errors.Join(os.WriteFile(path, []byte("before"), 0o600), os.Symlink(os.DevNull, path+durable.Suffix)); err != nil {
		t.Fatal(err)
	}
	if err := durable.Replace(path, []byte("after")); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("err = %v, want that of the sync", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "before" {
		t.Errorf("got %q, %v", got, err)
	}
}

// unsyncable is another path of what is in a directory, by whose name it is in one that
// cannot be synced: the kernel follows the link before it goes up.
func unsyncable(t *testing.T, dir, name string) string {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	below, err := os.Open(filepath.Join(dir, "below"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = below.Close() })
	return fmt.Sprintf("/proc/self/fd/%d/../%s", below.Fd(), name)
}

// FM 29, 35: nor is anything done before its name is durable.
func TestANameThatIsNotDurableIsAnError(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(string) error
		left   string
	}{
		"replace": {func(path string) error { return durable.Replace(path, []byte("after")) }, "after"},
		"remove":  {durable.Remove, ""},
		"sync":    {func(path string) error { return durable.SyncDir(filepath.Dir(path)) }, "before"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "state"), []byte("before"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := tt.change(unsyncable(t, dir, "state")); !errors.Is(err, syscall.EINVAL) {
				t.Errorf("err = %v, want that of the sync", err)
			}
			if got, _ := os.ReadFile(filepath.Join(dir, "state")); string(got) != tt.left {
				t.Errorf("left %q, want %q: it is synced afterwards", got, tt.left)
			}
		})
	}
}

func TestMakeDirIsSafeToRepeat(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "made")
	for range 2 { // a repeat, because the first one may have ended before the directory was written
		if err := durable.MakeDir(path); err != nil {
			t.Error(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != os.ModeDir|0o700 {
		t.Errorf("made %v, %v", info, err)
	}
	if err := durable.MakeDir(unsyncable(t, filepath.Dir(path), "made")); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("one that is there: err = %v, want that of the sync", err)
	}
}

func TestRemoveLooksAtTheDirectoryToo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a repeat, because the first one may have ended before the directory was written
		if err := durable.Remove(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it is still there")
	}
	if err := durable.Remove(filepath.Join(path, "state")); err == nil {
		t.Error("made durable in a directory that is not there")
	}
}
