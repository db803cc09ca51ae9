package node

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

func sampleRecord(volume string) *record {
	return &record{
		Version: recordVersion, Volume: volume, Staging: "/staging/" + volume, Mode: modeMount, FSType: fsXFS, Flags: []string{"noatime"},
		Target:  recordTarget{IQN: "iqn.x:" + volume, Portals: []netip.AddrPort{netip.MustParseAddrPort("[fd00::9]:3260")}, LUN: 3, Serial: "s", Bytes: 7},
		Targets: []published{{Path: "/t", ReadOnly: true}},
	}
}

func TestARecordSurvives(t *testing.T) {
	r := &records{dir: filepath.Join(t.TempDir(), "made/on/demand")}
	want := sampleRecord("backend/CSI-pvc-1")
	if _, err := r.load(want.Volume); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("before it is saved: got %v", err)
	}
	for range 2 {
		if err := r.save(want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := r.load(want.Volume)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("record differs (-got +want):\n%s", diff)
	}
	for range 2 {
		if err := r.remove(want.Volume); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(r.dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// The content is an interface: a plugin of today reads the records of yesterday.
func TestTheRecordsFormIsFixed(t *testing.T) {
	got, err := json.Marshal(sampleRecord("CSI-a"))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"version":1,"volume":"CSI-a","stagingPath":"/staging/CSI-a",` +
		`"target":{"iqn":"iqn.x:CSI-a","portals":["[fd00::9]:3260"],"lun":3,"serial":"s","bytes":7},` +
		`"mode":"mount","fsType":"xfs","mountFlags":["noatime"],"readOnly":false,` +
		`"targets":[{"path":"/t","readOnly":true}]}`
	if diff := cmp.Diff(string(got), want); diff != "" {
		t.Errorf("form differs (-got +want):\n%s", diff)
	}
}

func TestNoTwoVolumesShareARecord(t *testing.T) {
	r := &records{dir: "/records"}
	seen := map[string]string{}
	for _, id := range []string{"a/b", "a_b", "a.b", "a b", "A_b", "..", "../../etc/passwd", strings.Repeat("x", 128), strings.Repeat("x", 127) + "y", "é"} {
		path := r.path(id)
		if other, taken := seen[path]; taken {
			t.Errorf("%q and %q share %s", id, other, path)
		}
		seen[path] = id
		if filepath.Dir(path) != r.dir || len(filepath.Base(path)) > 200 {
			t.Errorf("%q: bad path %s", id, path)
		}
	}
}

func TestACutSaveLeavesTheOldRecord(t *testing.T) {
	r := &records{dir: t.TempDir()}
	rec := sampleRecord("CSI-a")
	if err := r.save(rec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.path(rec.Volume)+".new", []byte(`{"ver`), 0o600); err != nil { // killed while writing
		t.Fatal(err)
	}
	if _, err := r.load(rec.Volume); err != nil {
		t.Error(err)
	}
	if err := os.Rename(r.path(rec.Volume), r.path("CSI-b")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.load("CSI-b"); !errors.Is(err, errRecord) { // an administrator's copy
		t.Errorf("another volume's record: got %v, want errRecord", err)
	}
	if err := os.Rename(r.path("CSI-b"), r.path(rec.Volume)); err != nil {
		t.Fatal(err)
	}
	if holder, err := r.holderOf(rec.target(), ""); holder != rec.Volume || err != nil {
		t.Errorf("got %q, %v, want %s", holder, err, rec.Volume)
	}
	if err := r.save(rec); err != nil {
		t.Error(err)
	}
}

func TestARecordThatCannotBeWrittenIsAnError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &records{dir: dir}
	if err := r.save(sampleRecord("CSI-a")); err == nil {
		t.Error("a directory that is a file: got no error")
	}
	if _, err := r.holderOf(iscsi.Target{}, ""); err == nil {
		t.Error("holderOf: got no error")
	}
}

func TestHolderOfMindsRecordsItCannotRead(t *testing.T) {
	r := &records{dir: t.TempDir()}
	a := sampleRecord("CSI-a")
	if err := r.save(a); err != nil {
		t.Fatal(err)
	}
	if holder, err := r.holderOf(a.target(), a.Volume); holder != "" || err != nil {
		t.Errorf("but itself: got %q, %v", holder, err)
	}
	if holder, err := r.holderOf(iscsi.Target{IQN: a.Target.IQN, LUN: 4}, ""); holder != "" || err != nil {
		t.Errorf("another LUN: got %q, %v", holder, err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "bad.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.holderOf(iscsi.Target{IQN: "iqn.other"}, ""); !errors.Is(err, errRecord) {
		t.Errorf("a bad record: got %v, want errRecord", err)
	}
}

func TestChangesOfARecordAreCopies(t *testing.T) {
	rec := sampleRecord("CSI-a")
	more := rec.with(published{Path: "/t2"}).with(published{Path: "/t"})
	less := more.without("/t2")
	for _, c := range []struct {
		rec  *record
		want []published
	}{{rec, []published{{"/t", true}}}, {more, []published{{"/t2", false}, {"/t", false}}}, {less, []published{{"/t", false}}}} {
		if diff := cmp.Diff(c.rec.Targets, c.want); diff != "" {
			t.Errorf("targets differ (-got +want):\n%s", diff)
		}
	}
}
