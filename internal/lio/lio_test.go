package lio_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/datera-csi/datera-csi/internal/lio"
	"github.com/datera-csi/datera-csi/internal/sim"
)

const (
	iqn    = "iqn.2013-05.com.daterainc:tc:01:sn:00112233445566aa"
	tpg    = "iscsi/" + iqn + "/tpgt_1"
	hba    = "core/fileio_7717"
	disk   = hba + "/datera-" + iqn + "-lun-0"
	uuid   = "6b1e0a52-3f5c-4d0e-9b3e-0d2a51c0ffee"
	hostA  = "iqn.1993-08.org.debian:01:aa11"
	hostB  = "iqn.1993-08.org.debian:01:bb22"
	secret = "canary-secret-1"
	back   = "canary-secret-2"
	mib    = int64(1) << 20
)

func under(rel string) string { return path.Join(lio.DefaultRoot, rel) }

// file makes a sparse backing file.
func file(t *testing.T, name string, size int64) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(f, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(f, size); err != nil {
		t.Fatal(err)
	}
	return f
}

// target is one volume that hostA may use.
func target(t *testing.T) sim.Target {
	t.Helper()
	return sim.Target{
		IQN:        iqn,
		Portals:    []netip.AddrPort{netip.MustParseAddrPort("172.28.0.9:3260"), netip.MustParseAddrPort("[fd00:29::9]:3260")},
		LUNs:       []sim.LUN{{Serial: uuid, File: file(t, "a  Size: 1 File: b", 64*mib), Bytes: 64 * mib}},
		Initiators: []string{hostA},
	}
}

func apply(t *testing.T, e *lio.Exporter, want sim.Target) {
	t.Helper()
	if err := e.Apply(t.Context(), want); err != nil {
		t.Fatal(err)
	}
}

func logIn(t *testing.T, k *kernel, initiator string) {
	t.Helper()
	if err := k.logIn(t, iqn, initiator, map[string]string{"userid": "user", "password": secret}); err != nil {
		t.Fatalf("log in %s: %v", initiator, err)
	}
}

// lines picks from a dump the lines that begin with one of the paths.
func lines(dump []string, paths ...string) []string {
	return slices.DeleteFunc(slices.Clone(dump), func(l string) bool {
		return !slices.ContainsFunc(paths, func(p string) bool { return strings.HasPrefix(l, "/"+p+" ") || l == "/"+p })
	})
}

func TestApplyMakesADateraTarget(t *testing.T) {
	k := newKernel(t)
	want := target(t)
	apply(t, k.restart(t), want)

	got := lines(k.dump(), disk, disk+"/enable", disk+"/wwn/vendor_id", disk+"/wwn/product_id", disk+"/wwn/revision", disk+"/wwn/vpd_unit_serial",
		tpg+"/enable", tpg+"/attrib/generate_node_acls", tpg+"/attrib/authentication", tpg+"/attrib/demo_mode_discovery",
		tpg+"/lun/lun_0/dev", tpg+"/np/172.28.0.9:3260", tpg+"/np/[fd00:29::9]:3260",
		tpg+"/acls/"+hostA, tpg+"/acls/"+hostA+"/lun_0/map", tpg+"/acls/"+hostA+"/auth/userid")
	if diff := cmp.Diff([]string{
		"/" + disk,
		"/" + disk + "/enable = 1",
		"/" + disk + "/wwn/product_id = IBLOCK",
		"/" + disk + "/wwn/revision = 4.0",
		"/" + disk + "/wwn/vendor_id = DATERA",
		"/" + disk + "/wwn/vpd_unit_serial = T10 VPD Unit Serial Number: " + uuid,
		"/" + tpg + "/acls/" + hostA,
		"/" + tpg + "/acls/" + hostA + "/auth/userid = ",
		"/" + tpg + "/acls/" + hostA + "/lun_0/map -> " + under(tpg+"/lun/lun_0"),
		"/" + tpg + "/attrib/authentication = 0",
		"/" + tpg + "/attrib/demo_mode_discovery = 0",
		"/" + tpg + "/attrib/generate_node_acls = 0",
		"/" + tpg + "/enable = 1",
		"/" + tpg + "/lun/lun_0/dev -> " + under(disk),
		"/" + tpg + "/np/172.28.0.9:3260",
		"/" + tpg + "/np/[fd00:29::9]:3260",
	}, got); diff != "" {
		t.Error(diff)
	}
	info, err := k.Read(under(disk + "/info"))
	if err != nil || !strings.Contains(info, fmt.Sprintf("File: %s  Size: %d ", want.LUNs[0].File, 64*mib)) {
		t.Errorf("info %q, %v", info, err)
	}
	if last := k.writes[len(k.writes)-1]; last != "write "+tpg+"/enable" {
		t.Errorf("last change is %q: the target was open before it was whole", last)
	}
	logIn(t, k, hostA)
	if err := k.logIn(t, iqn, hostB, nil); err == nil {
		t.Error("a stranger is admitted")
	}
}

