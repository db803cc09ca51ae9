package lio_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

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

func TestRemoveOfNothingSucceeds(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	for range 2 {
		if err := e.Remove(t.Context(), iqn); err != nil {
			t.Error(err)
		}
	}
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

func TestPortalsAreThoseDescribed(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	want := target(t)
	for _, portals := range [][]string{
		{"172.28.0.9:3260"}, {"172.29.0.9:3260", "172.28.0.9:3260"}, {"172.29.0.9:3260", "172.29.0.9:3260", "[::ffff:172.29.0.9]:3260"}, {"[fd00::a]:860"},
	} {
		var plain []string
		want.Portals = nil
		for _, p := range portals {
			want.Portals = append(want.Portals, netip.MustParseAddrPort(p))
			plain = append(plain, strings.NewReplacer("[::ffff:", "", "9]:", "9:").Replace(p))
		}
		apply(t, e, want)
		got, _, err := k.List(under(tpg + "/np"))
		slices.Sort(plain)
		if diff := cmp.Diff(slices.Compact(plain), got); diff != "" || err != nil {
			t.Errorf("%q: %v %s", portals, err, diff)
		}
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
