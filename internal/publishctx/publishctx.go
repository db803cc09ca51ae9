// Package publishctx carries what a node must know of a volume from
// ControllerPublishVolume to the node's RPCs: publish_context is a
// map[string]string, and this package is the only place that writes or reads it.
package publishctx

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/datera-csi/datera-csi/internal/filesystem"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// Version of the encoding. A node refuses a version it does not know, because a
// field it would overlook may be the one that forbids mkfs.
const Version = "1"

// Context is everything a node needs to stage a volume. It holds no secret.
type Context struct {
	Target iscsi.Target

	// FromSource says the volume began as a copy of a snapshot or of another
	// volume. A node never makes a file system on it (FM 1, 11).
	FromSource bool

	// UsedBytes is how much the array had written for the volume when it was
	// published. A node that reads an empty device while the array holds data
	// refuses to format (FM 1).
	UsedBytes int64

	// ReadOnly says the volume was published read-only.
	ReadOnly bool

	// Admission names the one by which the array let the node in, and another one gets
	// another name: what the node mounted under an earlier one may be older than what is
	// on the volume. "" is not known: the node was in already.
	Admission string

	// Filesystem is what the volume's class says of its file system. Its keys are
	// there only when it says something: a node that does not know them then
	// refuses the volume, and one that does reads contexts of before.
	Filesystem filesystem.Class
}

const (
	keyVersion  = "version"
	keyIQN      = "iqn"
	keyPortals  = "portals"
	keyLUN      = "lun"
	keySerial   = "serial"
	keyBytes    = "bytes"
	keySource   = "fromSource"
	keyUsed     = "usedBytes"
	keyReadOnly = "readOnly"

	keyAdmission = "admission" // may be missing
)

func keys() []string {
	return []string{keyVersion, keyIQN, keyPortals, keyLUN, keySerial, keyBytes, keySource, keyUsed, keyReadOnly}
}

// Encode renders c as a publish_context.
func Encode(c Context) map[string]string {
	portals := make([]string, len(c.Target.Portals))
	for i, p := range c.Target.Portals {
		portals[i] = p.String()
	}
	m := map[string]string{
		keyVersion:  Version,
		keyIQN:      c.Target.IQN,
		keyPortals:  strings.Join(portals, ","),
		keyLUN:      strconv.Itoa(c.Target.LUN),
		keySerial:   c.Target.Serial,
		keyBytes:    strconv.FormatInt(c.Target.Bytes, 10),
		keySource:   strconv.FormatBool(c.FromSource),
		keyUsed:     strconv.FormatInt(c.UsedBytes, 10),
		keyReadOnly: strconv.FormatBool(c.ReadOnly),
	}
	if c.Admission != "" {
		m[keyAdmission] = c.Admission
	}
	c.Filesystem.Write(m)
	return m
}

// errVersion is returned by Decode for a context of another version.
var errVersion = errors.New("publish context of another version")

// Decode is the inverse of Encode. A missing, unknown or malformed field is an
// error that names it.
func Decode(m map[string]string) (Context, error) {
	if v := m[keyVersion]; v != Version {
		return Context{}, fmt.Errorf("%w: %q, this plugin speaks %q; was the volume attached by another release of the driver?", errVersion, v, Version)
	}
	if err := checkKeys(m); err != nil {
		return Context{}, err
	}
	c := Context{Admission: m[keyAdmission]}
	var errs []error
	parse := func(key string, into func(string) error) {
		if err := into(m[key]); err != nil {
			errs = append(errs, fmt.Errorf("publish context: %s: %w", key, err))
		}
	}
	parse(keyIQN, nonEmpty(&c.Target.IQN))
	parse(keyPortals, func(s string) (err error) { c.Target.Portals, err = parsePortals(s); return err })
	parse(keyLUN, func(s string) (err error) { c.Target.LUN, err = strconv.Atoi(s); return err })
	parse(keySerial, nonEmpty(&c.Target.Serial))
	parse(keyBytes, func(s string) (err error) { c.Target.Bytes, err = strconv.ParseInt(s, 10, 64); return err })
	parse(keySource, func(s string) (err error) { c.FromSource, err = strconv.ParseBool(s); return err })
	parse(keyUsed, func(s string) (err error) { c.UsedBytes, err = strconv.ParseInt(s, 10, 64); return err })
	parse(keyReadOnly, func(s string) (err error) { c.ReadOnly, err = strconv.ParseBool(s); return err })
	var err error
	if c.Filesystem, err = filesystem.Parse(m); err != nil {
		errs = append(errs, fmt.Errorf("publish context: %w", err))
	}
	if c.Target.Bytes <= 0 {
		errs = append(errs, fmt.Errorf("publish context: %s: %d is not a size", keyBytes, c.Target.Bytes))
	}
	if c.UsedBytes < 0 {
		errs = append(errs, fmt.Errorf("publish context: %s: %d is not an amount", keyUsed, c.UsedBytes))
	}
	if c.Target.LUN < 0 {
		errs = append(errs, fmt.Errorf("publish context: %s: %d is not a logical unit number", keyLUN, c.Target.LUN))
	}
	return c, errors.Join(errs...)
}

func checkKeys(m map[string]string) error {
	var missing, unknown []string
	for _, k := range keys() {
		if _, ok := m[k]; !ok {
			missing = append(missing, k)
		}
	}
	for k := range m {
		if k != keyAdmission && !slices.Contains(keys(), k) && !slices.Contains(filesystem.Keys(), k) {
			unknown = append(unknown, k)
		}
	}
	slices.Sort(unknown)
	switch {
	case len(missing) > 0:
		return fmt.Errorf("publish context lacks %s", strings.Join(missing, ", "))
	case len(unknown) > 0:
		return fmt.Errorf("publish context has unknown %s", strings.Join(unknown, ", "))
	}
	return nil
}

func nonEmpty(into *string) func(string) error {
	return func(s string) error {
		if s == "" {
			return errors.New("is empty")
		}
		*into = s
		return nil
	}
}

func parsePortals(s string) ([]netip.AddrPort, error) {
	fields := strings.Split(s, ",")
	portals := make([]netip.AddrPort, len(fields))
	for i, f := range fields {
		portal, err := netip.ParseAddrPort(f)
		if err != nil {
			return nil, fmt.Errorf("%q is not ADDRESS:PORT", f)
		}
		portals[i] = portal
	}
	return portals, nil
}
