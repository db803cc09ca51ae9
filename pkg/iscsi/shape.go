package iscsi

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// Shape is what there is of a LUN on this host and what is missing, by sysfs and
// the mount tables: no device is asked and no tool is run for it.
type Shape struct {
	Live    []netip.AddrPort // portals with a session that works
	Down    []netip.AddrPort // portals with one that iscsid tries to bring back
	Missing []netip.AddrPort // promised portals without a session
	Blind   []netip.AddrPort // live sessions that do not show the LUN
	Offline []string         // disks that the kernel gave up although their session works
	Disks   []string         // all that show the LUN

	Map       string   // the multipath map; "" when there is none
	Apart     []string // disks behind live sessions that the map lacks
	Suspended bool     // the map keeps all I/O waiting

	NodeRecords int // of the target in open-iscsi's database

	Mounts  []string // where the device, or a path, is mounted, in our namespace or in that of PID 1
	Holders []string // what is built upon it, other than the map and maps of its partitions
}

// Attached says that something of the LUN is there.
func (s Shape) Attached() bool { return len(s.Live)+len(s.Down) > 0 || s.Map != "" }

// Mendable says that Heal has something to do. Without a map nothing is added: a
// second disk that is the same LUN would only be a danger (FM 28).
func (s Shape) Mendable() bool {
	if s.Map == "" {
		return len(s.Offline) > 0
	}
	return len(s.Missing)+len(s.Blind)+len(s.Offline)+len(s.Apart) > 0 || s.Suspended
}

// Inspect says what there is of the LUN. What contradicts itself, such as a map
// over paths of two targets, is ErrForeign.
func (i *Initiator) Inspect(ctx context.Context, t Target) (Shape, error) {
	if err := together(t.check(), ctx.Err()); err != nil {
		return Shape{}, err
	}
	records, err := i.admin.records.list(t.IQN)
	if err != nil {
		return Shape{}, err
	}
	s := Shape{NodeRecords: len(records)}
	m, mapped, err := i.sysfs.mapOver(t.IQN, t.LUN)
	if err == nil && !mapped {
		m, mapped, err = i.orphan(t)
	}
	if err != nil {
		return Shape{}, err
	}
	if mapped {
		s.Map, s.Suspended = m.name, m.suspended
	}
	tops, err := i.inspectSessions(t, m, &s)
	if err != nil {
		return Shape{}, err
	}
	if mapped {
		tops = append(tops, m.blockDevice)
	}
	return s, i.inspectUsers(tops, m.name, &s)
}

func (i *Initiator) inspectSessions(t Target, m dmap, s *Shape) ([]blockDevice, error) {
	sessions, err := i.sysfs.sessions(t.IQN)
	if err != nil {
		return nil, err
	}
	var found []blockDevice
	for _, one := range sessions {
		disks, err := i.sysfs.disks(one)
		if err != nil {
			return nil, err
		}
		n := slices.IndexFunc(disks, func(d disk) bool { return d.lun == t.LUN })
		if n >= 0 {
			s.Disks = append(s.Disks, disks[n].name)
			found = append(found, disks[n].blockDevice())
		}
		switch {
		case !one.live():
			s.Down = append(s.Down, one.portal)
			continue
		case n < 0:
			s.Blind = append(s.Blind, one.portal)
		case m.name != "" && !slices.Contains(m.slaves, disks[n].name):
			s.Apart = append(s.Apart, disks[n].name)
		}
		s.Live = append(s.Live, one.portal)
		if n >= 0 && disks[n].offline() {
			s.Offline = append(s.Offline, disks[n].name)
		}
	}
	for _, p := range t.portals() {
		if !slices.Contains(s.Live, p) && !slices.Contains(s.Down, p) {
			s.Missing = append(s.Missing, p)
		}
	}
	return found, nil
}

// offline says that the kernel gave the disk up after errors. Unlike a disk whose
// session is down, it does not come back by itself.
func (d disk) offline() bool {
	state, err := attribute(d.dir, "state")
	return err == nil && state == "offline"
}

func (i *Initiator) inspectUsers(tops []blockDevice, mapName string, s *Shape) error {
	mounts, err := i.mounts()
	if err != nil {
		return err
	}
	for _, b := range tops {
		parts, err := b.parts()
		if err != nil {
			return err
		}
		partMaps, err := b.partitionMaps()
		if err != nil {
			return err
		}
		for _, p := range append(parts, partMaps...) {
			for _, m := range mounts {
				if m.uses(p) {
					s.Mounts = append(s.Mounts, m.point)
				}
			}
			holders, err := p.holders()
			if err != nil {
				return fmt.Errorf("what is built on %s: %w", p.name, err)
			}
			for _, h := range holders {
				if h != mapName && !slices.ContainsFunc(partMaps, func(m blockDevice) bool { return m.name == h }) {
					s.Holders = append(s.Holders, h)
				}
			}
		}
	}
	slices.Sort(s.Mounts)
	slices.Sort(s.Holders)
	s.Mounts, s.Holders = slices.Compact(s.Mounts), slices.Compact(s.Holders)
	return nil
}
