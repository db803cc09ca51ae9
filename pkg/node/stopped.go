package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Stopped implements Devices. After an error ext4 used to make its mounts read-only. Since
// Linux 6.12, and in stable releases of older kernels, it refuses writes and leaves
// the mount table as it was; only Linux 6.15 says "emergency_ro" there. In between
// its superblock tells, which the kernel keeps in the device's page cache for as
// long as it is mounted, so that nothing is read from the device.
func (d hostDevices) Stopped(m Mount, e FilesystemErrors) (stopped bool, err error) {
	if m.Type != fsExt4 || e.Count == 0 {
		return false, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(d.sysfs, "dev/block", m.Device.String()))
	if err != nil {
		return false, err
	}
	path := filepath.Join("/dev", filepath.Base(dir))
	if n, numberErr := d.Number(path); numberErr != nil || n != m.Device {
		return false, errors.Join(fmt.Errorf("%w: %s is not device %s", errForeign, path, m.Device), numberErr)
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	superblock := make([]byte, extSuperblockBytes)
	if _, err := f.ReadAt(superblock, extSuperblockBytes); err != nil {
		return false, fmt.Errorf("read the superblock of %s: %w", path, err)
	}
	return stoppedSince(superblock, m.Super, e), nil
}

// The superblock of ext4, at its own size from the beginning (kernel's ext4.h).
const (
	extSuperblockBytes = 1024

	extMountTime     = 0x2c  // s_mtime, seconds
	extOnErrors      = 0x3c  // s_errors: what to do at an error
	extMountTimeHigh = 0x274 // s_mtime_hi
	extOnErrorsStop  = 2     // EXT4_ERRORS_RO
)

// stoppedSince says whether the last error, which is later than the mount, stopped
// all writes: because that is what the file system does at errors, or because it
// was the one of a write that met an aborted journal.
func stoppedSince(superblock []byte, options []string, e FilesystemErrors) bool {
	order := binary.LittleEndian
	mounted := time.Unix(int64(order.Uint32(superblock[extMountTime:]))|int64(superblock[extMountTimeHigh])<<32, 0)
	stops := slices.Contains(options, "errors=remount-ro") ||
		order.Uint16(superblock[extOnErrors:]) == extOnErrorsStop && !slices.Contains(options, "errors=continue")
	return !e.Time.Before(mounted) && (stops || e.Where == "ext4_journal_check_start")
}
