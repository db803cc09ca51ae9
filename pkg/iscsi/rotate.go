package iscsi

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// When a secret changes while its LUN is in use, the sessions there are go on, and
// the next login must be with the new one. Logins by iscsiadm are: they go by the
// node record. But iscsid brings a lost session back with the secrets of its first
// login, which it keeps in memory (measured with 2.1.8): the target refuses that
// again and again, for ever. Such a session is made anew.

// renew writes secrets that have changed into the node records of the target. It
// touches no session.
func (c connector) renew() error {
	if c.auth == nil {
		return nil // as the records have it
	}
	all, err := c.iscsiadm.db.list(c.target.IQN)
	if err != nil {
		return err
	}
	for _, r := range all {
		if now := r.auth(); !r.intact(c.target.IQN) || now != nil && *now == *c.auth {
			continue
		}
		if err := r.replace(r.with(c.secrets())); err != nil {
			return err
		}
	}
	return nil
}

// outdated says that a session is down and that iscsid would log it in with other
// secrets than those of its node record. No record and no secrets that the kernel
// would tell are no evidence of that.
func (s session) outdated(all []nodeRecord) bool {
	if s.live() {
		return false
	}
	portal := s.portal()
	n := slices.IndexFunc(all, func(r nodeRecord) bool { return r.intact(s.iqn) && r.portal == portal })
	if n < 0 {
		return false
	}
	wanted := all[n].auth()
	if wanted == nil {
		return false
	}
	has, err := s.auth()
	return err == nil && has != *wanted
}

// recordsOfLost are the node records that outdated goes by; none when no session is
// down, or when they cannot be read.
func (i *Initiator) recordsOfLost(t Target, sessions []session) []nodeRecord {
	if !slices.ContainsFunc(sessions, func(s session) bool { return !s.live() }) {
		return nil
	}
	all, err := i.iscsiadm.db.list(t.IQN)
	if err != nil {
		return nil
	}
	return all
}

// auth reads the secrets that iscsid gave the kernel with the session.
func (s session) auth() (CHAP, error) {
	const none = "(null)"
	var c CHAP
	for name, to := range map[string]*string{"username": &c.User, "password": &c.Password, "username_in": &c.UserIn, "password_in": &c.PasswordIn} {
		v, err := attribute(s.class, name)
		if err != nil {
			return CHAP{}, err
		}
		if v != none {
			*to = v
		}
	}
	return c, nil
}

// supersede makes outdated sessions anew, one after the other, so that the map
// always keeps a path; a portal to which that cannot be done, because it is dead for
// one, is passed over. It is the one time that a session ends whose disk has a holder:
// it was found that it cannot come back by itself.
func (i *Initiator) supersede(ctx context.Context, t Target, outdated []netip.AddrPort, done *Healed) error {
	var errs []error
	for _, portal := range outdated {
		lost, err := i.cannotReturn(ctx, t, portal)
		if ctx.Err() != nil {
			return together(append(errs, ctx.Err())...)
		}
		if err != nil || lost == nil {
			errs = append(errs, err)
			continue
		}
		// Iscsid may be told not to end a session behind which something is mounted (iscsid.safe_logout). A disk that
		// the kernel has given up holds nothing back.
		err = each(lost.disks, func(d disk) error {
			if !d.givenUp() {
				return nil
			}
			return i.deleteDisk(ctx, d)
		})
		if err = together(err, i.endSession(ctx, lost.session, lost.disks)); err != nil {
			return together(append(errs, fmt.Errorf("end %s, whose secrets are out of date: %w", lost.session, err))...)
		}
		i.rejoin(ctx, t, []netip.AddrPort{portal}, done)
		if err = together(i.show(ctx, t, done), i.combine(ctx, t, done)); err != nil || done.Failed[portal] != nil {
			return together(append(errs, err)...) // the next one may be the last path
		}
	}
	return together(errs...)
}

// cannotReturn finds the session to a portal when it is outdated, does not come
// back although the portal would let this host log in, so that the secrets are all
// that is wrong, and nothing but a map with other paths needs its disks.
func (i *Initiator) cannotReturn(ctx context.Context, t Target, portal netip.AddrPort) (*drainedSession, error) {
	all, err := i.iscsiadm.db.list(t.IQN)
	if err != nil {
		return nil, err
	}
	s, found, err := (connector{Initiator: i, target: t}).sessionTo(portal)
	if err != nil || !found || !s.outdated(all) {
		return nil, err
	}
	name, err := i.nameAt(t.IQN)
	if err != nil {
		return nil, err
	}
	if i.askPortal(ctx, portal, name, t.IQN).Verdict != Admitted || i.awaitLive(ctx, s) == nil || ctx.Err() != nil {
		return nil, ctx.Err()
	}
	disks, err := i.sysfs.disks(s)
	if err != nil {
		return nil, err
	}
	for _, d := range disks {
		if spare, err := i.spare(d, disks); err != nil || !spare {
			return nil, err
		}
	}
	return &drainedSession{session: s, disks: disks}, nil
}

// spare says that a disk can go: it is unused, or one of several paths of a map
// and nothing else.
func (i *Initiator) spare(d disk, leaving []disk) (bool, error) {
	mounts, err := i.mounts()
	if err != nil {
		return false, err
	}
	m, mapped, err := i.sysfs.mapOf(d)
	if err != nil {
		return false, err
	}
	users, err := usersAmong(mounts, d.blockDevice(), m.name)
	if err != nil || len(users) > 0 {
		return false, err
	}
	stays := func(slave string) bool {
		return !slices.ContainsFunc(leaving, func(l disk) bool { return l.name == slave })
	}
	return !mapped || slices.ContainsFunc(m.slaves, stays), nil
}
