package lio_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/datera-csi/datera-csi/internal/lio"
)

// kernel is a model of the Linux target behind configfs (drivers/target, 6.1):
// which directories bring which files, which order it insists on, and what ends
// a session. Whatever the kernel would let pass but an array must not do is
// noted in broken.
type kernel struct {
	mu       sync.Mutex
	root     *node
	hbas     *node
	writes   []string // every call that changed something
	budget   int      // calls that may still change something; then the process is dead
	dead     bool
	sessions []*session
	broken   []string

	fail map[string]error // by path: what the next change there answers
	busy map[string]int   // by path: how often rmdir answers EBUSY first
}

var errCrash = errors.New("the process is dead")

type node struct {
	name     string
	parent   *node
	children map[string]*node // nil for files and links
	group    bool             // made by the kernel, not by mkdir
	target   *node            // of a link
	links    int              // that point here

	mkdir   func(n *node) error // child n appears
	rmdir   func() error        // this directory goes
	symlink func(n *node) error // link n appears in this directory
	unlink  func() error        // this link goes
	show    func() string
	store   func(v string) error
	data    any
}

func (n *node) path() string {
	if n.parent == nil {
		return lio.DefaultRoot
	}
	return path.Join(n.parent.path(), n.name)
}

// group adds a directory of the kernel's own.
func (n *node) addGroup(name string) *node {
	g := &node{name: name, parent: n, children: map[string]*node{}, group: true}
	n.children[name] = g
	return g
}

// file adds an attribute; without store it cannot be written.
func (n *node) file(name string, show func() string, store func(string) error) {
	n.children[name] = &node{name: name, parent: n, show: show, store: store}
}

// plain adds attributes that hold what was written.
func (n *node) plain(values map[string]string) {
	for name, v := range values {
		n.file(name, func() string { return v + "\n" }, func(s string) error { v = s; return nil })
	}
}

func newKernel(t *testing.T) *kernel {
	t.Helper()
	k := &kernel{budget: -1, fail: map[string]error{}, busy: map[string]int{}}
	k.root = &node{children: map[string]*node{}}
	k.hbas = k.root.addGroup("core")
	k.hbas.mkdir = k.newHBA
	k.root.mkdir = func(n *node) error {
		if n.name != "iscsi" {
			return syscall.EINVAL
		}
		n.addGroup("discovery_auth")
		n.mkdir = k.newTarget
		return nil
	}
	t.Cleanup(func() {
		for _, b := range k.broken {
			t.Errorf("broken: %s", b)
		}
	})
	return k
}

func (k *kernel) wrong(format string, a ...any) {
	k.broken = append(k.broken, fmt.Sprintf(format, a...))
}

var hbaName = regexp.MustCompile(`^(fileio|iblock|rd_mcp|pscsi|user)_[0-9]+$`)

func (k *kernel) newHBA(n *node) error {
	if !hbaName.MatchString(n.name) {
		return syscall.EINVAL
	}
	n.plain(map[string]string{"hba_mode": "0"})
	n.mkdir = k.newDevice
	return nil
}

type device struct {
	file    string
	size    int64
	enabled bool
	exports int
}

func (k *kernel) newDevice(n *node) error {
	d := &device{}
	n.data = d
	n.file("enable", func() string { return bit(d.enabled) }, func(v string) error {
		switch {
		case v != "1":
			return syscall.EINVAL
		case d.enabled:
			return syscall.EEXIST
		case d.file == "" || d.size == 0:
			return syscall.EINVAL
		}
		d.enabled = true
		return nil
	})
	n.file("control", nil, func(v string) error {
		for kv := range strings.SplitSeq(v, ",") {
			key, val, _ := strings.Cut(kv, "=")
			switch key {
			case "fd_dev_name":
				if d.enabled {
					k.wrong("file of enabled %s changed", n.path())
				}
				d.file = val
			case "fd_dev_size":
				size, err := strconv.ParseInt(val, 10, 64)
				if err != nil {
					return syscall.EINVAL
				}
				if d.exports > 0 && size < d.size {
					k.wrong("%s shrank beneath a LUN", n.path())
				}
				d.size = size
			case "fd_buffered_io":
			default:
				return syscall.EINVAL
			}
		}
		return nil
	})
	n.file("info", func() string {
		status := "DEACTIVATED"
		if d.enabled {
			status = "ACTIVATED"
		}
		return fmt.Sprintf("Status: %s  Max Queue Depth: 128  SectorSize: 512  HwMaxSectors: 16384\n"+
			"        TCM FILEIO ID: 0        File: %s  Size: %d  Mode: Buffered-WCE Async: 0\n", status, d.file, d.size)
	}, nil)
	unexported := func(limit int, prefix, v string) (func() string, func(string) error) {
		return func() string { return prefix + v + "\n" }, func(s string) error {
			if d.exports > 0 {
				return syscall.EINVAL
			}
			if len(s) > limit {
				return syscall.EOVERFLOW
			}
			v = s
			return nil
		}
	}
	wwn := n.addGroup("wwn")
	for name, limit := range map[string]int{"vendor_id": 8, "product_id": 16, "revision": 4} {
		show, store := unexported(limit, "", "LIO-ORG")
		wwn.file(name, show, store)
	}
	show, store := unexported(254, "T10 VPD Unit Serial Number: ", "")
	wwn.file("vpd_unit_serial", show, store)
	attrib := n.addGroup("attrib")
	attrib.plain(map[string]string{"max_unmap_lba_count": "8192", "emulate_tpu": "0", "emulate_tpws": "0", "emulate_write_cache": "1"})
	for name, v := range map[string]string{"block_size": "512", "unmap_zeroes_data": "0"} {
		show, store := unexported(8, "", v)
		attrib.file(name, show, store)
	}
	n.addGroup("alua").addGroup("default_tg_pt_gp")
	return nil
}

