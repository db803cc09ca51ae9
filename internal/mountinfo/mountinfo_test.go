package mountinfo

import (
	"fmt"
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
	got, err := Parse([]byte(table))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("mounts differ (-got +want):\n%s", diff)
	}
	for _, m := range got {
		if ro := m.Path == "/var/lib/kubelet/block"; m.ReadOnly() != ro {
			t.Errorf("%s: read-only %v", m.Path, m.ReadOnly())
		}
	}
}

func TestABadMountTableIsAnError(t *testing.T) {
	for _, line := range []string{"x", "1 2 3:4 / /a rw", "1 2 3:4 / /a rw - ext4 /dev/sda", "1 2 3 / /a rw - ext4 /dev/sda rw", "1 2 a:b / /a rw - ext4 /dev/sda rw"} {
		if got, err := Parse([]byte(line + "\n")); err == nil {
			t.Errorf("%q: got %+v and no error", line, got)
		}
	}
}

func TestMountinfoOfThisProcessParses(t *testing.T) {
	table, err := Read("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := Parse(table)
	if err != nil || len(mounts) == 0 {
		t.Errorf("got %d mounts, %v", len(mounts), err)
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing table: got no error")
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n")
	f.Add(`1 2 0:0 / \04 rw - a b c,"d,e`)
	f.Fuzz(func(t *testing.T, table string) {
		mounts, err := Parse([]byte(table))
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

// Whatever a directory is called, its mount is read back as it is.
func FuzzMountLine(f *testing.F) {
	f.Add("/", "/var/lib/my pod\t#1\\040", "xfs", "/dev/sdb", "rw,context=\"a,b\"", uint32(8), uint32(16))
	f.Add("/sdb", "/\n", "devtmpfs", "", "ro", uint32(0), uint32(1<<20-1))
	f.Fuzz(func(t *testing.T, root, path, kind, source, options string, major, minor uint32) {
		if strings.ContainsRune(root+path+kind+source+options, 0) || kind == "" || options == "" || strings.ContainsAny(options, " \n\\") {
			t.Skip("the kernel has no such name")
		}
		line := fmt.Sprintf("36 35 %d:%d %s %s %s shared:1 - %s %s %s\n", major, minor, escape(root), escape(path), options, escape(kind), escape(source), options)
		got, err := Parse([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		want := []Mount{{Device: Number{major, minor}, Root: root, Path: path, Type: kind, Source: source, Options: SplitOptions(options), Super: SplitOptions(options)}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q is read differently (-want +got):\n%s", line, diff)
		}
	})
}

// escape writes a word as the kernel does in its tables.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(" \t\n\\#", s[i]) >= 0 {
			fmt.Fprintf(&b, `\%03o`, s[i])
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
