package filesystem

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Kernel is a version of Linux, or of a tool that is numbered alike.
type Kernel struct{ Major, Minor int }

// baselineKernel is what file systems are made for where a class names no older
// or newer one: a volume formatted on one node must mount on every other, which
// may run an older kernel than the one that formatted it (FM 24).
func baselineKernel() Kernel { return Kernel{5, 10} }

// oldestKnown stands for a kernel whose version is not known.
func oldestKnown() Kernel { return Kernel{4, 18} }

// ParseKernel reads the beginning of a release such as 5.14.0-427.el9.x86_64.
func ParseKernel(release string) (Kernel, error) {
	major, rest, dotted := strings.Cut(release, ".")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(rest[:end])
	if !dotted || errA != nil || errB != nil || a < 2 || b < 0 {
		return Kernel{}, errors.New("is not a version such as 5.10")
	}
	return Kernel{a, b}, nil
}

func (k Kernel) String() string {
	if k == (Kernel{}) {
		return ""
	}
	return fmt.Sprintf("%d.%d", k.Major, k.Minor)
}

func (k Kernel) before(other Kernel) bool {
	return cmp.Or(cmp.Compare(k.Major, other.Major), cmp.Compare(k.Minor, other.Minor)) < 0
}

// feature is one that older kernels cannot mount.
type feature struct {
	flag, key string // mkfs.xfs -m bigtime=1, mke2fs -O orphan_file
	since     Kernel // mounts it
	tool      Kernel // mkfs knows it; an older one neither makes it nor can be told not to
}

// xfsFeatures are those that mkfs.xfs may make unless it is told not to. Where a
// feature was experimental first, since is the version that calls it sound.
func xfsFeatures() []feature {
	return []feature{
		{"-m", "reflink", Kernel{4, 16}, Kernel{4, 10}},
		{"-m", "rmapbt", Kernel{4, 16}, Kernel{4, 8}},
		{"-m", "inobtcount", Kernel{5, 10}, Kernel{5, 10}},
		{"-m", "bigtime", Kernel{5, 10}, Kernel{5, 10}},
		{"-i", "nrext64", Kernel{5, 19}, Kernel{5, 19}},
		{"-i", "exchange", Kernel{6, 10}, Kernel{6, 10}},
		{"-n", "parent", Kernel{6, 10}, Kernel{6, 10}},
	}
}

// extFeatures are those beyond extBase that a class may ask for.
func extFeatures() []feature {
	return []feature{
		{flag: "-O", key: "bigalloc", since: Kernel{3, 2}},
		{flag: "-O", key: "inline_data", since: Kernel{3, 8}},
		{flag: "-O", key: "metadata_csum_seed", since: Kernel{4, 4}},
		{flag: "-O", key: "project", since: Kernel{4, 5}},
		{flag: "-O", key: "quota", since: Kernel{4, 5}},
		{flag: "-O", key: "large_dir", since: Kernel{4, 13}},
		{flag: "-O", key: "ea_inode", since: Kernel{4, 13}},
		{flag: "-O", key: "verity", since: Kernel{5, 4}},
		{flag: "-O", key: "fast_commit", since: Kernel{5, 10}},
		{flag: "-O", key: "orphan_file", since: Kernel{5, 15}},
	}
}

// extBase is every feature that an ext4 has here, whatever mke2fs.conf says on the
// host at hand: each is known to mke2fs 1.43 and to Linux 3.18, and later.
func extBase() []string {
	return []string{
		"none", "has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "extent", "64bit", "flex_bg",
		"sparse_super", "large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum",
	}
}

// extRemovable are those of extBase that a class may leave out. Without the others
// the kernel or blkid would take the file system for an older ext, or a lost path
// would cost data.
func extRemovable() []string {
	return []string{"resize_inode", "dir_index", "64bit", "flex_bg", "metadata_csum"}
}
