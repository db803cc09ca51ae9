package node

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/filesystem"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// proven is the one evidence that permits a mkfs.
func proven() evidence {
	return evidence{
		Asked: fsXFS, Content: content{Empty: true, NonZeroAt: -1, HeadWiped: true}, Blkid: blkid{Nothing: true},
		Serial: "s1", Bytes: 16 * gib,
	}
}

func holding(name string, complete bool) content {
	return content{found: found{Name: name, Complete: complete, Bytes: 16 * gib}}
}

// FM 1: the table of what may be done with a device.
func TestDecide(t *testing.T) {
	started := func(fs, serial string) format { return format{State: formatStarted, FSType: fs, Serial: serial} }
	halfXFS := content{found: found{Name: nameXFS, InProgress: true, Bytes: 16 * gib}}
	halfExt4 := content{HeadWiped: true, NonZeroAt: 128 * mib}
	for name, c := range map[string]struct {
		change func(*evidence)
		want   verdict
		kind   error
	}{
		"proven empty":                       {func(*evidence) {}, makeNew, nil},
		"proven empty, ext4":                 {func(e *evidence) { e.Asked = fsExt4 }, makeNew, nil},
		"blkid finds something":              {func(e *evidence) { e.Blkid = blkid{Type: "LVM2_member"} }, refuse, errRefused},
		"blkid finds a table":                {func(e *evidence) { e.Blkid = blkid{Table: "gpt"} }, refuse, errRefused},
		"blkid finds too much":               {func(e *evidence) { e.Blkid = blkid{Ambiguous: true} }, refuse, errRefused},
		"blkid says nothing at all":          {func(e *evidence) { e.Blkid = blkid{} }, refuse, errRefused},
		"formatted before":                   {func(e *evidence) { e.Format = format{State: formatFinished, Serial: "s1"} }, refuse, errRefused},
		"another device formatted before":    {func(e *evidence) { e.Format = format{State: formatFinished, Serial: "s0"} }, makeNew, nil},
		"from a source":                      {func(e *evidence) { e.FromSource = true }, refuse, errRefused},
		"the array holds data":               {func(e *evidence) { e.UsedBytes = 1 }, refuse, errRefused},
		"the array holds a begun format":     {func(e *evidence) { e.UsedBytes = 1; e.Format = started(fsXFS, "s1") }, makeNew, nil},
		"some data after a begun xfs":        {func(e *evidence) { e.UsedBytes = 100 << 20; e.Format = started(fsXFS, "s1") }, refuse, errRefused},
		"a begun ext4 has zeroed a journal":  {func(e *evidence) { e.Asked = fsExt4; e.UsedBytes = 100 << 20; e.Format = started(fsExt4, "s1") }, makeNew, nil},
		"much data after a begun format":     {func(e *evidence) { e.UsedBytes = gib; e.Format = started(fsXFS, "s1") }, refuse, errRefused},
		"the array holds data, other device": {func(e *evidence) { e.UsedBytes = 1; e.Format = started(fsXFS, "s0") }, refuse, errRefused},
		"read-only":                          {func(e *evidence) { e.ReadOnly = true }, refuse, errRefused},
		"nothing known":                      {func(e *evidence) { *e = evidence{} }, refuse, errRefused},

		"xfs": {func(e *evidence) { e.Content = holding(nameXFS, true); e.Blkid = blkid{Type: "xfs"} }, mountIt, nil},
		"xfs of a source": {func(e *evidence) {
			e.Content = holding(nameXFS, true)
			e.Blkid = blkid{Type: "xfs"}
			e.FromSource = true
			e.UsedBytes = 9
		}, mountIt, nil},
		"ext4":                    {func(e *evidence) { e.Asked = fsExt4; e.Content = holding(nameExt, true); e.Blkid = blkid{Type: "ext4"} }, mountIt, nil},
		"ext3 for ext4":           {func(e *evidence) { e.Asked = fsExt4; e.Content = holding(nameExt, true); e.Blkid = blkid{Type: "ext3"} }, refuse, errOtherFS},
		"ext4 for xfs":            {func(e *evidence) { e.Content = holding(nameExt, true); e.Blkid = blkid{Type: "ext4"} }, refuse, errOtherFS},
		"ext4, and nobody asked":  {func(e *evidence) { e.Any = true; e.Content = holding(nameExt, true); e.Blkid = blkid{Type: "ext4"} }, mountIt, nil},
		"ext3, and nobody asked":  {func(e *evidence) { e.Any = true; e.Content = holding(nameExt, true); e.Blkid = blkid{Type: "ext3"} }, refuse, errOtherFS},
		"swap, and nobody asked":  {func(e *evidence) { e.Any = true; e.Content = holding("swap", false); e.Blkid = blkid{Type: "swap"} }, refuse, errRefused},
		"nothing, nobody asked":   {func(e *evidence) { e.Any = true }, makeNew, nil},
		"xfs, blkid says nothing": {func(e *evidence) { e.Content = holding(nameXFS, true) }, refuse, errForeign},
		"xfs, blkid says ext4":    {func(e *evidence) { e.Content = holding(nameXFS, true); e.Blkid = blkid{Type: "ext4"} }, refuse, errForeign},
		"xfs, blkid finds two":    {func(e *evidence) { e.Content = holding(nameXFS, true); e.Blkid = blkid{Ambiguous: true} }, refuse, errForeign},
		"xfs too large":           {func(e *evidence) { e.Content = holding(nameXFS, true); e.Blkid = blkid{Type: "xfs"}; e.Bytes = gib }, refuse, errForeign},

		"unknown bytes":                   {func(e *evidence) { e.Content = content{NonZeroAt: 5} }, refuse, errRefused},
		"unknown bytes after a begun xfs": {func(e *evidence) { e.Content = halfExt4; e.Format = started(fsXFS, "s1") }, refuse, errRefused},
		"btrfs":                           {func(e *evidence) { e.Content = holding("btrfs", false); e.Blkid = blkid{Type: "btrfs"} }, refuse, errRefused},
		"half an xfs":                     {func(e *evidence) { e.Content = halfXFS; e.Blkid = blkid{Type: "xfs"} }, refuse, errRefused},
		"half an xfs of ours":             {func(e *evidence) { e.Content = halfXFS; e.Blkid = blkid{Type: "xfs"}; e.Format = started(fsXFS, "s1") }, makeOver, nil},
		"half an xfs of another device":   {func(e *evidence) { e.Content = halfXFS; e.Blkid = blkid{Type: "xfs"}; e.Format = started(fsXFS, "s0") }, refuse, errRefused},
		"half an xfs, ext4 was begun":     {func(e *evidence) { e.Content = halfXFS; e.Blkid = blkid{Type: "xfs"}; e.Format = started(fsExt4, "s1") }, refuse, errRefused},
		"half an xfs that was finished": {func(e *evidence) {
			e.Content = halfXFS
			e.Format = format{State: formatFinished, FSType: fsXFS, Serial: "s1"}
		}, refuse, errRefused},
		"half an xfs and much data": {func(e *evidence) { e.Content = halfXFS; e.Format = started(fsXFS, "s1"); e.UsedBytes = gib }, refuse, errRefused},
		"half an xfs from a source": {func(e *evidence) { e.Content = halfXFS; e.Format = started(fsXFS, "s1"); e.FromSource = true }, refuse, errRefused},
		"half an xfs, read-only":    {func(e *evidence) { e.Content = halfXFS; e.Format = started(fsXFS, "s1"); e.ReadOnly = true }, refuse, errRefused},
		"half an xfs, blkid says LVM": {func(e *evidence) {
			e.Content = halfXFS
			e.Blkid = blkid{Type: "LVM2_member"}
			e.Format = started(fsXFS, "s1")
		}, refuse, errRefused},
		"a broken xfs of ours":  {func(e *evidence) { e.Content = holding(nameXFS, false); e.Format = started(fsXFS, "s1") }, refuse, errRefused},
		"half an ext4 of ours":  {func(e *evidence) { e.Asked = fsExt4; e.Content = halfExt4; e.Format = started(fsExt4, "s1") }, makeOver, nil},
		"half an ext4, unknown": {func(e *evidence) { e.Asked = fsExt4; e.Content = halfExt4 }, refuse, errRefused},
		"half an ext4, head not wiped": {func(e *evidence) {
			e.Asked = fsExt4
			e.Content = content{NonZeroAt: 1024}
			e.Format = started(fsExt4, "s1")
		}, refuse, errRefused},
		"half an ext4, blkid finds a table": {func(e *evidence) {
			e.Asked = fsExt4
			e.Content = halfExt4
			e.Blkid = blkid{Table: "dos"}
			e.Format = started(fsExt4, "s1")
		}, refuse, errRefused},
	} {
		e := proven()
		c.change(&e)
		got, err := decide(e)
		if got != c.want || !errors.Is(err, c.kind) {
			t.Errorf("%s: got %d, %v, want %d, %v", name, got, err, c.want, c.kind)
		}
	}
}

