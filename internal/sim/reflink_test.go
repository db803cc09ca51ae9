package sim

import (
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
