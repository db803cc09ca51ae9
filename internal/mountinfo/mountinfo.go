// Package mountinfo reads the kernel's mount table (proc(5), mountinfo).
package mountinfo

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Number is the major and minor number of a block device.
type Number struct{ Major, Minor uint32 }

func (n Number) String() string { return fmt.Sprintf("%d:%d", n.Major, n.Minor) }

// ParseNumber reads major:minor.
func ParseNumber(text string) (Number, bool) {
	major, minor, _ := strings.Cut(text, ":")
	x, errX := strconv.ParseUint(major, 10, 32)
	y, errY := strconv.ParseUint(minor, 10, 32)
	return Number{Major: uint32(x), Minor: uint32(y)}, errX == nil && errY == nil
}

// Mount is one line of the table.
type Mount struct {
	Device  Number   // of the file system; a bound device file shows that of devtmpfs
	Root    string   // what of the file system is mounted: / or the path bound
	Path    string   // where
	Type    string   // e.g. xfs
	Source  string   // what mount was told, e.g. /dev/sdb; never a proof
	Options []string // of this mount point
	Super   []string // of the file system, for all its mount points
}

// ReadOnly says whether writes through this mount point fail.
func (m Mount) ReadOnly() bool {
	return slices.Contains(m.Options, "ro") || slices.Contains(m.Super, "ro")
}

// File is Read of one file, to be called.
func File(path string) func() ([]byte, error) { return func() ([]byte, error) { return Read(path) } }

// Read returns the bytes of a mountinfo file. The kernel writes the table page by page,
// and old kernels lose lines when it changes meanwhile, so a table counts only when two
// readings agree.
func Read(path string) ([]byte, error) {
	const attempts = 10
	last, err := os.ReadFile(path)
	for range attempts {
		if err != nil {
			return nil, err
		}
		var again []byte
		again, err = os.ReadFile(path)
		if err == nil && bytes.Equal(last, again) {
			return again, nil
		}
		last = again
	}
	return nil, errors.Join(err, fmt.Errorf("%s changed in each of %d readings", path, attempts))
}

// Parse reads lines such as
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
func Parse(table []byte) ([]Mount, error) {
	var mounts []Mount
	for line := range strings.Lines(string(table)) {
		m, err := parseLine(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("mount table: line %q: %w", line, err)
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

func parseLine(line string) (Mount, error) {
	const optional = 6 // fields, of any number, begin here and end with a dash
	fields := strings.Split(line, " ")
	dash := slices.Index(fields[min(optional, len(fields)):], "-") + optional
	if dash < optional || len(fields) < dash+4 {
		return Mount{}, errors.New("too few fields")
	}
	rest := fields[dash+1:]
	device, ok := ParseNumber(fields[2])
	if !ok {
		return Mount{}, fmt.Errorf("%q is no device number", fields[2])
	}
	return Mount{
		Device:  device,
		Root:    unescape(fields[3]),
		Path:    unescape(fields[4]),
		Options: SplitOptions(fields[5]),
		Type:    unescape(rest[0]),
		Source:  unescape(rest[1]),
		Super:   SplitOptions(unescape(rest[2])),
	}, nil
}

// SplitOptions splits a mount's options at the commas that are outside quotes: an
// SELinux context holds commas.
func SplitOptions(s string) []string {
	var parts []string
	quoted, from := false, 0
	for i, r := range s {
		switch {
		case r == '"':
			quoted = !quoted
		case r == ',' && !quoted:
			parts = append(parts, s[from:i])
			from = i + 1
		}
	}
	return append(parts, s[from:])
}

// unescape undoes the kernel's \ooo for space, tab, newline, backslash and #.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