// FM 1: blkid's code 2 means nothing found and also could not read.
func TestBlkidExitCodes(t *testing.T) {
	for _, c := range []struct {
		out  string
		code int
		want blkid
		fine bool
	}{
		{"DEVNAME=/dev/sdb\nUUID=00a1\nBLOCK_SIZE=512\nTYPE=xfs\nUSAGE=filesystem\n", 0, blkid{Type: "xfs"}, true},
		{"DEVNAME=/dev/sdb\nPTUUID=1\nPTTYPE=gpt\n", 0, blkid{Table: "gpt"}, true},
		{"", 0, blkid{}, true}, // success, and nothing said: not the same as nothing found
		{"", 2, blkid{Nothing: true}, true},
		{"TYPE=xfs\n", 2, blkid{}, false},
		{"", 4, blkid{}, false},
		{"", 8, blkid{Ambiguous: true}, true},
		{"", 127, blkid{}, false},
		{"", 137, blkid{}, false},
	} {
		s := &Server{runner: runnerFunc(func(argv []string) ([]byte, error) {
			if diff := cmp.Diff(argv, []string{"blkid", "-p", "-o", "export", "/dev/sdb"}); diff != "" {
				t.Errorf("argv differs (-got +want):\n%s", diff)
			}
			if c.code == 0 {
				return []byte(c.out), nil
			}
			return []byte(c.out), &iscsi.ExitError{Tool: "blkid", Code: c.code}
		})}
		got, err := s.runBlkid(t.Context(), "/dev/sdb")
		if got != c.want || (err == nil) != c.fine {
			t.Errorf("%q, code %d: got %+v, %v, want %+v, fine %v", c.out, c.code, got, err, c.want, c.fine)
		}
	}
}

