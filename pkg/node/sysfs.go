package node

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// Origin goes from a device number back to the LUN: a map to its paths, a path to
// its SCSI address and session, the session to the target's name and portals. It
// is how a volume whose record is lost is taken down whole (FM 5).
func (d hostDevices) Origin(n Number) (iscsi.Target, error) {
	place := filepath.Join(d.sysfs, "dev/block", n.String())
	dir, err := filepath.EvalSymlinks(place)
	if err != nil {
		return iscsi.Target{}, fmt.Errorf("device %s: %w", n, err)
	}
	target, err := d.origin(n, dir)
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Lstat(place); statErr == nil { // it is there, and does not say what a LUN says
			err = fmt.Errorf("%w: %v", iscsi.ErrNotISCSI, err) //nolint:errorlint // else it would count as gone
		}
	}
	return target, err
}

func (d hostDevices) origin(n Number, dir string) (iscsi.Target, error) {
	bytes, err := d.Size(n)
	if err != nil {
		return iscsi.Target{}, err
	}
	disks, err := pathsBelow(d.sysfs, dir)
	if err != nil {
		return iscsi.Target{}, fmt.Errorf("device %s: %w", n, err)
	}
	var target iscsi.Target
	for i, disk := range disks {
		t, err := iscsi.Origin(d.sysfs, disk)
		if err != nil && !errors.Is(err, iscsi.ErrNotISCSI) && !errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", errUnreadable, err)
		}
		if err != nil {
			return iscsi.Target{}, fmt.Errorf("device %s: path %s: %w", n, filepath.Base(disk), err)
		}
		if i > 0 && (t.IQN != target.IQN || t.LUN != target.LUN || t.Serial != target.Serial) {
			return iscsi.Target{}, fmt.Errorf("device %s: %w: its paths lead to %s LUN %d and to %s LUN %d", n, errForeign, target.IQN, target.LUN, t.IQN, t.LUN)
		}
		t.Portals = append(target.Portals, t.Portals...)
		target = t
	}
	slices.SortFunc(target.Portals, netip.AddrPort.Compare)
	target.Portals = slices.Compact(target.Portals)
	target.Bytes = bytes
	return target, nil
}

// pathsBelow returns the disks beneath a map, or the disk itself.
func pathsBelow(sysfs, dir string) ([]string, error) {
	slaves, err := os.ReadDir(filepath.Join(dir, "slaves"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(slaves) == 0 {
		return []string{dir}, nil
	}
	disks := make([]string, len(slaves))
	for i, s := range slaves {
		if disks[i], err = filepath.EvalSymlinks(filepath.Join(sysfs, "class/block", s.Name())); err != nil {
			return nil, err
		}
	}
	return disks, nil
}
