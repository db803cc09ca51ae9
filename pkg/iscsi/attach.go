package iscsi

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/internal/faultpoint"
)

// Attach makes the LUN a block device of this host, or finds that it is one. It
// logs in to the portals that have no session yet, of which one must work, looks
// for this LUN only, and hands out a device only when every path to it proved,
// when asked now, to be the LUN that the array promised. Of a multipath map one
// path is in by then; Complete waits for the others. A repeat with the same target
// returns the same device.
//
// Errors: ErrAuth, ErrUnavailable, ErrNotReady, ErrForeign, ErrBusy.
func (i *Initiator) Attach(ctx context.Context, t Target, auth *CHAP) (Device, error) {
	if err := together(t.checkPromise(), auth.check()); err != nil {
		return Device{}, err
	}
	if err := i.Ready(ctx); err != nil {
		return Device{}, err
	}
	unlock, err := i.lock(ctx, t)
	if err != nil {
		return Device{}, err
	}
	defer unlock()
	wantsMap, err := i.wantsMap(t)
	if err != nil {
		return Device{}, err
	}
	if err = i.connect(ctx, t, auth, wantsMap); err != nil {
		return Device{}, err
	}
	disks, err := i.awaitDisks(ctx, t)
	if err != nil {
		return Device{}, err
	}
	faultpoint.At("attach: disks found")
	paths, err := i.verify(ctx, t, disks)
	if err != nil {
		return Device{}, err
	}
	faultpoint.At("attach: paths verified")
	return i.assemble(ctx, t, paths, wantsMap)
}

// awaitDisks makes the kernel look for the LUN behind every live session and waits
// for the disks. It is content with fewer disks than sessions once it has waited
// a while for the rest.
func (i *Initiator) awaitDisks(ctx context.Context, t Target) ([]disk, error) {
	const again = 2 * time.Second // an array may export the LUN a little after it admitted us
	start, scanned := time.Now(), time.Time{}
	var scans chan error // of the scan that runs; it is not waited for, because one dead session would hold all up
	// Those who wait look at their own sessions only: a look at all of a host costs more the more it has, and many
	// wait at once.
	sessions, err := i.sysfs.sessions(t.IQN)
	if err != nil {
		return nil, err
	}
	var disks []disk
	var scanErr error
	_, err = until(ctx, i.cfg.DiskTimeout, func() (_ bool, lookErr error) {
		var missing []session
		disks, missing, lookErr = i.refreshDisks(sessions, t.LUN)
		if lookErr != nil || len(missing) == 0 {
			return len(disks) > 0, lookErr
		}
		if len(disks) > 0 && time.Since(start) > i.cfg.DiskTimeout/4 {
			return true, nil
		}
		select {
		case scanErr = <-scans:
			scans = nil
		default:
		}
		if scans == nil && time.Since(scanned) > again {
			scanned, scans = time.Now(), make(chan error, 1)
			go func(done chan<- error) { done <- i.scan(ctx, missing, t.LUN) }(scans)
		}
		return false, nil
	})
	if err != nil {
		return nil, fmt.Errorf("wait for LUN %d of %s: %w", t.LUN, t.IQN, err)
	}
	if len(disks) == 0 {
		return nil, together(fmt.Errorf("%w: no disk for LUN %d of %s appeared; does the array export it to this initiator?", ErrUnavailable, t.LUN, t.IQN), scanErr)
	}
	return disks, nil
}

// liveDisks lists the disks of the LUN behind live sessions, and the live
// sessions that show none.
func (i *Initiator) liveDisks(t Target) (disks []disk, missing []session, err error) {
	sessions, err := i.sysfs.sessions(t.IQN)
	if err != nil {
		return nil, nil, err
	}
	return i.disksOfLUN(sessions, t.LUN)
}

// refreshDisks is liveDisks for sessions that were listed before, as they are now.
func (i *Initiator) refreshDisks(sessions []session, lun int) (disks []disk, missing []session, err error) {
	now, err := i.sysfs.again(sessions)
	if err != nil {
		return nil, nil, err
	}
	return i.disksOfLUN(now, lun)
}

