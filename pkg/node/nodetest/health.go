package nodetest

import (
	"context"
	"fmt"
	"slices"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

// Prove implements node.Attacher. The disk answers as what the array has there now.
func (h *Host) Prove(ctx context.Context, t iscsi.Target) (iscsi.Device, error) {
	device, err := h.Find(ctx, t)
	if err != nil {
		return iscsi.Device{}, err
	}
	leave, err := h.enter("prove")
	if err != nil {
		return iscsi.Device{}, err
	}
	defer leave()
	if h.disks[lun{t.IQN, t.LUN}].severed {
		return iscsi.Device{}, fmt.Errorf("LUN %d of %s has no live path: %w", t.LUN, t.IQN, iscsi.ErrUnavailable)
	}
	if d := h.disks[lun{t.IQN, t.LUN}]; d.answers != "" && d.answers != t.Serial {
		return iscsi.Device{}, fmt.Errorf("%s answers as serial %s, promised was %s: %w", d.path, d.answers, t.Serial, iscsi.ErrForeign)
	}
	return device, nil
}

// Condition implements node.Attacher: one path to the first portal, as Disk.Become says.
func (h *Host) Condition(_ context.Context, t iscsi.Target) (iscsi.Condition, error) {
	leave, err := h.enter("condition")
	if err != nil {
		return iscsi.Condition{}, err
	}
	defer leave()
	c := iscsi.Condition{OnePath: true}
	d := h.disks[lun{t.IQN, t.LUN}]
	if d == nil || d.number == (node.Number{}) {
		for _, p := range t.Portals {
			c.Paths = append(c.Paths, iscsi.PathCondition{Portal: p})
		}
		return c, nil
	}
	if d.condition != nil {
		return *d.condition, nil
	}
	if d.bare {
		return iscsi.Condition{Map: &iscsi.MapCondition{Name: d.path, Number: d.number.String(), Bytes: d.visible}}, nil
	}
	c.Paths = []iscsi.PathCondition{{
		Portal: t.Portals[0], Session: "LOGGED_IN", Disk: d.path, State: "running", Number: d.number.String(), Serial: d.target.Serial, Bytes: d.visible,
	}}
	return c, nil
}

// Fabric implements node.Attacher: a live session to the first portal of every LUN that
// is attached, unless SetFabric said otherwise.
func (h *Host) Fabric(context.Context) (iscsi.Fabric, error) {
	leave, err := h.enter("fabric")
	if err != nil {
		return iscsi.Fabric{}, err
	}
	defer leave()
	if h.fabric != nil {
		return *h.fabric, nil
	}
	var f iscsi.Fabric
	for _, d := range h.disks {
		if d.number != (node.Number{}) && len(d.target.Portals) > 0 {
			f.Sessions = append(f.Sessions, iscsi.Session{IQN: d.target.IQN, Portal: d.target.Portals[0], State: "LOGGED_IN"})
		}
	}
	slices.SortFunc(f.Sessions, func(a, b iscsi.Session) int { return a.Portal.Compare(b.Portal) })
	return f, nil
}

// SetFabric is what Fabric answers from now on.
func (h *Host) SetFabric(f iscsi.Fabric) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fabric = &f
}

// Become is what Condition answers for the disk while it is attached.
func (d *Disk) Become(c iscsi.Condition) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.condition = &c
}

// Answer makes the disk answer with a serial number that the kernel does not know
// of yet, as one does whose LUN was given to another volume.
func (d *Disk) Answer(serial string) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.answers = serial
}

// Number is the disk's while it is attached.
func (d *Disk) Number() node.Number {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	return d.number
}

// Err makes the file system on the disk remember errors.
func (d *Disk) Err(e node.FilesystemErrors) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.errors = e
}

// FilesystemErrors implements node.Devices.
func (h *Host) FilesystemErrors(_ string, n node.Number) (node.FilesystemErrors, error) {
	leave, err := h.enter("errors")
	if err != nil {
		return node.FilesystemErrors{}, err
	}
	defer leave()
	if d := h.byNumber(n); d != nil {
		return d.errors, nil
	}
	return node.FilesystemErrors{}, nil
}

// Stopped implements node.Devices: a file system whose errors are of the mount's time and
// of the function that meets an aborted journal.
func (h *Host) Stopped(_ node.Mount, e node.FilesystemErrors) (bool, error) {
	leave, err := h.enter("stopped")
	if err != nil {
		return false, err
	}
	defer leave()
	return e.Where == "ext4_journal_check_start", nil
}

// Alive implements node.Devices; make it fail with Fail("alive", …).
func (h *Host) Alive(string) error {
	leave, err := h.enter("alive")
	if err != nil {
		return err
	}
	leave()
	return nil
}

// Sync implements node.Devices; make it fail with Fail("sync", …).
func (h *Host) Sync(string) error {
	leave, err := h.enter("sync")
	if err != nil {
		return err
	}
	leave()
	return nil
}
