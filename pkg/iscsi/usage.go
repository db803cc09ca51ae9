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
func usersAmong(mounts []mount, b blockDevice, known ...string) ([]string, error) {
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
	var users []string
	for _, p := range append(parts, maps...) {
		holders, err := p.holders()
		if err != nil {
			return nil, err
		}
		for _, h := range holders {
			if !slices.Contains(known, h) {
				users = append(users, p.name+" is part of "+h)
			}
		}
		for _, m := range mounts {
			if m.uses(p) {
				users = append(users, p.name+" is mounted at "+m.point)
			}
		}
	}
	slices.Sort(users)
	return slices.Compact(users), nil
}

// mount is what a line of mountinfo says (proc(5)).
type mount struct {
	dev    string // major:minor
	root   string // what of the file system is mounted
	point  string
	fstype string
	source string
}

// uses says whether the mount is a file system on the device, or a bind mount of
// its device node, which is how a raw block volume is handed to a pod.
func (m mount) uses(b blockDevice) bool {
	if m.fstype == "devtmpfs" {
		return m.root == "/"+b.name
	}
	return m.dev == b.dev || m.source == "/dev/"+b.name // btrfs shows a device number of its own
}

// mounts reads what is mounted in our namespace and in that of PID 1.
func (i *Initiator) mounts() ([]mount, error) {
	var all []mount
	for _, pid := range []string{"self", "1"} {
		b, err := os.ReadFile(filepath.Join(i.cfg.Root, "proc", pid, "mountinfo"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && pid == "1" {
			continue // no PID 1 to look at: a container that does not share the host's
		}
		if err != nil {
			return nil, fmt.Errorf("read the mounts of process %s: %w", pid, err)
		}
		all = append(all, parseMounts(string(b))...)
	}
	return all, nil
}

func parseMounts(mountinfo string) []mount {
	var all []mount
	for line := range strings.Lines(mountinfo) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), " ") // only these blanks are escaped in names
		dash := slices.Index(fields, "-")
		if dash < 6 || len(fields) < dash+3 {
			continue
		}
		all = append(all, mount{
			dev:    fields[2],
			root:   unescape(fields[3]),
			point:  unescape(fields[4]),
			fstype: fields[dash+1],
			source: unescape(fields[dash+2]),
		})
	}
	return all
}

// unescape undoes the octal escapes of blanks, backslashes and #, which few have.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#").Replace(s)
}