// disksOfLUN lists the disks of the LUN behind the live ones of these sessions, and
// those of them that show none.
func (i *Initiator) disksOfLUN(sessions []session, lun int) (disks []disk, missing []session, err error) {
	for _, s := range sessions {
		if !s.live() {
			continue
		}
		all, err := i.sysfs.disks(s)
		if err != nil {
			return nil, nil, err
		}
		n := slices.IndexFunc(all, func(d disk) bool { return d.lun == lun })
		if n < 0 {
			missing = append(missing, s)
			continue
		}
		disks = append(disks, all[n])
	}
	return disks, missing, nil
}

// scan makes the kernel look for one LUN behind each session. The sessions were
// made with manual scan, so nobody else does.
func (i *Initiator) scan(ctx context.Context, sessions []session, lun int) error {
	ctx, cancel := context.WithTimeout(ctx, i.cfg.DiskTimeout/2)
	defer cancel()
	return each(sessions, func(s session) error {
		return i.set(ctx, i.sysfs.scanFile(s), scanRequest(s, lun))
	})
}

// set writes an attribute of sysfs and gives up when ctx ends: what the kernel
// does upon such a write may wait for a device.
func (i *Initiator) set(ctx context.Context, path, value string) error {
	_, err := bounded(ctx, &i.bounds, "write "+path, func() (struct{}, error) {
		return struct{}{}, i.kernel.Set(path, value)
	})
	return err
}

// assemble picks what to mount: the map when there is one or will be one, or the
// only path.
func (i *Initiator) assemble(ctx context.Context, t Target, paths []path, wantsMap bool) (Device, error) {
	m, hasMap, err := i.sysfs.mapOver(t.IQN, t.LUN)
	if err == nil && !hasMap && wantsMap {
		hasMap, err = i.wanted(ctx, disksOf(paths))
	}
	switch {
	case err != nil:
		return Device{}, err
	case hasMap && i.cfg.Multipath == MultipathOff:
		return Device{}, fmt.Errorf("%w: multipathd made a map %s over %s although multipath is off; blacklist the array in multipath.conf", ErrBusy, m.name, paths[0].name)
	case hasMap:
		return i.mapDevice(ctx, t, paths)
	case i.cfg.Multipath == MultipathRequire:
		return Device{}, fmt.Errorf("%w: multipath is required, but %s has no map: multipath.conf blacklists it, or it was in use before", ErrNotReady, paths[0].name)
	}
	return i.singlePathDevice(ctx, t, paths)
}

// mapDevice hands out a map, once it has a path and is as large as its paths.
func (i *Initiator) mapDevice(ctx context.Context, t Target, paths []path) (Device, error) {
	m, err := i.awaitMap(ctx, t, paths, 0)
	if err != nil {
		return Device{}, err
	}
	faultpoint.At("attach: map made")
	i.restoreQueueing(ctx, t, m)
	bytes, err := size(m.dir)
	if err != nil {
		return Device{}, err
	}
	if bytes > paths[0].fresh.Bytes {
		return Device{}, fmt.Errorf("%w: map %s has %d bytes, its paths have %d", ErrForeign, m.name, bytes, paths[0].fresh.Bytes)
	}
	if err := i.growMap(ctx, m, paths[0].fresh.Bytes); err != nil {
		return Device{}, err
	}
	i.setReplacement(ctx, paths, replacementUnderMap)
	disks := m.slaves
	for _, p := range paths {
		disks = append(disks, p.name)
	}
	return i.awaitNode(ctx, m.blockDevice, m.wwid, disks)
}

// singlePathDevice hands out the one path there is. When there are more, without a map
// above them, all but one are given up, because two devices that are one LUN
// invite a write to both (FM 28).
func (i *Initiator) singlePathDevice(ctx context.Context, t Target, paths []path) (Device, error) {
	chosen, err := i.chooseOne(t, paths)
	if err != nil {
		return Device{}, err
	}
	if err = i.giveUpAllBut(ctx, t, chosen.session); err != nil {
		return Device{}, err
	}
	// What something else is built on is not ours to hand out: the host's LVM, for one, over a group in a VM's disk.
	built, err := usesOf(nil, chosen.blockDevice())
	if err != nil {
		return Device{}, err
	}
	if len(built) > 0 {
		return Device{}, fmt.Errorf("%w: %s", ErrBusy, built[0])
	}
	i.setReplacement(ctx, []path{chosen}, replacementAlone)
	return i.awaitNode(ctx, chosen.blockDevice(), chosen.fresh.WWID, []string{chosen.name})
}

