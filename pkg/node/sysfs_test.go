package node

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// sysfsTree is a node with two paths to one LUN and a map over them, another LUN
// on a single path, a local disk, and a map of LVM over that.
func sysfsTree(t *testing.T) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	archive, err := txtar.ParseFile("testdata/sysfs.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range archive.Files {
		put(t, filepath.Join(root, f.Name), f.Data)
	}
	for disk, serial := range map[string]string{"platform/host2/session1/target2:0:0/2:0:0:0": "2b1d3fd6", "platform/host3/session2/target3:0:0/3:0:0:0": "2b1d3fd6", "platform/host4/session3/target4:0:0/4:0:0:7": "77777777"} {
		put(t, filepath.Join(root, "devices", disk, "vpd_pg80"), append([]byte{0, 0x80, 0, byte(len(serial))}, serial...))
	}
	for link, to := range map[string]string{
		"devices/platform/host2/session1/target2:0:0/2:0:0:0/block/sdb/device": "../..",
		"devices/platform/host3/session2/target3:0:0/3:0:0:0/block/sdc/device": "../..",
		"devices/platform/host4/session3/target4:0:0/4:0:0:7/block/sdd/device": "../..",
		"devices/pci0/ata1/host0/target0:0:0/0:0:0:0/block/sda/device":         "../..",
		"dev/block/8:16":  "../../devices/platform/host2/session1/target2:0:0/2:0:0:0/block/sdb",
		"dev/block/8:48":  "../../devices/platform/host4/session3/target4:0:0/4:0:0:7/block/sdd",
		"dev/block/8:0":   "../../devices/pci0/ata1/host0/target0:0:0/0:0:0:0/block/sda",
		"dev/block/253:0": "../../devices/virtual/block/dm-0",
		"dev/block/253:1": "../../devices/virtual/block/dm-1",
		"dev/block/253:2": "../../devices/virtual/block/dm-2",
		"dev/block/7:0":   "../../devices/virtual/block/loop0",
		"class/block/sdb": "../../devices/platform/host2/session1/target2:0:0/2:0:0:0/block/sdb",
		"class/block/sdc": "../../devices/platform/host3/session2/target3:0:0/3:0:0:0/block/sdc",
		"class/block/sdd": "../../devices/platform/host4/session3/target4:0:0/4:0:0:7/block/sdd",
		"class/block/sda": "../../devices/pci0/ata1/host0/target0:0:0/0:0:0:0/block/sda",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(root, link)), 0o750), os.Symlink(to, filepath.Join(root, link))); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, data, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func numbered(major, minor uint32) Number { return Number{Major: major, Minor: minor} }

// FM 5: what a detach needs comes back from the device number alone.
func TestOriginOfAMapAndOfAPath(t *testing.T) {
	d := NewDevices(sysfsTree(t))
	one := iscsi.Target{
		IQN: "iqn.2013-05.com.daterainc:tc:01:sn:aa", LUN: 0, Serial: "2b1d3fd6", Bytes: 1 << 30,
		Portals: []netip.AddrPort{netip.MustParseAddrPort("172.28.0.9:3260"), netip.MustParseAddrPort("[fd00::9]:3260")},
	}
	single := one
	single.Portals = one.Portals[:1]
	other := iscsi.Target{
		IQN: "iqn.2013-05.com.daterainc:tc:01:sn:bb", LUN: 7, Serial: "77777777", Bytes: 2 << 30,
		Portals: []netip.AddrPort{netip.MustParseAddrPort("172.28.0.9:3261")},
	}
	for n, want := range map[Number]iscsi.Target{numbered(253, 0): one, numbered(8, 16): single, numbered(8, 48): other} {
		got, err := d.Origin(n)
		if err != nil {
			t.Errorf("%s: %v", n, err)
		}
		if diff := cmp.Diff(got, want, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("%s differs (-got +want):\n%s", n, diff)
		}
	}
	for n, kind := range map[Number]error{
		numbered(8, 0): iscsi.ErrNotISCSI, numbered(7, 0): iscsi.ErrNotISCSI, numbered(253, 1): iscsi.ErrNotISCSI, numbered(8, 99): fs.ErrNotExist,
		numbered(253, 2): errForeign, // a map over two LUNs
	} {
		if got, err := d.Origin(n); !errors.Is(err, kind) {
			t.Errorf("%s: got %+v, %v, want %v", n, got, err, kind)
		}
	}
}

