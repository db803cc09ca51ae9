package node

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/tools/txtar"
)

// What is read back from disk is what was understood, and it never points outside:
// a record that a crash or a hand spoiled is refused, not followed.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"volume":"CSI-a","stagingPath":"/s","target":{"iqn":"iqn.2013-05.com.daterainc:tc:01:sn:a","portals":["172.28.0.9:3260","[fd00::9]:3260"],"lun":0,"serial":"x","bytes":1073741824},"mode":"mount","fsType":"xfs","mountFlags":["noatime"],"readOnly":false,"format":{"state":"finished","fsType":"xfs","serial":"x","time":"2026-01-02T03:04:05Z"},"targets":[{"path":"/t","readOnly":true}]}`))
	f.Add([]byte(`{"version":1,"volume":"../../etc/passwd","stagingPath":"../s","target":{"iqn":"iqn.a","portals":[""]},"mode":"block","targets":[{"path":"t"}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(``))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		spoiled := filepath.Join(dir, "spoiled")
		if err := os.WriteFile(spoiled, data, 0o600); err != nil {
			t.Fatal(err)
		}
		rec, err := read(spoiled)
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Errorf("err = %v, want errRecord", err)
			}
			return
		}
		for _, p := range append([]published{{Path: rec.Staging}}, rec.Targets...) {
			if !filepath.IsAbs(p.Path) || filepath.Clean(p.Path) != p.Path {
				t.Errorf("%q is understood as a path", p.Path)
			}
		}
		store := &records{dir: filepath.Join(dir, "records")}
		if got := filepath.Dir(store.path(rec.Volume)); got != store.dir {
			t.Fatalf("the record of %q lies in %s", rec.Volume, got)
		}
		if err = store.save(rec); err != nil {
			t.Fatal(err)
		}
		again, err := store.load(rec.Volume)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(rec, again, cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("saved and loaded differ (-saved +loaded):\n%s", diff)
		}
		if err := store.remove(rec.Volume); err != nil {
			t.Fatal(err)
		}
	})
}

// Whatever blkid says, it is never taken for "nothing": only its exit status says
// that.
func FuzzBlkid(f *testing.F) {
	f.Add("DEVNAME=/dev/sdb\nTYPE=xfs\nUSAGE=filesystem\n")
	f.Add("PTTYPE=gpt\n")
	f.Add("TYPE\n=\nTYPE=\n")
	f.Fuzz(func(t *testing.T, out string) {
		b := parseBlkid(out)
		if b.Nothing || b.Ambiguous || b.String() == "" || b.String() == (blkid{Nothing: true}).String() && b.Type != "nothing" {
			t.Errorf("%q is understood as %v", out, b)
		}
		if !strings.Contains(out, b.Type) || !strings.Contains(out, b.Table) {
			t.Errorf("%q is understood as %+v", out, b)
		}
	})
}

// tree unpacks a tree of sysfs: a file whose content begins with "-> " is a link
// to another place in it.
func tree(t testing.TB, root string, data []byte) {
	t.Helper()
	for _, file := range txtar.Parse(data).Files {
		name := filepath.Join(root, filepath.Clean("/"+file.Name))
		if name == root || len(file.Name) > 200 || strings.ContainsRune(file.Name, 0) {
			continue
		}
		if os.MkdirAll(filepath.Dir(name), 0o750) != nil {
			continue // there is a file in the way
		}
		to, isLink := strings.CutPrefix(string(file.Data), "-> ")
		if isLink {
			_ = os.Symlink(filepath.Join(root, filepath.Clean("/"+strings.TrimSpace(to))), name)
			continue
		}
		_ = os.WriteFile(name, file.Data, 0o600)
	}
}

// Whatever sysfs shows, a device is either traced back to a whole LUN or refused.
func FuzzOrigin(f *testing.F) {
	const disk = "devices/platform/host2/session1/target2:0:0/2:0:0:0"
	f.Add([]byte("-- dev/block/8:16 --\n-> " + disk + "/block/sdb\n-- " + disk + "/block/sdb/size --\n2097152\n-- " + disk + "/block/sdb/device --\n-> " + disk + "\n-- " + disk + "/vpd_pg80 --\n\x00\x80\x00\x042b1d\n" +
		"-- class/iscsi_session/session1/targetname --\niqn.a\n-- class/iscsi_connection/connection1:0/persistent_address --\n10.0.0.1\n-- class/iscsi_connection/connection1:0/persistent_port --\n3260\n"))
	f.Add([]byte("-- dev/block/8:16 --\n-> devices/dm-0\n-- devices/dm-0/size --\n1\n-- devices/dm-0/slaves/sdb --\n-- class/block/sdb --\n-> devices/dm-0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		root, err := os.MkdirTemp("", "sysfs")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(root)
		tree(t, root, data)
		got, err := NewDevices(root).Origin(numbered(8, 16))
		if err != nil {
			return
		}
		if got.IQN == "" || got.LUN < 0 || got.Serial == "" || got.Bytes < 0 || len(got.Portals) == 0 {
			t.Errorf("traced back to %+v", got)
		}
		for _, p := range got.Portals {
			ports, _ := filepath.Glob(root + "/class/iscsi_connection/*/persistent_port")
			if !p.IsValid() || !slices.ContainsFunc(ports, func(file string) bool {
				port, err := readLine(file)
				return err == nil && strings.TrimLeft(port, "+0") == strings.TrimLeft(fmt.Sprint(p.Port()), "0")
			}) {
				t.Errorf("portal %s is nowhere in the tree", p)
			}
		}
	})
}
