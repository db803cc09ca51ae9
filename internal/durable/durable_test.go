package durable_test

import (
	"os"
	"path/filepath"
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
