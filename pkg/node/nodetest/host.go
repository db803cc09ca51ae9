// Package nodetest is a machine for tests of the node service: an initiator,
// disks, a mount table and the tools that make and grow file systems. The disks
// are sparse files that keep what is written, so the proof before mkfs reads real
// bytes. Nothing in it knows how the node service works; it does what a kernel
// does, and it can be stopped dead between any two things it does.
package nodetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

// ErrCrashed is what everything answers after the machine was stopped by
// CrashAt: nothing is done any more, as after SIGKILL.
var ErrCrashed = errors.New("nodetest: the plugin was killed here")

// Host is the machine. It is a node.Attacher, a node.Paths, a node.Devices and an
// iscsi.Runner; Mounts is its mount table. Its methods may be called in parallel.
type Host struct {
	// ArrayBytes, when set, says how large the array holds a LUN to be; a rescan
	// asks it. Without it, Grow decides.
	ArrayBytes func(t iscsi.Target) (int64, error)

	dir string

	mu             sync.Mutex
	disks          map[lun]*Disk
	mounts         []mounted
	calls          []string
	steps          int
	crashAt        int
	dead           bool
	faults         map[string][]error
	hold           map[string]chan struct{}
	waiting        map[string]int // calls that are held, by op
	onFailQueuedIO func()
	fabric         *iscsi.Fabric           // nil: as the disks are
	silent         map[netip.AddrPort]bool // portals that do not answer
	corruptRecords []iscsi.CorruptNodeRecord
}

// lun is what tells disks apart.
type lun struct {
	iqn string
	lun int
}

// NewHost returns a machine that keeps its disks below dir, an absolute path
// without symbolic links.
func NewHost(dir string) (*Host, error) {
	for _, sub := range []string{"dev", "disks"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o750); err != nil {
			return nil, fmt.Errorf("nodetest: %w", err)
		}
	}
	return &Host{dir: dir, disks: map[lun]*Disk{}, faults: map[string][]error{}, hold: map[string]chan struct{}{}, waiting: map[string]int{}, silent: map[netip.AddrPort]bool{}}, nil
}

// Config returns a node.Config on this machine; the caller adds what it wants to
// be different.
func (h *Host) Config() node.Config {
	return node.Config{
		NodeID:    "iqn.1993-08.org.debian:01:nodetest",
		Attacher:  h,
		Mounts:    h.Mounts(),
		Devices:   h,
		Runner:    h,
		Kernel:    "6.1.0-18-amd64",
		Paths:     h,
		RecordDir: filepath.Join(h.dir, "records"),

		ParallelStages: 8,
	}
}

// Calls returns what the machine was made to do, in order, such as
// "attach iqn.…" or "mkfs.xfs -q -K /…/dev/sdb"; looking is not doing.
func (h *Host) Calls() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

// Steps returns how many steps were taken: a CrashAt up to it would have stopped
// the machine.
func (h *Host) Steps() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.steps
}

// CrashAt stops the machine at the n-th step from now, before it is taken; 0
// never does.
func (h *Host) CrashAt(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.steps, h.crashAt = 0, n
}

// Revive lets the machine go on after a crash, with everything as it was.
func (h *Host) Revive() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dead, h.crashAt, h.steps = false, 0, 0
}

// Crashed says whether CrashAt has struck.
func (h *Host) Crashed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dead
}

// Reboot takes away what lives in memory: mounts, sessions, devices.
func (h *Host) Reboot() {
	h.Revive()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mounts = nil
	for _, d := range h.disks {
		d.detach()
	}
}

// Fail makes the next call of op fail with err. The ops are attach, detach, find,
// rescan, prove, condition, fabric, complete, failRefusedIO and resume of an Attacher;
// inspect, heal, ask, attached and failQueuedIO of Paths; setro, claim, number, origin,
// errors, stopped, filesystem, usage, alive and sync of Devices; mount, unmount and list
// of Mounts; record, and the names of tools.
func (h *Host) Fail(op string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults[op] = append(h.faults[op], err)
}

