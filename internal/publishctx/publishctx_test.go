package publishctx

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/datera-csi/datera-csi/internal/filesystem"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

func sample() Context {
	return Context{
		Target: iscsi.Target{
			IQN:     "iqn.2013-05.com.daterainc:tc:01:sn:00112233445566aa",
			Portals: []netip.AddrPort{netip.MustParseAddrPort("172.28.0.9:3260"), netip.MustParseAddrPort("[fd00::9]:3260")},
			LUN:     0,
			Serial:  "2b1d3fd6-2f0d-4b7c-a5a9-5d04a5e7b1aa",
			Bytes:   16 << 30,
		},
		FromSource: true,
		Admission:  "K3Y",
		UsedBytes:  4096,
		ReadOnly:   true,
		Filesystem: filesystem.Class{Options: "-m reflink=0", Oldest: filesystem.Kernel{Major: 4, Minor: 18}, Fsck: filesystem.FsckPreen},
	}
}

func TestContextSurvivesTheRoundTrip(t *testing.T) {
	for _, want := range []Context{sample(), {Target: sample().Target}} {
		got, err := Decode(Encode(want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, want, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("decoded context differs (-got +want):\n%s", diff)
		}
	}
}

func TestDecodeNamesTheBadField(t *testing.T) {
	for _, bad := range [][2]string{
		{keyIQN, ""}, {keyPortals, "172.28.0.9"}, {keyLUN, "-1"}, {keySerial, ""},
		{filesystem.KeyOldest, "new"}, {filesystem.KeyFsck, "-y"},
		{keyBytes, "0"}, {keySource, "maybe"}, {keyUsed, "x"}, {keyUsed, "-1"}, {keyReadOnly, ""},
	} {
		key, value := bad[0], bad[1]
		m := Encode(sample())
		m[key] = value
		if _, err := Decode(m); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s=%q: got error %v, want one that names the field", key, value, err)
		}
	}
	for _, key := range keys() {
		m := Encode(sample())
		delete(m, key)
		if _, err := Decode(m); err == nil {
			t.Errorf("without %s: got no error", key)
		}
	}
	m := Encode(sample())
	m["surprise"] = "1"
	if _, err := Decode(m); err == nil || !strings.Contains(err.Error(), "surprise") {
		t.Errorf("unknown key: got %v, want an error that names it", err)
	}
}

func TestDecodeRefusesAnotherVersion(t *testing.T) {
	m := Encode(sample())
	m[keyVersion] = "2"
	if _, err := Decode(m); !errors.Is(err, errVersion) {
		t.Errorf("got %v, want errVersion", err)
	}
}

// What a node understands is what a controller could have said: it comes back the
// same, and nothing in it is less than the zero that would permit a mkfs.
func FuzzDecode(f *testing.F) {
	m := Encode(sample())
	f.Add(m[keyIQN], m[keyPortals], m[keyLUN], m[keySerial], m[keyBytes], m[keySource], m[keyUsed], m[keyReadOnly], "")
	f.Add("a", "[fe80::1%eth0]:1,1.2.3.4:5", "+1", " ", "01", "T", "-1", "0", "surprise")
	f.Fuzz(func(t *testing.T, iqn, portals, lun, serial, bytes, source, used, readOnly, extra string) {
		m := map[string]string{
			keyVersion: Version, keyIQN: iqn, keyPortals: portals, keyLUN: lun, keySerial: serial,
			keyBytes: bytes, keySource: source, keyUsed: used, keyReadOnly: readOnly,
		}
		if extra != "" {
			m[extra] = iqn
		}
		c, err := Decode(m)
		if err != nil {
			return
		}
		if c.UsedBytes < 0 || c.Target.Bytes <= 0 || c.Target.LUN < 0 || c.Target.Serial == "" || c.Target.IQN == "" || len(c.Target.Portals) == 0 {
			t.Errorf("%q is understood as %+v", m, c)
		}
		again, err := Decode(Encode(c))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, again, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("comes back differently (-said +understood):\n%s", diff)
		}
	})
}