func bit(on bool) string {
	if on {
		return "1\n"
	}
	return "0\n"
}

type group struct {
	node    *node
	enabled bool
	attrib  map[string]string
	auth    map[string]string
}

func (k *kernel) newTarget(n *node) error {
	n.addGroup("fabric_statistics")
	n.mkdir = func(n *node) error {
		if !strings.HasPrefix(n.name, "tpgt_") {
			return syscall.EINVAL
		}
		return k.newGroup(n)
	}
	return nil
}

func (k *kernel) newGroup(n *node) error {
	g := &group{node: n, attrib: map[string]string{
		"authentication": "1", "generate_node_acls": "0", "demo_mode_write_protect": "1", "demo_mode_discovery": "1",
	}}
	n.data = g
	n.file("enable", func() string { return bit(g.enabled) }, func(v string) error {
		if bit(g.enabled) == v+"\n" {
			return syscall.EINVAL
		}
		g.enabled = v == "1"
		if !g.enabled {
			k.end(func(s *session) bool { return s.group == g })
		}
		return nil
	})
	n.file("dynamic_sessions", func() string {
		var b strings.Builder
		for _, s := range k.sessions {
			if s.group == g && s.acl == nil {
				b.WriteString(s.initiator + "\n\x00")
			}
		}
		return b.String()
	}, nil)
	attrib := n.addGroup("attrib")
	for name := range g.attrib {
		attrib.file(name, func() string { return g.attrib[name] + "\n" }, func(v string) error { g.attrib[name] = v; return nil })
	}
	g.auth = chap(n.addGroup("auth"))
	n.addGroup("param")
	n.addGroup("lun").mkdir = k.newLUN
	n.addGroup("np").mkdir = func(n *node) error {
		if _, err := netip.ParseAddrPort(n.name); err != nil {
			return syscall.EINVAL
		}
		return nil
	}
	n.addGroup("acls").mkdir = func(n *node) error { return k.newACL(g, n) }
	n.rmdir = func() error {
		if g.enabled || slices.ContainsFunc(k.sessions, func(s *session) bool { return s.group == g }) {
			k.wrong("%s removed while enabled or in use", n.path())
		}
		return nil
	}
	return nil
}

// chap adds the four files of CHAP; "NULL" clears.
func chap(n *node) map[string]string {
	set := map[string]string{}
	for _, name := range []string{"userid", "password", "userid_mutual", "password_mutual"} {
		text := ""
		n.file(name, func() string { return text + "\n" }, func(v string) error {
			text = v
			if set[name] = v; strings.HasPrefix(v, "NULL") {
				delete(set, name)
			}
			return nil
		})
	}
	return set
}

func (k *kernel) newLUN(n *node) error {
	if !strings.HasPrefix(n.name, "lun_") {
		return syscall.EINVAL
	}
	n.addGroup("statistics")
	n.symlink = func(l *node) error {
		d, ok := l.target.data.(*device)
		switch {
		case !ok:
			return syscall.EINVAL
		case !d.enabled:
			return syscall.ENODEV
		case linkIn(n) != nil:
			return syscall.EEXIST
		}
		d.exports++
		l.unlink = func() error {
			if n.links > 0 {
				k.wrong("LUN %s unlinked while mapped", n.path())
			}
			d.exports--
			return nil
		}
		return nil
	}
	return nil
}

func linkIn(n *node) *node {
	if n == nil {
		return nil
	}
	for _, c := range n.children {
		if c.target != nil {
			return c
		}
	}
	return nil
}

