package iscsi

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// recordTemplates remember what a node record looks like that this host's iscsiadm makes
// of this host's iscsid.conf, so that it need not be asked for each portal of each
// volume again: starting it costs more than all else that a record takes. They
// are of use as long as neither has changed.
type recordTemplates struct {
	root string

	mu       sync.Mutex
	byFamily map[bool]recordTemplate // for IPv4, and for IPv6
}

// recordTemplate is a record as iscsiadm made it, before any setting of ours.
type recordTemplate struct {
	nodeRecord
	made string // state of iscsiadm and iscsid.conf at that time
}

// learn takes the record of a target for a template. Only one that lies in the
// database and names its portal exactly as we would is good for that.
func (t *recordTemplates) learn(iqn string, r nodeRecord) {
	if !r.intact(iqn) || r.path != recordPath(r.base, iqn, r.portal) || value(r.text, keyAddress) != r.portal.Addr().String() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byFamily == nil {
		t.byFamily = make(map[bool]recordTemplate)
	}
	t.byFamily[r.portal.Addr().Is4()] = recordTemplate{nodeRecord: r, made: t.state()}
}

// copyFor makes the record of another portal after a template. It does not when
// there is no template of today, or a record of that portal in another place, which
// iscsiadm would take for the true one; nor over one that is corrupt.
func (t *recordTemplates) copyFor(iqn string, portal netip.AddrPort, existing []nodeRecord) (nodeRecord, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.byFamily[portal.Addr().Is4()]
	if !ok || known.made != t.state() {
		return nodeRecord{}, false
	}
	r := nodeRecord{path: recordPath(known.base, iqn, portal), base: known.base, portal: portal}
	for _, e := range existing {
		if !e.intact(iqn) || e.portal == portal && e.path != r.path {
			return nodeRecord{}, false
		}
	}
	r.text = known.with([]setting{
		{keyName, iqn},
		{keyAddress, portal.Addr().String()},
		{keyPort, strconv.Itoa(int(portal.Port()))},
	})
	return r, true
}

// recordPath is where iscsiadm keeps a record that it was told to make of a
// portal whose group it was not told.
func recordPath(base, iqn string, portal netip.AddrPort) string {
	return filepath.Join(base, "nodes", iqn, fmt.Sprintf("%s,%d", portal.Addr(), portal.Port()))
}

// state changes when iscsiadm or its configuration does.
func (t *recordTemplates) state() string {
	var all strings.Builder
	for _, file := range []string{"etc/iscsi/iscsid.conf", "usr/sbin/iscsiadm", "sbin/iscsiadm", "usr/bin/iscsiadm"} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(t.root, file), &st); err != nil {
			continue
		}
		fmt.Fprintln(&all, file, st.Dev, st.Ino, st.Size, st.Ctim)
	}
	return all.String()
}