func TestApplyAgainChangesNothing(t *testing.T) {
	k := newKernel(t)
	want := target(t)
	want.Auth = sim.Auth{TargetUser: "user", TargetPassword: secret, InitiatorUser: "array", InitiatorPassword: back}
	apply(t, k.restart(t), want)
	before := k.dump()
	logIn(t, k, hostA)

	apply(t, k.restart(t), want)
	if len(k.writes) > 0 {
		t.Errorf("a repeat changed %q", k.writes)
	}
	if diff := cmp.Diff(before, k.dump()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{hostA}, k.loggedIn(iqn)); diff != "" {
		t.Errorf("sessions: %s", diff)
	}
}

// change is a step from one look of a target to another. Everybody in stays is
// logged in before and must be afterwards.
type change struct {
	from, to func(sim.Target) sim.Target
	stays    []string
}

func changes(t *testing.T) map[string]change {
	t.Helper()
	second := sim.LUN{Serial: "0c0ffee0-0000-4000-8000-000000000002", File: file(t, "second", 8*mib), Bytes: 8 * mib}
	other := file(t, "other", 64*mib)
	bigger := file(t, "bigger", 128*mib)
	same := func(x sim.Target) sim.Target { return x }
	two := func(x sim.Target) sim.Target { x.Initiators = []string{hostA, hostB}; return x }
	chap := func(x sim.Target) sim.Target {
		x.Auth = sim.Auth{TargetUser: "user", TargetPassword: secret}
		return x
	}
	mutual := func(x sim.Target) sim.Target {
		x = chap(x)
		x.Auth.InitiatorUser, x.Auth.InitiatorPassword = "array", back
		return x
	}
	all := func(x sim.Target) sim.Target { x.AllowAll = true; return x }
	luns := func(x sim.Target) sim.Target { x.LUNs = append(slices.Clone(x.LUNs), second); return x }
	return map[string]change{
		"made":              {to: same},
		"made for two":      {to: two},
		"made with mutual":  {to: mutual},
		"made for all":      {to: func(x sim.Target) sim.Target { return chap(all(x)) }},
		"made with two":     {to: luns},
		"one more admitted": {from: same, to: two, stays: []string{hostA}},
		"one revoked":       {from: two, to: same, stays: []string{hostA}},
		"other admitted":    {from: same, to: func(x sim.Target) sim.Target { x.Initiators = []string{hostB}; return x }},
		"all revoked":       {from: two, to: func(x sim.Target) sim.Target { x.Initiators = nil; return x }},
		"CHAP on":           {from: same, to: mutual, stays: []string{hostA}},
		"CHAP off":          {from: mutual, to: same, stays: []string{hostA}},
		"opened to all":     {from: same, to: all},
		"closed again":      {from: func(x sim.Target) sim.Target { return chap(all(x)) }, to: two},
		"grown": {
			from:  func(x sim.Target) sim.Target { x.LUNs = one(bigger, 64*mib); return x },
			to:    func(x sim.Target) sim.Target { x.LUNs = one(bigger, 128*mib); return x },
			stays: []string{hostA},
		},
		"LUN added":      {from: two, to: func(x sim.Target) sim.Target { return luns(two(x)) }, stays: []string{hostA, hostB}},
		"LUN taken":      {from: luns, to: same, stays: []string{hostA}},
		"portal moved":   {from: same, to: func(x sim.Target) sim.Target { x.Portals = x.Portals[1:]; return x }, stays: []string{hostA}},
		"file exchanged": {from: same, to: func(x sim.Target) sim.Target { x.LUNs = one(other, 64*mib); return x }},
		"serial changed": {from: luns, to: func(x sim.Target) sim.Target { x.LUNs = []sim.LUN{second}; return x }},
		"no LUN left":    {from: same, to: func(x sim.Target) sim.Target { x.LUNs = nil; return x }},
	}
}

