package node

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Names that recognise gives, as blkid spells them, but for the ext family, of
// which it cannot tell the members apart.
const (
	nameExt = "ext"
	nameXFS = fsXFS
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	gib = int64(1) << 30
	tib = int64(1) << 40

	// headBytes of a device hold every superblock known here but those at the end.
	headBytes = int(512 * kib)
)

// found is what the first bytes of a device say it holds.
type found struct {
	Name       string // "" when nothing is recognised
	Complete   bool   // of xfs and ext: a mkfs came to its end, so far as the superblock can tell
	InProgress bool   // of xfs: a mkfs began and did not come to its end
	Bytes      int64  // of xfs and ext: size by the superblock
}

// magic is a mark that a format leaves at a known place.
type magic struct {
	name   string
	offset int
	mark   string
}

// magics are those of formats that may not be overwritten but are not mounted
// either. Which of them is found decides nothing but the words of the refusal:
// any byte that is not zero forbids a mkfs.
//
//nolint:gochecknoglobals // a constant table
var magics = []magic{
	{"btrfs", 0x10040, "_BHRfS_M"},
	{"crypto_LUKS", 0, "LUKS\xba\xbe"},
	{"crypto_LUKS", 0x4000, "SKUL\xba\xbe"},
	{"LVM2_member", 512 + 24, "LVM2 001"},
	{"LVM2_member", 24, "LVM2 001"},
	{"LVM2_member", 1024 + 24, "LVM2 001"},
	{"LVM2_member", 1536 + 24, "LVM2 001"},
	{"linux_raid_member", 0, "\xfc\x4e\x2b\xa9"},
	{"linux_raid_member", 4096, "\xfc\x4e\x2b\xa9"},
	{"swap", 4096 - 10, "SWAPSPACE2"},
	{"swap", 4096 - 10, "SWAP-SPACE"},
	{"swap", 65536 - 10, "SWAPSPACE2"},
	{"f2fs", 1024, "\x10\x20\xf5\xf2"},
	{"bcache", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{"ntfs", 3, "NTFS    "},
	{"iso9660", 32769, "CD001"},
	{"gpt", 512, "EFI PART"},
	{"gpt", 4096, "EFI PART"},
	{"dos", 510, "\x55\xaa"}, // last but zfs: a boot sector is also part of others
}

// recognise looks at the first headBytes of a device.
func recognise(head []byte) found {
	if f, ok := xfsSuperblock(head); ok {
		return f
	}
	if f, ok := extSuperblock(head); ok {
		return f
	}
	for _, m := range magics {
		if m.offset+len(m.mark) <= len(head) && string(head[m.offset:m.offset+len(m.mark)]) == m.mark {
			return found{Name: m.name}
		}
	}
	if isZFS(head) {
		return found{Name: "zfs_member"}
	}
	return found{}
}

// xfsSuperblock reads the primary superblock. mkfs.xfs writes it before anything
// else that is not zero, with the mark sb_inprogress, and clears the mark with its
// last write, past the page cache: no kernel ever mounted one with the mark.
func xfsSuperblock(head []byte) (found, bool) {
	if len(head) < 512 || string(head[:4]) != "XFSB" {
		return found{}, false
	}
	be := binary.BigEndian
	blockSize, blocks := int64(be.Uint32(head[4:])), int64(be.Uint64(head[8:]))
	agBlocks, agCount := int64(be.Uint32(head[84:])), int64(be.Uint32(head[88:]))
	sane := blockSize >= 512 && blockSize <= 64*kib && blockSize&(blockSize-1) == 0 &&
		blocks > 0 && blocks < 1<<51 && agCount > 0 && agBlocks > 0 &&
		blocks <= agBlocks*agCount && blocks > agBlocks*(agCount-1)
	if !sane {
		return found{Name: nameXFS}, true
	}
	return found{Name: nameXFS, Complete: head[126] == 0, InProgress: head[126] == 1, Bytes: blockSize * blocks}, true
}

// extSuperblock reads the primary superblock. mke2fs clears its place first and
// writes it last, after a flush: where there is one, the file system is complete.
func extSuperblock(head []byte) (found, bool) {
	const at = 1024
	if len(head) < at+1024 || head[at+56] != 0x53 || head[at+57] != 0xef {
		return found{}, false
	}
	le := binary.LittleEndian
	shift := le.Uint32(head[at+24:])
	blocks := int64(le.Uint32(head[at+4:]))
	if const64bit := uint32(0x80); le.Uint32(head[at+96:])&const64bit != 0 {
		blocks |= int64(le.Uint32(head[at+336:])) << 32
	}
	if shift > 6 || blocks <= 0 || blocks > 1<<48 {
		return found{Name: nameExt}, true
	}
	return found{Name: nameExt, Complete: true, Bytes: blocks << (10 + shift)}, true
}

// isZFS looks for an uberblock in the first label: 128 KiB of slots of 1 KiB.
func isZFS(head []byte) bool {
	little, big := []byte{0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0}, []byte{0, 0, 0, 0, 0, 0xba, 0xb1, 0x0c}
	for at := int(128 * kib); at+8 <= len(head) && at < int(256*kib); at += int(kib) {
		if slot := head[at : at+8]; bytes.Equal(slot, little) || bytes.Equal(slot, big) {
			return true
		}
	}
	return false
}

// extent is a piece of a device.
type extent struct{ offset, length int64 }

// samples lists what must be zero before a mkfs, in ascending order and within
// the device: head, middle and tail, and every place where a file system keeps a
// copy of its superblock, so that a device whose head was lost is not taken for
// an empty one (FM 1).
func samples(size int64) []extent {
	var list []extent
	add := func(offset, length int64) {
		from, to := max(offset, 0)&^4095, min(offset+length, size)
		if from < to {
			list = append(list, extent{from, to - from})
		}
	}
	add(0, 4*mib)
	add(size-2*mib, 2*mib) // md 0.90 and 1.0, backup of a GPT, labels of zfs, what iscsi targets keep
	for quarter := int64(1); quarter < 4; quarter++ {
		add(size/4*quarter-256*kib, 512*kib) // xfs: allocation groups of a single disk, aligned to a stripe or not
	}
	for part := int64(1); part < 32; part++ {
		add(size/32*part, 8*kib) // xfs: allocation groups of a striped disk
	}
	for group := tib; group < size; group += tib {
		add(group-8*kib, 16*kib) // xfs: allocation groups of their largest size
	}
	for _, group := range []int64{8 * mib, 32 * mib, 128 * mib} { // ext: blocks of 1, 2 and 4 KiB
		for _, n := range extBackups(size / group) {
			add(group*n, 4*kib)
		}
	}
	add(64*mib, 128*kib) // btrfs: mirrors
	add(256*gib, 128*kib)
	slices.SortFunc(list, func(a, b extent) int {
		return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(b.length, a.length))
	})
	return list
}

