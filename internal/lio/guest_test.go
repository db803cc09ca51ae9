//go:build e2e

package lio_test

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/lio"
	"github.com/datera-csi/datera-csi/internal/sim"
)

// The tests here are the truth that the model in kernel_test.go stands for: the
// same promises on a real kernel, seen by a real initiator.

func TestGuestSeesADateraDisk(t *testing.T) {
	g := newGuest(t)
	want := g.target(1 << 30)
	g.apply(want)
	for _, p := range want.Portals {
		g.record(p)
		if code := g.logIn(p); code != 0 {
			t.Fatalf("login at %s exits %d", p, code)
		}
	}
	disks := g.disks(len(want.Portals))
	if out := g.must("lsscsi"); strings.Count(out, "disk    DATERA   IBLOCK           4.0 ") != len(disks) {
		t.Errorf("lsscsi: %s", out)
	}
	wwid := "naa.6001405" + strings.ReplaceAll(uuid, "-", "")[:25]
	for _, d := range disks {
		if got := g.sysfs(d, "device/wwid"); got != wwid {
			t.Errorf("%s: WWID %s, want %s", d, got, wwid)
		}
		if out := g.must("sg_inq", "--page=0x80", "/dev/"+d); !strings.Contains(out, "Unit serial number: "+uuid) {
			t.Errorf("%s: %s", d, out)
		}
		for attr, value := range map[string]string{
			"size": strconv.Itoa(1 << 30 / 512), "queue/logical_block_size": "512", "queue/write_cache": "write through", "queue/fua": "0",
			"queue/discard_max_bytes": strconv.Itoa(2 << 30), "ro": "0",
		} {
			if got := g.sysfs(d, attr); got != value {
				t.Errorf("%s: %s is %q, want %q", d, attr, got, value)
			}
		}
	}
	got, err := g.Sessions(iqn)
	if diff := cmp.Diff([]string{g.initiator}, got); diff != "" || err != nil {
		t.Errorf("sessions: %v %s", err, diff)
	}
	g.logOut()
	got, err = g.Sessions(iqn)
	if len(got) > 0 || err != nil {
		t.Errorf("sessions after logout: %q, %v", got, err)
	}
}

func TestGuestGivesFreedSectorsBack(t *testing.T) {
	g := newGuest(t)
	want := g.target(64 * mib)
	g.apply(want)
	g.record(want.Portals[0])
	if code := g.logIn(want.Portals[0]); code != 0 {
		t.Fatalf("login exits %d", code)
	}
	disk := "/dev/" + g.disks(1)[0]
	blocks := func() int64 {
		var st syscall.Stat_t
		must(t, syscall.Stat(want.LUNs[0].File, &st))
		return st.Blocks
	}
	g.must("dd", "if=/dev/urandom", "of="+disk, "bs=1M", "count=8", "oflag=direct")
	if full := blocks(); full < 8<<11 {
		t.Fatalf("%d blocks after writing", full)
	}
	g.must("blkdiscard", disk)
	if left := blocks(); left != 0 {
		t.Errorf("%d blocks after discarding", left)
	}
	g.must("cmp", "--bytes=8388608", disk, "/dev/zero")
	g.logOut()
}

// The fence: nothing is written or read after Apply has answered, and whatever
// was read meanwhile was the volume's, never the zeros of the kernel's own disk.
func TestGuestRevokedInitiatorIsFenced(t *testing.T) {
	g := newGuest(t)
	want := g.target(64 * mib)
	g.apply(want)
	for _, p := range want.Portals[:2] {
		g.record(p)
		if code := g.logIn(p); code != 0 {
			t.Fatalf("login at %s exits %d", p, code)
		}
	}
	disks := g.disks(2)
	b := page(t, 0xa5)
	must(t, direct(disks[0], os.O_WRONLY, b))
	readers := []*reader{g.reader(disks[0], 0xa5), g.reader(disks[1], 0xa5)}
	g.writer(disks[0])
	progress := func() bool {
		before := []int64{readers[0].right.Load(), readers[1].right.Load()}
		g.until("both paths to read", func() bool {
			return readers[0].right.Load() > before[0]+2 && readers[1].right.Load() > before[1]+2
		})
		return true
	}
	for range 8 {
		progress()
		revoked := want
		revoked.Initiators = nil
		g.apply(revoked)
		done := []int64{readers[0].right.Load(), readers[1].right.Load()}
		last := g.content(want.LUNs[0].File)
		if got, err := g.Sessions(iqn); len(got) > 0 || err != nil {
			t.Errorf("sessions of the revoked: %q, %v", got, err)
		}
		g.until("the initiator to notice", func() bool {
			return !strings.Contains(strings.Join(g.sessionStates(), " "), "LOGGED_IN")
		})
		for n, r := range readers {
			if now := r.right.Load(); now > done[n]+1 { // one answer may have been on its way
				t.Errorf("path %d read %d times after it was revoked", n, now-done[n])
			}
		}
		if !bytes.Equal(last, g.content(want.LUNs[0].File)) {
			t.Error("a write landed after Apply had answered")
		}
		g.apply(want)
		progress()
	}
	for n, r := range readers {
		t.Logf("path %d: %d right, %d failed", n, r.right.Load(), r.failed.Load())
		if wrong := r.wrong.Load(); wrong > 0 {
			t.Errorf("path %d read %d times something else than the volume", n, wrong)
		}
	}

	revoked := want
	revoked.Initiators = []string{hostB}
	g.apply(revoked)
	err := direct(disks[0], os.O_WRONLY, page(t, 0x5a))
	if err == nil {
		t.Error("the revoked initiator wrote")
	}
	if !bytes.Equal(g.content(want.LUNs[0].File)[:4096], b) {
		t.Error("the volume changed after its only writer was revoked")
	}
	g.record(want.Portals[2])
	if code := g.logIn(want.Portals[2]); code != 24 {
		t.Errorf("login of the revoked initiator exits %d, want 24", code)
	}
}