// A process that dies between any two changes leaves a tree that the next one
// finishes, or removes, without a trace.
func TestEveryCrashConverges(t *testing.T) {
	for name, c := range changes(t) {
		t.Run(name, func(t *testing.T) {
			base := target(t)
			to := c.to(base)
			start := func() *kernel {
				k := newKernel(t)
				if e := k.restart(t); c.from != nil {
					apply(t, e, c.from(base))
				}
				for _, i := range c.stays {
					logIn(t, k, i)
				}
				return k
			}
			k := start()
			apply(t, k.restart(t), to)
			steps, want := len(k.writes), k.dump()
			if diff := cmp.Diff(c.stays, k.loggedIn(iqn)); diff != "" {
				t.Errorf("sessions: %s", diff)
			}
			for crash := range steps {
				k := start()
				crashAt(t, k, crash, func(e *lio.Exporter) error { return e.Apply(t.Context(), to) })
				removed(t, k, crash)

				k = start()
				crashAt(t, k, crash, func(e *lio.Exporter) error { return e.Apply(t.Context(), to) })
				apply(t, k.restart(t), to)
				if diff := cmp.Diff(want, k.dump()); diff != "" {
					t.Errorf("crash after %d of %d changes: %s", crash, steps, diff)
				}
				if diff := cmp.Diff(c.stays, k.loggedIn(iqn)); diff != "" {
					t.Errorf("crash after %d of %d changes: sessions: %s", crash, steps, diff)
				}
			}
		})
	}
}

// crashAt runs f in a process that may change the tree n times.
func crashAt(t *testing.T, k *kernel, n int, f func(*lio.Exporter) error) {
	t.Helper()
	e := k.restart(t)
	k.budget = n
	if err := f(e); !errors.Is(err, errCrash) {
		t.Fatalf("crash after %d changes: got %v", n, err)
	}
}

// removed checks that whatever is there is found by Targets and goes by Remove.
func removed(t *testing.T, k *kernel, crash int) {
	t.Helper()
	e := k.restart(t)
	iqns, err := e.Targets()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range iqns {
		if err := e.Remove(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"/iscsi"}, k.dump()); diff != "" {
		t.Errorf("crash after %d changes, Targets %q removed: %s", crash, iqns, diff)
	}
}

func TestEveryCrashOfRemoveConverges(t *testing.T) {
	base := changes(t)["LUN added"].to(target(t))
	start := func() *kernel {
		k := newKernel(t)
		apply(t, k.restart(t), base)
		logIn(t, k, hostA)
		return k
	}
	remove := func(e *lio.Exporter) error { return e.Remove(t.Context(), iqn) }
	k := start()
	if err := remove(k.restart(t)); err != nil {
		t.Fatal(err)
	}
	steps := len(k.writes)
	for crash := range steps {
		k := start()
		crashAt(t, k, crash, remove)
		removed(t, k, crash)

		k = start()
		whole := k.dump()
		crashAt(t, k, crash, remove)
		apply(t, k.restart(t), base)
		if diff := cmp.Diff(whole, k.dump()); diff != "" {
			t.Errorf("crash after %d of %d changes, then applied: %s", crash, steps, diff)
		}
	}
}