func (k *kernel) newACL(g *group, n *node) error {
	ended := func() { k.end(func(s *session) bool { return s.acl == n }) }
	for _, s := range k.sessions {
		if s.group == g && s.initiator == n.name {
			k.wrong("ACL %s made over a dynamic session", n.path())
		}
	}
	depth := "64"
	n.file("cmdsn_depth", func() string { return depth + "\n" }, func(v string) error {
		if d, err := strconv.Atoi(v); err != nil || d < 1 || d > 512 {
			return syscall.EINVAL
		}
		if v != depth {
			ended()
		}
		depth = v
		return nil
	})
	n.file("info", func() string {
		for _, s := range slices.Backward(k.sessions) {
			if s.acl == n {
				return "InitiatorName: " + n.name + "\nInitiatorAlias: \nLIO Session ID: 1   ISID: 0x00 02 3d 00 00 00  TSIH: 1  SessionType: Normal\n" +
					"Session State: " + s.state + "\n---------------------[iSCSI Session Values]-----------------------\n" +
					"CID: 0  Connection State: TARG_CONN_STATE_LOGGED_IN\n"
			}
		}
		return "No active iSCSI Session for Initiator Endpoint: " + n.name + "\n"
	}, nil)
	n.addGroup("attrib")
	n.addGroup("param")
	n.data = chap(n.addGroup("auth"))
	n.mkdir = func(l *node) error {
		if !strings.HasPrefix(l.name, "lun_") {
			return syscall.EINVAL
		}
		l.plain(map[string]string{"write_protect": "0"})
		l.addGroup("statistics")
		l.symlink = func(m *node) error {
			if m.target.parent != g.node.children["lun"] || linkIn(m.target) == nil || linkIn(l) != nil {
				return syscall.EINVAL
			}
			return nil
		}
		return nil
	}
	n.rmdir = func() error { ended(); return nil }
	return nil
}

// session is a login of an initiator; acl is nil when it needed none.
type session struct {
	group     *group
	initiator string
	acl       *node
	state     string
}

// end ends sessions.
func (k *kernel) end(which func(*session) bool) { k.sessions = slices.DeleteFunc(k.sessions, which) }

// logIn is what an initiator does; auth holds the userid and password it knows.
func (k *kernel) logIn(t *testing.T, iqn, initiator string, auth map[string]string) error {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.find(path.Join(lio.DefaultRoot, "iscsi", iqn, "tpgt_1"))
	if n == nil {
		return errors.New("no such target")
	}
	g := n.data.(*group)
	if !g.enabled || len(n.children["np"].children) == 0 {
		return errors.New("nobody listens")
	}
	s := &session{group: g, initiator: initiator, acl: n.children["acls"].children[initiator], state: "TARG_SESS_STATE_LOGGED_IN"}
	secrets := g.auth
	if s.acl != nil {
		secrets = s.acl.data.(map[string]string)
	} else if g.attrib["generate_node_acls"] != "1" {
		return errors.New("not admitted")
	}
	if g.attrib["authentication"] == "1" {
		if secrets["userid"] == "" || secrets["userid"] != auth["userid"] || secrets["password"] != auth["password"] {
			return errors.New("wrong CHAP")
		}
	}
	k.sessions = append(k.sessions, s)
	k.seesItsDisk()
	return nil
}

// seesItsDisk notes sessions whose LUN 0 is the kernel's own disk of zeros.
func (k *kernel) seesItsDisk() {
	for _, s := range k.sessions {
		lun := s.group.node.children["lun"].children["lun_0"]
		if s.acl != nil {
			lun = s.acl.children["lun_0"]
		}
		if linkIn(lun) == nil {
			k.wrong("%s reads zeros from %s", s.initiator, s.group.node.parent.name)
		}
	}
}

func (k *kernel) find(p string) *node {
	rel, ok := strings.CutPrefix(p, lio.DefaultRoot)
	if !ok {
		return nil
	}
	n := k.root
	for part := range strings.SplitSeq(strings.Trim(rel, "/"), "/") {
		if part == "" {
			continue
		}
		if n = n.children[part]; n == nil {
			return nil
		}
	}
	return n
}

// change runs one call that changes the tree, unless the process is dead.
func (k *kernel) change(op, p string, f func() error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.budget == 0 {
		k.dead = true
	}
	if k.dead {
		return errCrash
	}
	err := k.fail[p]
	delete(k.fail, p)
	if err == nil {
		err = f()
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: p, Err: err}
	}
	k.budget--
	k.writes = append(k.writes, op+" "+strings.TrimPrefix(p, lio.DefaultRoot+"/"))
	k.seesItsDisk()
	return nil
}

