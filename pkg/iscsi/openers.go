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

// opener is a program that has a block device open.
type opener struct {
	who    string // its process id and name, in words
	writes bool   // it may write
	keeper bool   // it is one of the host's keepers of devices, and only reads
}

// isKeeper says whether a program of this name looks into every disk of a host, multipathd
// for as long as it watches a path, and lets go of one that is removed.
func isKeeper(comm string) bool {
	return slices.Contains([]string{"multipathd", "(udev-worker)", "systemd-udevd"}, comm)
}

// checkUnopened refuses a LUN of which a program has a disk open. Of a map the kernel
// tells how many have it open, and of a claim who else claims; of a disk that was only
// opened, as by a program on a raw volume, nothing but the programs' own descriptors
// tells, and what it writes after the disk is gone is dropped (FM 3, 21). Udev and its
// like look into a disk for a moment, or, when it is dead, for as long as the kernel
// waits for its session; the host's keepers of devices are waited for, no more. Of a
// dead disk, and of one under a map, only who may write counts: the map may have
// appeared over a disk that was open, and does not count who had it so.
func (i *Initiator) checkUnopened(ctx context.Context, disks []blockDevice, onlyWriters bool) error {
	const patience = 3 * time.Second
	if len(disks) == 0 {
		return nil
	}
	var openers []opener
	_, err := untilSlowly(ctx, patience, 50*time.Millisecond, time.Second, func() (bool, error) {
		openers = i.openers(disks...)
		if onlyWriters {
			openers = slices.DeleteFunc(openers, func(o opener) bool { return !o.writes })
		}
		if len(openers) == 0 {
			return true, nil
		}
		held, err := anyHeld(disks)
		return held && !slices.ContainsFunc(openers, func(o opener) bool { return !o.keeper }), err
	})
	openers = slices.DeleteFunc(openers, func(o opener) bool { return o.keeper })
	if err == nil && len(openers) > 0 {
		names := make([]string, len(disks))
		for n, d := range disks {
			names[n] = d.name
		}
		err = fmt.Errorf("%w: %w: %s is open in %s", ErrBusy, ErrOpen, strings.Join(names, " or "), openersInWords(openers))
	}
	return err
}

// anyHeld says whether something is built on one of these devices.
func anyHeld(devices []blockDevice) (bool, error) {
	for _, b := range devices {
		if holders, err := b.holders(); err != nil || len(holders) > 0 {
			return err == nil, err
		}
	}
	return false, nil
}

func openersInWords(openers []opener) string {
	words := make([]string, len(openers))
	for n, o := range openers {
		words[n] = o.who
	}
	return strings.Join(words, ", ")
}

// openers are the programs that have one of these devices or a partition of it open, as
// far as their descriptors can be seen from here; a plugin that does not share the
// host's process ids sees its own only. All devices cost one look at the processes.
func (i *Initiator) openers(devices ...blockDevice) []opener {
	var numbers []string
	for _, b := range devices {
		parts, err := b.parts()
		if err != nil {
			parts = []blockDevice{b}
		}
		for _, p := range parts {
			numbers = append(numbers, p.dev)
		}
	}
	return i.kernel.Openers(filepath.Join(i.cfg.Root, "proc"), numbers)
}

// Openers looks at the descriptors of all processes but this one.
func (linux) Openers(proc string, devs []string) []opener {
	var found []opener
	own := strconv.Itoa(os.Getpid())
	pids, _ := numbered(proc) // what cannot be seen is not named
	for _, pid := range pids {
		if pid == own {
			continue
		}
		dir := filepath.Join(proc, pid)
		open, writes := false, false
		fds, _ := numbered(filepath.Join(dir, "fd"))
		for _, fd := range fds {
			if isBlockDevice(filepath.Join(dir, "fd", fd), devs) {
				open, writes = true, writes || mayWrite(filepath.Join(dir, "fdinfo", fd))
			}
		}
		if open {
			comm, _ := attribute(dir, "comm")
			found = append(found, opener{
				who: strings.TrimSpace("process " + pid + " " + comm), writes: writes,
				keeper: !writes && isKeeper(comm),
			})
		}
	}
	return found
}

// isBlockDevice asks a descriptor what it is, and not the file system behind it, which
// may be a dead server's.
func isBlockDevice(fd string, devs []string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, fd, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && slices.Contains(devs, fmt.Sprintf("%d:%d", st.Rdev_major, st.Rdev_minor))
}

// mayWrite reads the flags of a descriptor (proc(5), fdinfo); one that does not tell
// may.
func mayWrite(fdinfo string) bool {
	text, err := os.ReadFile(fdinfo)
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(text)) {
		if octal, is := strings.CutPrefix(line, "flags:"); is {
			flags, err := strconv.ParseUint(strings.TrimSpace(octal), 8, 64)
			return err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY
		}
	}
	return true
}
