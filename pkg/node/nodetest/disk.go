package nodetest

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

// Disk is one LUN of the array and, while it is attached, one disk of the
// machine.
type Disk struct {
	host   *Host
	target iscsi.Target // empty IQN: a local disk
	file   string       // what it holds
	auth   *iscsi.CHAP  // what the target wants; nil: nothing
	bytes  int64        // what the array says

	number    node.Number // zero: not attached
	path      string
	visible   int64 // what the kernel says
	opened    int64 // what the device says when it is opened; 0: the same
	held      bool  // by somebody outside this mount namespace
	shutDown  bool
	answers   string // its serial number when it is asked now; "": target's
	errors    node.FilesystemErrors
	condition *iscsi.Condition // nil: well
	readErr   func(offset int64) error
	precious  bool // holds what a user wrote
	blank     bool // reads as zeros
	suspended bool // its map is

	mountFails int
	mountWords string
	readOnly   bool                    // the kernel takes no writes
	damaged    bool                    // the kernel refuses to mount what is on it
	mendable   bool                    // and e2fsck -p can repair it
	sessions   map[netip.AddrPort]bool // by portal: whether it works
	outdated   map[netip.AddrPort]bool // sessions whose secrets have changed
	refused    bool                    // the array does not admit the machine
	deleted    bool                    // the array has it no more
	bare       bool                    // its map has no path left
	severed    bool                    // the machine sends it nothing
}

// Disk returns the disk of a target, known to the machine or not yet.
func (h *Host) Disk(t iscsi.Target) (*Disk, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.disk(t)
}

func (h *Host) disk(t iscsi.Target) (*Disk, error) {
	key := lun{t.IQN, t.LUN}
	if d := h.disks[key]; d != nil {
		return d, nil
	}
	d := &Disk{host: h, target: t, file: filepath.Join(h.dir, "disks", fmt.Sprintf("%03d", len(h.disks)))}
	if err := os.WriteFile(d.file, nil, 0o600); err != nil {
		return nil, err
	}
	if err := d.resize(t.Bytes); err != nil {
		return nil, err
	}
	h.disks[key] = d
	return d, nil
}

func (d *Disk) resize(bytes int64) error {
	d.bytes = bytes
	d.target.Bytes = bytes
	return os.Truncate(d.file, bytes)
}

func (d *Disk) detach() {
	d.number, d.path, d.visible, d.shutDown, d.readOnly, d.bare, d.severed, d.sessions, d.outdated = node.Number{}, "", 0, false, false, false, false, nil, nil
}

func (d *Disk) device() iscsi.Device {
	return iscsi.Device{Path: d.path, WWID: "36001405" + d.target.Serial, Paths: []string{d.path}, Bytes: d.visible}
}

// promised is the identity check of every Attacher.
func (d *Disk) promised(t iscsi.Target) error {
	if d.target.Serial != t.Serial || d.visible < t.Bytes {
		return fmt.Errorf("%s has serial %s and %d bytes, promised were %s and %d: %w", d.path, d.target.Serial, d.visible, t.Serial, t.Bytes, iscsi.ErrForeign)
	}
	return nil
}

// Grow makes the LUN larger on the array; the machine sees it after a rescan.
func (d *Disk) Grow(bytes int64) error {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	return d.resize(bytes)
}

// Want makes the target ask for these secrets.
func (d *Disk) Want(auth iscsi.CHAP) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.auth = &auth
}

// Shrink makes the open device answer fewer bytes than the kernel told before.
func (d *Disk) Shrink(bytes int64) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.opened = bytes
}

// Hold makes the device busy, as a mount in another container does.
func (d *Disk) Hold(held bool) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.held = held
}

// Damage makes the kernel refuse to mount the file system; e2fsck -p can repair it
// or not.
func (d *Disk) Damage(mendable bool) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.damaged, d.mendable = true, mendable
}

// FailMounts makes as many mounts of the disk fail with words of mount(8).
func (d *Disk) FailMounts(times int, words string) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.mountFails, d.mountWords = times, words
}

// ReadOnly says whether the kernel refuses writes to the device.
func (d *Disk) ReadOnly() bool {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	return d.readOnly
}

