package filesystem

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestClassSurvivesTheRoundTrip(t *testing.T) {
	for _, want := range []Class{
		{},
		{Options: "-m reflink=0", Oldest: Kernel{4, 18}, Fsck: FsckPreen},
		{Oldest: Kernel{6, 12}},
		{Fsck: FsckCheck},
	} {
		m := map[string]string{"of": "somebody else"}
		want.Write(m)
		got, err := Parse(m)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("class differs (-got +want):\n%s", diff)
		}
	}
	m := map[string]string{}
	if c, err := Parse(map[string]string{KeyOldest: "5.10", KeyFsck: "never"}); err != nil || c != (Class{}) {
		t.Errorf("the defaults: got %+v, %v, want nothing said", c, err)
	}
	Class{}.Write(m)
	if len(m) > 0 {
		t.Errorf("a class that says nothing writes %v", m)
	}
}

// FM 1, 24: no option forces mkfs, points it elsewhere or runs anything else.
func TestOptionsThatAreRefusedSayWhy(t *testing.T) {
	for _, c := range []struct{ fs, options, words string }{
		{XFS, "-f", "overwrite"},
		{Ext4, "-F", "overwrite"},
		{Ext4, "-m 1 -F", "overwrite"},
		{XFS, "-d agcount=4 -f", "overwrite"},
		{XFS, "-d name=/dev/sda", "the driver decides where"},
		{XFS, "-d file=1", "the driver decides where"},
		{XFS, "-d file,agcount=1", "the driver decides where"},
		{XFS, "-l logdev=/dev/sda,size=1g", "the driver decides where"},
		{XFS, "-r rtdev=/dev/sda", `"-r" is not known`},
		{XFS, "-d size=1g", "as large as its volume"},
		{XFS, "-p /etc/passwd", "reads or writes files"},
		{XFS, "-c options=/etc/passwd", "reads or writes files"},
		{XFS, "-m uuid=1", "UUID of its own"},
		{XFS, "-m crc=0", "without checksums"},
		{XFS, "-m reflink=2", "does not look like"},
		{XFS, "-m reflink", "does not look like"},
		{XFS, "-m", "needs a value"},
		{XFS, "-m reflink=0 -m rmapbt=0", "twice"},
		{XFS, "-m reflink=0,reflink=1", "twice"},
		{XFS, "-b size=64k", "does not look like"},
		{XFS, "-mreflink=0", "not known or not allowed"},
		{XFS, "-K", "not known or not allowed"},
		{XFS, "/dev/sda", `"/dev/sda" is not known`},
		{XFS, "-L data /dev/sda", `"/dev/sda" is not known`},
		{XFS, "-L $(reboot)", "does not look like"},
		{XFS, "-L a;b", "does not look like"},
		{XFS, "-- /dev/sda", `"--" is not known`},
		{XFS, "-E stride=1", `"-E" is not known`},
		{Ext4, "-d /etc", "reads or writes files"},
		{Ext4, "-c", "reads or writes files"},
		{Ext4, "-l /etc/passwd", "reads or writes files"},
		{Ext4, "-z /tmp/undo", "reads or writes files"},
		{Ext4, "-S", "reads or writes files"},
		{Ext4, "-t ext2", `"-t" is not known`},
		{Ext4, "-U clear", "UUID"},
		{Ext4, "-E discard", "takes minutes"},
		{Ext4, "-E offset=4096", "the driver decides where"},
		{Ext4, "-E test_fs", "not known or not allowed"},
		{Ext4, "-J device=/dev/sda", "the driver decides where"},
		{Ext4, "-O ^has_journal", "needs a journal"},
		{Ext4, "-O none", "not known or not allowed"},
		{Ext4, "-O ^extent", "not known or not allowed"},
		{Ext4, "-O journal_dev", "not known or not allowed"},
		{Ext4, "-O 64bit=1", "does not look like"},
		{Ext4, "-e panic", "does not look like"},
		{Ext4, "-I 128", "does not look like"},
		{Ext4, "-T hurd", "does not look like"},
		{Ext4, "-m 101", "does not look like"},
		{XFS, "-i nrext64=1", "needs Linux 5.19 on every node, and oldestKernel of the class is 5.10"},
		{Ext4, "-O orphan_file", "needs Linux 5.15"},
		{XFS, strings.Repeat("x", maxOptions+1), "too long"},
	} {
		err := Class{Options: c.options}.CheckFor(c.fs)
		if err == nil || !strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), KeyOptions) {
			t.Errorf("%s %q: got %v, want an error that says %q and %s", c.fs, c.options, err, c.words, KeyOptions)
		}
		if _, err := MkfsArguments(c.fs, "/dev/dm-0", Class{Options: c.options}, Machine{Kernel: Kernel{4, 18}}, false); err == nil {
			t.Errorf("%s %q: the node takes it", c.fs, c.options)
		}
	}
}

