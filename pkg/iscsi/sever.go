package iscsi

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"k8s.io/klog/v2"
)

// Sever keeps from the LUN whatever this host still holds for it, without a look at who
// uses it: its disks take nothing any more, and a map fails what it cannot send. It is
// for what may no longer be written, because another host may have used the LUN since
// (FM 4). The sessions stay, and Rejoin ends it. Nothing attached is success.
//
// ErrUnavailable when a disk goes on taking I/O. One whose session is down takes none.
func (i *Initiator) Sever(ctx context.Context, t Target) error {
	if err := t.check(); err != nil {
		return err
	}
	unlock, err := i.targets.Lock(ctx, t.IQN)
	if err != nil {
		return fmt.Errorf("wait for another call that uses %s: %w", t.IQN, err)
	}
	defer unlock()
	disks, err := i.sysfs.lun(t.IQN, t.LUN)
	if err != nil {
		return err
	}
	err = each(disks, func(d disk) error {
		if d.offline() {
			return nil
		}
		return i.set(ctx, filepath.Join(d.dir, "state"), stateOffline)
	})
	if n := slices.IndexFunc(disks, func(d disk) bool { return d.session.live() && !d.offline() }); n >= 0 {
		return together(fmt.Errorf("%w: %s still takes what this host sends to LUN %d of %s", ErrUnavailable, disks[n].name, t.LUN, t.IQN), err)
	}
	if len(disks) > 0 {
		klog.FromContext(ctx).Info("Nothing that this host still holds reaches the LUN any more", "target", t.IQN, "lun", t.LUN, "disks", len(disks))
	}
	m, mapped, err := i.anyMap(t)
	if err != nil || !mapped {
		return err
	}
	return i.disableQueueing(ctx, m)
}

// Rejoin lets a LUN be used again that Sever cut off. Nothing attached is success.
func (i *Initiator) Rejoin(ctx context.Context, t Target) error {
	if err := t.check(); err != nil {
		return err
	}
	unlock, err := i.targets.Lock(ctx, t.IQN)
	if err != nil {
		return fmt.Errorf("wait for another call that uses %s: %w", t.IQN, err)
	}
	defer unlock()
	var done Healed
	if err := i.revive(ctx, t, &done); err != nil {
		return err
	}
	m, mapped, err := i.anyMap(t)
	if err != nil || !mapped {
		return err
	}
	i.restoreQueueing(ctx, t, m)
	return nil
}
