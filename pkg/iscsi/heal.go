package iscsi

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/klog/v2"
)

// ErrNoRecord says that a login is impossible because no node record of the target
// is left, and only that record knew whether a secret is needed, and which.
var ErrNoRecord = errors.New("no node record of the target is left to log in by")

// Healed is what Heal did, and what it could not do.
type Healed struct {
	LoggedIn []netip.AddrPort
	Failed   map[netip.AddrPort]error // logins
	Scanned  []netip.AddrPort         // sessions that were made to show the LUN
	Revived  []string                 // disks that the kernel had given up
	Joined   []string                 // disks that the map took up
	Resumed  string                   // the map that was suspended
}

// Heal adds what an attached LUN lacks: the sessions to the portals named, as far
// as they are promised; the LUN behind sessions that do not show it; the paths that
// its map lacks; it resumes a map that stays suspended, and lets one wait for its paths
// that was made to fail what it could not send (FailRefusedIO). It takes nothing away
// that is of use: no session, disk or map ends by it (FM 20), but for a dead session
// that cannot come back, because its secrets have changed, and is made anew while the
// map has other paths; and for a disk of no map that the kernel could not identify,
// and that is found anew. Without a map only disks that the kernel gave up are revived.
//
// The secrets of a login are those of the node records that Attach made.
func (i *Initiator) Heal(ctx context.Context, t Target, portals []netip.AddrPort) (Healed, error) {
	if err := t.checkPromise(); err != nil {
		return Healed{}, err
	}
	unlock, err := i.lock(ctx, t)
	if err != nil {
		return Healed{}, err
	}
	defer unlock()
	before, err := i.Inspect(ctx, t)
	if err != nil || !before.Healable() {
		return Healed{}, err
	}
	var done Healed
	reviveErr := i.revive(ctx, t, &done)
	if before.Map == nil {
		return done, reviveErr
	}
	resumeErr := i.resume(ctx, t, &done)
	missing := before.Missing()
	i.rejoin(ctx, t, slices.DeleteFunc(slices.Clone(portals), func(p netip.AddrPort) bool { return !slices.Contains(missing, p) }), &done)
	return done, together(reviveErr, resumeErr, i.show(ctx, t, &done), i.combine(ctx, t, &done), i.supersede(ctx, t, before.Outdated(), &done))
}

// revive lets the kernel use disks again that it gave up after errors, now that
// their session works. Multipathd asks a path before it sends anything down it.
func (i *Initiator) revive(ctx context.Context, t Target, done *Healed) error {
	disks, _, err := i.liveDisks(t)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range disks {
		if !d.offline() {
			continue
		}
		if err := i.set(ctx, filepath.Join(d.dir, "state"), "running"); err != nil {
			errs = append(errs, err)
			continue
		}
		done.Revived = append(done.Revived, d.name)
	}
	return together(errs...)
}

// resume lets the map work as it should.
func (i *Initiator) resume(ctx context.Context, t Target, done *Healed) error {
	m, found, err := i.anyMap(t)
	if err != nil || !found {
		return err
	}
	resumed, err := i.resumeStuckMap(ctx, t, m)
	if resumed {
		done.Resumed = m.name
	}
	i.restoreQueueing(ctx, t, m)
	return err
}

// Resume lets the LUN's map work again when it stays suspended: whoever uses it waits
// for ever then, and a multipathd that died over a change of it does not come back to
// it (FM 21). A map that is suspended for a moment only is left to multipathd. One that
// was made to fail what it could not send waits for its paths again, once one works.
func (i *Initiator) Resume(ctx context.Context, t Target) error {
	if err := t.check(); err != nil {
		return err
	}
	m, found, err := i.anyMap(t)
	if err != nil || !found {
		return err
	}
	resumed, err := i.resumeStuckMap(ctx, t, m)
	if resumed {
		klog.FromContext(ctx).Info("A map stayed suspended and is resumed", "target", t.IQN, "lun", t.LUN, "map", m.name)
	}
	i.restoreQueueing(ctx, t, m)
	return err
}

// resumeStuckMap is resumeMap for a map of the LUN that stays suspended. Multipathd
// suspends one for a moment whenever it changes it, so a moment is waited for first.
func (i *Initiator) resumeStuckMap(ctx context.Context, t Target, m dmap) (resumed bool, err error) {
	const moment = 3 * time.Second
	if !m.suspended {
		return false, nil
	}
	if err = i.checkPromised(t, m); err != nil {
		return false, err
	}
	ok, err := until(ctx, min(moment, i.cfg.MapTimeout/2), func() (bool, error) {
		now, readErr := readMap(m.dir)
		return gone(readErr) || readErr == nil && (!now.suspended || now.wwid != m.wwid), ignoreGone(readErr)
	})
	if err != nil || ok {
		return false, err
	}
	err = i.resumeMap(ctx, m)
	return err == nil, err
}

// checkPromised refuses a map that was found by the LUN's number and is of another LUN
// than the one promised. A map has the WWID of its paths, as mapOver sees to, and the
// kernel knows their serial number; that the WWID follows from it, as Linux' target
// makes it, is not asked for.
func (i *Initiator) checkPromised(t Target, m dmap) error {
	if t.Serial == "" || m.wwid == lioWWID(t.Serial) {
		return nil
	}
	_, wwid, err := i.recognised(t)
	if err == nil && wwid != m.wwid {
		err = fmt.Errorf("%w: LUN %d of %s is %s", ErrForeign, t.LUN, t.IQN, wwid)
	}
	if err != nil {
		return fmt.Errorf("map %s of %s is suspended, and not known to be the LUN's: %w", m.name, m.wwid, err)
	}
	return nil
}

