package iscsi

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
)

// Shape is the condition of a LUN and what uses it, by sysfs and the mount tables:
// no device is asked and no tool is run for it.
type Shape struct {
	Condition

	NodeRecords int // of the target in open-iscsi's database

	Mounts  []string // where the device, or a path, is mounted, in our namespace or in that of PID 1
	Holders []string // what is built upon it, other than the map and maps of its partitions
}

// Inspect says what there is of the LUN. Unlike Condition it takes what contradicts
// itself, such as a map over paths of two targets, for ErrForeign.
func (i *Initiator) Inspect(ctx context.Context, t Target) (Shape, error) {
	if err := together(t.check(), ctx.Err()); err != nil {
		return Shape{}, err
	}
	records, err := i.iscsiadm.db.list(t.IQN)
	if err != nil {
		return Shape{}, err
	}
	if _, _, err = i.sysfs.mapOver(t.IQN, t.LUN); err != nil {
		return Shape{}, err
	}
	s := Shape{NodeRecords: len(records)}
	if s.Condition, err = i.Condition(ctx, t); err != nil {
		return Shape{}, err
	}
	return s, i.inspectUsers(&s)
}

// The lists below say what of a condition Heal could mend, and what it goes by.

// Live are the portals with a session that works.
func (c Condition) Live() []netip.AddrPort {
	return portalsWhere(c, func(p PathCondition) bool { return p.loggedIn() })
}

// Down are the portals with a session that iscsid tries to bring back.
func (c Condition) Down() []netip.AddrPort {
	return portalsWhere(c, func(p PathCondition) bool { return p.Session != "" && !p.loggedIn() })
}

// Outdated are those of Down whose secrets have changed: iscsid tries in vain.
func (c Condition) Outdated() []netip.AddrPort {
	return portalsWhere(c, func(p PathCondition) bool { return p.Outdated })
}

// Missing are the promised portals without a session.
func (c Condition) Missing() []netip.AddrPort {
	return portalsWhere(c, func(p PathCondition) bool { return p.Session == "" })
}

// WithoutLUN are the portals whose session works and does not show the LUN.
func (c Condition) WithoutLUN() []netip.AddrPort {
	return portalsWhere(c, func(p PathCondition) bool { return p.loggedIn() && p.Disk == "" })
}

// Disks are all that show the LUN.
func (c Condition) Disks() []string {
	return disksWhere(c, func(PathCondition) bool { return true })
}

// Offline are the disks that the kernel gave up after errors although their session
// works. Unlike a disk whose session is down, they do not come back by themselves.
func (c Condition) Offline() []string {
	return disksWhere(c, func(p PathCondition) bool { return p.loggedIn() && p.State == stateOffline })
}

// OutsideMap are the disks behind sessions that work which the map lacks.
func (c Condition) OutsideMap() []string {
	return disksWhere(c, func(p PathCondition) bool { return p.loggedIn() && c.Map != nil && !p.InMap })
}

// slaves are the disks that the map has.
func (c Condition) slaves() []string {
	return disksWhere(c, func(p PathCondition) bool { return p.InMap })
}

// Suspended says that the map keeps all I/O waiting.
func (c Condition) Suspended() bool { return c.Map != nil && c.Map.Suspended }

// failsWithPath says that the map goes on failing what it cannot send although a path
// works again.
func (c Condition) failsWithPath() bool {
	return c.Map != nil && c.Map.Fails && slices.ContainsFunc(c.Paths, func(p PathCondition) bool { return p.InMap && p.Live() })
}

// Attached says that something of the LUN is there.
func (c Condition) Attached() bool {
	return c.Map != nil || slices.ContainsFunc(c.Paths, func(p PathCondition) bool { return p.Session != "" })
}

// Healable says that Heal has something to do. Without a map nothing is added: a
// second disk that is the same LUN would only be a danger (FM 28).
func (c Condition) Healable() bool {
	if c.Map == nil {
		return len(c.Offline()) > 0
	}
	return len(c.Missing())+len(c.WithoutLUN())+len(c.Offline())+len(c.OutsideMap())+len(c.Outdated()) > 0 || c.Suspended() || c.failsWithPath()
}

func portalsWhere(c Condition, is func(PathCondition) bool) []netip.AddrPort {
	var found []netip.AddrPort
	for _, p := range c.Paths {
		if is(p) {
			found = append(found, p.Portal)
		}
	}
	return found
}

func disksWhere(c Condition, is func(PathCondition) bool) []string {
	var found []string
	for _, p := range c.Paths {
		if p.Disk != "" && is(p) {
			found = append(found, p.Disk)
		}
	}
	return found
}

// tops are the block devices of a condition that can be mounted.
func (c Condition) tops(y sysfs) []blockDevice {
	var all []blockDevice
	for _, p := range c.Paths {
		if p.Disk != "" {
			all = append(all, y.blockNamed(p.Disk, p.Number))
		}
	}
	if c.Map != nil {
		all = append(all, y.blockNamed(c.Map.Name, c.Map.Number))
	}
	return all
}

func (y sysfs) blockNamed(name, dev string) blockDevice {
	return blockDevice{name: name, dev: dev, dir: filepath.Join(y.root, "block", name)}
}

func (i *Initiator) inspectUsers(s *Shape) error {
	mounts, err := i.mounts()
	if err != nil {
		return err
	}
	var known []string
	if s.Map != nil {
		known = append(known, s.Map.Name)
	}
	for _, b := range s.tops(i.sysfs) {
		found, err := usesOf(mounts, b, known...)
		if err != nil {
			return err
		}
		for _, u := range found {
			if u.partOf != "" {
				s.Holders = append(s.Holders, u.partOf)
			} else {
				s.Mounts = append(s.Mounts, u.mountedAt)
			}
		}
	}
	slices.Sort(s.Mounts)
	slices.Sort(s.Holders)
	s.Mounts, s.Holders = slices.Compact(s.Mounts), slices.Compact(s.Holders)
	return nil
}
