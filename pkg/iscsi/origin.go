package iscsi

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// ErrNotISCSI says that a disk is behind no iSCSI session.
var ErrNotISCSI = errors.New("not an iSCSI disk")

// Origin reads which LUN a disk shows, and through which portal, from the disk's
// directory in sysfs: its device is …/sessionN/targetH:C:T/H:C:T:L. Bytes is left 0.
// The serial number and the portal are read as Attach reads them, so that they compare
// with a promise.
func Origin(sysfs, disk string) (Target, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(disk, "device"))
	if errors.Is(err, fs.ErrNotExist) {
		return Target{}, ErrNotISCSI
	}
	if err != nil {
		return Target{}, err
	}
	session := filepath.Base(filepath.Dir(filepath.Dir(dir)))
	lun, addressed := parseHCTL(filepath.Base(dir))
	if !addressed || !strings.HasPrefix(session, "session") {
		return Target{}, ErrNotISCSI
	}
	class := filepath.Join(sysfs, "class/iscsi_session", session)
	iqn, err := attribute(class, "targetname")
	if err != nil {
		return Target{}, err
	}
	if iqn == "" {
		return Target{}, fmt.Errorf("%s: %w: its target has no name", session, ErrNotISCSI)
	}
	page, err := os.ReadFile(filepath.Join(dir, "vpd_pg80"))
	if err != nil {
		return Target{}, err
	}
	serial, err := parseSerial(page)
	if err != nil {
		return Target{}, err
	}
	portal, err := readPortal(class)
	if err != nil {
		return Target{}, err
	}
	return Target{IQN: iqn, Portals: []netip.AddrPort{portal}, LUN: lun, Serial: serial}, nil
}
