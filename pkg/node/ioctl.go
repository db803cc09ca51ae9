package node

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// XFS_IOC_FSGEOMETRY_V1 of the kernel's xfs_fs.h: _IOR('X', 100, 112 bytes).
const xfsGeometry = 0x80705864

// xfsBytes asks a mounted xfs for its size. The superblock on the device may be
// older than what the kernel knows, and statfs leaves the log out.
func xfsBytes(path string) (int64, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }() // read only: nothing to lose
	// The structure begins with eight words, the first of them the block size;
	// the count of data blocks follows.
	var geometry [112]byte
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), xfsGeometry, uintptr(unsafe.Pointer(&geometry))); errno != 0 { //nolint:gosec // the ioctl takes a pointer
		return 0, fmt.Errorf("geometry of the xfs at %s: %w", path, errno)
	}
	blockSize, blocks := binary.NativeEndian.Uint32(geometry[0:]), binary.NativeEndian.Uint64(geometry[32:])
	return int64(blockSize) * int64(blocks), nil
}

// addressOf says where b lies in memory. The collector does not move what make
// returned, so the answer stays true while b lives.
func addressOf(b []byte) int {
	return int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) //nolint:gosec // O_DIRECT needs it
}
