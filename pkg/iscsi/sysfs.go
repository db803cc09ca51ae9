package iscsi

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
	"syscall"
)

// sysfs reads what is. Nothing in it acts, and nothing in it asks a device: the
// kernel answers from memory.
type sysfs struct {
	root  string
	names *targetNames
}

const (
	stateLoggedIn = "LOGGED_IN"
	stateRunning  = "running" // of a SCSI disk
	stateOffline  = "offline"
	stateNoPath   = "transport-offline" // its session did not come back in time
	anyTarget     = ""                  // for sessions: all of them
	sectorBytes   = 512                 // the unit of every size in sysfs, whatever the disk's block size
)

// session is one iSCSI session of this host, to one portal of one target.
type session struct {
	id     int    // as iscsiadm -r takes it
	iqn    string // the target's name
	class  string // /sys/class/iscsi_session/sessionN
	device string // its device directory, below which its disks live
	host   string // hostN
	state  string // LOGGED_IN, FAILED, FREE
}

func (s session) live() bool { return s.state == stateLoggedIn }

func (s session) String() string {
	if portal := s.portal(); portal.IsValid() {
		return fmt.Sprintf("session %d to %s", s.id, portal)
	}
	return fmt.Sprintf("session %d of %s", s.id, s.iqn) // it has ended, as a rule
}

// sessions lists the sessions to a target, or to anyTarget, by id.
func (y sysfs) sessions(iqn string) ([]session, error) {
	class := filepath.Join(y.root, "class/iscsi_session")
	there, err := entries(class)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the transport's module is not even loaded
	}
	if err != nil {
		return nil, fmt.Errorf("list iSCSI sessions: %w", err)
	}
	var asked []session
	for _, e := range there {
		if iqn == anyTarget || !y.names.other(class, e, iqn) {
			asked = append(asked, session{class: filepath.Join(class, e.name), iqn: iqn})
		}
	}
	y.names.forget(there)
	found, err := y.again(asked)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b session) int { return a.id - b.id })
	return found, nil
}

// again reads sessions that were listed before, as they are now; those that are gone
// are left out.
func (y sysfs) again(known []session) ([]session, error) {
	var found []session
	for _, k := range known {
		s, err := y.session(k.class, k.iqn)
		if gone(err) || errors.Is(err, errOtherTarget) {
			continue // it ended while we looked, or it is another's now
		}
		if err != nil {
			return nil, fmt.Errorf("read iSCSI session %s: %w", filepath.Base(k.class), err)
		}
		found = append(found, s)
	}
	return found, nil
}

var errOtherTarget = errors.New("the session of another target")

func (y sysfs) session(class, iqn string) (session, error) {
	name, err := attribute(class, "targetname")
	if err != nil {
		return session{}, err
	}
	if iqn != anyTarget && name != iqn {
		return session{}, errOtherTarget
	}
	id, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(class), "session"))
	if err != nil {
		return session{}, fmt.Errorf("a session without a number: %w", err)
	}
	state, err := attribute(class, "state")
	if err != nil {
		return session{}, err
	}
	// The entry is a link to DEVICE/iscsi_session/sessionN. To read that is one look at a name, and to resolve
	// the link named device a dozen, for each session of the host whenever one is looked for.
	entry, err := os.Readlink(class)
	if err != nil {
		return session{}, err
	}
	if !filepath.IsAbs(entry) {
		entry = filepath.Join(filepath.Dir(class), entry)
	}
	device := filepath.Dir(filepath.Dir(entry))
	return session{id: id, iqn: name, class: class, device: device, host: filepath.Base(filepath.Dir(device)), state: state}, nil
}

// portal is the zero value when sysfs does not say.
func (s session) portal() netip.AddrPort {
	portal, _ := readPortal(s.class)
	return portal
}

// readPortal reads where the connection of a session was told to go. The address it is
// connected to at the moment may differ, because a target may redirect a login.
func readPortal(class string) (netip.AddrPort, error) {
	id := strings.TrimPrefix(filepath.Base(class), "session")
	dir := filepath.Join(class, "../../iscsi_connection", "connection"+id+":0")
	addr, err := attribute(dir, "persistent_address")
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := attribute(dir, "persistent_port")
	if err != nil {
		return netip.AddrPort{}, err
	}
	portal := parsePortal(addr, port)
	if !portal.IsValid() {
		return netip.AddrPort{}, fmt.Errorf("session %s: %q and %q are not a portal", id, addr, port)
	}
	return portal, nil
}

func parsePortal(addr, port string) netip.AddrPort {
	a, err := netip.ParseAddr(strings.Trim(addr, "[]"))
	if err != nil {
		return netip.AddrPort{}
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p))
}

// scanFile and scanRequest make the kernel look for one LUN behind a session,
// and for nothing else: "channel target lun".
func (y sysfs) scanFile(s session) string {
	return filepath.Join(y.root, "class/scsi_host", s.host, "scan")
}

