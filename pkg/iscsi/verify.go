package iscsi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// path is a disk and what it answered when it was asked just now.
type path struct {
	disk
	fresh identity
	err   error // it did not answer
}

func disksOf(paths []path) []disk {
	disks := make([]disk, len(paths))
	for n, p := range paths {
		disks[n] = p.disk
	}
	return disks
}

const identifyTimeout = 10 * time.Second

// verify proves that every path is the LUN which the array promised. It asks the
// devices, because what the kernel remembers may be of another LUN that had this
// number before (FM 2). A path that proves to be another LUN is replaced once
// when nothing uses it; if that does not help, the whole attach is refused. A
// path that does not answer is left out as long as another does.
func (i *Initiator) verify(ctx context.Context, t Target, disks []disk) ([]path, error) {
	paths := i.identifyAll(ctx, disks)
	if stale := i.mismatches(t, paths); len(stale) > 0 {
		if err := i.replace(ctx, t, stale); err != nil {
			return nil, err
		}
		disks, err := i.awaitDisks(ctx, t)
		if err != nil {
			return nil, err
		}
		paths = i.identifyAll(ctx, disks)
		if stale := i.mismatches(t, paths); len(stale) > 0 {
			return nil, stale[0].mismatch(t)
		}
	}
	paths, err := i.responsive(t, paths)
	if err != nil {
		return nil, err
	}
	return i.awaitAgreement(ctx, t, paths)
}

// identifyAll asks all disks at the same time.
func (i *Initiator) identifyAll(ctx context.Context, disks []disk) []path {
	ctx, cancel := context.WithTimeout(ctx, min(identifyTimeout, i.cfg.DiskTimeout))
	defer cancel()
	return eachOf(disks, func(d disk) path {
		node := filepath.Join(i.cfg.Dev, d.name)
		fresh, err := bounded(ctx, &i.bounds, "identify "+node, func() (identity, error) { return i.identify(ctx, node, d) })
		return path{disk: d, fresh: fresh, err: err}
	})
}

// identify asks one disk. A disk that has only just appeared cannot be opened for
// a moment.
func (i *Initiator) identify(ctx context.Context, node string, d disk) (fresh identity, err error) {
	const moment = 2 * time.Second
	_, waitErr := until(ctx, min(moment, i.cfg.DiskTimeout/2), func() (bool, error) {
		if err = i.kernel.Node(node, d.dev); err == nil {
			fresh, err = i.kernel.Identify(node)
		}
		return !gone(err), nil
	})
	if err == nil {
		err = waitErr
	}
	return fresh, err
}

// mismatches are the paths that answered as another LUN than the promised one, or
// as another than the kernel, udev and multipathd take them for.
func (i *Initiator) mismatches(t Target, paths []path) []path {
	var found []path
	for _, p := range paths {
		if p.err != nil {
			continue
		}
		known, err := i.sysfs.known(p.disk)
		if err != nil || p.fresh.Serial != t.Serial || known.Serial != "" && known.Serial != p.fresh.Serial || known.WWID != p.fresh.WWID {
			found = append(found, p)
		}
	}
	return found
}

func (p path) mismatch(t Target) error {
	answer := fmt.Errorf("%w: LUN %d of %s must have serial number %s; %s answers %s (WWID %s)", ErrForeign, t.LUN, t.IQN, t.Serial, p.name, p.fresh.Serial, p.fresh.WWID)
	cached, err := p.cached()
	if err != nil {
		return fmt.Errorf("%w, and the kernel could not identify it", answer)
	}
	return fmt.Errorf("%w, the kernel knows it as %s (WWID %s)", answer, cached.Serial, cached.WWID)
}

// replace removes disks that became another LUN, so that the next scan finds
// them as what they are.
func (i *Initiator) replace(ctx context.Context, t Target, stale []path) error {
	for _, p := range stale {
		if err := i.removeUnusedMap(ctx, t, p); err != nil {
			return together(p.mismatch(t), err)
		}
		users, err := i.users(p.blockDevice())
		if err == nil && len(users) > 0 {
			err = fmt.Errorf("it is in use, so it is not replaced: %s", strings.Join(users, ", "))
		}
		if err != nil {
			return together(p.mismatch(t), err)
		}
	}
	for _, p := range stale {
		if err := i.deleteDisk(ctx, p.disk); err != nil {
			return together(p.mismatch(t), err)
		}
	}
	return nil
}

// removeUnusedMap takes away the map over a stale disk when all its paths are ours
// and nothing uses it.
func (i *Initiator) removeUnusedMap(ctx context.Context, t Target, p path) error {
	m, found, err := i.sysfs.mapOf(p.disk)
	if err != nil || !found {
		return err
	}
	ours, err := i.sysfs.lun(t.IQN, t.LUN)
	if err != nil {
		return err
	}
	for _, s := range m.slaves {
		if !slices.ContainsFunc(ours, func(d disk) bool { return d.name == s }) {
			return fmt.Errorf("map %s also has the path %s, which is not of this target", m.name, s)
		}
	}
	if err := i.checkUnused(ctx, m.blockDevice); err != nil {
		return err
	}
	return i.removeMap(ctx, m)
}

