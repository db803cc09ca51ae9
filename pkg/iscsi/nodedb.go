package iscsi

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/datera-csi/datera-csi/internal/durable"
)

// nodeDB is open-iscsi's database of node records, a tree of small text files:
// nodes/IQN/ADDRESS,PORT or nodes/IQN/ADDRESS,PORT,TPGT/INTERFACE. What goes into
// a record is iscsiadm's to know, so the first one is made by it and the others
// after that one; the settings are written here, because a secret that iscsiadm
// is given as an argument can be read by every process of the host (FM 40). A
// record is replaced as a whole, by rename.
type nodeDB struct{ root string }

// Where distributions build open-iscsi to keep its database.
func (d nodeDB) databases() []string {
	return []string{filepath.Join(d.root, "etc/iscsi"), filepath.Join(d.root, "var/lib/iscsi")}
}

// nodeRecord is one node record: how to log in to one portal of one target.
type nodeRecord struct {
	path   string
	base   string // the database it is in
	portal netip.AddrPort
	text   []byte
}

// setting is one line of a record. An empty value removes the line, and
// iscsiadm then uses its own default.
type setting struct{ key, value string }

// temporaryRecords are records that are being written, beside the tree of records.
const temporaryRecords = ".node-record-*"

// sweep removes what a crash left of records that were being written: secrets may be
// in them (FM 40).
func (d nodeDB) sweep(now time.Time) {
	const writing = time.Hour // is long over by then
	for _, base := range d.databases() {
		left, _ := filepath.Glob(filepath.Join(base, temporaryRecords)) // fails for a bad pattern only
		for _, path := range left {
			if info, err := os.Lstat(path); err == nil && now.Sub(info.ModTime()) > writing {
				_ = os.Remove(path) // the next one tries again
			}
		}
	}
}

const (
	recordEnd  = "# END RECORD"
	keyName    = "node.name"
	keyAddress = "node.conn[0].address"
	keyPort    = "node.conn[0].port"
)

// list reads the records of a target, corrupt ones too.
func (d nodeDB) list(iqn string) ([]nodeRecord, error) {
	var found []nodeRecord
	for _, base := range d.databases() {
		below, err := d.below(base, filepath.Join(base, "nodes", iqn))
		if err != nil {
			return nil, fmt.Errorf("read the node records of %s: %w", iqn, err)
		}
		found = append(found, below...)
	}
	return found, nil
}

// below reads the records in a directory and in its directories.
func (d nodeDB) below(base, dir string) ([]nodeRecord, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, ignoreGone(err)
	}
	var found []nodeRecord
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			inside, err := d.below(base, path)
			if err != nil {
				return nil, err
			}
			found = append(found, inside...)
			continue
		}
		text, err := os.ReadFile(path)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		portal := parsePortal(value(text, keyAddress), value(text, keyPort))
		found = append(found, nodeRecord{path: path, base: base, portal: portal, text: text})
	}
	return found, nil
}

// linked says that something else in the database may point to the record: one
// that a discovery brought, or that names its portal group, is a tree of its own
// and has a link beside it. Such a one is iscsiadm's to delete.
func (r nodeRecord) linked() bool {
	return filepath.Dir(filepath.Dir(r.path)) != filepath.Join(r.base, "nodes")
}

// intact says that iscsiadm can read the record. One that a crash corrupted makes
// iscsiadm fail in several ways, and iscsiadm cannot delete it (FM 29).
func (r nodeRecord) intact(iqn string) bool { return r.complete(iqn) && r.portal.IsValid() }

// complete is intact for a record that may be another's, whose portal may have a name.
func (r nodeRecord) complete(iqn string) bool {
	return value(r.text, keyName) == iqn && value(r.text, keyAddress) != "" && bytes.Contains(r.text, []byte("\n"+recordEnd))
}

// value reads "key = value"; a missing key is an empty value.
func value(text []byte, key string) string {
	for line := range bytes.Lines(text) {
		if k, v, ok := bytes.Cut(line, []byte("=")); ok && string(bytes.TrimSpace(k)) == key {
			return string(bytes.TrimSpace(v))
		}
	}
	return ""
}

// with returns the record's text with the settings in it.
func (r nodeRecord) with(settings []setting) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(r.text) {
		if string(bytes.TrimSpace(line)) == recordEnd {
			break
		}
		k, _, _ := bytes.Cut(line, []byte("="))
		key := string(bytes.TrimSpace(k))
		if !slices.ContainsFunc(settings, func(s setting) bool { return s.key == key }) {
			out.Write(bytes.TrimSuffix(line, []byte("\n")))
			out.WriteByte('\n')
		}
	}
	for _, s := range settings {
		if s.value != "" {
			fmt.Fprintf(&out, "%s = %s\n", s.key, s.value)
		}
	}
	out.WriteString(recordEnd + "\n")
	return out.Bytes()
}

// replace writes the text in place of the record. The temporary file lies beside
// the tree of records, not in it, because iscsiadm takes every file in the tree
// for a record.
func (r nodeRecord) replace(text []byte) (err error) {
	f, err := os.CreateTemp(r.base, temporaryRecords) // mode 0600
	if err != nil {
		return fmt.Errorf("write a node record: %w", err)
	}
	defer func() {
		if err != nil {
			err = together(fmt.Errorf("write node record %s: %w", r.path, err), ignoreGone(os.Remove(f.Name())))
		}
	}()
	if err = together(f.Close(), durable.Write(f.Name(), text)); err != nil {
		return err
	}
	if err = os.MkdirAll(filepath.Dir(r.path), 0o700); err != nil {
		return err
	}
	return os.Rename(f.Name(), r.path)
}

// remove deletes a record that iscsiadm cannot, with the directories it leaves
// empty.
func (r nodeRecord) remove() error {
	if err := ignoreGone(os.Remove(r.path)); err != nil {
		return fmt.Errorf("remove node record: %w", err)
	}
	nodes := filepath.Join(r.base, "nodes")
	dir := filepath.Dir(r.path)
	for strings.HasPrefix(dir, nodes+"/") && os.Remove(dir) == nil { // until one has another record in it
		dir = filepath.Dir(dir)
	}
	return nil
}