func TestRemoveOfNothingSucceeds(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	for range 2 {
		if err := e.Remove(t.Context(), iqn); err != nil {
			t.Error(err)
		}
	}
}

func TestRevokedInitiatorHasNoSession(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	want := target(t)
	want.Initiators = []string{hostA, hostB}
	apply(t, e, want)
	logIn(t, k, hostA)
	logIn(t, k, hostB)
	logIn(t, k, hostB) // by the second portal

	want.Initiators = []string{hostA}
	apply(t, e, want)
	got, err := e.Sessions(iqn)
	if diff := cmp.Diff([]string{hostA}, got); diff != "" || err != nil {
		t.Errorf("sessions: %v %s", err, diff)
	}
	if err := k.logIn(t, iqn, hostB, nil); err == nil {
		t.Error("the revoked initiator came back")
	}
}

// Whatever else is wrong with a target, who is revoked is out.
func TestRevocationComesBeforeAnythingThatMayFail(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	want := target(t)
	apply(t, e, want)
	logIn(t, k, hostA)

	want.Initiators = nil
	if err := os.Remove(want.LUNs[0].File); err != nil {
		t.Fatal(err)
	}
	if err := e.Apply(t.Context(), want); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing backing file: got %v", err)
	}
	if got := k.loggedIn(iqn); got != nil {
		t.Errorf("%q is still in", got)
	}
}

func TestOpenTargetIsClosedToThoseWhoCameIn(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	want := target(t)
	want.AllowAll = true
	apply(t, e, want)
	logIn(t, k, hostB)
	got, err := e.Sessions(iqn)
	if diff := cmp.Diff([]string{hostB}, got); diff != "" || err != nil {
		t.Errorf("sessions of an open target: %v %s", err, diff)
	}

	want.AllowAll = false
	apply(t, e, want)
	if got := k.loggedIn(iqn); got != nil {
		t.Errorf("%q is still in", got)
	}
	if err := k.logIn(t, iqn, hostB, nil); err == nil {
		t.Error("a stranger is still admitted")
	}
	logIn(t, k, hostA)
}

// What somebody else made is refused, not listed and not touched.
func TestForeignTargetIsLeftAlone(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	const theirs = "core/fileio_0/scratch"
	for _, dir := range []string{"core/fileio_0", theirs, "iscsi/" + iqn, tpg, tpg + "/lun/lun_0", hba, hba + "/scratch", hba + "/datera-x"} {
		if err := k.Mkdir(under(dir)); err != nil {
			t.Fatal(err)
		}
	}
	must(t, k.Write(under(theirs+"/control"), "fd_dev_name=/x,fd_dev_size=512"))
	must(t, k.Write(under(theirs+"/enable"), "1"))
	must(t, k.Symlink(under(theirs), under(tpg+"/lun/lun_0/x")))
	before := k.dump()

	if err := e.Apply(t.Context(), target(t)); !errors.Is(err, lio.ErrForeign) {
		t.Errorf("Apply: got %v", err)
	}
	if err := e.Remove(t.Context(), iqn); !errors.Is(err, lio.ErrForeign) {
		t.Errorf("Remove: got %v", err)
	}
	other := target(t)
	other.IQN = strings.Replace(iqn, "aa", "bb", 1)
	apply(t, e, other)
	got, err := e.Targets()
	if diff := cmp.Diff([]string{other.IQN}, got); diff != "" || err != nil {
		t.Errorf("Targets: %v %s", err, diff)
	}
	must(t, e.Remove(t.Context(), other.IQN))
	if diff := cmp.Diff(before, k.dump()); diff != "" {
		t.Error(diff)
	}
}