func (k *kernel) Mkdir(p string) error {
	return k.change("mkdir", p, func() error {
		dir, name := k.find(path.Dir(p)), path.Base(p)
		switch {
		case dir == nil:
			return syscall.ENOENT
		case dir.children[name] != nil:
			return syscall.EEXIST
		case dir.mkdir == nil:
			return syscall.EPERM
		}
		n := &node{name: name, parent: dir, children: map[string]*node{}}
		if err := dir.mkdir(n); err != nil {
			return err
		}
		dir.children[name] = n
		return nil
	})
}

func (k *kernel) Symlink(target, p string) error {
	return k.change("symlink", p, func() error {
		to, dir, name := k.find(target), k.find(path.Dir(p)), path.Base(p)
		switch {
		case to == nil || dir == nil:
			return syscall.ENOENT
		case dir.children[name] != nil:
			return syscall.EEXIST
		case dir.symlink == nil:
			return syscall.EPERM
		}
		n := &node{name: name, parent: dir, target: to}
		if err := dir.symlink(n); err != nil {
			return err
		}
		dir.children[name] = n
		to.links++
		return nil
	})
}

func (k *kernel) Remove(p string) error {
	return k.change("remove", p, func() error {
		n := k.find(p)
		switch {
		case n == nil:
			return syscall.ENOENT
		case k.busy[p] > 0:
			k.busy[p]--
			return syscall.EBUSY
		case n.group || (n.children == nil && n.target == nil):
			return syscall.EPERM
		case n.links > 0:
			return syscall.EBUSY
		case made(n):
			return syscall.ENOTEMPTY
		}
		gone := n.rmdir
		if n.target != nil {
			gone = n.unlink
			n.target.links--
		}
		delete(n.parent.children, n.name)
		if gone == nil {
			return nil
		}
		return gone()
	})
}

// made says whether mkdir or symlink made anything below n.
func made(n *node) bool {
	for _, c := range n.children {
		if c.target != nil || (c.children != nil && (!c.group || made(c))) {
			return true
		}
	}
	return false
}

func (k *kernel) Write(p, v string) error {
	return k.change("write", p, func() error {
		n := k.find(p)
		switch {
		case n == nil:
			return syscall.ENOENT
		case n.children != nil:
			return syscall.EISDIR
		case n.store == nil:
			return syscall.EACCES
		case v == "" || strings.HasSuffix(v, "\n"):
			k.wrong("wrote %q to %s", v, p)
		}
		return n.store(v)
	})
}

func (k *kernel) Read(p string) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.find(p)
	switch {
	case k.dead:
		return "", errCrash
	case n == nil:
		return "", &fs.PathError{Op: "open", Path: p, Err: syscall.ENOENT}
	case n.show == nil:
		return "", &fs.PathError{Op: "open", Path: p, Err: syscall.EACCES}
	}
	return n.show(), nil
}

func (k *kernel) List(p string) (dirs, links []string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.find(p)
	switch {
	case k.dead:
		return nil, nil, errCrash
	case n == nil:
		return nil, nil, &fs.PathError{Op: "open", Path: p, Err: syscall.ENOENT}
	}
	for name, c := range n.children {
		switch {
		case c.children != nil:
			dirs = append(dirs, name)
		case c.target != nil:
			links = append(links, name)
		}
	}
	slices.Sort(dirs)
	return dirs, links, nil
}

// dump lists the tree: made directories, links, and files that hold something.
func (k *kernel) dump() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var lines []string
	var walk func(n *node)
	walk = func(n *node) {
		p := strings.TrimPrefix(n.path(), lio.DefaultRoot)
		switch {
		case n.target != nil:
			lines = append(lines, p+" -> "+n.target.path())
		case n.children == nil && n.show != nil && n.name != "info" && n.name != "dynamic_sessions":
			lines = append(lines, p+" = "+strings.TrimSpace(n.show()))
		case n.children != nil && !n.group && n.parent != nil:
			lines = append(lines, p)
		}
		for _, name := range slices.Sorted(maps.Keys(n.children)) {
			walk(n.children[name])
		}
	}
	walk(k.root)
	return lines
}

// restart is a new process on the same kernel.
func (k *kernel) restart(t *testing.T) *lio.Exporter {
	t.Helper()
	k.mu.Lock()
	k.dead, k.budget, k.writes = false, -1, nil
	k.mu.Unlock()
	e, err := lio.New(t.Context(), lio.Config{Tree: k})
	if err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	k.writes = nil
	k.mu.Unlock()
	return e
}

// loggedIn lists who is logged in to a target by the kernel's own account.
func (k *kernel) loggedIn(iqn string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var users []string
	for _, s := range k.sessions {
		if s.group.node.parent.name == iqn {
			users = append(users, s.initiator)
		}
	}
	return users
}
