package nodetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

const blockBytes = 4096

// ErrLost is wrapped by what a mkfs answers that was let loose on data.
var ErrLost = errors.New("nodetest: a mkfs was run over data")

// Run implements iscsi.Runner: the tools, as far as the node service uses them. A crash
// may come between any two writes of a mkfs.
func (h *Host) Run(ctx context.Context, argv ...string) ([]byte, error) {
	tool := filepath.Base(argv[0])
	if argv[1] == "-V" {
		return []byte(tool + " version 6.1.0\n"), nil
	}
	leave, err := h.enter(tool)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := ctx.Err(); err != nil { // a tool that waited is killed when its ctx has ended
		return nil, err
	}
	last := argv[len(argv)-1]
	d := h.byPath(last)
	if tool == "xfs_growfs" {
		_, d = h.mountAt(last)
	}
	if d == nil {
		return nil, &iscsi.ExitError{Tool: tool, Code: 1, Stderr: last + ": no such device"}
	}
	if tool == "blkid" {
		return d.blkid()
	}
	h.done(strings.Join(argv, " "))
	switch tool {
	case "mkfs.xfs":
		return nil, h.mkfs(d, "xfs", slices.Contains(argv, "-f"))
	case "mke2fs":
		return nil, h.mkfs(d, "ext4", false)
	case "xfs_repair", "e2fsck":
		return d.fsck(argv)
	case "xfs_growfs":
		return nil, h.grow(d, "xfs")
	case "resize2fs":
		return nil, h.grow(d, "ext4")
	}
	return nil, &iscsi.ExitError{Tool: tool, Code: 127, Stderr: "no such tool"}
}

// fsck looks at a damaged file system, and with -p mends it.
func (d *Disk) fsck(argv []string) ([]byte, error) {
	switch {
	case !d.damaged:
		return nil, nil
	case slices.Contains(argv, "-p") && d.mendable:
		d.damaged = false
		return []byte("FIXED."), &iscsi.ExitError{Tool: argv[0], Code: 1}
	case slices.Contains(argv, "-n") || slices.Contains(argv, "-p"):
		return []byte("bad magic in block 7"), &iscsi.ExitError{Tool: argv[0], Code: 4}
	}
	return nil, fmt.Errorf("%q: %w", argv, ErrLost)
}

// blkid looks at the few places it needs to tell a disk that is used from one
// that is not.
func (d *Disk) blkid() ([]byte, error) {
	head, err := d.head()
	if err != nil {
		return nil, err
	}
	switch {
	case d.blank:
	case string(head[:4]) == "XFSB":
		return []byte("DEVNAME=" + d.path + "\nTYPE=xfs\nUSAGE=filesystem\n"), nil
	case head[1024+56] == 0x53 && head[1024+57] == 0xef:
		return []byte("DEVNAME=" + d.path + "\nTYPE=ext4\nUSAGE=filesystem\n"), nil
	case string(head[512:520]) == "EFI PART":
		return []byte("DEVNAME=" + d.path + "\nPTTYPE=gpt\n"), nil
	}
	return nil, &iscsi.ExitError{Tool: "blkid", Code: 2}
}

// mkfs writes as the real ones do: xfs marks its superblock as in progress,
// writes the copies, and clears the mark; ext4 clears the place of its
// superblock, writes the copies, and the superblock last.
func (h *Host) mkfs(d *Disk, fsType string, force bool) error {
	if d.held || len(h.mountsOf(d)) > 0 {
		return &iscsi.ExitError{Tool: "mkfs", Code: 1, Stderr: d.path + " is in use"}
	}
	if d.precious {
		return fmt.Errorf("%s: %w", d.path, ErrLost)
	}
	if _, err := d.blkid(); err == nil && !force && fsType == "xfs" {
		return &iscsi.ExitError{Tool: "mkfs.xfs", Code: 1, Stderr: d.path + " appears to contain an existing filesystem"}
	}
	writes := xfsWrites(d.visible)
	if fsType == "ext4" {
		writes = extWrites(d.visible)
	}
	for _, w := range writes {
		if err := h.step("mkfs write"); err != nil {
			return err
		}
		if err := d.pwrite(w.data, w.offset); err != nil {
			return err
		}
	}
	return h.step("mkfs written")
}

type write struct {
	offset int64
	data   []byte
}

func xfsWrites(size int64) []write {
	const groups, inProgress = 4, 126
	blocks := uint64(size / blockBytes)
	super := make([]byte, 512)
	copy(super, "XFSB")
	be := binary.BigEndian
	be.PutUint32(super[4:], blockBytes)
	be.PutUint64(super[8:], blocks)
	be.PutUint32(super[84:], uint32((blocks+groups-1)/groups))
	be.PutUint32(super[88:], groups)
	super[inProgress] = 1
	writes := []write{{0, make([]byte, 128<<10)}, {size - 128<<10, make([]byte, 128<<10)}, {0, super}}
	for g := int64(1); g < groups; g++ {
		writes = append(writes, write{size / groups / blockBytes * blockBytes * g, super})
	}
	done := bytes.Clone(super)
	done[inProgress] = 0
	return append(writes, write{0, done})
}

func extWrites(size int64) []write {
	super := make([]byte, 1024)
	le := binary.LittleEndian
	le.PutUint32(super[4:], uint32(size/blockBytes))
	le.PutUint32(super[24:], 2) // 4 KiB
	super[56], super[57] = 0x53, 0xef
	writes := []write{{1024, make([]byte, 3072)}, {37 << 20, []byte("inode table")}, {blockBytes * 3, []byte("bitmap")}}
	for _, g := range []int64{1, 3, 5, 7} {
		if at := g * 128 << 20; at < size {
			writes = append(writes, write{at, super})
		}
	}
	return append(writes, write{1024, super})
}

// grow makes the mounted file system as large as its device.
func (h *Host) grow(d *Disk, fsType string) error {
	name, _, err := d.filesystem()
	if err != nil {
		return err
	}
	if name != fsType || len(h.mountsOf(d)) == 0 {
		return &iscsi.ExitError{Tool: "grow", Code: 1, Stderr: "not a mounted " + fsType}
	}
	if err := h.step("grow"); err != nil {
		return err
	}
	blocks := uint64(d.visible / blockBytes)
	if fsType == "xfs" {
		head, err := d.head()
		if err != nil {
			return err
		}
		be := binary.BigEndian
		perGroup := uint64(be.Uint32(head[84:]))
		be.PutUint64(head[8:], blocks)
		be.PutUint32(head[88:], uint32((blocks+perGroup-1)/perGroup))
		return d.pwrite(head[:512], 0)
	}
	return d.pwrite(binary.LittleEndian.AppendUint32(nil, uint32(blocks)), 1024+4)
}

// Copy puts the bytes of one disk on another, as an array does that clones a
// volume.
func (d *Disk) Copy(to *Disk) (err error) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	from, err := os.Open(d.file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	head := make([]byte, min(d.bytes, 64<<20))
	if _, err := io.ReadFull(from, head); err != nil {
		return err
	}
	to.precious = true
	return to.pwrite(head, 0)
}
