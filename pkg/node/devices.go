package node

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hostDevices is Devices over the kernel's block devices.
type hostDevices struct{ sysfs string }

// NewDevices returns Devices of this host; sysfs is where it is mounted, /sys.
func NewDevices(sysfs string) Devices { return hostDevices{sysfs: sysfs} }

func (d hostDevices) Number(path string) (Number, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Number{}, fmt.Errorf("%s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return Number{}, fmt.Errorf("%s: %w", path, ErrNotBlock)
	}
	return Number{Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}, nil
}

// sectorBytes is the unit of sysfs, whatever the device's own is.
const sectorBytes = 512

func (d hostDevices) Size(n Number) (int64, error) {
	sectors, err := readInt(filepath.Join(d.sysfs, "dev/block", n.String(), "size"))
	if err != nil {
		return 0, fmt.Errorf("size of device %s: %w", n, err)
	}
	return sectors * sectorBytes, nil
}

func (d hostDevices) Claim(path string) (Disk, error) {
	// O_DIRECT, so that what is read comes from the device and not from what some
	// earlier user of the number left in memory; O_EXCL, so that mounts, maps and
	// a mkfs at work, all of which open so too, exclude us and we them.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("open %s: %w", path, ErrHeld)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w: %w", path, errUnreadable, err)
	}
	return &blockDisk{File: os.NewFile(uintptr(fd), path)}, nil
}

type blockDisk struct{ *os.File }

// Size asks the device, as BLKGETSIZE64 does.
func (d *blockDisk) Size() (int64, error) {
	n, err := d.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return n, nil
}

func (d hostDevices) SetReadOnly(path string, readOnly bool) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open %s: %w: %w", path, errUnreadable, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	want := 0
	if readOnly {
		want = 1
	}
	is, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET)
	if err == nil && is != want {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, want)
	}
	if err != nil {
		return fmt.Errorf("set read-only of %s to %v: %w", path, readOnly, err)
	}
	return nil
}

func (d hostDevices) FilesystemBytes(fsType, device, path string) (n int64, err error) {
	if fsType == fsXFS {
		return xfsBytes(path)
	}
	// ext4 keeps its superblock in the device's page cache, so a buffered read
	// sees what the kernel has.
	f, err := os.Open(device)
	if err != nil {
		return 0, fmt.Errorf("read the superblock: %w: %w", errUnreadable, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	head := make([]byte, headBytes)
	if _, err := io.ReadFull(f, head); err != nil {
		return 0, fmt.Errorf("read the superblock of %s: %w: %w", device, errUnreadable, err)
	}
	ext := recognise(head)
	if ext.Name != nameExt {
		return 0, fmt.Errorf("%s: %w: no ext4 superblock, but mounted as one", device, errForeign)
	}
	return ext.Bytes, nil
}

func (d hostDevices) Usage(path string) (Usage, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(path, &st)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return Usage{}, fmt.Errorf("statfs %s: %w", path, err)
		}
		return Usage{
			TotalBytes:     int64(st.Blocks) * st.Bsize,
			FreeBytes:      int64(st.Bfree) * st.Bsize,
			AvailableBytes: int64(st.Bavail) * st.Bsize,
			TotalInodes:    int64(st.Files),
			FreeInodes:     int64(st.Ffree),
		}, nil
	}
}

// FilesystemErrors implements Devices. Of the file systems here ext4 keeps a count.
func (d hostDevices) FilesystemErrors(fsType string, n Number) (FilesystemErrors, error) {
	if fsType != fsExt4 {
		return FilesystemErrors{}, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(d.sysfs, "dev/block", n.String()))
	if err != nil {
		return FilesystemErrors{}, err
	}
	dir = filepath.Join(d.sysfs, "fs/ext4", filepath.Base(dir))
	var e FilesystemErrors
	if e.Count, err = readInt(filepath.Join(dir, "errors_count")); err != nil || e.Count == 0 {
		return FilesystemErrors{}, err
	}
	seconds, timeErr := readInt(filepath.Join(dir, "last_error_time"))
	where, whereErr := readLine(filepath.Join(dir, "last_error_func"))
	code, codeErr := readInt(filepath.Join(dir, "last_error_errcode"))
	if errors.Is(codeErr, fs.ErrNotExist) {
		codeErr = nil // kernels before 5.8
	}
	// EXT4_ERR_EFSBADCRC and EXT4_ERR_EFSCORRUPTED of the kernel's ext4.h.
	e.Corrupt = code == 4 || code == 5
	e.Where, e.Time = where, time.Unix(seconds, 0)
	return e, errors.Join(timeErr, whereErr, codeErr)
}

// Sync writes out the whole file system that dir is of.
func (d hostDevices) Sync(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	err = unix.Syncfs(fd)
	_ = unix.Close(fd) // read only: nothing to lose
	if err != nil {
		return fmt.Errorf("write out %s: %w", dir, err)
	}
	return nil
}

// Alive reads one name of the directory, so that a file system that the kernel
// shut down shows it: statfs would not.
func (d hostDevices) Alive(dir string) (err error) {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.ReadDir(1); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func readLine(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}

func readInt(path string) (int64, error) {
	line, err := readLine(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(line, 10, 64)
}

// isDead says that a file system answers as one whose device is gone or which
// the kernel has shut down.
func isDead(err error) bool {
	for _, e := range []error{unix.EIO, unix.ESHUTDOWN, unix.ENODEV, unix.ENXIO, unix.EUCLEAN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
