package iscsi

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/klog/v2"
)

// Sever keeps from the LUN whatever this host still holds for it, without a look at who
// uses it, and for good: its disks are taken away, and a map over them fails what it
// cannot send. It is for a device that is older than the LUN, because another host may
// have used that since (FM 4). Sessions that work stay, and show the LUN again only to
// who asks for it, as Rejoin and Attach do. Nothing attached is success.
//
// ErrUnavailable when a disk cannot be taken away and might be used again.
func (i *Initiator) Sever(ctx context.Context, t Target) error {
	if err := t.check(); err != nil {
		return err
	}
	unlock, err := i.lock(ctx, t)
	if err != nil {
		return err
	}
	defer unlock()
	m, mapped, err := i.anyMap(t) // now, for as long as it loses its paths nothing tells that it is the LUN's
	if err != nil {
		return err
	}
	sessions, err := i.sysfs.sessions(t.IQN)
	if err != nil {
		return err
	}
	if err = each(sessions, func(s session) error { return i.severSession(ctx, t, s) }); err != nil || !mapped {
		return err
	}
	if err = i.awaitLoss(ctx, m); err != nil {
		return err
	}
	return i.disableQueueing(ctx, m)
}

// awaitLoss waits until multipathd has taken the disks that are gone out of their map:
// while it does, it gives the map back the queueing of its configuration.
func (i *Initiator) awaitLoss(ctx context.Context, m dmap) error {
	if runs, err := i.multipathdRuns(); err != nil || !runs {
		return err
	}
	_, err := until(ctx, i.cfg.MapTimeout, func() (bool, error) {
		now, readErr := readMap(m.dir)
		return gone(readErr) || readErr == nil && len(now.slaves) == 0, ignoreGone(readErr)
	})
	return err
}

// severSession takes the LUN's disk away from a session, set offline before: the kernel
// writes out what it holds for a disk that it removes. One that is down may be back before
// that has ended, and so ends itself.
func (i *Initiator) severSession(ctx context.Context, t Target, s session) error {
	all, err := i.sysfs.disks(s)
	if err != nil {
		return err
	}
	ours := slices.DeleteFunc(slices.Clone(all), func(d disk) bool { return d.lun != t.LUN })
	if len(ours) == 0 {
		return nil
	}
	klog.FromContext(ctx).Info("Nothing that this host still holds reaches the LUN through this disk any more", "target", t.IQN, "lun", t.LUN, "disk", ours[0].name)
	switch {
	case s.live():
		return each(ours, func(d disk) error { return together(i.setOffline(ctx, d), i.deleteOffline(ctx, d)) })
	case len(ours) < len(all):
		return fmt.Errorf("%w: %s is down and carries another LUN, so LUN %d cannot be cut off before it is back", ErrUnavailable, s, t.LUN)
	}
	return i.logOut(ctx, &drainedSession{session: s, disks: ours})
}

// setOffline lets the kernel fail what is sent to a disk. It refuses that for a moment,
// while it brings a disk back whose session has just come back.
func (i *Initiator) setOffline(ctx context.Context, d disk) error {
	const moment = 5 * time.Second
	var last error
	_, err := until(ctx, moment, func() (bool, error) {
		if d.offline() {
			return true, nil
		}
		last = i.set(ctx, filepath.Join(d.dir, "state"), stateOffline)
		return last == nil && d.offline() || gone(last), nil
	})
	return together(err, ignoreGone(last))
}

func (i *Initiator) deleteOffline(ctx context.Context, d disk) error {
	if _, err := attribute(d.dir, "state"); gone(err) {
		return nil
	}
	if !d.offline() {
		return fmt.Errorf("%w: %s still takes what this host sends to it", ErrUnavailable, d.name)
	}
	return i.deleteDisk(ctx, d)
}

// Rejoin is Attach for a LUN that Sever cut off and that is used anew, with the secrets
// of its node records. What was laid over the disks of before goes first; ErrBusy while
// somebody has it, in whatever mount namespace.
func (i *Initiator) Rejoin(ctx context.Context, t Target) error {
	auth, err := i.leave(ctx, t)
	if err != nil {
		return err
	}
	_, err = i.Attach(ctx, t, auth)
	return err
}

// leave removes the map of a LUN that was cut off, and says by which secrets this host
// logs in to its target.
func (i *Initiator) leave(ctx context.Context, t Target) (*CHAP, error) {
	if err := t.checkPromise(); err != nil {
		return nil, err
	}
	unlock, err := i.lock(ctx, t)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err = i.removeOrphan(ctx, t); err != nil {
		return nil, err
	}
	all, err := i.iscsiadm.db.list(t.IQN)
	if err != nil {
		return nil, err
	}
	n := slices.IndexFunc(all, func(r nodeRecord) bool { return r.intact(t.IQN) })
	if n < 0 {
		return nil, fmt.Errorf("log in to %s: %w; it comes back when the volume is staged again", t.IQN, ErrNoRecord)
	}
	return all[n].auth(), nil
}
