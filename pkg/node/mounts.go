package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	mount "k8s.io/mount-utils"

	"github.com/datera-csi/datera-csi/internal/mountinfo"
)

// hostMounts is Mounts over mount-utils, which runs mount(8) and umount(8); the
// table it reads itself, because a mount's device number is the only proof.
type hostMounts struct {
	mounter mount.Interface
	table   func() ([]byte, error)
}

// NewMounts returns Mounts that changes mounts by mounter and reads them from table,
// e.g. NewMounts(mount.NewWithoutSystemd(""), mountinfo.File("/proc/self/mountinfo")).
func NewMounts(mounter mount.Interface, table func() ([]byte, error)) Mounts {
	return &hostMounts{mounter: mounter, table: table}
}

func (h *hostMounts) List() ([]Mount, error) {
	table, err := h.table()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoTable, err)
	}
	mounts, err := mountinfo.Parse(table)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoTable, err)
	}
	return mounts, nil
}

func (h *hostMounts) Mount(source, target, fsType string, options []string) error {
	if err := h.mounter.MountSensitiveWithoutSystemd(source, target, fsType, options, nil); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, explained(err))
	}
	return nil
}

// explained recognises an errno in the words of mount(8), which exits with 32 for every
// one: EUCLEAN, EBADMSG of a wrong checksum, and EIO.
func explained(err error) error {
	for words, kind := range map[string]error{
		"Structure needs cleaning":         ErrDamaged,
		"probably corrupted filesystem":    ErrDamaged,
		"can't read superblock":            ErrMountRead,
		"system call failed: Input/output": ErrMountRead,
	} {
		if strings.Contains(err.Error(), words) {
			return fmt.Errorf("%w: %w", kind, err)
		}
	}
	return err
}

func (h *hostMounts) Unmount(target string) error {
	if err := h.mounter.Unmount(target); err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

// at returns the mounts on path, the visible one last.
func at(mounts []Mount, path string) []Mount {
	return slices.DeleteFunc(slices.Clone(mounts), func(m Mount) bool { return m.Path != path })
}

// resolve returns path as the mount table shows it: its directory without
// symlinks, because an administrator may have put all of the kubelet's elsewhere,
// and its last element, which must not be one. A missing directory is
// fs.ErrNotExist; a missing last element is none of its concern.
func resolve(path string) (string, error) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(filepath.Clean(path)))
	if errors.Is(err, unix.ENOTDIR) {
		return "", fmt.Errorf("%w: %s: %w", errPath, path, err)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	path = filepath.Join(dir, filepath.Base(filepath.Clean(path)))
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, unix.ENOTDIR):
		return "", fmt.Errorf("%w: %s: %w", errPath, path, err)
	case err != nil && !isDead(err):
		return "", fmt.Errorf("%s: %w", path, err)
	case err == nil && info.Mode()&fs.ModeSymlink != 0:
		return "", fmt.Errorf("%w: %s is a symbolic link; a mount behind it would land elsewhere", errPath, path)
	}
	return path, nil
}

// resolveOrMake is resolve that makes missing directories above path.
func resolveOrMake(path string) (string, error) {
	resolved, err := resolve(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return resolved, err
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(path)), 0o750); err != nil {
		return "", fmt.Errorf("%w: %w", errPath, err)
	}
	return resolve(path)
}

// checkDir says whether path is a directory or can become one. A mount whose
// device is gone does not even say that much; it was a directory once.
func checkDir(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || isDead(err):
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	case !info.IsDir():
		return fmt.Errorf("%w: %s is a %s, not a directory; remove it", errPath, path, kindOf(info))
	}
	return nil
}

// ensureDir makes path a directory, or finds that it is one.
func ensureDir(path string) error {
	if err := os.Mkdir(path, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make %s: %w", path, err)
	}
	return checkDir(path)
}

// ensureFile makes path an empty file to bind a device on, or finds that it is one.
func ensureFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make %s: %w", path, err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if !info.Mode().IsRegular() || info.Size() > 0 {
		return fmt.Errorf("%w: %s is a %s of %d bytes, not an empty file to bind the device on; remove it", errPath, path, kindOf(info), info.Size())
	}
	return nil
}

// removeTarget removes the empty directory or empty file that a publish made.
// Anything with content stays: it is nothing of ours, and it may be data that
// somebody wrote when the volume was not there.
func removeTarget(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if !info.IsDir() && (!info.Mode().IsRegular() || info.Size() > 0) {
		return fmt.Errorf("%w: %s is a %s of %d bytes that this plugin did not make; look at it and remove it", errPath, path, kindOf(info), info.Size())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w; if it holds files, they were written when the volume was not mounted: move them away", errPath, err)
	}
	return nil
}

func kindOf(info fs.FileInfo) string {
	switch t := info.Mode().Type(); {
	case t.IsDir():
		return "directory"
	case t.IsRegular():
		return "regular file"
	case t&fs.ModeSymlink != 0:
		return "symbolic link"
	case t&fs.ModeDevice != 0:
		return "device"
	default:
		return "special file"
	}
}
