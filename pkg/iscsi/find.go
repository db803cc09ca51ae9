package iscsi

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/datera-csi/datera-csi/internal/faultpoint"
)

// Find returns the device that Attach made, from sysfs alone: no device is asked
// and no tool is run, so it answers also when the array does not. ErrNotAttached
// when there is none, ErrForeign when there is one of another identity. A disk that
// the device does not stand on, though it shows under the same number, changes
// nothing about it: what is wrong with that one, Condition says.
func (i *Initiator) Find(ctx context.Context, t Target) (Device, error) {
	if err := t.check(); err != nil {
		return Device{}, err
	}
	if err := ctx.Err(); err != nil {
		return Device{}, err
	}
	disks, wwid, err := i.recognised(t)
	if err != nil {
		return Device{}, err
	}
	m, mapped, err := i.mapOver(t, disks)
	if err != nil {
		return Device{}, err
	}
	if mapped && len(m.slaves) == 0 { // it loses them just now, and the disks have not noticed
		return Device{}, fmt.Errorf("%w: map %s of LUN %d of %s has lost its paths", ErrUnavailable, m.name, t.LUN, t.IQN)
	}
	if mapped {
		return i.describe(m.blockDevice, wwid, m.slaves)
	}
	one, err := i.onlyPath(t, disks)
	if err != nil {
		return Device{}, err
	}
	return i.describe(one.blockDevice(), wwid, []string{one.name})
}

// recognised are the disks of the LUN that the kernel knows as the one the array
// promised, and their WWID. A disk that the kernel could not identify, because its
// session broke just then, is known by the map that took it up. ErrNotAttached when
// there is no disk at all, ErrForeign when none is it, or two differ.
func (i *Initiator) recognised(t Target) (known []disk, wwid string, err error) {
	disks, err := i.sysfs.lun(t.IQN, t.LUN)
	if err != nil {
		return nil, "", err
	}
	if len(disks) == 0 {
		return nil, "", fmt.Errorf("%w: LUN %d of %s", ErrNotAttached, t.LUN, t.IQN)
	}
	var strange error
	for _, d := range disks {
		id, err := i.sysfs.known(d)
		switch {
		case err != nil:
			strange = err
			continue
		case t.Serial != "" && id.Serial == "" && id.WWID == lioWWID(t.Serial):
		case t.Serial != "" && id.Serial != t.Serial:
			strange = fmt.Errorf("%w: %s has serial number %s, the array promised %s", ErrForeign, d.name, id.Serial, t.Serial)
			continue
		case wwid != "" && id.WWID != wwid:
			return nil, "", fmt.Errorf("%w: two paths to LUN %d of %s differ, %s and %s", ErrForeign, t.LUN, t.IQN, wwid, id.WWID)
		}
		known, wwid = append(known, d), id.WWID
	}
	if len(known) == 0 {
		return nil, "", strange
	}
	return known, wwid, nil
}

// mapOver is the map over the disks that are recognised.
func (i *Initiator) mapOver(t Target, disks []disk) (dmap, bool, error) {
	return i.sysfs.mapAmong(t.IQN, disks, func() ([]disk, error) {
		again, _, err := i.recognised(t)
		if errors.Is(err, ErrNotAttached) {
			return nil, nil
		}
		return again, err
	})
}

// mapOverRecognised is mapOver for who has not looked for the disks; a LUN that is not
// attached has no map.
func (i *Initiator) mapOverRecognised(t Target) (dmap, bool, error) {
	disks, _, err := i.recognised(t)
	if errors.Is(err, ErrNotAttached) {
		return dmap{}, false, nil
	}
	if err != nil {
		return dmap{}, false, err
	}
	return i.mapOver(t, disks)
}

// Prove is Find that believes only what the paths answer when they are asked now:
// a LUN that was exported under this number after the kernel had found the disk is
// ErrForeign, although sysfs still shows the old one (FM 2). A path that is not
// live is not asked; one that does not answer in time does not count as long as
// another does. Nothing is changed.
func (i *Initiator) Prove(ctx context.Context, t Target) (Device, error) {
	device, err := i.Find(ctx, t)
	if err != nil {
		return Device{}, err
	}
	disks, err := i.disksUnder(t, device)
	if err != nil {
		return Device{}, err
	}
	return device, i.proveFresh(ctx, t, disks)
}

// disksUnder are the disks that a device stands on.
func (i *Initiator) disksUnder(t Target, d Device) ([]disk, error) {
	disks, err := i.sysfs.lun(t.IQN, t.LUN)
	return slices.DeleteFunc(disks, func(one disk) bool { return !slices.Contains(d.Paths, filepath.Join(i.cfg.Dev, one.name)) }), err
}

