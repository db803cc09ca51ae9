package lio

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/datera-csi/datera-csi/internal/sim"
)

// Limits of the kernel's target (Linux 6.1, drivers/target).
const (
	maxName   = 223 // iSCSI names, RFC 7143 section 4.2.7.1
	maxSerial = 253
	maxSecret = 255 // CHAP names and secrets
	maxFile   = 255 // fd_dev_name
	sector    = 512 // bytes
)

// checked answers t with absolute files and plain, distinct portals, or says
// why the kernel could not show it. It looks at nothing outside t.
func checked(t sim.Target) (sim.Target, error) {
	if err := checkIQN(t.IQN); err != nil {
		return t, err
	}
	for _, i := range t.Initiators {
		if err := checkIQN(i); err != nil {
			return t, err
		}
	}
	if err := checkAuth(t.Auth); err != nil {
		return t, err
	}
	if len(t.Portals) == 0 {
		return t, fmt.Errorf("%w: no portal", ErrInvalid)
	}
	portals := make([]netip.AddrPort, 0, len(t.Portals))
	for _, p := range t.Portals {
		if !p.IsValid() || p.Port() == 0 || p.Addr().Zone() != "" {
			return t, fmt.Errorf("%w: portal %s is not an address and port without zone", ErrInvalid, p)
		}
		p = netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
		if !slices.Contains(portals, p) {
			portals = append(portals, p)
		}
	}
	t.Portals = portals
	t.LUNs = slices.Clone(t.LUNs)
	for n := range t.LUNs {
		if err := checkLUN(&t.LUNs[n]); err != nil {
			return t, fmt.Errorf("LUN %d: %w", n, err)
		}
	}
	return t, nil
}

// checkIQN also keeps names to one path component: they become directories.
func checkIQN(iqn string) error {
	named := strings.HasPrefix(iqn, "iqn.") || strings.HasPrefix(iqn, "eui.") || strings.HasPrefix(iqn, "naa.")
	if !named || len(iqn) > maxName || strings.ContainsFunc(iqn, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f }) {
		return fmt.Errorf("%w: %q is not an iSCSI name", ErrInvalid, iqn)
	}
	return nil
}

func checkLUN(l *sim.LUN) error {
	if l.Serial == "" || len(l.Serial) > maxSerial || strings.ContainsFunc(l.Serial, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("%w: %q is not a serial number", ErrInvalid, l.Serial)
	}
	if l.Bytes <= 0 || l.Bytes%sector != 0 {
		return fmt.Errorf("%w: %d bytes are not whole sectors", ErrInvalid, l.Bytes)
	}
	if l.File == "" {
		return fmt.Errorf("%w: no backing file", ErrInvalid)
	}
	file, err := filepath.Abs(l.File)
	if err != nil {
		return err
	}
	// The kernel takes "key=value,key=value" and cuts at comma and line end.
	if len(file) > maxFile || strings.ContainsAny(file, ",\n") {
		return fmt.Errorf("%w: backing file %q: at most %d bytes, no comma, no line end", ErrInvalid, file, maxFile)
	}
	l.File = file
	return nil
}

// checkAuth never says what a secret was. The kernel cannot hold one that begins
// with NULL: that word unsets it.
func checkAuth(a sim.Auth) error {
	for name, v := range map[string]string{
		"target user name": a.TargetUser, "target secret": a.TargetPassword,
		"initiator user name": a.InitiatorUser, "initiator secret": a.InitiatorPassword,
	} {
		if len(v) > maxSecret || strings.HasPrefix(v, unset) || strings.ContainsAny(v, "\n\x00") {
			return fmt.Errorf("%w: CHAP %s: at most %d bytes on one line, not beginning with NULL", ErrInvalid, name, maxSecret)
		}
	}
	if (a.TargetUser == "") != (a.TargetPassword == "") || (a.InitiatorUser == "") != (a.InitiatorPassword == "") {
		return fmt.Errorf("%w: CHAP needs name and secret together", ErrInvalid)
	}
	if a.InitiatorUser != "" && a.TargetUser == "" {
		return fmt.Errorf("%w: mutual CHAP needs the one-way name and secret too", ErrInvalid)
	}
	return nil
}

// checkFile keeps the kernel from making a file that is missing, and from
// serving sectors that the file does not have.
func checkFile(l sim.LUN) error {
	st, err := os.Stat(l.File)
	if err != nil {
		return fmt.Errorf("backing file: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() < l.Bytes {
		return fmt.Errorf("%w: backing file %s is not a file of at least %d bytes", ErrInvalid, l.File, l.Bytes)
	}
	return nil
}
