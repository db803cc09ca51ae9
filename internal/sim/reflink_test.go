package sim

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Where blocks can be shared, a snapshot of a volume in use is of one moment, or is not.
func TestOnlyWhereBlocksCannotBeSharedTheyAreCopied(t *testing.T) {
	for errno, want := range map[syscall.Errno]bool{
		syscall.EOPNOTSUPP: true, syscall.EXDEV: true, syscall.EINVAL: true, syscall.ENOTTY: true, syscall.ENOSYS: true,
		syscall.EIO: false, syscall.ENOSPC: false, syscall.EDQUOT: false, syscall.EINTR: false, syscall.ENOMEM: false, syscall.EROFS: false,
	} {
		if got := cannotShare(errno); got != want {
			t.Errorf("%v: got %t", errno, got)
		}
	}
}

// A crash between two steps would leave a file shorter than its volume.
func TestACopyIsAsLongAsItsVolumeOnceItHasItsName(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	if err := os.WriteFile(from, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	for size, want := range map[int64]int64{0: 4, 1: 4, 1 << 20: 1 << 20} {
		if err := copyFile(from, to, size); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(to); err != nil || info.Size() != want {
			t.Errorf("for %d bytes: %v, %v, want %d", size, info, err, want)
		}
	}
}