func scanRequest(s session, lun int) string {
	channel, target := "0", "0"
	if id, err := attribute(s.class, "target_id"); err == nil {
		if _, err := strconv.ParseUint(id, 10, 31); err == nil {
			target = id
		}
	}
	return fmt.Sprintf("%s %s %d", channel, target, lun)
}

// disk is one path to a LUN: the SCSI disk that one session shows.
type disk struct {
	name    string // sdb
	dev     string // 8:16
	dir     string // the SCSI device's directory H:C:T:L
	block   string // the block device's directory, dir/block/sdb
	lun     int
	session session
}

func (d disk) blockDevice() blockDevice { return blockDevice{name: d.name, dev: d.dev, dir: d.block} }

// disks lists the disks behind a session, by LUN. A SCSI device whose block
// device is not there yet is not a disk.
func (y sysfs) disks(s session) ([]disk, error) {
	var found []disk
	err := eachDir(s.device, "target", func(target string) error {
		return eachDir(target, "", func(dir string) error {
			lun, ok := parseHCTL(filepath.Base(dir))
			if !ok {
				return nil
			}
			return eachDir(filepath.Join(dir, "block"), "", func(block string) error {
				dev, err := attribute(block, "dev")
				if err != nil {
					return ignoreGone(err)
				}
				found = append(found, disk{name: filepath.Base(block), dev: dev, dir: dir, block: block, lun: lun, session: s})
				return nil
			})
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list the disks of %s: %w", s, err)
	}
	slices.SortFunc(found, func(a, b disk) int { return a.lun - b.lun })
	return found, nil
}

// lun lists the disks that show one LUN of a target, one for each session.
func (y sysfs) lun(iqn string, lun int) ([]disk, error) {
	sessions, err := y.sessions(iqn)
	if err != nil {
		return nil, err
	}
	var found []disk
	for _, s := range sessions {
		disks, err := y.disks(s)
		if err != nil {
			return nil, err
		}
		for _, d := range disks {
			if d.lun == lun {
				found = append(found, d)
			}
		}
	}
	return found, nil
}

// eachDir calls fn for every directory in dir whose name has the prefix. What
// vanishes meanwhile is not an error.
func eachDir(dir, prefix string, fn func(path string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreGone(err)
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		if err := fn(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func ignoreGone(err error) error {
	if gone(err) {
		return nil
	}
	return err
}

// gone says that the thing whose attribute was read is being removed or was
// never there. Which errno says so differs between the kernel's subsystems.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) ||
		errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.ENOTCONN)
}

// parseHCTL reads the LUN out of "host:channel:target:lun".
func parseHCTL(name string) (lun int, ok bool) {
	fields := strings.Split(name, ":")
	if len(fields) != 4 {
		return 0, false
	}
	for _, f := range fields {
		n, err := strconv.ParseUint(f, 10, 31)
		if err != nil {
			return 0, false
		}
		lun = int(n)
	}
	return lun, true
}

// cached is what the kernel remembers of the disk's identity from the day it
// found the disk. It may describe another LUN than the one that answers now.
func (d disk) cached() (identity, error) {
	serialPage, err := os.ReadFile(filepath.Join(d.dir, "vpd_pg80"))
	if err != nil {
		return identity{}, fmt.Errorf("%s: %w", d.name, err)
	}
	idPage, err := os.ReadFile(filepath.Join(d.dir, "vpd_pg83"))
	if err != nil {
		return identity{}, fmt.Errorf("%s: %w", d.name, err)
	}
	return parseIdentity(serialPage, idPage)
}

func parseIdentity(serialPage, idPage []byte) (identity, error) {
	serial, err := parseSerial(serialPage)
	if err != nil {
		return identity{}, err
	}
	wwid, err := parseWWID(idPage)
	if err != nil {
		return identity{}, err
	}
	return identity{Serial: serial, WWID: wwid}, nil
}

// running says whether the kernel sends commands down this path.
func (d disk) running() bool {
	state, err := attribute(d.dir, "state")
	return err == nil && state == stateRunning && d.session.live()
}

// offline says that the kernel gave the disk up after errors.
func (d disk) offline() bool {
	state, err := attribute(d.dir, "state")
	return err == nil && state == stateOffline
}

// givenUp says that the kernel fails what is sent to the disk. Until it gives up, as long
// as recovery_tmo says after its session is lost, it keeps that.
func (d disk) givenUp() bool {
	state, err := attribute(d.dir, "state")
	return gone(err) || err == nil && (state == stateOffline || state == stateNoPath)
}

// size is the capacity the kernel uses for a block device, in bytes.
func size(block string) (int64, error) {
	s, err := attribute(block, "size")
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseInt(s, 10, 64)
	if err != nil || sectors < 0 || sectors > (1<<63-1)/sectorBytes {
		return 0, fmt.Errorf("%s: %q is not a number of sectors", filepath.Join(block, "size"), s)
	}
	return sectors * sectorBytes, nil
}

// attribute reads a one-line file of sysfs.
func attribute(dir, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, syscall.EINVAL) { // so device-mapper says that a device is going
		return "", fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}