// Hold makes calls of op wait until release is called; then they go on.
func (h *Host) Hold(op string) (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	gate := make(chan struct{})
	h.hold[op] = gate
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.hold, op)
		close(gate)
	})
}

// Waits says whether a call of op is held.
func (h *Host) Waits(op string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.waiting[op] > 0
}

func (h *Host) waits(op string, change int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting[op] += change
}

// Step is one step of anything that is not the machine's, such as writing a
// record: it counts, crashes and fails like the machine's own.
func (h *Host) Step(op string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.step(op)
}

// enter is the beginning of every call: it waits while op is held, and takes the
// lock.
func (h *Host) enter(op string) (leave func(), err error) {
	h.mu.Lock()
	gate := h.hold[op]
	h.mu.Unlock()
	if gate != nil {
		h.waits(op, 1)
		<-gate
		h.waits(op, -1)
	}
	h.mu.Lock()
	if h.dead {
		h.mu.Unlock()
		return nil, ErrCrashed
	}
	if queue := h.faults[op]; len(queue) > 0 {
		h.faults[op] = queue[1:]
		h.mu.Unlock()
		return nil, queue[0]
	}
	return h.mu.Unlock, nil
}

// step counts one thing done, and stops the machine when its turn has come.
func (h *Host) step(op string) error {
	h.steps++
	if h.dead || h.steps == h.crashAt {
		h.dead = true
		return ErrCrashed
	}
	if queue := h.faults[op]; len(queue) > 0 {
		h.faults[op] = queue[1:]
		return queue[0]
	}
	return nil
}

// done notes a call, after it was taken.
func (h *Host) done(call string) { h.calls = append(h.calls, call) }

// Attach implements node.Attacher. A LUN that is not known yet comes into being empty.
func (h *Host) Attach(_ context.Context, t iscsi.Target, auth *iscsi.CHAP) (iscsi.Device, error) {
	leave, err := h.enter("attach")
	if err != nil {
		return iscsi.Device{}, err
	}
	defer leave()
	d, err := h.disk(t)
	if err != nil {
		return iscsi.Device{}, err
	}
	if d.auth != nil && (auth == nil || *auth != *d.auth) {
		return iscsi.Device{}, fmt.Errorf("log in to %s: %w", t.IQN, iscsi.ErrAuth)
	}
	if d.severed {
		return iscsi.Device{}, fmt.Errorf("no path of %s answers: %w", t.IQN, iscsi.ErrUnavailable)
	}
	if d.number != (node.Number{}) {
		return d.device(), d.promised(t)
	}
	if err := h.step("login"); err != nil {
		return iscsi.Device{}, err
	}
	h.plug(d)
	h.done("attach " + t.IQN)
	if err := h.step("attached"); err != nil {
		return iscsi.Device{}, err
	}
	return d.device(), d.promised(t)
}

// plug gives a disk the lowest free name and number, as kernels do: those of
// disks that went come back for others, but not while a mount holds the old one.
func (h *Host) plug(d *Disk) {
	const scsiDisks = 8
	for i := uint32(1); ; i++ {
		number := node.Number{Major: scsiDisks, Minor: 16 * i}
		inUse := slices.ContainsFunc(h.mounts, func(m mounted) bool { return m.disk == number })
		if h.byNumber(number) == nil && !inUse {
			d.number = number
			d.path = filepath.Join(h.dir, "dev", fmt.Sprintf("sd%c", 'a'+rune(i)))
			d.visible = d.bytes
			d.sessions = make(map[netip.AddrPort]bool)
			h.logIn(d, d.target.Portals)
			return
		}
	}
}

// Detach implements node.Attacher.
func (h *Host) Detach(_ context.Context, t iscsi.Target) error {
	leave, err := h.enter("detach")
	if err != nil {
		return err
	}
	defer leave()
	d := h.disks[lun{t.IQN, t.LUN}]
	if d == nil || d.number == (node.Number{}) {
		return nil
	}
	if bound := slices.ContainsFunc(h.mounts, func(m mounted) bool { return m.disk == d.number }); bound || d.held {
		return fmt.Errorf("%s: %w", d.path, iscsi.ErrBusy)
	}
	if err := h.step("logout"); err != nil {
		return err
	}
	d.detach()
	h.done("detach " + t.IQN)
	return h.step("detached")
}