// FM 7: a disk that is there and does not say what a LUN says is no disk that is gone,
// whose mount may be taken off.
func TestADiskThatDoesNotSayWhoItIsIsNotGone(t *testing.T) {
	root := sysfsTree(t)
	if err := os.Remove(filepath.Join(root, "devices/platform/host2/session1/target2:0:0/2:0:0:0/vpd_pg80")); err != nil {
		t.Fatal(err)
	}
	if got, err := NewDevices(root).Origin(numbered(8, 16)); !errors.Is(err, iscsi.ErrNotISCSI) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %+v, %v, want ErrNotISCSI alone", got, err)
	}
}

// FM 1, 2: what an earlier LUN of the same number left in memory may be zeros. A device
// that is only read through memory is not read.
func TestAClaimReadsPastThePageCache(t *testing.T) {
	d, err := NewDevices("/sys").Claim("/dev/null")
	if !errors.Is(err, unix.EINVAL) || !errors.Is(err, errUnreadable) {
		t.Errorf("got %v, %v, want EINVAL and errUnreadable", d, err)
	}
}

func TestSizeIsSysfsSectors(t *testing.T) {
	d := NewDevices(sysfsTree(t))
	if got, err := d.Size(numbered(253, 0)); got != 1<<30 || err != nil {
		t.Errorf("got %d, %v, want 1 GiB", got, err)
	}
	if _, err := d.Size(numbered(1, 1)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

func TestABadSerialPageIsAnError(t *testing.T) {
	root := sysfsTree(t)
	for _, page := range [][]byte{
		nil, {0, 0x83, 0, 1, 'x'}, {0, 0x80}, {0, 0x80, 0, 2, ' ', 0},
		append([]byte{0, 0x80, 0, 9}, "2b1d3fd6"...), // cut off: it may be another's beginning
	} {
		put(t, filepath.Join(root, "devices/platform/host2/session1/target2:0:0/2:0:0:0/vpd_pg80"), page)
		if got, err := NewDevices(root).Origin(numbered(8, 16)); !errors.Is(err, errUnreadable) {
			t.Errorf("page %v: got %+v, %v, want errUnreadable", page, got, err)
		}
	}
}

// A record that is made from it is compared with the promise and with what Attach finds.
func TestOriginIsReadAsAttachReadsIt(t *testing.T) {
	root := sysfsTree(t)
	put(t, filepath.Join(root, "devices/platform/host2/session1/target2:0:0/2:0:0:0/vpd_pg80"), append([]byte{0, 0x80, 0, 11}, " 2b1d3fd6 \x00"...))
	put(t, filepath.Join(root, "class/iscsi_connection/connection1:0/persistent_address"), []byte("[::ffff:172.28.0.9]\n"))
	got, err := NewDevices(root).Origin(numbered(253, 0))
	if err != nil || got.Serial != "2b1d3fd6" || got.Portals[0] != netip.MustParseAddrPort("172.28.0.9:3260") {
		t.Errorf("got %+v, %v", got, err)
	}
	put(t, filepath.Join(root, "class/iscsi_connection/connection1:0/persistent_address"), []byte("(null)\n"))
	if got, err = NewDevices(root).Origin(numbered(253, 0)); !errors.Is(err, errUnreadable) {
		t.Errorf("without an address: got %+v, %v, want errUnreadable", got, err)
	}
}

func TestNumberWantsABlockDevice(t *testing.T) {
	d := NewDevices("/sys")
	for path, kind := range map[string]error{"/dev/null": ErrNotBlock, t.TempDir(): ErrNotBlock, "/dev/no such device": fs.ErrNotExist} {
		if got, err := d.Number(path); !errors.Is(err, kind) {
			t.Errorf("%s: got %v, %v, want %v", path, got, err, kind)
		}
	}
}
