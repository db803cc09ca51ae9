package lio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// configfsMagic is the file system type that statfs(2) tells (linux/magic.h).
const configfsMagic = 0x62656570

// prepare loads what the target needs, mounts configfs when it is not mounted,
// and locks the tree for this process.
func prepare(ctx context.Context, cfg Config) (*os.File, error) {
	if cfg.Modprobe == nil {
		cfg.Modprobe = modprobe
	}
	if cfg.Mount == nil {
		cfg.Mount = mountConfigfs
	}
	// What is built into the kernel, or was loaded by the host of this container,
	// needs no modprobe: its failure counts only when the target is missing then.
	loadErr := cfg.Modprobe(ctx, "configfs", "target_core_mod", "target_core_file", "iscsi_target_mod")
	if _, err := os.Stat(cfg.Root); errors.Is(err, fs.ErrNotExist) {
		if err := mountParent(cfg); err != nil {
			return nil, errors.Join(err, loadErr)
		}
		if _, err := os.Stat(cfg.Root); err != nil {
			return nil, fmt.Errorf("the kernel offers no SCSI target (CONFIG_TARGET_CORE, module target_core_mod): %w",
				errors.Join(err, loadErr))
		}
	}
	return lockTree(cfg.Root)
}

// mountParent mounts configfs above root unless something is there already.
func mountParent(cfg Config) error {
	dir := filepath.Dir(cfg.Root)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("the kernel offers no configfs (CONFIG_CONFIGFS_FS, module configfs): %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == configfsMagic {
		return nil
	}
	if err := cfg.Mount(dir); err != nil {
		return fmt.Errorf("mount configfs on %s (as root: mount -t configfs configfs %[1]s): %w", dir, err)
	}
	return nil
}

// lockTree holds off a second process that would take our targets for orphans.
// The lock is the kernel's: it ends with the process.
func lockTree(root string) (*os.File, error) {
	f, err := os.Open(root)
	if err != nil {
		return nil, fmt.Errorf("open the kernel's target (needs root): %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errors.New("another process serves targets on this host already; stop it first")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", root, err), f.Close())
	}
	return f, nil
}

func mountConfigfs(dir string) error { return unix.Mount("configfs", dir, "configfs", 0, "") }

func modprobe(ctx context.Context, modules ...string) error {
	if os.Geteuid() != 0 {
		return errors.New("loading kernel modules needs root: run as root")
	}
	out, err := exec.CommandContext(ctx, "modprobe", append([]string{"-a"}, modules...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("modprobe: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
