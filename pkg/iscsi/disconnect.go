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
		*drainedSession

		err error
	}
	var ending []*drainedSession // the others are kept, for another LUN's sake or because it failed
	for _, o := range eachOf(sessions, func(s session) outcome { v, failed := i.removeLUN(ctx, t, s); return outcome{v, failed} }) {
		err = together(err, o.err)
		if o.drainedSession != nil {
			ending = append(ending, o.drainedSession)
		}
	}
	if len(ending) == len(sessions) && len(ending) > 1 {
		err = together(err, i.logOutAll(ctx, t, ending))
	} else {
		err = together(err, each(ending, func(v *drainedSession) error { return i.logOut(ctx, v) }))
	}
	if err != nil || len(ending) < len(sessions) {
		return err
	}
	faultpoint.At("detach: logged out")
	return i.iscsiadm.forget(ctx, t.IQN)
}

// drainedSession is a session behind which nothing is used any more: its disks, which
// are all it had, were removed or are about to go with it.
type drainedSession struct {
	session
	disks []disk
}

// removeLUN removes the LUN's disk from a session. The answer is nil when the session
// carries another LUN, and so must stay (FM 3).
func (i *Initiator) removeLUN(ctx context.Context, t Target, s session) (*drainedSession, error) {
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
		return i.removeDisks(ctx, s, ours)
	}
	return nil, each(ours, func(d disk) error { return i.deleteDisk(ctx, d) })
}

// removeDisks removes the disks behind a session, which are all its disks. On a dead
// session they are not removed one by one: each would wait for an answer of the
// target, while the end of the session ends them all.
func (i *Initiator) removeDisks(ctx context.Context, s session, disks []disk) (*drainedSession, error) {
	if s.live() {
		if err := each(disks, func(d disk) error { return i.deleteDisk(ctx, d) }); err != nil {
			return nil, err
		}
	}
	faultpoint.At("detach: disks dropped")
	return &drainedSession{session: s, disks: disks}, nil
}

// checkNoNewDisk proves that a session is as empty as it was. Somebody may have brought
// another LUN to life on it since we looked.
func (i *Initiator) checkNoNewDisk(v *drainedSession) error {
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

// logOutAll ends all sessions of a target. One iscsiadm can do that, which takes as
// long as one session does. What it leaves, because a session has no record or for
// whatever reason, is ended one by one, and only that failing is an error.
func (i *Initiator) logOutAll(ctx context.Context, t Target, all []*drainedSession) error {
	for _, v := range all {
		if err := i.checkNoNewDisk(v); err != nil {
			return err
		}
	}
	if err := i.iscsiadm.logoutAll(ctx, t.IQN); err != nil {
		klog.FromContext(ctx).V(2).Info("Not all sessions ended at once, going on one by one", "target", t.IQN, "err", err)
	}
	return each(all, func(v *drainedSession) error { return i.logOut(ctx, v) })
}

// logOut ends a session; that it has ended is success.
func (i *Initiator) logOut(ctx context.Context, v *drainedSession) error {
	ended := func() (bool, error) {
		_, stat := os.Stat(v.class)
		return gone(stat), ignoreGone(stat)
	}
	if already, err := ended(); already || err != nil {
		return err
	}
	if err := i.checkNoNewDisk(v); err != nil {
		return err
	}
	logoutErr := i.iscsiadm.logout(ctx, v.session)
	unknown := errors.Is(logoutErr, errUnknownSession)
	if logoutErr != nil && !unknown {
		if over, _ := ended(); !over {
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

// endSession ends a session and the disks behind it, which are all its disks.
func (i *Initiator) endSession(ctx context.Context, s session, disks []disk) error {
	v, err := i.removeDisks(ctx, s, disks)
	if err != nil {
		return err
	}
	return i.logOut(ctx, v)
}