// one is a single LUN.
func one(file string, size int64) []sim.LUN {
	return []sim.LUN{{Serial: uuid, File: file, Bytes: size}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A disk is never exchanged beneath an initiator that is logged in.
func TestDiskInUseIsNotExchanged(t *testing.T) {
	for name, spoil := range map[string]func(*sim.LUN){
		"file":   func(l *sim.LUN) { l.File = file(t, "other", l.Bytes) },
		"serial": func(l *sim.LUN) { l.Serial = "0c0ffee0-0000-4000-8000-000000000002" },
		"size":   func(l *sim.LUN) { l.Bytes /= 2 },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t)
			e := k.restart(t)
			want := target(t)
			apply(t, e, want)
			logIn(t, k, hostA)
			before := k.dump()

			want.LUNs = slices.Clone(want.LUNs)
			spoil(&want.LUNs[0])
			if err := e.Apply(t.Context(), want); !errors.Is(err, lio.ErrInUse) || !strings.Contains(err.Error(), hostA) {
				t.Errorf("in use: got %v", err)
			}
			if diff := cmp.Diff(before, k.dump()); diff != "" {
				t.Error(diff)
			}
			k.end(func(*session) bool { return true })
			apply(t, e, want)
			info, err := k.Read(under(disk + "/info"))
			must(t, err)
			if !strings.Contains(info, fmt.Sprintf("File: %s  Size: %d ", want.LUNs[0].File, want.LUNs[0].Bytes)) {
				t.Errorf("rebuilt as %q", info)
			}
		})
	}
}

func TestGrowthReachesTheLiveDisk(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	want := target(t)
	apply(t, e, want)
	logIn(t, k, hostA)
	k.writes = nil

	want.LUNs[0].Bytes *= 2
	if err := e.Apply(t.Context(), want); !errors.Is(err, lio.ErrInvalid) {
		t.Errorf("a backing file that is too short: got %v", err)
	}
	must(t, os.Truncate(want.LUNs[0].File, want.LUNs[0].Bytes))
	apply(t, e, want)
	if diff := cmp.Diff([]string{"write " + disk + "/control"}, k.writes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{hostA}, k.loggedIn(iqn)); diff != "" {
		t.Errorf("sessions: %s", diff)
	}
}

func TestCHAPIsSetChangedAndCleared(t *testing.T) {
	auth := func(k *kernel, dir string) []string {
		var got []string
		for _, name := range []string{"userid", "password", "userid_mutual", "password_mutual"} {
			v, err := k.Read(under(dir + "/auth/" + name))
			must(t, err)
			got = append(got, strings.TrimSpace(v))
		}
		return got
	}
	k := newKernel(t)
	e := k.restart(t)
	want := target(t)
	acl := tpg + "/acls/" + hostA
	for _, step := range []struct {
		all      bool
		auth     sim.Auth
		acl, tpg []string
	}{
		{auth: sim.Auth{TargetUser: "user", TargetPassword: secret, InitiatorUser: "array", InitiatorPassword: back},
			acl: []string{"user", secret, "array", back}, tpg: []string{"", "", "", ""}},
		{auth: sim.Auth{TargetUser: "user", TargetPassword: "another-secret"},
			acl: []string{"user", "another-secret", "NULL", "NULL"}, tpg: []string{"", "", "", ""}},
		{auth: sim.Auth{}, acl: []string{"NULL", "NULL", "NULL", "NULL"}, tpg: []string{"", "", "", ""}},
		{all: true, auth: sim.Auth{TargetUser: "user", TargetPassword: secret}, tpg: []string{"user", secret, "", ""}},
		{auth: sim.Auth{TargetUser: "user", TargetPassword: secret},
			acl: []string{"user", secret, "", ""}, tpg: []string{"NULL", "NULL", "", ""}},
	} {
		want.AllowAll, want.Auth = step.all, step.auth
		apply(t, e, want)
		if diff := cmp.Diff(step.tpg, auth(k, tpg)); diff != "" {
			t.Errorf("%+v: portal group: %s", step.auth, diff)
		}
		if step.acl == nil {
			continue
		}
		if diff := cmp.Diff(step.acl, auth(k, acl)); diff != "" {
			t.Errorf("%+v: ACL: %s", step.auth, diff)
		}
		err := k.logIn(t, iqn, hostA, map[string]string{"userid": step.auth.TargetUser, "password": step.auth.TargetPassword})
		if err != nil {
			t.Errorf("%+v: %v", step.auth, err)
		}
	}
}

