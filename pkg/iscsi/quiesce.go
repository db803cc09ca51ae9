package iscsi

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

// quiesce proves that nothing uses the device and writes out what is buffered. A map
// that multipathd lays over new disks meanwhile is no user: it is what is to be taken
// down.
func (i *Initiator) quiesce(ctx context.Context, t Target) error {
	s, err := i.stack(t)
	if err != nil {
		return err
	}
	err = i.quiesceStack(ctx, t, s)
	if s.mapped || !errors.Is(err, ErrBusy) {
		return err
	}
	if now, changed := i.stack(t); changed == nil && now.mapped {
		return i.quiesceStack(ctx, t, now)
	}
	return err
}

func (i *Initiator) quiesceStack(ctx context.Context, t Target, s stack) error {
	err := i.checkNoUsers(s)
	if err != nil {
		return err
	}
	if err = i.resumeMap(ctx, s.dmap); err != nil {
		return err
	}
	if err = each(s.tops(), func(b blockDevice) error { return i.checkUnclaimed(ctx, b) }); err != nil {
		return err
	}
	dead := !slices.ContainsFunc(s.disks, disk.running)
	if err = i.checkUnopened(ctx, s.paths(), dead || s.mapped); err != nil {
		return err
	}
	if dead {
		return i.quiesceWithoutPaths(ctx, t, s)
	}
	if err = i.checkAnyPathAnswers(ctx, s.disks); err != nil {
		return err
	}
	return each(s.tops(), func(b blockDevice) error { return i.flush(ctx, b) })
}

// stack is a LUN as it is attached now: the paths, and the map when there is one.
type stack struct {
	disks  []disk
	mapped bool
	dmap   dmap
}

func (i *Initiator) stack(t Target) (s stack, err error) {
	list := func() ([]disk, error) {
		s.disks, err = i.sysfs.lun(t.IQN, t.LUN)
		return s.disks, err
	}
	disks, err := list()
	if err != nil {
		return stack{}, err
	}
	if s.dmap, s.mapped, err = i.sysfs.mapAmong(t.IQN, disks, list); err != nil {
		return stack{}, err
	}
	return s, nil
}

// tops are the devices that can be mounted.
func (s stack) tops() []blockDevice {
	if s.mapped {
		return []blockDevice{s.dmap.blockDevice}
	}
	return s.paths()
}

// paths are the disks.
func (s stack) paths() []blockDevice {
	all := make([]blockDevice, len(s.disks))
	for n, d := range s.disks {
		all[n] = d.blockDevice()
	}
	return all
}

// checkNoUsers refuses a LUN that something uses which sysfs or mountinfo name.
func (i *Initiator) checkNoUsers(s stack) error {
	all := s.paths()
	if s.mapped {
		all = append(all, s.dmap.blockDevice)
	}
	mounts, err := i.mounts()
	if err != nil {
		return err
	}
	for _, b := range all {
		users, err := usersAmong(mounts, b, s.dmap.name)
		if err != nil {
			return err
		}
		if len(users) > 0 {
			return fmt.Errorf("%w: %s", ErrBusy, strings.Join(users, ", "))
		}
	}
	return nil
}