type runnerFunc func(argv []string) ([]byte, error)

func (f runnerFunc) Run(_ context.Context, argv ...string) ([]byte, error) { return f(argv) }

// realFile is a sparse file to make real file systems in.
func realFile(t *testing.T, bytes int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, bytes)); err != nil {
		t.Fatal(err)
	}
	return path
}

func contentOf(t *testing.T, path string) content {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	c, err := readContent(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
}

// TestRealToolsAreUnderstood makes real file systems with the argv of the product
// and reads them back, whole, torn and grown.
func TestRealToolsAreUnderstood(t *testing.T) {
	need(t, "mkfs.xfs", "mke2fs", "blkid")
	for fs, name := range map[string]string{fsXFS: nameXFS, fsExt4: nameExt} {
		for _, size := range []int64{gib, 10 * gib, 3*gib/2 + 12*mib} {
			path := realFile(t, size)
			s := &Server{runner: iscsi.Direct(), formatTimeout: time.Minute}
			if c := contentOf(t, path); !c.Empty || !c.HeadWiped || c.Name != "" {
				t.Fatalf("%s: an empty file reads as %+v", fs, c)
			}
			if err := makeReal(t, s, filesystem.Class{}, fs, path, false); err != nil {
				t.Fatal(err)
			}
			c := contentOf(t, path)
			if c.Empty || c.Name != name || !c.Complete || c.InProgress || c.Bytes > size || c.Bytes+slack < size {
				t.Fatalf("%s of %d bytes reads as %+v", fs, size, c)
			}
			b, err := s.runBlkid(t.Context(), path)
			if err != nil || b.Type != fs {
				t.Errorf("%s: blkid finds %+v, %v", fs, b, err)
			}
			if v, err := decide(evidence{Asked: fs, Content: c, Blkid: b, Bytes: size}); v != mountIt {
				t.Errorf("%s: got verdict %d, %v, want to mount it", fs, v, err)
			}
			wipe(t, path, 0, 4*mib) // the head is lost: the copies still speak
			if c := contentOf(t, path); c.Empty {
				t.Errorf("%s of %d bytes without its head reads as empty", fs, size)
			}
		}
	}
}

// makeReal runs the mkfs that a stage would.
func makeReal(t *testing.T, s *Server, class filesystem.Class, fs, path string, over bool) error {
	t.Helper()
	argv, err := s.mkfsArguments(t.Context(), fs, path, class, over)
	if err != nil {
		return err
	}
	return s.makeFilesystem(t.Context(), argv)
}

// TestRealToolsMakeWhatAClassAsksFor is FM 24 with the tools at hand: features
// that the oldest kernel does not mount are left out, what the class asks for is in
// it, and the proof still recognises what was made.
func TestRealToolsMakeWhatAClassAsksFor(t *testing.T) {
	need(t, "mkfs.xfs", "mke2fs", "blkid", "xfs_db", "dumpe2fs")
	xfs := []string{"xfs_db", "-r", "-c", "version", "-c", "sb 0", "-c", "p agcount"}
	ext := []string{"dumpe2fs", "-h"}
	for name, c := range map[string]struct {
		fs      string
		class   filesystem.Class
		kernel  filesystem.Kernel
		look    []string
		has, no []string
	}{
		"xfs":                  {fsXFS, filesystem.Class{}, filesystem.Kernel{Major: 6, Minor: 18}, xfs, []string{"BIGTIME", "INOBTCNT", "REFLINK"}, []string{"NREXT64"}},
		"xfs, an old node":     {fsXFS, filesystem.Class{}, filesystem.Kernel{Major: 5, Minor: 4}, xfs, []string{"REFLINK"}, []string{"BIGTIME", "INOBTCNT", "NREXT64"}},
		"xfs, old nodes":       {fsXFS, filesystem.Class{Oldest: filesystem.Kernel{Major: 4, Minor: 14}}, filesystem.Kernel{Major: 6, Minor: 18}, xfs, nil, []string{"BIGTIME", "INOBTCNT", "REFLINK", "RMAPBT"}},
		"xfs, new nodes":       {fsXFS, filesystem.Class{Oldest: filesystem.Kernel{Major: 6, Minor: 6}, Options: "-i nrext64=1"}, filesystem.Kernel{Major: 6, Minor: 6}, xfs, []string{"NREXT64", "BIGTIME"}, nil},
		"xfs, options":         {fsXFS, filesystem.Class{Options: "-m reflink=0,rmapbt=0 -d agcount=7 -i size=1024 -l size=64m -L data"}, filesystem.Kernel{}, xfs, []string{"agcount = 7"}, []string{"REFLINK", "BIGTIME"}},
		"ext4":                 {fsExt4, filesystem.Class{}, filesystem.Kernel{}, ext, []string{"has_journal", "64bit", "metadata_csum", "extent"}, []string{"orphan_file", "metadata_csum_seed"}},
		"ext4, options":        {fsExt4, filesystem.Class{Options: "-O ^metadata_csum,quota -i 65536 -m 1 -b 4k -E stride=16,stripe_width=64,lazy_itable_init=0 -J size=64 -L data"}, filesystem.Kernel{Major: 6}, ext, []string{"quota", "RAID stride:              16"}, []string{"metadata_csum"}},
		"ext4, a newer kernel": {fsExt4, filesystem.Class{Options: "-O fast_commit"}, filesystem.Kernel{Major: 5, Minor: 10}, ext, []string{"fast_commit"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			path := realFile(t, 4*gib)
			s := &Server{runner: iscsi.Direct(), formatTimeout: time.Minute, kernel: c.kernel}
			if err := c.class.CheckFor(c.fs); err != nil {
				t.Fatal(err)
			}
			if err := makeReal(t, s, c.class, c.fs, path, false); err != nil {
				t.Fatal(err)
			}
			out, err := iscsi.Direct().Run(t.Context(), append(c.look, path)...)
			if err != nil {
				t.Fatal(err)
			}
			for _, word := range c.has {
				if !strings.Contains(string(out), word) {
					t.Errorf("it lacks %s:\n%s", word, out)
				}
			}
			for _, word := range c.no {
				if strings.Contains(string(out), word) {
					t.Errorf("it has %s:\n%s", word, out)
				}
			}
			b, err := s.runBlkid(t.Context(), path)
			if v, why := decide(evidence{Asked: c.fs, Content: contentOf(t, path), Blkid: b, Bytes: 4 * gib}); v != mountIt || err != nil {
				t.Errorf("got verdict %d, %v, %v, want to mount it", v, why, err)
			}
		})
	}
}

func wipe(t *testing.T, path string, offset, length int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, length), offset); err != nil {
		t.Fatal(err)
	}
}