// extBackups lists the block groups below n that hold a backup of an ext
// superblock: 1 and the powers of 3, 5 and 7.
func extBackups(n int64) []int64 {
	var groups []int64
	if n > 0 {
		groups = append(groups, 1)
	}
	for _, base := range []int64{3, 5, 7} {
		for g := base; g <= n; g *= base {
			groups = append(groups, g)
		}
	}
	return groups
}

// content is what a device holds, read from the device.
type content struct {
	found
	Empty     bool  // every sample is zero
	NonZeroAt int64 // offset of the first sample that is not; -1 when Empty

	// HeadWiped says that the place of an ext superblock is zero: mke2fs clears
	// it first and fills it last.
	HeadWiped bool
}

// readContent reads the samples of a disk, several at once: the way to the array
// and back is what takes time. One that holds a complete file system of xfs or ext
// is not read beyond its head. An error is errUnreadable, and then nothing is known
// of the rest. The disk must take ReadAt in parallel.
func readContent(disk io.ReaderAt, size int64) (content, error) {
	c := content{Empty: true, NonZeroAt: -1}
	list := pieces(samples(size), mib)
	if len(list) == 0 {
		return c, nil
	}
	head := aligned(int(list[0].length))
	if err := readFull(disk, head, list[0].offset); err != nil {
		return content{}, err
	}
	c.found = recognise(head[:min(len(head), headBytes)])
	c.HeadWiped = len(head) >= 2048 && isZero(head[1024:2048])
	if c.Complete {
		return content{found: c.found, NonZeroAt: 0}, nil
	}
	if !isZero(head) {
		c.Empty, c.NonZeroAt = false, list[0].offset
	}
	first, err := firstNonZero(disk, list[1:])
	if err != nil {
		return content{}, err
	}
	if c.Empty && first >= 0 {
		c.Empty, c.NonZeroAt = false, first
	}
	return c, nil
}

// pieces cuts extents so that none is longer than limit.
func pieces(list []extent, limit int64) []extent {
	var cut []extent
	for _, e := range list {
		for ; e.length > limit; e = (extent{e.offset + limit, e.length - limit}) {
			cut = append(cut, extent{e.offset, limit})
		}
		cut = append(cut, e)
	}
	return cut
}

// firstNonZero reads extents of up to 1 MiB and returns the offset of the first
// that is not all zero, or -1.
func firstNonZero(disk io.ReaderAt, list []extent) (int64, error) {
	const readers = 8
	var next atomic.Int64
	var failed atomic.Bool
	dirty := make([]bool, len(list))
	var group errgroup.Group
	for range min(readers, len(list)) {
		group.Go(func() error {
			buffer := aligned(int(mib))
			for n := next.Add(1) - 1; n < int64(len(list)) && !failed.Load(); n = next.Add(1) - 1 {
				part := buffer[:list[n].length]
				if err := readFull(disk, part, list[n].offset); err != nil {
					failed.Store(true)
					return err
				}
				dirty[n] = !isZero(part)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	if n := slices.Index(dirty, true); n >= 0 {
		return list[n].offset, nil
	}
	return -1, nil
}

func readFull(disk io.ReaderAt, into []byte, offset int64) error {
	n, err := disk.ReadAt(into, offset)
	if n == len(into) && (err == nil || errors.Is(err, io.EOF)) {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %d of %d bytes read at offset %d: %w", errUnreadable, n, len(into), offset, err)
}

func isZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	return len(bytes.Trim(b, "\x00")) == 0
}

// aligned returns n bytes at an address that is a multiple of 4096, as O_DIRECT
// wants it.
func aligned(n int) []byte {
	b := make([]byte, n+4096)
	return b[(4096-addressOf(b)%4096)%4096:][:n]
}