// checkAnyPathAnswers refuses to flush into a LUN whose sessions look alive although no
// path answers: the flush would sit in the kernel and hold the device. Soon the
// sessions fail, or the paths answer again.
func (i *Initiator) checkAnyPathAnswers(ctx context.Context, disks []disk) error {
	running := slices.DeleteFunc(slices.Clone(disks), func(d disk) bool { return !d.running() })
	if len(running) == 0 {
		return fmt.Errorf("%w: all paths went down just now", ErrUnavailable)
	}
	answers := make(chan error, len(running))
	for _, d := range running {
		go func() { answers <- i.identifyAll(ctx, []disk{d})[0].err }()
	}
	var errs []error
	for range running {
		err := <-answers
		if err == nil {
			return nil // the others are not waited for: a dead one takes long to say so
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("%w: no path answers, so nothing can be written out: %w", ErrUnavailable, together(errs...))
}

// checkUnused proves that nothing uses a device.
func (i *Initiator) checkUnused(ctx context.Context, b blockDevice) error {
	users, err := i.users(b)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return fmt.Errorf("%w: %s", ErrBusy, strings.Join(users, ", "))
	}
	return i.checkUnclaimed(ctx, b)
}

// checkUnclaimed proves that nobody has a device for himself, in whatever mount
// namespace, by claiming it. A claim of ours that an abandoned flush still holds
// proves the same, for there can be only one.
func (i *Initiator) checkUnclaimed(ctx context.Context, b blockDevice) error {
	const patience = 3 * time.Second // some look into a device for a moment
	node := filepath.Join(i.cfg.Dev, b.name)
	if i.bounds.busy("flush "+node) || i.bounds.busy("claim "+node) {
		return nil
	}
	maps, err := b.partitionMaps()
	if err != nil {
		return err
	}
	if len(maps) > 0 { // they are what has claimed it, and all that could be in use
		return each(maps, func(p blockDevice) error { return i.checkUnclaimed(ctx, p) })
	}
	free, err := untilSlowly(ctx, patience, 50*time.Millisecond, time.Second, func() (bool, error) {
		claimed := i.claim(ctx, node, b.dev)
		switch {
		case errors.Is(claimed, syscall.EBUSY):
			return false, nil
		case gone(claimed), errors.Is(claimed, syscall.EIO), errors.Is(claimed, syscall.ENOMEDIUM):
			return true, nil // a dead device refuses to open only after it was found unclaimed
		}
		return claimed == nil, claimed
	})
	if err != nil {
		return err
	}
	if !free {
		return fmt.Errorf("%w: %s is mounted in some other container or claimed by a program", ErrBusy, b.name)
	}
	return nil
}

func (i *Initiator) claim(ctx context.Context, node, dev string) error {
	_, err := bounded(ctx, &i.bounds, "claim "+node, func() (struct{}, error) {
		if err := i.kernel.Node(node, dev); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, i.kernel.Claim(node)
	})
	return err
}

// flush writes out what the kernel buffers for a device, while a path is alive
// to take it.
func (i *Initiator) flush(ctx context.Context, b blockDevice) error {
	limit, cancel := context.WithTimeout(ctx, i.cfg.FlushTimeout)
	defer cancel()
	maps, err := b.partitionMaps()
	if err != nil {
		return err
	}
	if err = each(maps, func(p blockDevice) error { return i.flush(ctx, p) }); err != nil {
		return err
	}
	node := filepath.Join(i.cfg.Dev, b.name)
	_, err = bounded(limit, &i.bounds, "flush "+node, func() (struct{}, error) {
		return struct{}{}, i.kernel.Flush(node, len(maps) == 0)
	})
	switch {
	case err == nil, gone(err):
		return nil
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case ctx.Err() == nil:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// quiesceWithoutPaths is the end of a device that has no path left. Without a map the
// kernel may wait for the session still, and with it whoever has the device open: then
// it must take what is buffered, or say that it cannot. What is queued in a map must
// fail, or the map could not be removed. Where nobody has the device open that loses
// nothing: the kernel wrote out or dropped what it buffered when the last one closed
// it. Who has it open waits for that, so the map goes on queueing as long as the array
// may come back.
func (i *Initiator) quiesceWithoutPaths(ctx context.Context, t Target, s stack) error {
	if len(s.disks) == 0 {
		return nil
	}
	klog.FromContext(ctx).Info("Detaching a LUN that no path leads to", "target", t.IQN, "lun", t.LUN)
	if !s.mapped {
		return each(slices.DeleteFunc(slices.Clone(s.disks), disk.givenUp), func(d disk) error { return i.flush(ctx, d.blockDevice()) })
	}
	if err := i.checkNoQueuedWriters(ctx, t, s.dmap); err != nil {
		return err
	}
	return i.disableQueueing(ctx, s.dmap)
}

// checkNoQueuedWriters proves that nobody waits for a map without paths to take what was
// written, or that the array would take it no more. A kernel that is asked and does not
// tell in time is no proof.
func (i *Initiator) checkNoQueuedWriters(ctx context.Context, t Target, m dmap) error {
	table, err := i.table(ctx, mapUUID+m.wwid)
	switch {
	case gone(err):
		return nil
	case err != nil:
		return fmt.Errorf("%w: whether somebody waits for map %s, to which no path leads, is not known: %w", ErrUnavailable, m.name, err)
	case !table.queues:
		return nil
	}
	opens, err := i.openCount(ctx, m, table)
	if err != nil || opens == 0 {
		return err
	}
	if _, final, err := i.refusedForGood(ctx, t); err == nil && final {
		return nil
	}
	who := "somebody"
	if openers := i.openers(m.blockDevice); len(openers) > 0 {
		who = openersInWords(openers)
	}
	return fmt.Errorf("%w: no path leads to map %s, which %s has open and which keeps what was written until a path is back, or for as long as no_path_retry says", ErrBusy, m.name, who)
}

// openCount counts who has a map or its partitions open. A flush of ours that hangs
// does not count: it has nothing of anybody's.
func (i *Initiator) openCount(ctx context.Context, m dmap, table mapTable) (int, error) {
	parts, err := m.partitionMaps()
	if err != nil {
		return 0, err
	}
	opens := table.opens - len(parts) // each has the map open
	if i.bounds.busy("flush " + filepath.Join(i.cfg.Dev, m.name)) {
		opens--
	}
	for _, p := range parts {
		uuid, err := attribute(p.dir, "dm/uuid")
		if gone(err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		part, err := i.table(ctx, uuid)
		switch {
		case gone(err) || i.bounds.busy("flush "+filepath.Join(i.cfg.Dev, p.name)):
		case err != nil:
			return 0, fmt.Errorf("%w: who has %s open is not known: %w", ErrUnavailable, p.name, err)
		default:
			opens += part.opens
		}
	}
	return max(opens, 0), nil
}