// SetReadOnly implements node.Devices.
func (h *Host) SetReadOnly(path string, readOnly bool) error {
	leave, err := h.enter("setro")
	if err != nil {
		return err
	}
	defer leave()
	d := h.byPath(path)
	if d == nil {
		return fmt.Errorf("open %s: %w", path, os.ErrNotExist)
	}
	if d.readOnly != readOnly {
		h.done(fmt.Sprintf("read-only %v %s", readOnly, path))
	}
	d.readOnly = readOnly
	return nil
}

// Lose takes the device away as a dead session does: mounts of it stay, dead.
func (d *Disk) Lose() {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.detach()
}

// FailReads makes reads of the device ask f for an error; nil makes them well.
func (d *Disk) FailReads(f func(offset int64) error) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.readErr = f
}

// Blank makes the disk read as zeros, whatever it holds: a thin volume whose array has
// lost the map of its blocks.
func (d *Disk) Blank(blank bool) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.blank = blank
}

// Write puts bytes on the disk as its user would: a mkfs over them is a loss that
// ErrLost tells of.
func (d *Disk) Write(data []byte, offset int64) error {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.precious = true
	return d.pwrite(data, offset)
}

// Path is the name of the device on the machine, "" when it is not attached.
func (d *Disk) Path() string {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	return d.path
}

// File is where the disk's bytes are.
func (d *Disk) File() string { return d.file }

// Filesystem names the complete file system on the disk, "" when there is none,
// and its size.
func (d *Disk) Filesystem() (string, int64, error) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	return d.filesystem()
}

func (d *Disk) pwrite(data []byte, offset int64) (err error) {
	f, err := os.OpenFile(d.file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.WriteAt(data, offset)
	return err
}

func (d *Disk) head() (_ []byte, err error) {
	f, err := os.Open(d.file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	head := make([]byte, 4096)
	_, err = io.ReadFull(f, head)
	return head, err
}

// filesystem reads the fields that the machine's own mkfs writes.
func (d *Disk) filesystem() (name string, bytes int64, err error) {
	head, err := d.head()
	if err != nil {
		return "", 0, err
	}
	switch {
	case string(head[:4]) == "XFSB" && head[126] == 0:
		return "xfs", int64(binary.BigEndian.Uint64(head[8:])) * blockBytes, nil
	case head[1024+56] == 0x53 && head[1024+57] == 0xef:
		return "ext4", int64(binary.LittleEndian.Uint32(head[1024+4:])) * blockBytes, nil
	}
	return "", 0, nil
}

func (h *Host) byNumber(n node.Number) *Disk {
	for _, d := range h.disks {
		if d.number == n && n != (node.Number{}) {
			return d
		}
	}
	return nil
}

func (h *Host) byPath(path string) *Disk {
	for _, d := range h.disks {
		if d.path == path && path != "" {
			return d
		}
	}
	return nil
}

// Claim implements node.Devices.
func (h *Host) Claim(path string) (node.Disk, error) {
	leave, err := h.enter("claim")
	if err != nil {
		return nil, err
	}
	defer leave()
	d := h.byPath(path)
	if d == nil {
		return nil, fmt.Errorf("open %s: %w", path, os.ErrNotExist)
	}
	if d.held || len(h.mountsOf(d)) > 0 {
		return nil, fmt.Errorf("open %s: %w", path, node.ErrHeld)
	}
	f, err := os.Open(d.file)
	if err != nil {
		return nil, err
	}
	d.held = true
	return &claimed{File: f, disk: d, bytes: cmp.Or(d.opened, d.visible)}, nil
}

// claimed is an open device.
type claimed struct {
	*os.File
	disk  *Disk
	bytes int64
}

func (c *claimed) Size() (int64, error) { return c.bytes, nil }

func (c *claimed) ReadAt(p []byte, offset int64) (int, error) {
	c.disk.host.mu.Lock()
	fail, blank := c.disk.readErr, c.disk.blank
	c.disk.host.mu.Unlock()
	if fail != nil {
		if err := fail(offset); err != nil {
			return 0, err
		}
	}
	n, err := c.File.ReadAt(p, offset)
	if blank {
		clear(p[:n])
	}
	return n, err
}

func (c *claimed) Close() error {
	c.disk.host.mu.Lock()
	defer c.disk.host.mu.Unlock()
	c.disk.held = false
	return c.File.Close()
}
