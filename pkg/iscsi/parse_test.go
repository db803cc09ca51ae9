package iscsi_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// A record as iscsiadm 2.1.8 writes it, shortened.
const realRecord = `# BEGIN RECORD 2.1.8
node.name = iqn.2013-05.com.daterainc:tc:01:sn:aaaa1111
node.tpgt = -1
node.startup = automatic
node.session.auth.authmethod = None
node.session.auth.chap_algs = MD5
node.conn[0].address = 10.77.0.1
node.conn[0].port = 3260
# END RECORD
`

func TestRecordKeepsWhatWeDoNotSet(t *testing.T) {
	t.Parallel()
	got := string(iscsi.EditRecord([]byte(realRecord), "node.startup", "manual"))
	want := strings.Replace(realRecord, "node.startup = automatic\n", "", 1)
	want = strings.Replace(want, "# END", "node.startup = manual\n# END", 1)
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if again := string(iscsi.EditRecord([]byte(got), "node.startup", "manual")); again != got {
		t.Errorf("a second edit changed\n%s\nto\n%s", got, again)
	}
	if removed := string(iscsi.EditRecord([]byte(got), "node.startup", "")); strings.Contains(removed, "startup") {
		t.Errorf("an empty value stayed: %s", removed)
	}
}

func TestRecordThatIsNotWhole(t *testing.T) {
	t.Parallel()
	if !iscsi.IntactNodeRecord([]byte(realRecord), iqnA) {
		t.Error("a real record is not intact")
	}
	for n := range len(realRecord) - 1 {
		cut := realRecord[:n]
		if iscsi.IntactNodeRecord([]byte(cut), iqnA) && !strings.Contains(cut, "# END RECORD") {
			t.Errorf("cut after %d bytes is intact", n)
		}
	}
	if iscsi.IntactNodeRecord([]byte(realRecord), iqnB) {
		t.Error("the record of another target is intact")
	}
}

func TestParsePortal(t *testing.T) {
	t.Parallel()
	for in, want := range map[[2]string]string{
		{"10.0.0.1", "3260"}:          "10.0.0.1:3260",
		{"fd00::1", "3261"}:           "[fd00::1]:3261",
		{"[fd00::1]", "3261"}:         "[fd00::1]:3261",
		{"::ffff:10.0.0.1", "3260"}:   "10.0.0.1:3260",
		{"array.example.com", "3260"}: "",
		{"10.0.0.1", "65536"}:         "",
		{"10.0.0.1", "-1"}:            "",
		{"", ""}:                      "",
	} {
		got := iscsi.ParsePortal(in[0], in[1])
		if got.IsValid() != (want != "") || want != "" && got != netip.MustParseAddrPort(want) {
			t.Errorf("%v: %v, want %q", in, got, want)
		}
	}
}

func TestParseHCTL(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int{"3:0:0:0": 0, "12:0:1:255": 255, "3:0:0": -1, "target3:0:0": -1, "a:b:c:d": -1, "1:2:3:4:5": -1, "1:2:3:-4": -1, "": -1} {
		lun, ok := iscsi.ParseHCTL(in)
		if ok != (want >= 0) || ok && lun != want {
			t.Errorf("%q: %d, %v, want %d", in, lun, ok, want)
		}
	}
}

func TestMountOfADevice(t *testing.T) {
	t.Parallel()
	const mountinfo = `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:5 / /dev rw - devtmpfs devtmpfs rw
31 22 8:16 / /var/lib/my\040pod rw,relatime shared:7 master:2 - xfs /dev/sdb rw
32 22 0:5 /sdc /pods/raw rw - devtmpfs udev rw
33 22 0:55 /sub /btrfs rw - btrfs /dev/sdd rw
`
	for dev, want := range map[[2]string]string{
		{"sdb", "8:16"}: "/var/lib/my pod",
		{"sdc", "8:32"}: "/pods/raw",
		{"sdd", "8:48"}: "/btrfs",
		{"sde", "8:64"}: "",
		{"sd", "8:160"}: "", // no part of a name
	} {
		if got, uses := iscsi.MountUses(mountinfo, dev[0], dev[1]); got != want || uses != (want != "") {
			t.Errorf("%v: %q, %v, want %q", dev, got, uses, want)
		}
	}
}

func TestMountsOfThisMachineParse(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if _, uses := iscsi.MountUses(string(b), "no-such-device", fields[2]); !uses && !strings.Contains(line, "- devtmpfs ") {
			t.Errorf("not seen: %s", line)
		}
	}
}

func FuzzEditRecord(f *testing.F) {
	f.Add([]byte(realRecord), "node.startup", "manual")
	f.Add([]byte(""), "a", "b")
	f.Add([]byte("# END RECORD"), "a", "=")
	f.Fuzz(func(t *testing.T, text []byte, key, v string) {
		if key == "" || strings.ContainsAny(key, "=\n\r#") || strings.TrimSpace(key) != key || strings.TrimSpace(v) != v || v == "" || strings.ContainsAny(v, "\n\r") {
			t.Skip()
		}
		once := iscsi.EditRecord(text, key, v)
		if got := iscsi.RecordValue(once, key); got != v {
			t.Errorf("read back %q, want %q from %q", got, v, once)
		}
		if again := iscsi.EditRecord(once, key, v); string(again) != string(once) {
			t.Errorf("not idempotent: %q then %q", once, again)
		}
	})
}

// What sysfs and proc say is parsed without a panic, whatever it is.
func FuzzParseSysfs(f *testing.F) {
	f.Add("3:0:0:0", "10.0.0.1", "3260", "31 22 8:16 / /x rw - xfs /dev/sdb rw\n")
	f.Fuzz(func(t *testing.T, hctl, addr, port, mountinfo string) {
		if lun, ok := iscsi.ParseHCTL(hctl); ok && (lun < 0 || strings.Count(hctl, ":") != 3) {
			t.Errorf("%q is LUN %d", hctl, lun)
		}
		if p := iscsi.ParsePortal(addr, port); p.IsValid() && p.Addr().Is4In6() {
			t.Errorf("%q:%q is %v: one portal under two names", addr, port, p)
		}
		if _, uses := iscsi.MountUses(mountinfo, "sdb", "8:16"); uses && !strings.Contains(mountinfo, "8:16") && !strings.Contains(mountinfo, "sdb") {
			t.Errorf("%q uses sdb", mountinfo)
		}
	})
}
