package iscsi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/internal/faultpoint"
)

// disconnect removes the paths, the sessions and the records.
func (i *Initiator) disconnect(ctx context.Context, t Target) error {
	sessions, err := i.sysfs.sessions(t.IQN)
	if err != nil {
		return err
	}
	type outcome struct {
		*vacant

		err error
	}
	var ending []*vacant // the others are kept, for another LUN's sake or because it failed
	for _, o := range eachOf(sessions, func(s session) outcome { v, failed := i.vacate(ctx, t, s); return outcome{v, failed} }) {
		err = together(err, o.err)
		if o.vacant != nil {
			ending = append(ending, o.vacant)
		}
	}
	if len(ending) == len(sessions) && len(ending) > 1 {
		err = together(err, i.endAll(ctx, t, ending))
	} else {
		err = together(err, each(ending, func(v *vacant) error { return i.end(ctx, v) }))
	}
	if err != nil || len(ending) < len(sessions) {
		return err
	}
	faultpoint.At("detach: logged out")
	return i.admin.forget(ctx, t.IQN)
}

// vacant is a session behind which nothing is used any more: its disks, which are
// all it had, were removed or are about to go with it.
type vacant struct {
	session
	disks []disk
}

// vacate removes the LUN's disk from a session. The answer is nil when the session
// carries another LUN, and so must stay (FM 3).
func (i *Initiator) vacate(ctx context.Context, t Target, s session) (*vacant, error) {
	all, err := i.sysfs.disks(s)
	if err != nil {
		return nil, err
	}
	var ours []disk
	for _, d := range all {
		if d.lun == t.LUN {
			ours = append(ours, d)
		}
	}
	if len(ours) == len(all) {
		return i.empty(ctx, s, ours)
	}
	return nil, each(ours, func(d disk) error { return i.drop(ctx, d) })
}

// empty removes the disks behind a session, which are all its disks. On a dead
// session they are not removed one by one: each would wait for an answer of the
// target, while the end of the session ends them all.
func (i *Initiator) empty(ctx context.Context, s session, disks []disk) (*vacant, error) {
	if s.live() {
		if err := each(disks, func(d disk) error { return i.drop(ctx, d) }); err != nil {
			return nil, err
		}
	}
	faultpoint.At("detach: disks dropped")
	return &vacant{session: s, disks: disks}, nil
}

// still proves that a session is as empty as it was. Somebody may have brought
// another LUN to life on it since we looked.
func (i *Initiator) still(v *vacant) error {
	now, err := i.sysfs.disks(v.session)
	if err != nil {
		return err
	}
	for _, d := range now {
		if !slices.ContainsFunc(v.disks, func(known disk) bool { return known.dir == d.dir }) {
			return fmt.Errorf("%w: %s carries another disk, %s", ErrBusy, v.session, d.name)
		}
	}
	return nil
}

// endAll ends all sessions of a target. One iscsiadm can do that, which takes as
// long as one session does. What it leaves, because a session has no record or for
// whatever reason, is ended one by one, and only that failing is an error.
func (i *Initiator) endAll(ctx context.Context, t Target, all []*vacant) error {
	for _, v := range all {
		if err := i.still(v); err != nil {
			return err
		}
	}
	if err := i.admin.logoutAll(ctx, t.IQN); err != nil {
		klog.FromContext(ctx).V(2).Info("Not all sessions ended at once, going on one by one", "target", t.IQN, "err", err)
	}
	return each(all, func(v *vacant) error { return i.end(ctx, v) })
}

// end ends a session; that it has ended is success.
func (i *Initiator) end(ctx context.Context, v *vacant) error {
	ended := func() (bool, error) {
		_, stat := os.Stat(v.class)
		return gone(stat), ignoreGone(stat)
	}
	if already, err := ended(); already || err != nil {
		return err
	}
	if err := i.still(v); err != nil {
		return err
	}
	logoutErr := i.admin.logout(ctx, v.session)
	unknown := errors.Is(logoutErr, errUnknownSession)
	if logoutErr != nil && !unknown {
		if gone, _ := ended(); !gone {
			return logoutErr
		}
	}
	ok, err := until(ctx, i.cfg.LoginTimeout, ended)
	switch {
	case err != nil:
		return fmt.Errorf("wait for the end of %s: %w", v.session, err)
	case !ok && unknown:
		return fmt.Errorf("%w: iscsid does not know %s, which the kernel has, and cannot end it; restart iscsid, which takes up all sessions of the kernel: systemctl restart iscsid", ErrUnavailable, v.session)
	case !ok:
		return fmt.Errorf("%w: %s does not end", ErrUnavailable, v.session)
	}
	return nil
}

// clear ends a session and the disks behind it, which are all its disks.
func (i *Initiator) clear(ctx context.Context, s session, disks []disk) error {
	v, err := i.empty(ctx, s, disks)
	if err != nil {
		return err
	}
	return i.end(ctx, v)
}
