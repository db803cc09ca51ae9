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
	c := connector{Initiator: i, target: t, auth: auth, replacement: replacementAlone}
	if err := c.renew(); err != nil {
		return err
	}
	if !wantsMap {
		return c.connectOne(ctx)
	}
	c.replacement = replacementUnderMap
	return c.connectAll(ctx)
}

// connector is one attempt to reach a target.
type connector struct {
	*Initiator
	target      Target
	auth        *CHAP
	replacement int
}

// connectAll reaches for every portal at the same time. One dead portal is no reason to
// fail (FM 25).
func (c connector) connectAll(ctx context.Context) error {
	portals := c.target.portals()
	errs, done := c.loginAtOnce(ctx, portals)
	if !done {
		errs = eachOf(portals, func(p netip.AddrPort) error { return c.ensureSession(ctx, p) })
	}
	if !slices.Contains(errs, nil) {
		return together(slices.CompactFunc(errs, func(a, b error) bool { return a.Error() == b.Error() })...)
	}
	for n, err := range errs {
		if err != nil {
			klog.FromContext(ctx).Info("A portal could not be reached, going on with the others", "reason", ReasonDegraded, "target", c.target.IQN, "portal", portals[n], "err", err)
		}
	}
	return nil
}

// loginAtOnce logs in to the portals of a target that has no session yet by one
// iscsiadm, which reads all sessions of the host before each login: where they are
// many, that is what a login costs (FM 27). It answers what became of each portal,
// and false when it has not tried, because there are sessions, or node records that
// are not its own.
func (c connector) loginAtOnce(ctx context.Context, portals []netip.AddrPort) (errs []error, done bool) {
	sessions, err := c.sysfs.sessions(c.target.IQN)
	if err != nil || len(sessions) > 0 || len(portals) < 2 {
		return nil, false
	}
	for _, p := range portals {
		if c.writeNodeRecord(ctx, p) != nil {
			return nil, false // ensureSession tells why
		}
	}
	records, err := c.iscsiadm.db.list(c.target.IQN)
	if err != nil || len(records) != len(portals) || slices.ContainsFunc(records, func(r nodeRecord) bool { return r.linked() || !slices.Contains(portals, r.portal) }) {
		return nil, false
	}
	loginErr := c.iscsiadm.loginAll(ctx, c.target.IQN, c.cfg.LoginTimeout)
	errs = eachOf(portals, func(p netip.AddrPort) error {
		if loginErr != nil {
			if _, found, err := c.sessionTo(p); !found {
				return together(loginErr, err)
			}
		}
		return c.awaitSession(ctx, p)
	})
	return errs, true
}

// ReasonDegraded is the word by which logs, and what reads them, know that a LUN
// has fewer paths than its array promised.
const ReasonDegraded = "DegradedPaths"

