package iscsi

import (
	"context"

	"github.com/datera-csi/datera-csi/internal/faultpoint"
)

// Detach takes the LUN away from this host: it writes out what the kernel
// buffers, removes the map, the paths and the sessions, and deletes the node
// records, in this order (FM 21). A device that is in use is refused with
// ErrBusy and stays as it is. Sessions that also carry another LUN stay (FM 3).
//
// Detach is safe to repeat from whatever state an earlier call left; nothing
// there is success. Of t only IQN and LUN are needed; with Serial it also finds
// a map whose paths are all gone.
func (i *Initiator) Detach(ctx context.Context, t Target) error {
	if err := t.check(); err != nil {
		return err
	}
	unlock, err := i.lock(ctx, t)
	if err != nil {
		return err
	}
	defer unlock()
	if err := i.quiesce(ctx, t); err != nil {
		return err
	}
	faultpoint.At("detach: flushed")
	if err := i.removeMaps(ctx, t); err != nil {
		return err
	}
	faultpoint.At("detach: map removed")
	if err := i.disconnect(ctx, t); err != nil {
		return err
	}
	if runs, err := i.multipathdRuns(); err != nil || !runs {
		return err
	}
	return i.removeOrphan(ctx, t) // multipathd may have laid a map over the disks before they went
}

// removeMaps removes the map over the LUN, and a map of the LUN's WWID whose
// paths are all gone. A map that has paths which are not ours is not touched.
func (i *Initiator) removeMaps(ctx context.Context, t Target) error {
	m, mapped, err := i.sysfs.mapOver(t.IQN, t.LUN)
	if err != nil {
		return err
	}
	if mapped {
		err = i.removeMap(ctx, m)
		if err != nil || m.wwid == lioWWID(t.Serial) { // there cannot be two
			return err
		}
	}
	return i.removeOrphan(ctx, t)
}

// removeOrphan removes a map of the LUN's WWID whose paths are all gone.
func (i *Initiator) removeOrphan(ctx context.Context, t Target) error {
	orphan, found, err := i.orphan(t)
	if err != nil || !found {
		return err
	}
	if err := together(i.resumeMap(ctx, orphan), i.checkUnused(ctx, orphan.blockDevice), i.checkNoQueuedWriters(ctx, t, orphan)); err != nil {
		return err
	}
	if err := i.disableQueueing(ctx, orphan); err != nil {
		return err
	}
	return i.removeMap(ctx, orphan)
}

// anyMap finds the map of a LUN, also when its paths are all gone.
func (i *Initiator) anyMap(t Target) (dmap, bool, error) {
	m, found, err := i.sysfs.mapOver(t.IQN, t.LUN)
	if err == nil && !found {
		m, found, err = i.orphan(t)
	}
	return m, found, err
}

// orphan finds a map without any path that was made for this LUN.
func (i *Initiator) orphan(t Target) (m dmap, found bool, err error) {
	if t.Serial == "" {
		return dmap{}, false, nil
	}
	err = i.sysfs.eachMap(func(dir, wwid string) error {
		if found || wwid != lioWWID(t.Serial) {
			return nil
		}
		one, readErr := readMap(dir)
		if readErr == nil && len(one.slaves) == 0 {
			m, found = one, true
		}
		return readErr
	})
	return m, found, err
}