// rejoin logs in to portals by the node records that are there.
func (i *Initiator) rejoin(ctx context.Context, t Target, portals []netip.AddrPort, done *Healed) {
	errs := eachOf(portals, func(p netip.AddrPort) error { return i.relogin(ctx, t, p) })
	for n, p := range portals {
		if errs[n] == nil {
			done.LoggedIn = append(done.LoggedIn, p)
			continue
		}
		if done.Failed == nil {
			done.Failed = make(map[netip.AddrPort]error)
		}
		done.Failed[p] = errs[n]
	}
}

// relogin uses the portal's node record; when that is gone or corrupt, one is made
// after the record of another portal of the target, which knows the same secrets.
func (i *Initiator) relogin(ctx context.Context, t Target, portal netip.AddrPort) error {
	all, err := i.iscsiadm.db.list(t.IQN)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(r nodeRecord) bool { return !r.intact(t.IQN) })
	c := connector{Initiator: i, target: t, replacement: replacementUnderMap}
	if slices.ContainsFunc(all, func(r nodeRecord) bool { return r.portal == portal }) {
		return c.logIn(ctx, portal)
	}
	if len(all) == 0 {
		return fmt.Errorf("log in to %s at %s: %w; it comes back when the volume is staged again", t.IQN, portal, ErrNoRecord)
	}
	c.auth = all[0].auth()
	return c.recordAndLogIn(ctx, portal)
}

// auth reads the secrets that a node record logs in with; nil when it uses none.
func (r nodeRecord) auth() *CHAP {
	if value(r.text, "node.session.auth.authmethod") != "CHAP" {
		return nil
	}
	return &CHAP{
		User: value(r.text, "node.session.auth.username"), Password: value(r.text, "node.session.auth.password"),
		UserIn: value(r.text, "node.session.auth.username_in"), PasswordIn: value(r.text, "node.session.auth.password_in"),
	}
}

// show makes live sessions show the LUN, and nothing else.
func (i *Initiator) show(ctx context.Context, t Target, done *Healed) error {
	_, withoutLUN, err := i.liveDisks(t)
	if err != nil || len(withoutLUN) == 0 {
		return err
	}
	if err = i.scan(ctx, withoutLUN, t.LUN); err != nil {
		return err
	}
	var shown []disk
	var still []session
	_, err = until(ctx, i.cfg.DiskTimeout/4, func() (bool, error) {
		var lookErr error
		shown, still, lookErr = i.refreshDisks(withoutLUN, t.LUN)
		return len(still) == 0, lookErr
	})
	for _, s := range still {
		err = together(err, fmt.Errorf("%w: %s shows no LUN %d of %s", ErrUnavailable, s, t.LUN, t.IQN))
	}
	for _, d := range shown {
		done.Scanned = append(done.Scanned, d.session.portal())
	}
	return err
}

// combine sees to it that the map has every path that proves to be the LUN. A disk
// that answers as another LUN is reported and left alone; one that is the LUN, and that
// the kernel does not know as such because its session broke when it was found, is
// found anew.
func (i *Initiator) combine(ctx context.Context, t Target, done *Healed) error {
	before, err := i.Inspect(ctx, t)
	if err != nil {
		return err
	}
	if len(before.OutsideMap()) == 0 {
		return nil
	}
	paths, err := i.identifyAllBut(ctx, t, before.slaves())
	if err != nil {
		return err
	}
	if misread := slices.DeleteFunc(i.mismatches(t, paths), func(p path) bool { return p.fresh.Serial != t.Serial }); len(misread) > 0 {
		if err = together(i.replace(ctx, t, misread), i.show(ctx, t, done)); err != nil {
			return err
		}
		if paths, err = i.identifyAllBut(ctx, t, before.slaves()); err != nil {
			return err
		}
	}
	if others := i.mismatches(t, paths); len(others) > 0 {
		return others[0].mismatch(t)
	}
	if len(paths) == 0 {
		return nil // they went meanwhile
	}
	if paths, err = i.responsive(t, paths); err != nil {
		return err
	}
	if paths, err = i.awaitAgreement(ctx, t, paths); err != nil { // a map takes no path that has not grown with it
		return err
	}
	m, err := i.awaitMap(ctx, t, paths, i.patience())
	if err != nil {
		return err
	}
	for _, p := range paths {
		if !slices.Contains(m.slaves, p.name) {
			err = together(err, fmt.Errorf("%w: multipathd does not take %s up into map %s; see its log", ErrUnavailable, p.name, m.name))
			continue
		}
		done.Joined = append(done.Joined, p.name)
	}
	return err
}

// identifyAllBut asks the disks of the LUN behind live sessions, but for some.
func (i *Initiator) identifyAllBut(ctx context.Context, t Target, known []string) ([]path, error) {
	disks, _, err := i.liveDisks(t)
	if err != nil {
		return nil, err
	}
	return i.identifyAll(ctx, slices.DeleteFunc(disks, func(d disk) bool { return slices.Contains(known, d.name) })), nil
}