// FM 24: what mkfs is told not to make, by kernel and by the version of mkfs.
func TestFeaturesStayBelowTheOldestKernel(t *testing.T) {
	const device = "/dev/dm-0"
	for _, c := range []struct {
		name            string
		kernel, oldest  Kernel
		mkfs            Kernel
		options, wanted string
	}{
		{"a new node", Kernel{6, 18}, Kernel{}, Kernel{6, 1}, "", "-i nrext64=0"},
		{"a new mkfs", Kernel{6, 18}, Kernel{}, Kernel{6, 17}, "", "-i nrext64=0,exchange=0 -n parent=0"},
		{"new nodes only", Kernel{6, 18}, Kernel{6, 12}, Kernel{6, 17}, "", ""},
		{"an old node among new ones", Kernel{5, 15}, Kernel{6, 12}, Kernel{6, 1}, "", "-i nrext64=0"},
		{"an old node", Kernel{5, 4}, Kernel{}, Kernel{6, 1}, "", "-m inobtcount=0,bigtime=0 -i nrext64=0"},
		{"old nodes", Kernel{6, 1}, Kernel{4, 14}, Kernel{6, 1}, "", "-m reflink=0,rmapbt=0,inobtcount=0,bigtime=0 -i nrext64=0"},
		{"an old mkfs that knows less", Kernel{5, 4}, Kernel{}, Kernel{5, 3}, "", ""},
		{"an older one", Kernel{4, 14}, Kernel{}, Kernel{4, 9}, "", "-m rmapbt=0"},
		{"a kernel that is not known", Kernel{}, Kernel{}, Kernel{6, 1}, "", "-m inobtcount=0,bigtime=0 -i nrext64=0"},
		{"what the class says stays", Kernel{5, 4}, Kernel{}, Kernel{6, 1}, "-m bigtime=0,finobt=1 -d agcount=8", "-m inobtcount=0,bigtime=0,finobt=1 -i nrext64=0 -d agcount=8"},
	} {
		got, err := MkfsArguments(XFS, device, Class{Options: c.options, Oldest: c.oldest}, Machine{Kernel: c.kernel, Mkfs: c.mkfs}, false)
		want := append(append([]string{"mkfs.xfs", "-q", "-K"}, strings.Fields(c.wanted)...), device)
		if diff := cmp.Diff(got, want); diff != "" || err != nil {
			t.Errorf("%s: %v, (-got +want):\n%s", c.name, err, diff)
		}
	}
	got, err := MkfsArguments(XFS, device, Class{Oldest: Kernel{6, 12}}, Machine{Kernel: Kernel{6, 18}, Mkfs: Kernel{6, 17}}, true)
	if diff := cmp.Diff(got, []string{"mkfs.xfs", "-q", "-K", "-f", device}); diff != "" || err != nil {
		t.Errorf("over its own rest: %v, (-got +want):\n%s", err, diff)
	}
	if _, err := MkfsArguments(XFS, device, Class{Options: "-i nrext64=1", Oldest: Kernel{6, 1}}, Machine{Kernel: Kernel{5, 14}, Mkfs: Kernel{6, 1}}, false); err == nil || !strings.Contains(err.Error(), "this one runs 5.14") {
		t.Errorf("a feature that this kernel cannot mount: got %v", err)
	}
	if _, err := MkfsArguments("btrfs", device, Class{}, Machine{}, false); err == nil {
		t.Error("btrfs: got no error")
	}
}