func (i *Initiator) proveFresh(ctx context.Context, t Target, disks []disk) error {
	disks = slices.DeleteFunc(slices.Clone(disks), func(d disk) bool { return !d.running() })
	if len(disks) == 0 {
		return fmt.Errorf("%w: LUN %d of %s has no live path, so it cannot be proven to be itself", ErrUnavailable, t.LUN, t.IQN)
	}
	paths := i.identifyAll(ctx, disks)
	if others := i.mismatches(t, paths); len(others) > 0 {
		return fmt.Errorf("%w; end what uses it on this node, and unstage it: a new stage looks again", others[0].mismatch(t))
	}
	_, err := i.responsive(t, paths)
	return err
}

// onlyPath is the disk that is in use, or the only one. Several that nobody uses
// are an attach that did not finish.
func (i *Initiator) onlyPath(t Target, disks []disk) (disk, error) {
	if len(disks) == 1 {
		return disks[0], nil
	}
	for _, d := range disks {
		users, err := i.users(d.blockDevice())
		if err != nil {
			return disk{}, err
		}
		if len(users) > 0 {
			return d, nil
		}
	}
	return disk{}, fmt.Errorf("%w: LUN %d of %s has %d paths and no map yet", ErrNotAttached, t.LUN, t.IQN, len(disks))
}

// Rescan makes growth of the LUN visible on every path and then on the map, and
// returns the bytes that the device has now. A path that answers as another LUN is
// ErrForeign, and nothing is changed then. It is ErrUnavailable when they are
// fewer than t.Bytes after a while; the bytes are valid then too. The device may
// be in use, and may be larger than asked.
func (i *Initiator) Rescan(ctx context.Context, t Target) (int64, error) {
	unlock, err := i.lock(ctx, t)
	if err != nil {
		return 0, err
	}
	defer unlock()
	device, err := i.Find(ctx, t)
	if err != nil {
		return 0, err
	}
	disks, err := i.disksUnder(t, device)
	if err != nil {
		return 0, err
	}
	if err = i.proveFresh(ctx, t, disks); err != nil { // before anything grows
		return device.Bytes, err
	}
	m, mapped, err := i.mapOverRecognised(t)
	if err != nil {
		return 0, err
	}
	smallest, lagging, err := i.awaitGrowth(ctx, t, disks)
	if err != nil {
		return device.Bytes, err
	}
	faultpoint.At("expand: paths grown")
	if mapped {
		// Also when a path lags: paths of different size would make multipathd
		// refuse, and then the map stays as it was.
		if err := i.growMap(ctx, m, smallest); err != nil {
			return device.Bytes, err
		}
	}
	if lagging != nil {
		return smallest, fmt.Errorf("%w: %s still has %d bytes, not %d%s", ErrUnavailable, lagging.name, smallest, t.Bytes, lagging.whyItLags())
	}
	return smallest, nil
}

// whyItLags is the rest of a sentence about a disk that does not show its growth. A
// map grows no further than its smallest path, for device-mapper takes no path that
// is smaller than the map.
func (d disk) whyItLags() string {
	if d.running() {
		return ""
	}
	return fmt.Sprintf("; this path, through %s, is down, and the volume grows when it is back", d.session.portal())
}

// awaitGrowth makes the kernel read the size of every disk again until all have the
// promised size, or for DiskTimeout. It returns the smallest size and the disk
// that lags behind, if one does.
func (i *Initiator) awaitGrowth(ctx context.Context, t Target, disks []disk) (smallest int64, lagging *disk, err error) {
	var last error
	_, err = untilSlowly(ctx, i.cfg.DiskTimeout, 100*time.Millisecond, 2*time.Second, func() (bool, error) {
		rescanCtx, cancel := context.WithTimeout(ctx, min(identifyTimeout, i.cfg.DiskTimeout/2))
		defer cancel()
		last = i.rescanSizes(rescanCtx, disks)
		smallest, lagging = 0, nil
		for n, d := range disks {
			bytes, sizeErr := size(d.block)
			if sizeErr != nil {
				return false, sizeErr
			}
			if n == 0 || bytes < smallest {
				smallest = bytes
			}
			if bytes < t.Bytes {
				lagging = &disks[n]
			}
		}
		return lagging == nil, nil
	})
	if err == nil && lagging != nil && last != nil {
		err = fmt.Errorf("%w: %s does not show its new size%s: %w", ErrUnavailable, lagging.name, lagging.whyItLags(), last)
	}
	return smallest, lagging, err
}
