package iscsi_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// node is what stat(2) tells of a device node.
type node struct {
	fs.FileInfo

	mode fs.FileMode
	rdev uint64
}

func (n node) Mode() fs.FileMode { return n.mode }
func (n node) Sys() any          { return &syscall.Stat_t{Rdev: n.rdev} }

// FM 2: what /dev calls sdb is sdb only if it has the number that sysfs tells.
func TestANodeIsTheDeviceOfItsNumber(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		node node
		says string
	}{
		"the device":         {node{mode: fs.ModeDevice, rdev: 0x810}, ""},
		"another disk":       {node{mode: fs.ModeDevice, rdev: 0x820}, "block device 8:32, want 8:16"},
		"another major":      {node{mode: fs.ModeDevice, rdev: 0xfd10}, "block device 253:16, want 8:16"},
		"a character device": {node{mode: fs.ModeDevice | fs.ModeCharDevice, rdev: 0x810}, "not a block device"},
		"a file":             {node{rdev: 0x810}, "not a block device"},
	} {
		err := iscsi.CheckNode("/dev/sdb", tt.node, "8:16")
		if (err != nil) != (tt.says != "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
	}
}

func TestNodesOfThisMachine(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/dev/null", file, t.TempDir()} {
		if err := iscsi.Linux().Node(path, "1:3"); err == nil || !strings.Contains(err.Error(), "not a block device") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := iscsi.Linux().Node(file+"2", "1:3"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
}

// A directory of /proc cannot be synced, and so shows who tries.
func TestSyncDirSyncs(t *testing.T) {
	t.Parallel()
	if err := iscsi.Linux().SyncDir("/proc"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("err = %v, want that of the sync", err)
	}
	if err := iscsi.Linux().SyncDir(t.TempDir()); err != nil {
		t.Error(err)
	}
}
