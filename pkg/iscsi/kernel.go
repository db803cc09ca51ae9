package iscsi

import (
	"fmt"
	"os"
	"syscall"

	"github.com/datera-csi/datera-csi/internal/durable"
)

// kernel is what must be asked of the kernel or of a device itself: all that may
// block, and all that a unit test cannot have. Everything else is read from files.
type kernel interface {
	// Set writes an attribute of sysfs.
	Set(path, value string) error

	// SyncDir makes durable which names a directory has.
	SyncDir(dir string) error

	// Node proves that path is the device node of the block device dev
	// ("major:minor" as in sysfs).
	Node(path, dev string) error

	// Identify asks the SCSI disk at path who it is and how large, now: INQUIRY
	// and READ CAPACITY, not what the kernel remembers.
	Identify(path string) (identity, error)

	// Claim fails with syscall.EBUSY when a mount in whatever namespace, another
	// device or a program has claimed path for itself.
	Claim(path string) error

	// Openers are the processes in proc that have one of these block devices open.
	Openers(proc string, devs []string) []opener

	// Flush writes out what the kernel buffers for the device; alone claims it
	// meanwhile.
	Flush(path string, alone bool) error

	// Table is what device-mapper has of the multipath map of this uuid.
	Table(uuid string) (mapTable, error)

	// FailIfNoPath makes what that map keeps waiting fail.
	FailIfNoPath(uuid string) error

	// Resume lets a suspended map work again, with the table that was loaded last.
	Resume(uuid string) error
}

type linux struct{}

func (linux) Set(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value + "\n") // a disk's state is known by the end of its line
	return together(err, f.Close())
}

func (linux) SyncDir(dir string) error { return durable.SyncDir(dir) }

func (linux) Node(path, dev string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return checkNode(path, info, dev)
}

func checkNode(path string, info os.FileInfo, dev string) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		return fmt.Errorf("%s is not a block device", path)
	}
	if got := deviceNumber(stat.Rdev); got != dev {
		return fmt.Errorf("%s is block device %s, want %s", path, got, dev)
	}
	return nil
}

// deviceNumber renders a dev_t as sysfs and mountinfo do.
func deviceNumber(rdev uint64) string {
	major := rdev>>8&0xfff | rdev>>32&^0xfff
	minor := rdev&0xff | rdev>>12&^0xff&0xffffffff
	return fmt.Sprintf("%d:%d", major, minor)
}

func (linux) Claim(path string) error {
	f, err := openExclusive(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func (linux) Flush(path string, alone bool) error {
	const flushBuffers = 0x1261 // BLKFLSBUF
	open := os.Open
	if alone {
		open = openExclusive
	}
	f, err := open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	if err := f.Sync(); err != nil {
		return err
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), flushBuffers, 0); errno != 0 {
		return fmt.Errorf("flush buffers of %s: %w", path, errno)
	}
	return nil
}

// openExclusive opens a block device as mount(2) does: only one can have it so.
func openExclusive(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_EXCL, 0)
}
