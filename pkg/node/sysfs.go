package node

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

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
			err = fmt.Errorf("%w: %v", ErrNotISCSI, err) //nolint:errorlint // else it would count as gone
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
		t, err := d.lun(disk)
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

// lun reads what the disk in this sysfs directory is. Its resolved device link
// ends in …/sessionN/targetH:C:T/H:C:T:L when it is an iSCSI disk.
func (d hostDevices) lun(disk string) (iscsi.Target, error) {
	device, err := filepath.EvalSymlinks(filepath.Join(disk, "device"))
	if errors.Is(err, fs.ErrNotExist) {
		return iscsi.Target{}, ErrNotISCSI
	}
	if err != nil {
		return iscsi.Target{}, err
	}
	address := strings.Split(filepath.Base(device), ":")
	session := filepath.Base(filepath.Dir(filepath.Dir(device)))
	number, isSession := strings.CutPrefix(session, "session")
	if !isSession || len(address) != 4 {
		return iscsi.Target{}, ErrNotISCSI
	}
	var t iscsi.Target
	lun, err := strconv.ParseUint(address[3], 10, 31)
	if err != nil {
		return iscsi.Target{}, fmt.Errorf("SCSI address %s: %w", filepath.Base(device), err)
	}
	t.LUN = int(lun)
	if t.IQN, err = readLine(filepath.Join(d.sysfs, "class/iscsi_session", session, "targetname")); err != nil {
		return iscsi.Target{}, err
	}
	if t.IQN == "" {
		return iscsi.Target{}, fmt.Errorf("%s: %w: its target has no name", session, ErrNotISCSI)
	}
	if t.Serial, err = serial(filepath.Join(device, "vpd_pg80")); err != nil {
		return iscsi.Target{}, err
	}
	portal, err := d.portal(number)
	if err != nil {
		return iscsi.Target{}, err
	}
	t.Portals = []netip.AddrPort{portal}
	return t, nil
}

// portal is the address a session was told to log in to, which is the one of its
// node record; where it is connected to now may differ after a redirection.
func (d hostDevices) portal(session string) (netip.AddrPort, error) {
	dir := filepath.Join(d.sysfs, "class/iscsi_connection", "connection"+session+":0")
	address, err := readLine(filepath.Join(dir, "persistent_address"))
	if err != nil {
		return netip.AddrPort{}, err
	}
	line, err := readLine(filepath.Join(dir, "persistent_port"))
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(line, 10, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addr, err := netip.ParseAddr(strings.Trim(address, "[]"))
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(addr, uint16(port)), nil
}

// serial reads a vital product data page 0x80: four bytes of header, then text.
func serial(path string) (string, error) {
	page, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if len(page) < 4 || page[1] != 0x80 {
		return "", fmt.Errorf("%s: %w: not page 0x80", filepath.Base(path), errUnreadable)
	}
	length := int(page[2])<<8 | int(page[3])
	serial := strings.TrimSpace(strings.TrimRight(string(page[4:min(len(page), 4+length)]), "\x00"))
	if serial == "" {
		return "", fmt.Errorf("%s: %w: the serial number is empty", filepath.Base(path), errUnreadable)
	}
	return serial, nil
}
