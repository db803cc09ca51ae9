package iscsi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// checkUnopened refuses a disk without a map that a program has open. Of a map the
// kernel tells how many have it open, and of a claim who else claims; of a disk that was
// only opened, as by a program on a raw volume, nothing but the programs' own
// descriptors tells, and what it writes after the disk is gone is dropped (FM 3, 21).
// Udev and its like look into a disk for a moment.
func (i *Initiator) checkUnopened(ctx context.Context, b blockDevice) error {
	const patience = 3 * time.Second
	var openers []string
	_, err := untilSlowly(ctx, patience, 50*time.Millisecond, time.Second, func() (bool, error) {
		openers = i.openers(b)
		return len(openers) == 0, nil
	})
	if err == nil && len(openers) > 0 {
		err = fmt.Errorf("%w: %w: %s is open in %s", ErrBusy, ErrOpen, b.name, strings.Join(openers, ", "))
	}
	return err
}

// openers names the programs that have a device or a partition of it open, as far as
// their descriptors can be seen from here; a plugin that does not share the host's
// process ids sees its own only.
func (i *Initiator) openers(b blockDevice) []string {
	parts, err := b.parts()
	if err != nil {
		parts = []blockDevice{b}
	}
	numbers := make([]string, len(parts))
	for n, p := range parts {
		numbers[n] = p.dev
	}
	return i.kernel.Openers(filepath.Join(i.cfg.Root, "proc"), numbers)
}

// Openers looks at the descriptors of all processes but this one. A descriptor is asked
// what it is without asking the file system behind it, which may be a dead server's.
func (linux) Openers(proc string, devs []string) []string {
	var found []string
	own := strconv.Itoa(os.Getpid())
	for _, pid := range numbered(proc) {
		if pid == own {
			continue
		}
		for _, fd := range numbered(filepath.Join(proc, pid, "fd")) {
			var st unix.Statx_t
			err := unix.Statx(unix.AT_FDCWD, filepath.Join(proc, pid, "fd", fd), unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
			if err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK || !slices.Contains(devs, fmt.Sprintf("%d:%d", st.Rdev_major, st.Rdev_minor)) {
				continue
			}
			comm, _ := attribute(filepath.Join(proc, pid), "comm")
			found = append(found, strings.TrimSpace("process "+pid+" "+comm))
			break
		}
	}
	return found
}

// numbered lists the names in a directory that are numbers; none if it cannot be read.
func numbered(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if _, err := strconv.ParseUint(e.Name(), 10, 31); err == nil {
			names = append(names, e.Name())
		}
	}
	return names
}
