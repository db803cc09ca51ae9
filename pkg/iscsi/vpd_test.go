package iscsi_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// Pages as a Linux target sends them, taken from a guest.
const (
	realPage80 = "0080002530633066666565302d313131312d323232322d333333332d34343434353535353636363600"
	realPage83 = "008300d0" +
		"010300106001405" + "0c0ffee011112222333344445" +
		"0201003444415445524120204942 4c4f434b3a30633066666565302d313131312d323232322d333333332d34343434353535353636363600" +
		"5194000400000001" + "5195000400000000" + "0106000400000000" +
		"5398003869716e2e323031332d30352e636f6d2e646174657261696e633a74633a30313a736e3a61616161313131312c742c30783030303100000000" +
		"53a8002c69716e2e323031332d30352e636f6d2e646174657261696e633a74633a30313a736e3a6161616131313131 00"
)

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestIdentityFromRealPages(t *testing.T) {
	if got, err := iscsi.ParseSerial(unhex(t, realPage80)); got != serialA || err != nil {
		t.Errorf("serial %q, %v, want %q", got, err, serialA)
	}
	if got, err := iscsi.ParseWWID(unhex(t, realPage83)); got != wwidA || err != nil {
		t.Errorf("WWID %q, %v, want %q", got, err, wwidA)
	}
	if got := iscsi.LIOWWID(serialA); got != wwidA {
		t.Errorf("predicted WWID %q, want %q", got, wwidA)
	}
}

func TestWWIDPrefersWhatUdevPrefers(t *testing.T) {
	const (
		naa6  = "01030010 60014050c0ffee011112222333344445"
		naa5  = "01030008 5000c50012345678"
		naa3  = "01030008 3000c50012345678"
		eui   = "01020008 0011223344556677"
		port  = "01130008 5000c50099999999"
		ascii = "02030008 3530303030303030"
	)
	for name, tt := range map[string]struct{ designators, want string }{
		"extended NAA first":     {eui + naa5 + naa6, "360014050c0ffee011112222333344445"},
		"registered NAA":         {eui + naa5, "35000c50012345678"},
		"local NAA before EUI":   {eui + naa3, "33000c50012345678"},
		"EUI-64":                 {eui, "20011223344556677"},
		"the port's is not ours": {port + eui, "20011223344556677"},
		"only the port's":        {port, ""},
		"NAA as text is no NAA":  {ascii, ""},
		"nothing":                {"", ""},
		"designator beyond page": {"01030020 60014050", ""},
		"empty designator":       {"01030000", ""},
	} {
		t.Run(name, func(t *testing.T) {
			body := unhex(t, tt.designators)
			page := append([]byte{0, 0x83, 0, byte(len(body))}, body...)
			got, err := iscsi.ParseWWID(page)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("%q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestBadPagesAreErrors(t *testing.T) {
	for name, page := range map[string]string{
		"empty": "", "header only": "0080", "another page": "00830000", "cut": "008000ff30", "no serial": "00800000", "blank serial": "0080000220 00",
	} {
		if got, err := iscsi.ParseSerial(unhex(t, page)); err == nil {
			t.Errorf("%s: %q, want an error", name, got)
		}
	}
}

func TestCapacity(t *testing.T) {
	for name, tt := range map[string]struct {
		answer string
		want   int64
	}{
		"1 GiB of 512":  {"00000000001fffff00000200" + strings.Repeat("00", 20), 1 << 30},
		"1 GiB of 4096": {"000000000003ffff00001000", 1 << 30},
		"no block size": {"00000000001fffff00000000", 0},
		"all ones":      {"ffffffffffffffff00000200", 0},
		"absurd":        {"00ffffffffffffff00000200", 0},
		"cut":           {"00000000001fffff0000", 0},
	} {
		got, err := iscsi.ParseCapacity(unhex(t, tt.answer))
		if got != tt.want || (err == nil) != (tt.want != 0) {
			t.Errorf("%s: %d, %v, want %d", name, got, err, tt.want)
		}
	}
}

func TestSenseKey(t *testing.T) {
	for sense, want := range map[string]byte{
		"700006000000000a": 6, "f00002": 2, "720b": 0xb, "7206": 6, "": 0, "70": 0, "0000": 0,
	} {
		if got := iscsi.SenseKey(unhex(t, sense)); got != want {
			t.Errorf("sense %s: key %#x, want %#x", sense, got, want)
		}
	}
}

func TestDeviceNumber(t *testing.T) {
	for rdev, want := range map[uint64]string{0x810: "8:16", 0xfd00: "253:0", 0x10fd01: "253:257", 0x41ff: "65:255"} {
		if got := iscsi.DeviceNumber(rdev); got != want {
			t.Errorf("%#x is %s, want %s", rdev, got, want)
		}
	}
}

func FuzzParseWWID(f *testing.F) {
	f.Add(unhex(f, realPage83))
	f.Add([]byte{0, 0x83, 0, 4, 1, 3, 0, 0})
	f.Fuzz(func(t *testing.T, page []byte) {
		wwid, err := iscsi.ParseWWID(page)
		if (err == nil) != (len(wwid) > 16) {
			t.Errorf("%q, %v", wwid, err)
		}
		if strings.Trim(wwid, "0123456789abcdef") != "" {
			t.Errorf("%q is not hex", wwid)
		}
	})
}