// connectOne is content with one live session, the one whose disk is in use above all.
// Where several have one in use, under a map that multipathd has left, one that works
// is enough.
func (c connector) connectOne(ctx context.Context) error {
	sessions, err := c.sysfs.sessions(c.target.IQN)
	if err != nil {
		return err
	}
	live := false
	var lost []session // the LUN's disk behind it is in use
	for _, s := range sessions {
		used, err := c.usedLUNs(s)
		if err != nil {
			return err
		}
		switch ours := slices.Contains(used, c.target.LUN); {
		case ours && s.live():
			return nil
		case ours:
			lost = append(lost, s)
		default:
			live = live || s.live()
		}
	}
	if len(lost) > 0 {
		return c.awaitLive(ctx, lost[0]) // another path would be another device
	}
	if live {
		return nil
	}
	var errs []error
	for _, p := range c.target.portals() {
		err := c.ensureSession(ctx, p)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return together(errs...)
}

// ensureSession makes a portal carry a live session. A session that iscsid is trying to
// bring back gets time for that; when it does not come back and nothing uses it,
// it is ended and made anew, for its secrets may be out of date.
func (c connector) ensureSession(ctx context.Context, portal netip.AddrPort) error {
	s, found, err := c.sessionTo(portal)
	if err != nil {
		return err
	}
	if !found {
		return c.recordAndLogIn(ctx, portal)
	}
	liveErr := c.awaitLive(ctx, s)
	if liveErr == nil || ctx.Err() != nil {
		return liveErr
	}
	used, err := c.usedLUNs(s)
	if err != nil || len(used) > 0 {
		return together(liveErr, err)
	}
	disks, err := c.sysfs.disks(s)
	if err != nil {
		return err
	}
	if err := c.endSession(ctx, s, disks); err != nil {
		return together(liveErr, err)
	}
	return c.recordAndLogIn(ctx, portal)
}

// recordAndLogIn makes the node record and logs in.
func (c connector) recordAndLogIn(ctx context.Context, portal netip.AddrPort) error {
	if err := c.writeNodeRecord(ctx, portal); err != nil {
		return err
	}
	return c.logIn(ctx, portal)
}

// writeNodeRecord makes the node record of a portal.
func (c connector) writeNodeRecord(ctx context.Context, portal netip.AddrPort) error {
	if err := c.iscsiadm.create(ctx, c.target.IQN, portal, c.settings()); err != nil {
		return err
	}
	faultpoint.At("attach: node record made")
	return nil
}

// logIn logs in by the node record that is there.
func (c connector) logIn(ctx context.Context, portal netip.AddrPort) error {
	if err := c.iscsiadm.login(ctx, c.target.IQN, portal, c.cfg.LoginTimeout); err != nil {
		return err
	}
	return c.awaitSession(ctx, portal)
}

// awaitSession waits for the session that a login makes.
func (c connector) awaitSession(ctx context.Context, portal netip.AddrPort) error {
	faultpoint.At("attach: logged in")
	ok, err := until(ctx, c.cfg.LoginTimeout, func() (bool, error) {
		s, found, err := c.sessionTo(portal)
		return found && s.live(), err
	})
	if err != nil {
		return fmt.Errorf("wait for the session of %s at %s: %w", c.target.IQN, portal, err)
	}
	if !ok {
		return fmt.Errorf("%w: no session of %s at %s although the login went well", ErrUnavailable, c.target.IQN, portal)
	}
	return nil
}

// settings go into a node record. Manual startup and manual scan keep a reboot
// from bringing back sessions, and a session from bringing strangers' LUNs
// (FM 29). One login attempt is enough, because the caller comes again.
func (c connector) settings() []setting {
	all := []setting{
		{"node.startup", "manual"},
		{"node.conn[0].startup", "manual"},
		{"node.session.scan", "manual"},
		{"node.session.nr_sessions", "1"},
		{"node.session.initial_login_retry_max", "1"},
		{"node.session.reopen_max", "0"}, // a lost session is tried again for ever
		{"node.session.timeo.replacement_timeout", strconv.Itoa(c.replacement)},
		{"node.conn[0].timeo.login_timeout", strconv.Itoa(max(1, int(c.cfg.LoginTimeout.Seconds())))},
	}
	return append(all, c.secrets()...)
}

// secrets go into a node record; none are as iscsid.conf has it.
func (c connector) secrets() []setting {
	if c.auth == nil {
		return nil
	}
	return []setting{
		{"node.session.auth.authmethod", "CHAP"},
		{"node.session.auth.username", c.auth.User},
		{"node.session.auth.password", c.auth.Password},
		{"node.session.auth.username_in", c.auth.UserIn},
		{"node.session.auth.password_in", c.auth.PasswordIn},
	}
}

func (c connector) sessionTo(portal netip.AddrPort) (session, bool, error) {
	sessions, err := c.sysfs.sessions(c.target.IQN)
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

// usedLUNs are the LUNs whose disks behind a session are mounted or part of another
// device.
func (i *Initiator) usedLUNs(s session) ([]int, error) {
	disks, err := i.sysfs.disks(s)
	if err != nil {
		return nil, err
	}
	var used []int
	for _, d := range disks {
		users, err := i.users(d.blockDevice())
		if err != nil {
			return nil, err
		}
		if len(users) > 0 {
			used = append(used, d.lun)
		}
	}
	return used, nil
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