func TestSecretsStayOutOfErrors(t *testing.T) {
	want := target(t)
	want.Auth = sim.Auth{TargetUser: "user", TargetPassword: secret, InitiatorUser: "array", InitiatorPassword: back}
	for _, name := range []string{"userid", "password", "userid_mutual", "password_mutual"} {
		k := newKernel(t)
		e := k.restart(t)
		k.fail[under(tpg+"/acls/"+hostA+"/auth/"+name)] = syscall.EIO
		err := e.Apply(t.Context(), want)
		if !errors.Is(err, syscall.EIO) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	want.Auth.TargetPassword = "NULL" + secret
	k := newKernel(t)
	if err := k.restart(t).Apply(t.Context(), want); !errors.Is(err, lio.ErrInvalid) || strings.Contains(err.Error(), "canary") {
		t.Errorf("bad secret: %v", err)
	}
}

func TestTargetsThatCannotBeShownAreRefused(t *testing.T) {
	long := strings.Repeat("x", 256)
	for name, spoil := range map[string]func(*sim.Target){
		"no IQN":              func(x *sim.Target) { x.IQN = "" },
		"IQN with path":       func(x *sim.Target) { x.IQN = "iqn.2013-05.com.daterainc:../../core" },
		"IQN with space":      func(x *sim.Target) { x.IQN = "iqn.2013-05.com daterainc" },
		"IQN too long":        func(x *sim.Target) { x.IQN = "iqn.2013-05.com.daterainc:" + long },
		"initiator with path": func(x *sim.Target) { x.Initiators = []string{"iqn.x/y"} },
		"initiator not named": func(x *sim.Target) { x.Initiators = []string{"host-a"} },
		"no portal":           func(x *sim.Target) { x.Portals = nil },
		"portal without port": func(x *sim.Target) { x.Portals = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:0")} },
		"portal with zone":    func(x *sim.Target) { x.Portals = []netip.AddrPort{netip.MustParseAddrPort("[fe80::1%eth0]:3260")} },
		"zero portal":         func(x *sim.Target) { x.Portals = []netip.AddrPort{{}} },
		"no serial":           func(x *sim.Target) { x.LUNs[0].Serial = "" },
		"serial of two lines": func(x *sim.Target) { x.LUNs[0].Serial = "a\nb" },
		"serial too long":     func(x *sim.Target) { x.LUNs[0].Serial = long },
		"zero bytes":          func(x *sim.Target) { x.LUNs[0].Bytes = 0 },
		"negative bytes":      func(x *sim.Target) { x.LUNs[0].Bytes = -512 },
		"half a sector":       func(x *sim.Target) { x.LUNs[0].Bytes = 513 },
		"no file":             func(x *sim.Target) { x.LUNs[0].File = "" },
		"file with comma":     func(x *sim.Target) { x.LUNs[0].File = "/a,fd_dev_size=512" },
		"file of two lines":   func(x *sim.Target) { x.LUNs[0].File = "/a\nb" },
		"file name too long":  func(x *sim.Target) { x.LUNs[0].File = "/" + long },
		"file too short":      func(x *sim.Target) { x.LUNs[0].Bytes *= 2 },
		"file is a directory": func(x *sim.Target) { x.LUNs[0].File = t.TempDir() },
		"name without secret": func(x *sim.Target) { x.Auth.TargetUser = "user" },
		"secret without name": func(x *sim.Target) { x.Auth.TargetPassword = secret },
		"mutual only":         func(x *sim.Target) { x.Auth.InitiatorUser, x.Auth.InitiatorPassword = "array", back },
		"secret of two lines": func(x *sim.Target) { x.Auth = sim.Auth{TargetUser: "user", TargetPassword: "a\nb"} },
		"secret too long":     func(x *sim.Target) { x.Auth = sim.Auth{TargetUser: "user", TargetPassword: long} },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t)
			e := k.restart(t)
			x := target(t)
			spoil(&x)
			if err := e.Apply(t.Context(), x); !errors.Is(err, lio.ErrInvalid) {
				t.Errorf("got %v", err)
			}
			if len(k.writes) > 0 {
				t.Errorf("changed %q", k.writes)
			}
		})
	}
}