// mke2fs takes the last of two flags, so there must be one of each.
func TestExt4OptionsAreMerged(t *testing.T) {
	got, err := MkfsArguments(Ext4, "/dev/dm-0", Class{Options: "-O ^64bit,quota -E lazy_itable_init=0,stride=16 -m 0.5"}, Machine{Kernel: Kernel{5, 10}}, true)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"mke2fs", "-q", "-t", "ext4", "-E", "nodiscard,lazy_journal_init=1,lazy_itable_init=0,stride=16",
		"-O", strings.Join(extBase(), ",") + ",^64bit,quota", "-m", "0.5", "/dev/dm-0",
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestVersionsAreRead(t *testing.T) {
	for text, want := range map[string]Kernel{
		"5.10": {5, 10}, "5.14.0-427.el9.x86_64": {5, 14}, "6.18.44-fc-v782": {6, 18}, "4.18-rc1": {4, 18}, "6.1+": {6, 1},
		"": {}, "6": {}, "six.one": {}, "6.": {}, "-6.1": {}, "1.0": {},
	} {
		if got, err := ParseKernel(text); got != want || (err == nil) != (want != Kernel{}) {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]Kernel{"mkfs.xfs version 6.1.0\n": {6, 1}, "mkfs.xfs version 5.0.0": {5, 0}, "": {}, "6.1.0": {}, "version x": {}} {
		if got, err := ParseMkfsVersion(text); got != want || (err == nil) != (want != Kernel{}) {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
}

func TestMountFlagsThatAreRefused(t *testing.T) {
	for _, flag := range []string{
		"bind", "noatime,remount", "loop=/dev/loop0", "X-mount.mkdir", "x-mount.subdir=/etc", "-o", "verity.hashdevice=/dev/sda",
		"source=/dev/sda", "errors=panic", "ERRORS=PANIC", "logdev=/dev/sda", "sb=131072", "norecovery", "a,,b", `context="a`, "a\nb", "",
	} {
		if err := CheckMountFlags([]string{"noatime", flag}); err == nil {
			t.Errorf("%q is allowed", flag)
		}
	}
	for _, flag := range []string{"noatime,lazytime", "errors=remount-ro", `context="system_u:object_r:container_file_t:s0:c1,c2"`, "discard", "ro", "inode64", "logbsize=256k"} {
		if err := CheckMountFlags([]string{flag}); err != nil {
			t.Errorf("%q: %v", flag, err)
		}
	}
}

// FuzzMkfsOptions: whatever a class says, the device is the last word of the command
// and no word before it forces, names a path or begins a second command.
func FuzzMkfsOptions(f *testing.F) {
	for _, seed := range []string{"", "-m reflink=0 -d agcount=4", "-f", "-O ^64bit,quota -m 1", "-L a -L b", "-L --", "-L -f", "-d name=/dev/sda", "-E nodiscard", "\t-b\n4096"} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, text string, ext bool) {
		fs := XFS
		if ext {
			fs = Ext4
		}
		argv, err := MkfsArguments(fs, "/dev/dm-0", Class{Options: text}, Machine{Kernel: Kernel{6, 1}, Mkfs: Kernel{6, 1}}, false)
		if err != nil {
			return
		}
		if argv[len(argv)-1] != "/dev/dm-0" {
			t.Fatalf("%q: %q", text, argv)
		}
		for i, word := range argv[1 : len(argv)-1] {
			if strings.ContainsAny(word, "/\\$;|&<>`'\" \n\x00") || word == "-f" || word == "-F" || word == "--" || word == "-n" && fs == Ext4 {
				t.Fatalf("%q: word %d is %q of %q", text, i, word, argv)
			}
		}
	})
}