// TestARealMkfsInProgressIsRecognised puts the mark back that mkfs.xfs clears
// last, and takes away what mke2fs writes last.
func TestARealMkfsInProgressIsRecognised(t *testing.T) {
	need(t, "mkfs.xfs", "mke2fs", "blkid")
	s := &Server{runner: iscsi.Direct(), formatTimeout: time.Minute}
	for _, fs := range []string{fsXFS, fsExt4} {
		path := realFile(t, gib)
		if err := makeReal(t, s, filesystem.Class{}, fs, path, false); err != nil {
			t.Fatal(err)
		}
		if fs == fsXFS {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte{1}, 126); err != nil {
				t.Fatal(err)
			}
			f.Close()
		} else {
			wipe(t, path, 1024, 1024)
		}
		b, err := s.runBlkid(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		e := evidence{Asked: fs, Content: contentOf(t, path), Blkid: b, Serial: "s", Bytes: gib, UsedBytes: 66 * mib}
		v, err := decide(e)
		if v != refuse || !errors.Is(err, errRefused) {
			t.Errorf("%s without a record: got verdict %d, %v, want to refuse", fs, v, err)
		}
		e.Format = format{State: formatStarted, FSType: fs, Serial: "s"}
		v, err = decide(e)
		if v != makeOver {
			t.Fatalf("%s with a record: got verdict %d, %v (%+v), want to make it over", fs, v, err, e)
		}
		if err := makeReal(t, s, filesystem.Class{}, fs, path, true); err != nil {
			t.Fatal(err)
		}
		if c := contentOf(t, path); !c.Complete {
			t.Errorf("%s made over reads as %+v", fs, c)
		}
	}
}