func TestPortalTakenByAnotherProcessIsNamed(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	k.fail[under(tpg+"/np/172.28.0.9:3260")] = syscall.EADDRINUSE
	want := target(t)
	err := e.Apply(t.Context(), want)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "172.28.0.9:3260") {
		t.Errorf("got %v", err)
	}
	apply(t, e, want)
}

// Attributes that an older kernel does not have cost a feature, not the target.
func TestKernelWithoutUnmapServesAnyway(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	k.fail[under(disk+"/attrib/emulate_tpu")] = syscall.ENOSYS
	apply(t, e, target(t))
	logIn(t, k, hostA)
}

func TestBusyKernelIsWaitedFor(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	want := target(t)
	apply(t, e, want)
	acl := under(tpg + "/acls/" + hostA)

	k.busy[acl] = 3
	want.Initiators = nil
	apply(t, e, want)
	if got := lines(k.dump(), tpg+"/acls/"+hostA); len(got) > 0 {
		t.Errorf("still there: %q", got)
	}

	want.Initiators = []string{hostA}
	apply(t, e, want)
	k.busy[acl] = 1 << 30
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := e.Remove(ctx, iqn)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), hostA) {
		t.Errorf("a kernel that never lets go: got %v", err)
	}
}

func TestChangesOfOneTargetWaitForEachOther(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	apply(t, e, target(t))
	k.busy[under(tpg+"/acls/"+hostA)] = 1 << 30
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- e.Remove(ctx, iqn) }()
	for { // until the first holds the target
		info, err := k.Read(under(tpg + "/enable"))
		must(t, err)
		if info == "0\n" {
			break
		}
		time.Sleep(time.Millisecond)
	}

	short, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	if err := e.Apply(short, target(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second change: got %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("first change: got %v", err)
	}
}

// The HBA comes and goes with the backstores of all targets.
func TestManyTargetsAtOnce(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	base := target(t)
	var wg sync.WaitGroup
	for n := range 16 {
		x := base
		x.IQN = fmt.Sprintf("%s%02d", iqn, n)
		wg.Go(func() {
			for range 5 {
				if err := errors.Join(e.Apply(t.Context(), x), e.Remove(t.Context(), x.IQN)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff([]string{"/iscsi"}, k.dump()); diff != "" {
		t.Error(diff)
	}
}

func TestSessionsAreThoseTheKernelHolds(t *testing.T) {
	for state, want := range map[string][]string{
		"TARG_SESS_STATE_LOGGED_IN":          {hostA},
		"TARG_SESS_STATE_FAILED":             {hostA}, // another portal's session may be alive behind it
		"TARG_SESS_STATE_IN_CONTINUE":        {hostA},
		"TARG_SESS_STATE_ACTIVE":             nil, // login not finished
		"TARG_SESS_FREE":                     nil,
		"ERROR: Unknown Session State!":      nil,
		"none (the initiator is logged out)": nil,
	} {
		k := newKernel(t)
		e := k.restart(t)
		apply(t, e, target(t))
		if !strings.HasPrefix(state, "none") {
			logIn(t, k, hostA)
			k.sessions[0].state = state
		}
		got, err := e.Sessions(iqn)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("%s: %v %s", state, err, diff)
		}
	}
}

func TestSessionsOfAnAbsentTargetAreNone(t *testing.T) {
	k := newKernel(t)
	got, err := k.restart(t).Sessions(iqn)
	if len(got) > 0 || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
