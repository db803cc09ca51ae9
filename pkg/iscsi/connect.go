package iscsi

import (
	"context"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"

	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/internal/faultpoint"
)

// How long the SCSI layer keeps what it was given while a session is down, in
// seconds. With a map above, a dead path should fail soon, because another is
// there; without one, waiting is all that can be done.
const (
	replacementUnderMap = 5
	replacementAlone    = 120
)

// connect sees to it that at least one portal carries a live session. When a map
// will combine the paths, every portal should; else the first that works is
// enough.
func (i *Initiator) connect(ctx context.Context, t Target, auth *CHAP, wantsMap bool) error {
	l := login{Initiator: i, target: t, auth: auth, replacement: replacementAlone}
	if err := l.renew(); err != nil {
		return err
	}
	if !wantsMap {
		return l.one(ctx)
	}
	l.replacement = replacementUnderMap
	return l.all(ctx)
}

// login is one attempt to reach a target.
type login struct {
	*Initiator
	target      Target
	auth        *CHAP
	replacement int
}

// all reaches for every portal at the same time. One dead portal is no reason to
// fail (FM 25).
func (l login) all(ctx context.Context) error {
	portals := l.target.portals()
	errs, done := l.openAll(ctx, portals)
	if !done {
		errs = eachOf(portals, func(p netip.AddrPort) error { return l.reach(ctx, p) })
	}
	if !slices.Contains(errs, nil) {
		return together(slices.CompactFunc(errs, func(a, b error) bool { return a.Error() == b.Error() })...)
	}
	for n, err := range errs {
		if err != nil {
			klog.FromContext(ctx).Info("A portal could not be reached, going on with the others", "reason", ReasonDegraded, "target", l.target.IQN, "portal", portals[n], "err", err)
		}
	}
	return nil
}

// openAll logs in to the portals of a target that has no session yet by one
// iscsiadm, which reads all sessions of the host before each login: where they are
// many, that is what a login costs (FM 27). It answers what became of each portal,
// and false when it has not tried, because there are sessions, or node records that
// are not its own.
func (l login) openAll(ctx context.Context, portals []netip.AddrPort) (errs []error, done bool) {
	sessions, err := l.sysfs.sessions(l.target.IQN)
	if err != nil || len(sessions) > 0 || len(portals) < 2 {
		return nil, false
	}
	for _, p := range portals {
		if l.record(ctx, p) != nil {
			return nil, false // to reach for it alone tells why
		}
	}
	records, err := l.admin.records.list(l.target.IQN)
	if err != nil || len(records) != len(portals) || slices.ContainsFunc(records, func(r record) bool { return r.linked() || !slices.Contains(portals, r.portal) }) {
		return nil, false
	}
	loginErr := l.admin.loginAll(ctx, l.target.IQN, l.cfg.LoginTimeout)
	errs = eachOf(portals, func(p netip.AddrPort) error {
		if loginErr != nil {
			if _, found, err := l.sessionTo(p); !found {
				return together(loginErr, err)
			}
		}
		return l.entered(ctx, p)
	})
	return errs, true
}

// ReasonDegraded is the word by which logs, and what reads them, know that a LUN
// has fewer paths than its array promised.
const ReasonDegraded = "DegradedPaths"