// Find implements node.Attacher.
func (h *Host) Find(_ context.Context, t iscsi.Target) (iscsi.Device, error) {
	leave, err := h.enter("find")
	if err != nil {
		return iscsi.Device{}, err
	}
	defer leave()
	d := h.disks[lun{t.IQN, t.LUN}]
	if d == nil || d.number == (node.Number{}) || d.bare {
		return iscsi.Device{}, iscsi.ErrNotAttached
	}
	return d.device(), d.promised(t)
}

// Rescan implements node.Attacher.
func (h *Host) Rescan(_ context.Context, t iscsi.Target) (int64, error) {
	leave, err := h.enter("rescan")
	if err != nil {
		return 0, err
	}
	defer leave()
	d := h.disks[lun{t.IQN, t.LUN}]
	if d == nil || d.number == (node.Number{}) {
		return 0, iscsi.ErrNotAttached
	}
	if h.ArrayBytes != nil {
		bytes, err := h.ArrayBytes(t)
		if err != nil {
			return 0, err
		}
		if err := d.resize(bytes); err != nil {
			return 0, err
		}
	}
	if err := h.step("rescan"); err != nil {
		return 0, err
	}
	d.visible = d.bytes
	h.done("rescan " + t.IQN)
	return d.visible, nil
}

// Origin implements node.Devices.
func (h *Host) Origin(n node.Number) (iscsi.Target, error) {
	leave, err := h.enter("origin")
	if err != nil {
		return iscsi.Target{}, err
	}
	defer leave()
	d := h.byNumber(n)
	if d == nil {
		return iscsi.Target{}, fmt.Errorf("device %s: %w", n, fs.ErrNotExist)
	}
	if d.target.IQN == "" || d.bare {
		return iscsi.Target{}, fmt.Errorf("device %s: %w", n, iscsi.ErrNotISCSI)
	}
	return d.target, nil
}

// Number implements node.Devices.
func (h *Host) Number(path string) (node.Number, error) {
	leave, err := h.enter("number")
	if err != nil {
		return node.Number{}, err
	}
	defer leave()
	if d := h.byPath(path); d != nil {
		return d.number, nil
	}
	for _, m := range slices.Backward(h.mounts) {
		if m.path == path && m.file {
			return m.disk, nil
		}
	}
	if _, err := os.Stat(path); err != nil {
		return node.Number{}, err
	}
	return node.Number{}, fmt.Errorf("%s: %w", path, node.ErrNotBlock)
}

// Size implements node.Devices.
func (h *Host) Size(n node.Number) (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.byNumber(n)
	if d == nil {
		return 0, fmt.Errorf("device %s: %w", n, fs.ErrNotExist)
	}
	return d.visible, nil
}

// Usage implements node.Devices: a tenth of the file system is in use.
func (h *Host) Usage(path string) (node.Usage, error) {
	leave, err := h.enter("usage")
	if err != nil {
		return node.Usage{}, err
	}
	defer leave()
	m, d := h.mountAt(path)
	if m == nil || d == nil {
		return node.Usage{}, fmt.Errorf("statfs %s: nothing is mounted there", path)
	}
	_, bytes, err := d.filesystem()
	if err != nil {
		return node.Usage{}, err
	}
	return node.Usage{TotalBytes: bytes, FreeBytes: bytes / 10 * 9, AvailableBytes: bytes / 10 * 8, TotalInodes: 1000, FreeInodes: 990}, nil
}

// FilesystemBytes implements node.Devices.
func (h *Host) FilesystemBytes(_, device, _ string) (int64, error) {
	leave, err := h.enter("filesystem")
	if err != nil {
		return 0, err
	}
	defer leave()
	d := h.byPath(device)
	if d == nil {
		return 0, fmt.Errorf("%s: %w", device, fs.ErrNotExist)
	}
	_, bytes, err := d.filesystem()
	return bytes, err
}
