package iscsi

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

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
	if err = i.setOffline(ctx, t); err != nil {
		return err
	}
	m, mapped, err := i.anyMap(t)
	if err != nil || !mapped {
		return err
	}
	return i.disableQueueing(ctx, m)
}

// setOffline sets the disks of the LUN offline whose session is live. The kernel refuses
// that for a moment, while it brings a disk back whose session has just come back.
func (i *Initiator) setOffline(ctx context.Context, t Target) error {
	const moment = 5 * time.Second
	var last error
	set, err := until(ctx, moment, func() (bool, error) {
		disks, lookErr := i.sysfs.lun(t.IQN, t.LUN)
		last = each(disks, func(d disk) error {
			if !d.session.live() || d.offline() {
				return nil
			}
			err := i.set(ctx, filepath.Join(d.dir, "state"), stateOffline)
			if err == nil && d.offline() {
				klog.FromContext(ctx).Info("Nothing that this host still holds reaches the LUN through this disk any more", "target", t.IQN, "lun", t.LUN, "disk", d.name)
				return nil
			}
			return together(fmt.Errorf("%w: %s still takes what this host sends to LUN %d of %s", ErrUnavailable, d.name, t.LUN, t.IQN), err)
		})
		return last == nil, lookErr
	})
	if err != nil || set {
		return err
	}
	return last
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
	if err = i.revive(ctx, t, &done); err != nil {
		return err
	}
	m, mapped, err := i.anyMap(t)
	if err != nil || !mapped {
		return err
	}
	i.restoreQueueing(ctx, t, m)
	return nil
}