// TestMkfsXFSIsNotForced runs the product's argv on a file that is in use: the
// tool itself is the last to say no.
func TestMkfsXFSIsNotForced(t *testing.T) {
	need(t, "mkfs.xfs", "mke2fs")
	s := &Server{runner: iscsi.Direct(), formatTimeout: time.Minute}
	path := realFile(t, gib)
	if err := makeReal(t, s, filesystem.Class{}, fsExt4, path, false); err != nil {
		t.Fatal(err)
	}
	err := makeReal(t, s, filesystem.Class{}, fsXFS, path, false)
	var exit *iscsi.ExitError
	if !errors.As(err, &exit) || exit.Code != 1 {
		t.Errorf("got %v, want exit 1", err)
	}
	if err := makeReal(t, s, filesystem.Class{}, "btrfs", path, false); !errors.Is(err, errRefused) {
		t.Errorf("got %v, want errRefused", err)
	}
}

func TestEveryFormatHasItsName(t *testing.T) {
	for _, m := range magics {
		head := make([]byte, headBytes)
		copy(head[m.offset:], m.mark)
		if got := recognise(head); got.Name != m.name || got.Complete {
			t.Errorf("%s at %d: got %+v", m.name, m.offset, got)
		}
		if v, err := decide(evidence{Asked: fsXFS, Content: content{found: found{Name: m.name}}, Blkid: blkid{Nothing: true}}); v != refuse || !strings.Contains(err.Error(), m.name) {
			t.Errorf("%s: got verdict %d, %v, want a refusal that names it", m.name, v, err)
		}
	}
	head := make([]byte, headBytes)
	copy(head[200*kib:], "\x0c\xb1\xba\x00\x00\x00\x00\x00")
	if got := recognise(head); got.Name != "zfs_member" {
		t.Errorf("zfs: got %+v", got)
	}
	for _, short := range []int{0, 4, 512, 1500, 4096} {
		if got := recognise(make([]byte, short)); got != (found{}) {
			t.Errorf("%d zero bytes: got %+v", short, got)
		}
	}
}