func TestGuestCHAP(t *testing.T) {
	const user, array, wrong = "user", "array", "wrong-secret-1"
	chap := func(u, p string) []string {
		return []string{"node.session.auth.authmethod", "CHAP", "node.session.auth.username", u, "node.session.auth.password", p}
	}
	mutual := func(u, p string) []string {
		return append(chap(user, secret), "node.session.auth.username_in", u, "node.session.auth.password_in", p)
	}
	oneWay := sim.Auth{TargetUser: user, TargetPassword: secret}
	both := sim.Auth{TargetUser: user, TargetPassword: secret, InitiatorUser: array, InitiatorPassword: back}
	g := newGuest(t)
	base := g.target(64 * mib)
	for _, c := range []struct {
		name     string
		all      bool
		auth     sim.Auth
		settings []string
		exit     int // of iscsiadm: 24 the target refuses, 19 the initiator does
	}{
		{"none asked, none given", false, sim.Auth{}, nil, 0},
		{"none given", false, oneWay, nil, 24},
		{"wrong secret", false, oneWay, chap(user, wrong), 24},
		{"wrong name", false, oneWay, chap("nobody", secret), 24},
		{"right", false, oneWay, chap(user, secret), 0},
		{"mutual right", false, both, mutual(array, back), 0},
		{"mutual, target's secret wrong", false, both, mutual(array, wrong), 19},
		{"mutual, one way given", false, both, chap(user, secret), 0},
		{"mutual given, target has none", false, oneWay, mutual(array, back), 19},
		{"all admitted, right", true, both, mutual(array, back), 0},
		{"all admitted, wrong secret", true, both, chap(user, wrong), 24},
		{"all admitted, none asked", true, sim.Auth{}, nil, 0},
		{"closed and right again", false, oneWay, chap(user, secret), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := base
			want.AllowAll, want.Auth = c.all, c.auth
			must(t, g.Apply(t.Context(), want))
			g.record(want.Portals[0], c.settings...)
			if code := g.logIn(want.Portals[0]); code != c.exit {
				t.Errorf("login exits %d, want %d", code, c.exit)
			}
			users, err := g.Sessions(iqn)
			if in := len(users) == 1; in != (c.exit == 0) || err != nil {
				t.Errorf("sessions %q, %v", users, err)
			}
			g.logOut()
			g.must("iscsiadm", "-m", "node", "-T", iqn, "-o", "delete")
		})
	}
}

func TestGuestSeesGrowthAfterRescan(t *testing.T) {
	g := newGuest(t)
	want := g.target(64 * mib)
	g.apply(want)
	g.record(want.Portals[0])
	if code := g.logIn(want.Portals[0]); code != 0 {
		t.Fatalf("login exits %d", code)
	}
	disk := g.disks(1)[0]
	r := g.reader(disk, 0)

	want.LUNs[0].Bytes *= 2
	must(t, os.Truncate(want.LUNs[0].File, want.LUNs[0].Bytes))
	g.apply(want)
	g.must("iscsiadm", "-m", "node", "-T", iqn, "--rescan")
	if got := g.sysfs(disk, "size"); got != strconv.FormatInt(128*mib/512, 10) {
		t.Errorf("%s sectors after growth", got)
	}
	want.LUNs[0].Bytes /= 2
	if err := g.Apply(t.Context(), want); !errors.Is(err, lio.ErrInUse) {
		t.Errorf("shrinking: got %v", err)
	}
	r.unharmed(t)
}

