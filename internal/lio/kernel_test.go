package lio_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
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

	before map[string]func() // by path: runs once, before the next change there
	fail   map[string]error  // by path: what the next change there answers
	busy   map[string]int    // by path: how often rmdir answers EBUSY first
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
	k := &kernel{budget: -1, before: map[string]func(){}, fail: map[string]error{}, busy: map[string]int{}}
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
	before := k.before[p]
	delete(k.before, p)
	k.mu.Unlock()
	if before != nil {
		before()
	}
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