// chooseOne prefers the path that is in use, since that is the device an earlier
// Attach handed out; else the path to the portal that is named first.
func (i *Initiator) chooseOne(t Target, paths []path) (path, error) {
	var used []path
	for _, p := range paths {
		users, err := i.users(p.blockDevice())
		if err != nil {
			return path{}, err
		}
		if len(users) > 0 {
			used = append(used, p)
		}
	}
	if len(used) > 1 {
		return path{}, fmt.Errorf("%w: %s and %s are the same LUN and both in use", ErrForeign, used[0].name, used[1].name)
	}
	if len(used) == 1 {
		return used[0], nil
	}
	return slices.MinFunc(paths, func(a, b path) int { return t.rank(a.session.portal()) - t.rank(b.session.portal()) }), nil
}

// giveUpAllBut leaves the LUN one session: of the others each ends, or loses this
// LUN's disk where it carries another LUN. A disk that somebody uses is ErrBusy.
func (i *Initiator) giveUpAllBut(ctx context.Context, t Target, keep session) error {
	sessions, err := i.sysfs.sessions(t.IQN)
	if err != nil {
		return err
	}
	for _, s := range sessions {
		if s.id == keep.id {
			continue
		}
		disks, err := i.sysfs.disks(s)
		if err != nil {
			return err
		}
		ours := slices.DeleteFunc(slices.Clone(disks), func(d disk) bool { return d.lun != t.LUN })
		for _, d := range ours {
			users, usersErr := i.users(d.blockDevice())
			if usersErr != nil {
				return usersErr
			}
			if len(users) > 0 {
				return fmt.Errorf("%w: a second path to the LUN is in use: %s", ErrBusy, strings.Join(users, ", "))
			}
		}
		if len(ours) < len(disks) { // the session stays, for another LUN's sake
			err = each(ours, func(d disk) error { return i.deleteDisk(ctx, d) })
		} else {
			err = i.endSession(ctx, s, disks)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// setReplacement sets for how long the kernel waits for a lost session before it
// fails what was sent to it. The node record carries a guess made before the
// login; a failure here leaves that guess in force.
func (i *Initiator) setReplacement(ctx context.Context, paths []path, seconds int) {
	want := strconv.Itoa(seconds)
	for _, p := range paths {
		if now, err := attribute(p.session.class, "recovery_tmo"); err == nil && now == want {
			continue
		}
		if err := i.set(ctx, filepath.Join(p.session.class, "recovery_tmo"), want); err != nil {
			klog.FromContext(ctx).Info("The session keeps its replacement timeout", "session", p.session.id, "err", err)
		}
	}
}

// awaitNode describes a block device, once its node in /dev is there and is it.
func (i *Initiator) awaitNode(ctx context.Context, b blockDevice, wwid string, disks []string) (Device, error) {
	const nodeTimeout = 5 * time.Second
	node := filepath.Join(i.cfg.Dev, b.name)
	var last error
	ok, err := until(ctx, min(nodeTimeout, i.cfg.DiskTimeout), func() (bool, error) {
		last = i.kernel.Node(node, b.dev)
		return last == nil, nil
	})
	if err != nil {
		return Device{}, fmt.Errorf("wait for %s: %w", node, err)
	}
	if !ok {
		return Device{}, fmt.Errorf("%w: %w; is the host's /dev mounted into the container?", ErrUnavailable, last)
	}
	return i.describe(b, wwid, disks)
}

func (i *Initiator) describe(b blockDevice, wwid string, disks []string) (Device, error) {
	bytes, err := size(b.dir)
	if err != nil {
		return Device{}, err
	}
	d := Device{Path: filepath.Join(i.cfg.Dev, b.name), WWID: wwid, Bytes: bytes}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(disks))) {
		d.Paths = append(d.Paths, filepath.Join(i.cfg.Dev, name))
	}
	return d, nil
}
