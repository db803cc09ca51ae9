package iscsi

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// multipathdRuns looks for the daemon among the host's processes: cheaper than
// asking it, and true also while it is too busy to answer.
func (i *Initiator) multipathdRuns() (bool, error) {
	runs, err := i.runs("multipathd")
	if err != nil {
		return false, fmt.Errorf("look for multipathd: %w", err)
	}
	return runs, nil
}

// wantsMap says whether a map is expected over the paths of a LUN. A disk that is
// in use without a map stays so: a second path beside it would only be a danger
// (FM 28).
func (i *Initiator) wantsMap(t Target) (bool, error) {
	if i.cfg.Multipath == MultipathOff {
		return false, nil
	}
	runs, err := i.multipathdRuns()
	if err == nil && !runs && i.cfg.Multipath == MultipathRequire {
		err = fmt.Errorf("%w: multipathd does not run and multipath is required; start it: systemctl enable --now multipathd", ErrNotReady)
	}
	if err != nil || !runs {
		return false, err
	}
	bare, err := i.usedWithoutMap(t)
	return !bare, err
}

func (i *Initiator) usedWithoutMap(t Target) (bool, error) {
	disks, err := i.sysfs.lun(t.IQN, t.LUN)
	if err != nil {
		return false, err
	}
	for _, d := range disks {
		_, mapped, err := i.sysfs.mapOf(d)
		if err != nil {
			return false, err
		}
		if mapped {
			continue
		}
		if users, err := i.users(d.blockDevice()); err != nil || len(users) > 0 {
			return true, err
		}
	}
	return false, nil
}

// How long one answer of multipathd or multipath may take.
const multipathTimeout = 30 * time.Second

func (i *Initiator) multipath(ctx context.Context, argv ...string) error {
	ctx, cancel := context.WithTimeout(ctx, multipathTimeout)
	defer cancel()
	out, err := i.cfg.Host.Run(ctx, argv...)
	answer := oneLine(string(out))
	var exit *ExitError
	switch {
	case errors.As(err, &exit) && answer != "": // the daemon's words, and some of the tool's, come on stdout
		return &ExitError{Tool: exit.Tool, Code: exit.Code, Stderr: strings.TrimPrefix(exit.Stderr+"; "+answer, "; ")}
	case err == nil && (answer == "fail" || strings.HasPrefix(answer, "timeout")):
		return &ExitError{Tool: argv[0], Code: 1, Stderr: answer} // older releases exit 0
	}
	return err
}

// claimForMultipath tells multipath that the disk is one of its own, and reports
// false when it does not want the disk because it is blacklisted. With
// find_multipaths strict, which is Debian's default, or yes, multipathd waits to
// be told before it makes a map.
func (i *Initiator) claimForMultipath(ctx context.Context, d disk) (bool, error) {
	taken := false
	err := i.unlessTaken(ctx, d, func() error {
		const declined, unwritten = 1, "failed adding" // also with that status, where /etc takes nothing
		err := i.multipath(ctx, "multipath", "-a", filepath.Join("/dev", d.name))
		switch taken = err == nil; {
		case exitedWith(err, declined) && !strings.Contains(err.Error(), unwritten):
			klog.FromContext(ctx).Info("Multipath does not want the disk, so the volume gets one path", "disk", d.name, "err", err)
			return nil
		case err != nil: // killed, or not run at all: that says nothing of the disk
			return fmt.Errorf("%w: tell multipath of %s: %w", ErrUnavailable, d.name, err)
		}
		return nil
	})
	if _, mapped, mapErr := i.sysfs.mapOf(d); err == nil && !taken {
		return mapped, mapErr
	}
	return taken, err
}

// offer gives multipathd a disk that it has not taken up by itself, as happens
// when udev is slow or dead (FM 30). Its answer is not evidence; sysfs is.
func (i *Initiator) offer(ctx context.Context, d disk) error {
	return i.unlessTaken(ctx, d, func() error {
		return fatal(i.multipath(ctx, "multipathd", "add", "path", d.name))
	})
}