// one is content with one live session, the one whose disk is in use above all.
func (l login) one(ctx context.Context) error {
	sessions, err := l.sysfs.sessions(l.target.IQN)
	if err != nil {
		return err
	}
	live := false
	for _, s := range sessions {
		used, err := l.inUse(s)
		if err != nil {
			return err
		}
		if used {
			return l.awaitLive(ctx, s) // another path would be another device
		}
		live = live || s.live()
	}
	if live {
		return nil
	}
	var errs []error
	for _, p := range l.target.portals() {
		err := l.reach(ctx, p)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return together(errs...)
}

// reach makes a portal carry a live session. A session that iscsid is trying to
// bring back gets time for that; when it does not come back and nothing uses it,
// it is ended and made anew, for its secrets may be out of date.
func (l login) reach(ctx context.Context, portal netip.AddrPort) error {
	s, found, err := l.sessionTo(portal)
	if err != nil {
		return err
	}
	if !found {
		return l.open(ctx, portal)
	}
	liveErr := l.awaitLive(ctx, s)
	if liveErr == nil || ctx.Err() != nil {
		return liveErr
	}
	used, err := l.inUse(s)
	if err != nil || used {
		return together(liveErr, err)
	}
	disks, err := l.sysfs.disks(s)
	if err != nil {
		return err
	}
	if err := l.endSession(ctx, s, disks); err != nil {
		return together(liveErr, err)
	}
	return l.open(ctx, portal)
}

// open makes the node record and logs in.
func (l login) open(ctx context.Context, portal netip.AddrPort) error {
	if err := l.record(ctx, portal); err != nil {
		return err
	}
	return l.enter(ctx, portal)
}

// record makes the node record of a portal.
func (l login) record(ctx context.Context, portal netip.AddrPort) error {
	if err := l.admin.create(ctx, l.target.IQN, portal, l.settings()); err != nil {
		return err
	}
	faultpoint.At("attach: node record made")
	return nil
}

// enter logs in by the node record that is there.
func (l login) enter(ctx context.Context, portal netip.AddrPort) error {
	if err := l.admin.login(ctx, l.target.IQN, portal, l.cfg.LoginTimeout); err != nil {
		return err
	}
	return l.entered(ctx, portal)
}

// entered waits for the session that a login makes.
func (l login) entered(ctx context.Context, portal netip.AddrPort) error {
	faultpoint.At("attach: logged in")
	ok, err := until(ctx, l.cfg.LoginTimeout, func() (bool, error) {
		s, found, err := l.sessionTo(portal)
		return found && s.live(), err
	})
	if err != nil {
		return fmt.Errorf("wait for the session of %s at %s: %w", l.target.IQN, portal, err)
	}
	if !ok {
		return fmt.Errorf("%w: no session of %s at %s although the login went well", ErrUnavailable, l.target.IQN, portal)
	}
	return nil
}

// settings go into a node record. Manual startup and manual scan keep a reboot
// from bringing back sessions, and a session from bringing strangers' LUNs
// (FM 29). One login attempt is enough, because the caller comes again.
func (l login) settings() []setting {
	all := []setting{
		{"node.startup", "manual"},
		{"node.conn[0].startup", "manual"},
		{"node.session.scan", "manual"},
		{"node.session.nr_sessions", "1"},
		{"node.session.initial_login_retry_max", "1"},
		{"node.session.reopen_max", "0"}, // a lost session is tried again for ever
		{"node.session.timeo.replacement_timeout", strconv.Itoa(l.replacement)},
		{"node.conn[0].timeo.login_timeout", strconv.Itoa(max(1, int(l.cfg.LoginTimeout.Seconds())))},
	}
	return append(all, l.secrets()...)
}

// secrets go into a node record; none are as iscsid.conf has it.
func (l login) secrets() []setting {
	if l.auth == nil {
		return nil
	}
	return []setting{
		{"node.session.auth.authmethod", "CHAP"},
		{"node.session.auth.username", l.auth.User},
		{"node.session.auth.password", l.auth.Password},
		{"node.session.auth.username_in", l.auth.UserIn},
		{"node.session.auth.password_in", l.auth.PasswordIn},
	}
}

func (l login) sessionTo(portal netip.AddrPort) (session, bool, error) {
	sessions, err := l.sysfs.sessions(l.target.IQN)
	if err != nil {
		return session{}, false, err
	}
	n := slices.IndexFunc(sessions, func(s session) bool { return s.portal() == portal })
	if n < 0 {
		return session{}, false, nil
	}
	return sessions[n], true, nil
}

// awaitLive gives iscsid time to bring a session back.
func (i *Initiator) awaitLive(ctx context.Context, s session) error {
	state := s.state
	ok, err := until(ctx, i.cfg.LoginTimeout, func() (bool, error) {
		now, err := attribute(s.class, "state")
		if err != nil {
			return false, err
		}
		state = now
		return state == stateLoggedIn, nil
	})
	if err != nil {
		return fmt.Errorf("wait for %s to come back: %w", s, err)
	}
	if !ok {
		return fmt.Errorf("%w: %s is %s and does not come back", ErrUnavailable, s, state)
	}
	return nil
}

// inUse says whether any disk behind a session is mounted or part of another
// device.
func (i *Initiator) inUse(s session) (bool, error) {
	disks, err := i.sysfs.disks(s)
	if err != nil {
		return false, err
	}
	for _, d := range disks {
		users, err := i.users(d.blockDevice())
		if err != nil || len(users) > 0 {
			return true, err
		}
	}
	return false, nil
}

// portals lists the target's portals once each, in the order of the target.
func (t Target) portals() []netip.AddrPort {
	var all []netip.AddrPort
	for _, p := range t.Portals {
		p = netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// rank orders portals by their place in the target.
func (t Target) rank(portal netip.AddrPort) int {
	if n := slices.Index(t.portals(), portal); n >= 0 {
		return n
	}
	return len(t.Portals)
}

// each runs fn for all items at the same time and joins the errors.
func each[T any](items []T, fn func(T) error) error { return together(eachOf(items, fn)...) }

// eachOf runs fn for all items at the same time and answers what it said of each. A
// panic becomes the caller's, who may survive it.
func eachOf[T, R any](items []T, fn func(T) R) []R {
	said, panics := make([]R, len(items)), make([]any, len(items))
	var wait sync.WaitGroup
	for n, item := range items {
		wait.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					panics[n] = fmt.Sprintf("%v\n%s", v, debug.Stack())
				}
			}()
			said[n] = fn(item)
		})
	}
	wait.Wait()
	if n := slices.IndexFunc(panics, func(v any) bool { return v != nil }); n >= 0 {
		panic(panics[n])
	}
	return said
}
