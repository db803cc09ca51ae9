package iscsi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/datera-csi/datera-csi/internal/mountinfo"
)

// blockDevice is a whole disk or a map, as sysfs shows it.
type blockDevice struct {
	name string // sdb, dm-2
	dev  string // 8:16
	dir  string // its directory in sysfs
}

// parts lists the device and its partitions.
func (b blockDevice) parts() ([]blockDevice, error) {
	all := []blockDevice{b}
	err := eachDir(b.dir, b.name, func(dir string) error {
		if _, err := attribute(dir, "partition"); err != nil {
			return ignoreGone(err)
		}
		dev, err := attribute(dir, "dev")
		if err != nil {
			return ignoreGone(err)
		}
		all = append(all, blockDevice{name: filepath.Base(dir), dev: dev, dir: dir})
		return nil
	})
	return all, err
}

// holders lists the names of the devices built on top of this one, dm-2 for one.
func (b blockDevice) holders() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(b.dir, "holders"))
	if err != nil {
		return nil, ignoreGone(err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// partitionMaps lists the maps that udev had kpartx(8) lay over the partitions of
// a multipath map, as it does for a raw block volume that got a partition table.
// They are part of the map: multipathd removes them with it.
func (b blockDevice) partitionMaps() ([]blockDevice, error) {
	whole, err := attribute(b.dir, "dm/uuid")
	if err != nil || !strings.HasPrefix(whole, mapUUID) {
		return nil, ignoreGone(err)
	}
	holders, err := b.holders()
	if err != nil {
		return nil, err
	}
	var found []blockDevice
	for _, h := range holders {
		part := blockDevice{name: h, dir: filepath.Join(filepath.Dir(b.dir), h)}
		uuid, err := attribute(part.dir, "dm/uuid")
		number, isPart := strings.CutPrefix(strings.TrimSuffix(uuid, "-"+whole), "part")
		if _, noNumber := strconv.ParseUint(number, 10, 16); err != nil || !isPart || noNumber != nil {
			continue // gone meanwhile, or something else, which users names
		}
		if part.dev, err = attribute(part.dir, "dev"); err != nil {
			return nil, ignoreGone(err)
		}
		found = append(found, part)
	}
	return found, nil
}

// use is what a device or one of its partitions is used for: it is mounted at a path, or
// another device is built on it.
type use struct{ name, mountedAt, partOf string }

func (u use) String() string {
	if u.partOf != "" {
		return u.name + " is part of " + u.partOf
	}
	return u.name + " is mounted at " + u.mountedAt
}

// users says in words what uses a device or its partitions. An empty answer does not exclude a mount in
// some other container: only the kernel's Claim does.
func (i *Initiator) users(b blockDevice) ([]string, error) {
	mounts, err := i.mounts()
	if err != nil {
		return nil, err
	}
	return usersAmong(mounts, b)
}

// usersAmong is users for who has read the mounts already; it leaves out the holders
// that the caller knows about.
func usersAmong(mounts []mountinfo.Mount, b blockDevice, known ...string) ([]string, error) {
	found, err := usesOf(mounts, b, known...)
	var words []string
	for _, u := range found {
		words = append(words, u.String())
	}
	slices.Sort(words)
	return slices.Compact(words), err
}

// usesOf lists the uses of a device and its partitions, but for holders that the caller
// knows about.
func usesOf(mounts []mountinfo.Mount, b blockDevice, known ...string) ([]use, error) {
	parts, err := b.parts()
	if err != nil {
		return nil, err
	}
	maps, err := b.partitionMaps()
	if err != nil {
		return nil, err
	}
	for _, p := range maps {
		known = append(known, p.name)
	}
	var found []use
	for _, p := range append(parts, maps...) {
		holders, err := p.holders()
		if err != nil {
			return nil, fmt.Errorf("what is built on %s: %w", p.name, err)
		}
		for _, h := range holders {
			if !slices.Contains(known, h) {
				found = append(found, use{name: p.name, partOf: h})
			}
		}
		for _, m := range mounts {
			if uses(m, p) {
				found = append(found, use{name: p.name, mountedAt: m.Path})
			}
		}
	}
	return found, nil
}

// uses says whether a mount is a file system on the device, or a bind mount of
// its device node, which is how a raw block volume is handed to a pod.
func uses(m mountinfo.Mount, b blockDevice) bool {
	if m.Type == "devtmpfs" {
		return m.Root == "/"+b.name
	}
	return m.Device.String() == b.dev || m.Source == "/dev/"+b.name // btrfs shows a device number of its own
}

// mounts reads what is mounted in our namespace and in that of PID 1.
func (i *Initiator) mounts() ([]mountinfo.Mount, error) {
	var all []mountinfo.Mount
	for _, pid := range []string{"self", "1"} {
		table, err := mountinfo.Read(filepath.Join(i.cfg.Root, "proc", pid, "mountinfo"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && pid == "1" {
			continue // no PID 1 to look at: a container that does not share the host's
		}
		if err != nil {
			return nil, fmt.Errorf("%w: read the mounts of process %s: %w", ErrUnavailable, pid, err)
		}
		mounts, err := mountinfo.Parse(table)
		if err != nil {
			return nil, fmt.Errorf("%w: mounts of process %s: %w", ErrUnavailable, pid, err)
		}
		all = append(all, mounts...)
	}
	return all, nil
}
