// Package iscsi attaches and detaches iSCSI LUNs on this host with the host's
// own open-iscsi and multipath-tools. It knows nothing of CSI or of the array's
// REST API: a Target goes in, a block Device comes out.
//
// What is (sessions, disks, maps) is read from sysfs and from the devices
// themselves; iscsiadm is run, and multipathd asked, only to change it. There is no
// discovery: portals and target name are always known.
package iscsi

import (
	"errors"
	"fmt"
	"net/netip"
)

// Target is one LUN as its array promises it. Attach refuses a device that
// differs from the promise.
type Target struct {
	IQN     string           // target name, e.g. iqn.2013-05.com.daterainc:tc:01:sn:0123456789abcdef
	Portals []netip.AddrPort // every address that serves the target; one session each
	LUN     int              // logical unit number below the target
	Serial  string           // unit serial number, VPD page 0x80
	Bytes   int64            // capacity; the device may be larger, never smaller
}

// Device is an attached Target.
type Device struct {
	Path  string   // what to mount: /dev/dm-2, or /dev/sdb on a single path
	WWID  string   // VPD page 0x83 designator as the kernel and multipathd write it, e.g. 36001405…
	Paths []string // the SCSI disks beneath, e.g. /dev/sdb, /dev/sdc
	Bytes int64    // capacity of Path, read from the device
}

// CHAP holds the secrets of a login. UserIn and PasswordIn are empty for one-way CHAP.
type CHAP struct {
	User, Password     string // what the initiator presents
	UserIn, PasswordIn string // what the target must present back
}

// String keeps the secrets out of logs and errors whatever verb prints them.
func (CHAP) String() string { return "CHAP(redacted)" }

// GoString is String for %#v.
func (c CHAP) GoString() string { return c.String() }

// Format is String for every other verb.
func (c CHAP) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// The kinds of failure a caller can act on; match them with errors.Is.
var (
	ErrNotAttached = errors.New("no device of this target is attached")
	ErrAuth        = errors.New("the target refused the login")            // CHAP or ACL; iscsiadm 24, 19
	ErrUnavailable = errors.New("the target could not be reached")         // no portal answered, or no device in time
	ErrNotReady    = errors.New("the host's iSCSI initiator is not ready") // iscsid, modules, initiator name
	ErrForeign     = errors.New("the device is not the one promised")      // serial, WWID or size differ
	ErrBusy        = errors.New("the device is in use")                    // holders, mounts, open files
	ErrOpen        = errors.New("a program has it open")                   // beside ErrBusy
)
