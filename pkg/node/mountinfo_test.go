package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMountinfoIsReadAsTheKernelWritesIt(t *testing.T) {
	const table = `27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
36 27 8:16 / /var/lib/kubelet/plugins/a\040b\134c\011d rw,noatime master:1 propagate_from:2 - xfs /dev/sdb rw,attr2,nouuid,inode64
37 27 0:6 /sdc /var/lib/kubelet/block ro,nosuid - devtmpfs udev rw,size=4k
38 27 0:6 /sdd//deleted /gone rw - devtmpfs udev rw
39 27 253:4294967295 /sub /x rw - ext4 /dev/mapper/a rw,context="system_u:object_r:c_t:s0:c1,c2"
`
	want := []Mount{
		{Device: Number{254, 0}, Root: "/", Path: "/", Type: "ext4", Source: "/dev/vda", Options: []string{"rw", "relatime"}, Super: []string{"rw", "discard"}},
		{Device: Number{8, 16}, Root: "/", Path: "/var/lib/kubelet/plugins/a b\\c\td", Type: "xfs", Source: "/dev/sdb", Options: []string{"rw", "noatime"}, Super: []string{"rw", "attr2", "nouuid", "inode64"}},
		{Device: Number{0, 6}, Root: "/sdc", Path: "/var/lib/kubelet/block", Type: "devtmpfs", Source: "udev", Options: []string{"ro", "nosuid"}, Super: []string{"rw", "size=4k"}},
		{Device: Number{0, 6}, Root: "/sdd//deleted", Path: "/gone", Type: "devtmpfs", Source: "udev", Options: []string{"rw"}, Super: []string{"rw"}},
		{Device: Number{253, 4294967295}, Root: "/sub", Path: "/x", Type: "ext4", Source: "/dev/mapper/a", Options: []string{"rw"}, Super: []string{"rw", `context="system_u:object_r:c_t:s0:c1,c2"`}},
	}
	got, err := parseMountinfo([]byte(table))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("mounts differ (-got +want):\n%s", diff)
	}
	for _, m := range got {
		if ro := m.Path == "/var/lib/kubelet/block"; m.readOnly() != ro {
			t.Errorf("%s: read-only %v", m.Path, m.readOnly())
		}
	}
}

func TestABadMountTableIsAnError(t *testing.T) {
	for _, line := range []string{"x", "1 2 3:4 / /a rw", "1 2 3:4 / /a rw - ext4 /dev/sda", "1 2 3 / /a rw - ext4 /dev/sda rw", "1 2 a:b / /a rw - ext4 /dev/sda rw"} {
		if got, err := parseMountinfo([]byte(line + "\n")); err == nil {
			t.Errorf("%q: got %+v and no error", line, got)
		}
	}
}

func TestMountinfoOfThisProcessParses(t *testing.T) {
	table, err := Mountinfo("/proc/self/mountinfo")()
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := parseMountinfo(table)
	if err != nil || len(mounts) == 0 {
		t.Errorf("got %d mounts, %v", len(mounts), err)
	}
	if _, err := Mountinfo(filepath.Join(t.TempDir(), "none"))(); err == nil {
		t.Error("a missing table: got no error")
	}
}

func TestResolveFollowsDirectoriesOnly(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "real/sub"), 0o750), os.Symlink("real", filepath.Join(dir, "link")),
		os.Symlink("nowhere", filepath.Join(dir, "real/dangling")), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"link/sub": "real/sub", "link/new": "real/new", "real/sub/": "real/sub", "file": "file",
		"link": "", "real/dangling": "", "none/x": "", "file/x": "", "real/dangling/x": "",
	} {
		got, err := resolve(dir + "/" + path)
		if want == "" {
			if err == nil {
				t.Errorf("%s: got %s, want an error", path, got)
			}
			continue
		}
		if got != filepath.Join(dir, want) || err != nil {
			t.Errorf("%s: got %s, %v, want %s", path, got, err, want)
		}
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n")
	f.Add(`1 2 0:0 / \04 rw - a b c,"d,e`)
	f.Fuzz(func(t *testing.T, table string) {
		mounts, err := parseMountinfo([]byte(table))
		if err != nil && mounts != nil {
			t.Error("an error and mounts")
		}
		if lines := strings.Count(table, "\n") + 1; len(mounts) > lines {
			t.Errorf("%d mounts of %d lines", len(mounts), lines)
		}
	})
}

func TestUnescapeIsTheInverseOfTheKernel(t *testing.T) {
	for _, s := range []string{"", "plain", "a b", `\`, `\040`, "tab\tnewline\n#", `ends in \`} {
		if got := unescape(escape(s)); got != s {
			t.Errorf("got %q, want %q", got, s)
		}
	}
}

func TestEveryErrorKindHasACode(t *testing.T) {
	seen := map[error]bool{}
	for _, line := range codeOf {
		if seen[line.kind] {
			t.Errorf("%v is listed twice", line.kind)
		}
		seen[line.kind] = true
	}
	for _, kind := range []error{errPending, errNotFound, errNotStaged, errIncompatible, errForeign, errPath, errInUse, errUnhealthy, errRefused, errOtherFS, errUnreadable, errNotGrown, errRecord, errNoAnswer} {
		if !seen[kind] {
			t.Errorf("%v is not in the table", kind)
		}
		if wrapped := statusOf(fmt.Errorf("x: %w", kind)); !strings.Contains(wrapped.Error(), "x: "+kind.Error()) {
			t.Errorf("got %v, want the words of %v", wrapped, kind)
		}
	}
	if got := statusOf(errors.New("boom")).Error(); !strings.Contains(got, "Internal") || !strings.Contains(got, "boom") {
		t.Errorf("a surprise: got %s", got)
	}
}