func TestSuperblocksThatMakeNoSenseAreNotComplete(t *testing.T) {
	for name, head := range map[string][]byte{
		"xfs of nothing":   append([]byte("XFSB"), make([]byte, 4092)...),
		"xfs of ones":      append([]byte("XFSB"), ones(4092)...),
		"ext of nothing":   overlay(make([]byte, 4096), 1024+56, "\x53\xef"),
		"ext of ones":      overlay(ones(4096), 1024+56, "\x53\xef"),
		"cut short in xfs": []byte("XFSB"),
	} {
		if got := recognise(head); got.Complete || got.InProgress {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func ones(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xff
	}
	return b
}

func overlay(b []byte, at int, s string) []byte {
	copy(b[at:], s)
	return b
}

func TestSamplesStayWithinTheDevice(t *testing.T) {
	for _, size := range []int64{4096, mib, 5 * mib, gib, 16 * gib, 100*gib + 512, 5 * tib, 256 * tib} {
		list := samples(size)
		total, last := int64(0), int64(-1)
		for _, e := range list {
			if e.offset < 0 || e.length <= 0 || e.offset+e.length > size || e.offset%4096 != 0 || e.offset < last {
				t.Errorf("%d bytes: bad sample %+v", size, e)
			}
			total, last = total+e.length, e.offset
		}
		if list[0].offset != 0 || list[0].length < min(size, 4*mib) {
			t.Errorf("%d bytes: the head is %+v", size, list[0])
		}
		if end := list[len(list)-1]; size >= gib && end.offset+end.length != size {
			t.Errorf("%d bytes: the tail ends at %d", size, end.offset+end.length)
		}
		if limit := 24*mib + size/tib*16*kib; total > limit {
			t.Errorf("%d bytes: %d bytes are read, more than %d", size, total, limit)
		}
	}
	want := []int64{1, 3, 9, 27, 81, 5, 25, 7, 49}
	if diff := cmp.Diff(extBackups(100), want); diff != "" {
		t.Errorf("groups with backups differ (-got +want):\n%s", diff)
	}
}

// FM 1: where the head is lost, the copies of a superblock are all that tells a file
// system from nothing.
func TestSamplesHoldTheCopiesOfSuperblocks(t *testing.T) {
	multiples := func(of int64, factors ...int64) []int64 {
		for i := range factors {
			factors[i] *= of
		}
		return factors
	}
	for name, c := range map[string]struct {
		size, length, before int64
		at                   []int64
	}{
		"xfs in groups of 1 TiB":   {5 * tib, 4 * kib, 4 * kib, multiples(tib, 1, 2, 3, 4)}, // down to a whole stripe, or up
		"btrfs":                    {5 * tib, 4 * kib, 0, []int64{64 * mib, 256 * gib}},
		"ext with blocks of 1 KiB": {16 * gib, 4 * kib, 0, multiples(8*mib, 1, 3, 9, 27, 81, 5, 25, 125, 7, 49, 343)},
		"ext with blocks of 2 KiB": {16 * gib, 4 * kib, 0, multiples(32*mib, 1, 3, 9, 27, 81, 5, 25, 125, 7, 49, 343)},
		"ext with blocks of 4 KiB": {16 * gib, 4 * kib, 0, multiples(128*mib, 1, 3, 9, 27, 81, 5, 25, 125, 7, 49)},
	} {
		list := samples(c.size)
		for _, at := range c.at {
			if !slices.ContainsFunc(list, func(e extent) bool { return e.offset <= at-c.before && at+c.length <= e.offset+e.length }) {
				t.Errorf("%s: nothing is read at %d", name, at)
			}
		}
	}
}

func TestOneByteAnywhereInASampleForbids(t *testing.T) {
	for _, at := range []int64{0, 511, 4*mib - 1, gib/4 + 100, gib / 2, gib/32*5 + 1, 128 * mib, 64*mib + 1024, gib - 1} {
		path := realFile(t, gib)
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{1}, at); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if c := contentOf(t, path); c.Empty || c.NonZeroAt < 0 || c.NonZeroAt > at {
			t.Errorf("a byte at %d: got %+v", at, c)
		}
	}
}

type shortReader struct{ at int64 }

func (s shortReader) ReadAt(p []byte, offset int64) (int, error) {
	clear(p)
	if offset+int64(len(p)) > s.at {
		return len(p) / 2, nil
	}
	return len(p), nil
}

func TestAShortReadIsNoRead(t *testing.T) {
	for _, at := range []int64{0, mib, gib / 2, gib - 4096} {
		if _, err := readContent(shortReader{at}, gib); !errors.Is(err, errUnreadable) {
			t.Errorf("short from %d on: got %v, want errUnreadable", at, err)
		}
	}
	if c, err := readContent(shortReader{gib}, gib); err != nil || !c.Empty {
		t.Errorf("whole: got %+v, %v", c, err)
	}
}

// slowReader is an empty disk that counts how many reads it answers at once.
type slowReader struct{ now, most atomic.Int64 }

func (s *slowReader) ReadAt(p []byte, _ int64) (int, error) {
	now := s.now.Add(1)
	defer s.now.Add(-1)
	for most := s.most.Load(); now > most && !s.most.CompareAndSwap(most, now); most = s.most.Load() {
	}
	time.Sleep(time.Millisecond)
	clear(p)
	return len(p), nil
}

func TestSamplesAreReadSeveralAtOnce(t *testing.T) {
	var disk slowReader
	if c, err := readContent(&disk, gib); err != nil || !c.Empty {
		t.Fatalf("got %+v, %v, want an empty disk", c, err)
	}
	if most := disk.most.Load(); most < 2 || most > 8 {
		t.Errorf("%d reads at once, want 2 to 8", most)
	}
}

func TestPiecesCoverTheirExtents(t *testing.T) {
	got := pieces([]extent{{0, 3}, {10, 8}, {20, 4}}, 4)
	want := []extent{{0, 3}, {10, 4}, {14, 4}, {20, 4}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(extent{})); diff != "" {
		t.Errorf("pieces (-want +got):\n%s", diff)
	}
}