// deleteDisk makes the kernel forget a disk. What the disk's directory names cannot
// have passed to another disk: it contains the number of its session, and those
// are not used twice.
func (i *Initiator) deleteDisk(ctx context.Context, d disk) error {
	if err := i.set(ctx, filepath.Join(d.dir, "delete"), "1"); err != nil && !gone(err) {
		return fmt.Errorf("remove disk %s: %w", d.name, err)
	}
	ok, err := until(ctx, i.cfg.DiskTimeout, func() (bool, error) {
		_, err := os.Stat(d.block)
		return gone(err), ignoreGone(err)
	})
	if err != nil {
		return fmt.Errorf("remove disk %s: %w", d.name, err)
	}
	if !ok {
		return fmt.Errorf("%w: disk %s does not go away", ErrUnavailable, d.name)
	}
	return nil
}

// responsive leaves out the paths that do not answer. One of them must, and those
// that do not must at least be remembered as the promised LUN.
func (i *Initiator) responsive(t Target, paths []path) ([]path, error) {
	var good []path
	var errs []error
	for _, p := range paths {
		if p.err == nil {
			good = append(good, p)
			continue
		}
		errs = append(errs, p.err)
		if cached, err := p.cached(); err == nil && cached.Serial != t.Serial {
			return nil, fmt.Errorf("%w: %s does not answer, and the kernel knows it as %s, not %s", ErrForeign, p.name, cached.Serial, t.Serial)
		}
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%w: no path to LUN %d of %s is left", ErrUnavailable, t.LUN, t.IQN)
	}
	if len(good) == 0 {
		return nil, fmt.Errorf("%w: no path to LUN %d of %s answers: %w", ErrUnavailable, t.LUN, t.IQN, together(errs...))
	}
	return good, nil
}

// awaitAgreement waits until all paths agree on who they are and on a size that is at
// least the promised one, and until the kernel has taken that size over (FM 14).
func (i *Initiator) awaitAgreement(ctx context.Context, t Target, paths []path) ([]path, error) {
	const agreementTimeout = 10 * time.Second
	var dispute error
	ok, err := untilSlowly(ctx, min(agreementTimeout, i.cfg.DiskTimeout), 50*time.Millisecond, time.Second, func() (bool, error) {
		var lagging []path
		if lagging, dispute = disagreement(t, paths); dispute == nil {
			return true, nil
		}
		if err := i.rescanSizes(ctx, disksOf(lagging)); err != nil {
			return false, err
		}
		again, err := i.responsive(t, i.identifyAll(ctx, disksOf(paths)))
		if err != nil {
			return false, err
		}
		paths = again
		return false, nil
	})
	if err != nil {
		return nil, together(err, dispute)
	}
	if !ok {
		return nil, dispute
	}
	return paths, nil
}

// disagreement says what is wrong with the paths as a whole, and which of them
// the kernel must look at again.
func disagreement(t Target, paths []path) (lagging []path, err error) {
	var errs []error
	for _, p := range paths {
		kernel, err := size(p.block)
		switch {
		case err != nil:
			errs = append(errs, err)
		case p.fresh.Serial != t.Serial:
			errs = append(errs, p.mismatch(t))
		case p.fresh.WWID != paths[0].fresh.WWID:
			errs = append(errs, fmt.Errorf("%w: %s is %s but %s is %s", ErrForeign, paths[0].name, paths[0].fresh.WWID, p.name, p.fresh.WWID))
		case p.fresh.Bytes != paths[0].fresh.Bytes:
			errs = append(errs, fmt.Errorf("%w: %s has %d bytes but %s has %d", ErrForeign, paths[0].name, paths[0].fresh.Bytes, p.name, p.fresh.Bytes))
		case p.fresh.Bytes < t.Bytes:
			errs = append(errs, fmt.Errorf("%w: %s has %d bytes, the array promised %d", ErrForeign, p.name, p.fresh.Bytes, t.Bytes))
		case kernel != p.fresh.Bytes:
			errs = append(errs, fmt.Errorf("%w: the kernel takes %s for %d bytes, it has %d", ErrForeign, p.name, kernel, p.fresh.Bytes))
			lagging = append(lagging, p)
		}
	}
	return lagging, together(errs...)
}

// rescanSizes makes the kernel read the size of disks again.
func (i *Initiator) rescanSizes(ctx context.Context, disks []disk) error {
	return each(disks, func(d disk) error {
		return i.set(ctx, filepath.Join(d.dir, "rescan"), "1")
	})
}