// A new process finds the targets of the old one, and their sessions go on.
func TestGuestOrphansAreAdoptedOrRemoved(t *testing.T) {
	g := newGuest(t)
	want := g.target(64 * mib)
	orphan := g.target(64 * mib)
	orphan.IQN += "-orphan"
	g.apply(want)
	g.apply(orphan)
	g.record(want.Portals[0])
	if code := g.logIn(want.Portals[0]); code != 0 {
		t.Fatalf("login exits %d", code)
	}
	r := g.reader(g.disks(1)[0], 0)

	if _, err := lio.New(t.Context(), lio.Config{}); err == nil {
		t.Error("a second process took hold of the target")
	}
	g.restart()
	got, err := g.Targets()
	if diff := cmp.Diff([]string{want.IQN, orphan.IQN}, got); diff != "" || err != nil {
		t.Errorf("Targets: %v %s", err, diff)
	}
	must(t, g.Remove(t.Context(), orphan.IQN))
	g.apply(want)
	got, err = g.Targets()
	if diff := cmp.Diff([]string{want.IQN}, got); diff != "" || err != nil {
		t.Errorf("Targets: %v %s", err, diff)
	}
	before := r.right.Load()
	g.until("the disk to be read", func() bool { return r.right.Load() > before+10 })
	r.unharmed(t)
}

// Remove with sessions and I/O under way.
func TestGuestRemoveInUse(t *testing.T) {
	g := newGuest(t)
	want := g.target(64 * mib)
	g.apply(want)
	for _, p := range want.Portals {
		g.record(p)
		if code := g.logIn(p); code != 0 {
			t.Fatalf("login at %s exits %d", p, code)
		}
	}
	var readers []*reader
	for _, d := range g.disks(3) {
		readers = append(readers, g.reader(d, 0))
	}
	g.until("all paths to read", func() bool {
		return readers[0].right.Load() > 5 && readers[1].right.Load() > 5 && readers[2].right.Load() > 5
	})
	must(t, g.Remove(t.Context(), iqn))
	got, err := g.Targets()
	if len(got) > 0 || err != nil {
		t.Errorf("Targets: %q, %v", got, err)
	}
}

// mortal is a process that dies after some changes.
type mortal struct {
	lio.Configfs
	left int
}

func (m *mortal) change(f func() error) error {
	if m.left <= 0 {
		return errCrash
	}
	err := f()
	if err == nil {
		m.left--
	}
	return err
}

func (m *mortal) Mkdir(p string) error { return m.change(func() error { return m.Configfs.Mkdir(p) }) }
func (m *mortal) Remove(p string) error {
	return m.change(func() error { return m.Configfs.Remove(p) })
}
func (m *mortal) Symlink(to, p string) error {
	return m.change(func() error { return m.Configfs.Symlink(to, p) })
}
func (m *mortal) Write(p, v string) error {
	return m.change(func() error { return m.Configfs.Write(p, v) })
}

// The real kernel takes up the work after every crash, as its model does.
func TestGuestEveryCrashConverges(t *testing.T) {
	g := newGuest(t)
	first := g.target(64 * mib)
	second := first
	second.Initiators = []string{hostB}
	second.Portals = first.Portals[1:]
	second.Auth = sim.Auth{TargetUser: "user", TargetPassword: secret}
	empty := tree(t)
	for name, step := range map[string]func(*lio.Exporter) error{
		"made": func(e *lio.Exporter) error { return e.Apply(t.Context(), first) },
		"changed": func(e *lio.Exporter) error {
			return errors.Join(e.Apply(t.Context(), first), e.Apply(t.Context(), second))
		},
		"removed": func(e *lio.Exporter) error {
			return errors.Join(e.Apply(t.Context(), second), e.Remove(t.Context(), iqn))
		},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, step(g.Exporter))
			whole := tree(t)
			must(t, g.Remove(t.Context(), iqn))
			for crash := range 1000 {
				e, err := lio.New(t.Context(), lio.Config{Tree: &mortal{left: 3 + crash}}) // New itself makes three changes
				must(t, err)
				err = step(e)
				if err == nil {
					t.Logf("%d crashes", crash)
					return
				}
				if !errors.Is(err, errCrash) {
					t.Fatalf("crash after %d changes: %v", crash, err)
				}
				must(t, step(g.Exporter))
				if diff := cmp.Diff(whole, tree(t)); diff != "" {
					t.Errorf("crash after %d changes: %s", crash, diff)
				}
				must(t, g.Remove(t.Context(), iqn))
				if diff := cmp.Diff(empty, tree(t)); diff != "" {
					t.Errorf("crash after %d changes, then removed: %s", crash, diff)
				}
			}
		})
	}
}