// unlessTaken runs fn unless the disk has become part of a map. One at a time:
// each such call makes multipath look at all disks of the host, and many at once
// keep multipathd from what they ask for.
func (i *Initiator) unlessTaken(ctx context.Context, d disk, fn func() error) error {
	unlock, err := i.asking.Lock(ctx, "")
	if err != nil {
		return fmt.Errorf("wait to ask multipath about %s: %w", d.name, err)
	}
	defer unlock()
	_, mapped, err := i.sysfs.mapOf(d)
	if err != nil || mapped {
		return err
	}
	return fn()
}

// removeMap takes a map away through multipathd and proves that it is gone. The
// map is looked at again before each attempt, so that a name which has passed to
// another device in the meantime is not touched.
func (i *Initiator) removeMap(ctx context.Context, m dmap) error {
	var last error
	ok, err := untilSlowly(ctx, i.cfg.MapTimeout, 50*time.Millisecond, 2*time.Second, func() (bool, error) {
		now, err := readMap(m.dir)
		if gone(err) || errors.Is(err, errNotMultipath) || err == nil && now.wwid != m.wwid {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if now.suspended {
			last = i.resumeOnce(ctx, now)
			return false, fatal(last)
		}
		if last = i.deleteMap(ctx, now); last != nil {
			return false, fatal(last)
		}
		_, err = readMap(m.dir)
		return gone(err), nil
	})
	if err == nil && ok {
		i.failing.Delete(m.wwid)
		return nil
	}
	// Not even a caller that has left may leave it suspended.
	if now, readErr := readMap(m.dir); readErr == nil && now.suspended && now.wwid == m.wwid {
		last = together(last, i.resumeOnce(context.WithoutCancel(ctx), now))
	}
	if err != nil {
		return together(fmt.Errorf("remove map %s (%s): %w", m.name, m.wwid, err), last)
	}
	users, err := i.users(m.blockDevice)
	if len(users) == 0 {
		for _, o := range i.openers(m.blockDevice) {
			users = append(users, o.who)
		}
	}
	return together(fmt.Errorf("%w: map %s (%s) cannot be removed: %s", ErrBusy, m.name, m.wwid, inWords(users)), last, err)
}

// resumeMap resumes a map that a failed removal left suspended: whoever touched it
// would wait for ever (FM 21).
func (i *Initiator) resumeMap(ctx context.Context, m dmap) error {
	if !m.suspended {
		return nil
	}
	var last error
	ok, err := untilSlowly(ctx, i.cfg.MapTimeout, 100*time.Millisecond, 2*time.Second, func() (bool, error) {
		now, err := readMap(m.dir)
		if err != nil || !now.suspended || now.wwid != m.wwid {
			return true, ignoreGone(err)
		}
		last = i.resumeOnce(ctx, now)
		return false, fatal(last)
	})
	if err != nil || !ok {
		return together(fmt.Errorf("%w: map %s is suspended and cannot be resumed", ErrBusy, m.name), err, last)
	}
	return nil
}

// resumeOnce asks multipathd, which would go by what it remembers of the map, and then
// the kernel, where the daemon does not run or does not do it.
func (i *Initiator) resumeOnce(ctx context.Context, m dmap) error {
	told := i.multipath(ctx, "multipathd", "resume", "map", m.alias)
	now, err := readMap(m.dir)
	if gone(err) || err == nil && (!now.suspended || now.wwid != m.wwid) {
		return nil
	}
	if err != nil || ctx.Err() != nil {
		return together(told, err, ctx.Err())
	}
	limit, cancel := context.WithTimeout(ctx, mapperTimeout)
	defer cancel()
	_, err = bounded(limit, &i.bounds, "resume map "+m.name, func() (struct{}, error) { return struct{}{}, i.kernel.Resume(mapUUID + m.wwid) })
	if ctx.Err() == nil && (errors.Is(err, errWaits) || errors.Is(err, context.DeadlineExceeded)) {
		return lateError{err}
	}
	return ignoreGone(err)
}

// lateError is an error of what took too long; a repeat may cure it.
type lateError struct{ error }

func (e lateError) Unwrap() error { return e.error }

// deleteMap asks the daemon, or the tool when no daemon runs.
func (i *Initiator) deleteMap(ctx context.Context, m dmap) error {
	runs, err := i.multipathdRuns()
	if err != nil {
		return err
	}
	if runs {
		return i.multipath(ctx, "multipathd", "del", "map", m.alias)
	}
	return i.multipath(ctx, "multipath", "-f", m.alias)
}

// fatal keeps the errors that a repeat does not cure: anything but an answer of
// the tool itself.
func fatal(err error) error {
	var exit *ExitError
	if errors.As(err, &exit) && !exit.NoSuchTool() || errors.As(err, &lateError{}) {
		return nil
	}
	return err
}

func inWords(users []string) string {
	if len(users) == 0 {
		return "some process has it open"
	}
	return "it is used by " + strings.Join(users, ", ")
}

// growMap makes a map as large as its paths.
func (i *Initiator) growMap(ctx context.Context, m dmap, bytes int64) error {
	var last error
	const again = 2 * time.Second // a busy multipathd may refuse
	var asked time.Time
	ok, err := until(ctx, i.cfg.MapTimeout, func() (bool, error) {
		now, err := size(m.dir)
		if err != nil || now >= bytes {
			return err == nil, err
		}
		if asked.IsZero() || last != nil && time.Since(asked) > again {
			asked = time.Now()
			last = i.multipath(ctx, "multipathd", "resize", "map", m.alias)
		}
		return false, fatal(last)
	})
	if err != nil {
		return fmt.Errorf("resize map %s: %w", m.name, err)
	}
	if !ok {
		return together(fmt.Errorf("%w: map %s stays smaller than its paths, %d bytes", ErrUnavailable, m.name, bytes), last)
	}
	return nil
}

// wanted says whether multipath makes a map of a LUN that has none yet: after it
// was told that a disk is one of its own, unless its configuration excludes it.
//
// With find_multipaths no, multipathd makes the map by itself, and telling it of
// many disks at once would only keep it from doing so. So it is given some time
// first, unless an earlier disk showed that it waits to be told; that time begins
// when udev has seen the disk, because until then neither multipathd nor multipath
// knows of it. A udev that does not see it at all is dead (FM 30).
func (i *Initiator) wanted(ctx context.Context, disks []disk) (bool, error) {
	waits := i.udevIdle() // for udev to see the disk
	since := waits        // it has seen it
	var found, seen bool
	_, err := until(ctx, i.utmost(), func() (bool, error) {
		seen = seen || i.udevKnows(disks[0])
		var err error
		_, found, err = i.sysfs.mapOfAny(disks)
		switch {
		case !seen:
			return found || waits.pass() > min(2*udevTime, i.cfg.MapTimeout), err
		case i.tell.Load():
			return true, err
		default:
			return found || since.pass() > min(udevTime, i.cfg.MapTimeout/2), err
		}
	})
	if err != nil || found {
		return found, err
	}
	i.tell.Store(seen)
	return i.claimForMultipath(ctx, disks[0])
}

// utmost is for how long anything waits for a map while udev is at work.
func (i *Initiator) utmost() time.Duration { return 3 * i.cfg.MapTimeout }

// patience is for how long a map may lack a path before it is taken for degraded.
func (i *Initiator) patience() time.Duration { return i.cfg.MapTimeout / 2 }

// Complete waits for the paths that Attach proved and that were not yet in the map
// when it handed out the device: multipathd makes the map of the first path that udev
// has seen, and the work on the device can begin meanwhile. A path that stays out for
// a while is told in the log and is no error, as the device works without it. A
// device that is no map has nothing to wait for.
//
// Errors: ErrUnavailable, ErrForeign.
func (i *Initiator) Complete(ctx context.Context, t Target, d Device) error {
	m, err := readMap(filepath.Join(i.sysfs.root, "block", filepath.Base(d.Path)))
	if errors.Is(err, errNotMultipath) || gone(err) || err == nil && !m.suspended && m.is(d) {
		return nil
	}
	unlock, err := i.lock(ctx, t)
	if err != nil {
		return err
	}
	defer unlock()
	m, found, err := i.mapOverRecognised(t)
	if err != nil || !found || m.wwid != d.WWID {
		return err // who needs the device looks for itself whether it is there
	}
	disks, err := i.disksUnder(t, d)
	if err != nil {
		return err
	}
	paths := make([]path, len(disks))
	for n, one := range disks {
		paths[n] = path{disk: one, fresh: identity{WWID: d.WWID}}
	}
	if len(paths) == 0 {
		return nil
	}
	_, err = i.awaitMap(ctx, t, paths, i.patience())
	return err
}

// is says whether the map is a device as it was handed out: all its paths, and no other.
func (m dmap) is(d Device) bool {
	paths := make([]string, len(d.Paths))
	for n, p := range d.Paths {
		paths[n] = filepath.Base(p)
	}
	return m.wwid == d.WWID && slices.Equal(slices.Sorted(slices.Values(m.slaves)), slices.Sorted(slices.Values(paths)))
}

// awaitMap waits for the map, and, no longer than patience, for every one of the paths
// to be in it. Multipathd hears of new disks from udev; a disk that it has not taken
// up by then is offered to it once. A map that still lacks a path is degraded but
// good.
func (i *Initiator) awaitMap(ctx context.Context, t Target, paths []path, patience time.Duration) (dmap, error) {
	soon := min(udevTime, i.cfg.MapTimeout/3)
	if i.tell.Load() {
		soon = min(soon, 300*time.Millisecond)
	}
	var m dmap
	var missing []path
	offered := make(map[string]bool)
	disks, idle := disksOf(paths), i.udevIdle()
	_, err := untilSlowly(ctx, i.utmost(), 20*time.Millisecond, 100*time.Millisecond, func() (bool, error) {
		now, found, err := i.sysfs.mapOfAny(disks)
		if err != nil {
			return false, err
		}
		m, missing = now, slices.DeleteFunc(slices.Clone(paths), func(p path) bool { return slices.Contains(now.slaves, p.name) })
		waited := idle.pass()
		good := found && !m.suspended
		if good && (len(missing) == 0 || waited >= patience) || !good && waited >= i.cfg.MapTimeout {
			return true, nil
		}
		for _, p := range missing {
			if offered[p.name] || waited < soon || waited < udevTime && !i.udevKnows(p.disk) {
				continue
			}
			offered[p.name] = true
			err = together(err, i.offer(ctx, p.disk))
		}
		return false, err
	})
	if err == nil && m.name != "" {
		_, _, err = i.sysfs.mapOver(t.IQN, t.LUN) // it must have no other path
	}
	switch {
	case err != nil:
		return dmap{}, err
	case m.name == "":
		return dmap{}, fmt.Errorf("%w: multipathd made no map for %s (%s) in time", ErrUnavailable, paths[0].name, paths[0].fresh.WWID)
	case m.suspended:
		return dmap{}, fmt.Errorf("%w: map %s is suspended; see multipathd's log", ErrUnavailable, m.name)
	case m.wwid != paths[0].fresh.WWID:
		return dmap{}, fmt.Errorf("%w: map %s is of %s, the paths are of %s; multipath.conf must have no getuid_callout and no uid_attribute for them", ErrForeign, m.name, m.wwid, paths[0].fresh.WWID)
	case len(missing) > 0 && patience > 0:
		klog.FromContext(ctx).Info("The map lacks a path", "map", m.name, "wwid", m.wwid, "has", m.slaves)
	}
	return m, nil
}
