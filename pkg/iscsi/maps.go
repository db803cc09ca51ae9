package iscsi

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mapUUID begins the uuid of a device-mapper device that multipathd made; the
// WWID of its paths follows.
const mapUUID = "mpath-"

// dmap is a multipath map.
type dmap struct {
	blockDevice
	alias     string   // device-mapper's name, which multipathd goes by
	wwid      string   // what its uuid promises
	slaves    []string // the disks beneath, by name
	suspended bool
}

// maps lists every multipath map of this host.
func (y sysfs) maps() ([]dmap, error) {
	var found []dmap
	err := y.eachMap(func(dir, _ string) error {
		m, err := readMap(dir)
		if err == nil {
			found = append(found, m)
		}
		return err
	})
	return found, err
}

// eachMap calls fn for every multipath map; fn may say that it is gone.
func (y sysfs) eachMap(fn func(dir, wwid string) error) error {
	err := eachDirOrLink(filepath.Join(y.root, "block"), "dm-", func(dir string) error {
		wwid, err := mapWWID(dir)
		if err == nil {
			err = fn(dir, wwid)
		}
		if errors.Is(err, errNotMultipath) {
			return nil
		}
		return ignoreGone(err)
	})
	if err != nil {
		return fmt.Errorf("list multipath maps: %w", err)
	}
	return nil
}

// mapWWID is what the uuid of a map promises, or errNotMultipath.
func mapWWID(dir string) (string, error) {
	uuid, err := attribute(dir, "dm/uuid")
	if err != nil {
		return "", err
	}
	wwid, ok := strings.CutPrefix(uuid, mapUUID)
	if !ok || wwid == "" {
		return "", errNotMultipath
	}
	return wwid, nil
}

var errNotMultipath = errors.New("not a multipath map")

func readMap(dir string) (dmap, error) {
	wwid, err := mapWWID(dir)
	if err != nil {
		return dmap{}, err
	}
	m := dmap{blockDevice: blockDevice{name: filepath.Base(dir), dir: dir}, wwid: wwid}
	if m.alias, err = attribute(dir, "dm/name"); err != nil {
		return dmap{}, err
	}
	if m.dev, err = attribute(dir, "dev"); err != nil {
		return dmap{}, err
	}
	suspended, err := attribute(dir, "dm/suspended")
	if err != nil {
		return dmap{}, err
	}
	m.suspended = suspended == "1"
	slaves, err := os.ReadDir(filepath.Join(dir, "slaves"))
	if err != nil {
		return dmap{}, err // gone, too, when the map goes just now
	}
	for _, s := range slaves {
		m.slaves = append(m.slaves, s.Name())
	}
	return m, nil
}

// eachDirOrLink is eachDir for directories of sysfs that hold symlinks.
func eachDirOrLink(dir, prefix string, fn func(path string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreGone(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		if err := fn(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// mapOver finds the multipath map over the disks that show one LUN, by the
// holders that sysfs names. A map of another WWID, a map that also has paths which
// are not behind a session of the target, and two maps are refused: the device is
// then not ours to hand out or to take down (FM 3).
func (y sysfs) mapOver(iqn string, lun int) (dmap, bool, error) {
	list := func() ([]disk, error) { return y.lun(iqn, lun) }
	disks, err := list()
	if err != nil {
		return dmap{}, false, err
	}
	return y.mapAmong(iqn, disks, list)
}

// mapAmong is mapOver for some of the disks, which again lists anew.
func (y sysfs) mapAmong(iqn string, disks []disk, again func() ([]disk, error)) (dmap, bool, error) {
	over, found, err := y.mapOfAny(disks)
	if err != nil || !found {
		return dmap{}, false, err
	}
	if over.slaveBut(disks) != "" {
		if disks, err = again(); err != nil { // read after the map, so that no path of it can be too new to be listed
			return dmap{}, false, err
		}
	}
	if s := over.slaveBut(disks); s != "" {
		return dmap{}, false, fmt.Errorf("%w: map %s (%s) has a path %s that is not behind a session of %s", ErrForeign, over.name, over.wwid, s, iqn)
	}
	return over, true, nil
}

// mapOfAny finds the map that disks are part of, as far as they are: to look for it
// again and again costs the same however many sessions the host has. Whether the map
// has other paths as well, mapOver knows.
func (y sysfs) mapOfAny(disks []disk) (over dmap, found bool, err error) {
	for _, d := range disks {
		m, held, err := y.mapOf(d)
		switch {
		case err != nil:
			return dmap{}, false, err
		case !held:
		case found && m.name != over.name:
			return dmap{}, false, fmt.Errorf("%w: the paths belong to two maps, %s and %s", ErrForeign, over.name, m.name)
		default:
			over, found = m, true
		}
	}
	return over, found, nil
}

// slaveBut names a path of the map that is none of these disks, if there is one.
func (m dmap) slaveBut(disks []disk) string {
	for _, s := range m.slaves {
		if !slices.ContainsFunc(disks, func(d disk) bool { return d.name == s }) {
			return s
		}
	}
	return ""
}

// mapOf finds the multipath map that a disk is part of, and refuses one of another LUN. A
// map that is named by the disk's serial number is the disk's: it can be taken down, though
// none is handed out.
func (y sysfs) mapOf(d disk) (dmap, bool, error) {
	m, held, err := y.holding(d)
	if err != nil || !held {
		return dmap{}, false, err
	}
	id, err := y.known(d)
	if err != nil {
		return dmap{}, false, err
	}
	if m.wwid != id.WWID && m.wwid != d.serialName(id.Serial) {
		return dmap{}, false, fmt.Errorf("%w: %s with WWID %s is part of %s, the map of %s", ErrForeign, d.name, id.WWID, m.name, m.wwid)
	}
	return m, true, nil
}

// serialName is what scsi_id --page=0x80 --replace-whitespace calls a disk, and multipathd
// before 0.9 its map, where multipath.conf has that for getuid_callout, as the vendor's had.
func (d disk) serialName(serial string) string {
	vendor, _ := attribute(d.dir, "vendor") // without it, it is nobody's name
	model, _ := attribute(d.dir, "model")
	return strings.Join(strings.Fields(fmt.Sprintf("S%-8s%-16s%s", vendor, model, serial)), "_")
}

// known is whom the kernel takes a disk for. One that it could not identify when it
// found it, and that a map has taken up since, has the map's WWID and no serial number:
// udev, by which multipathd goes, asked it again.
func (y sysfs) known(d disk) (identity, error) {
	id, err := d.cached()
	if err == nil || !gone(err) {
		return id, err
	}
	if m, held, mapErr := y.holding(d); mapErr == nil && held {
		return identity{WWID: m.wwid}, nil
	}
	return identity{}, err
}

// holding finds the multipath map that a disk is part of, whoever's it is.
func (y sysfs) holding(d disk) (dmap, bool, error) {
	holders, err := d.blockDevice().holders()
	if err != nil {
		return dmap{}, false, err
	}
	for _, h := range holders {
		m, err := readMap(filepath.Join(y.root, "block", h))
		if gone(err) || errors.Is(err, errNotMultipath) {
			continue // something else is built on the disk; users names it
		}
		return m, err == nil, err
	}
	return dmap{}, false, nil
}
