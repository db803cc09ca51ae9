package iscsi

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Condition is how a LUN is reached from this host, as the kernel has it now.
type Condition struct {
	Paths   []PathCondition // one for each session, and one for each portal without; in the order of the target's portals
	Map     *MapCondition   // nil: there is none
	OnePath bool            // one session is all this host is to have: multipath is off
}

// PathCondition is one way to a LUN, from the session to the disk.
type PathCondition struct {
	Portal  netip.AddrPort
	Session string // LOGGED_IN, FAILED or FREE; "" is no session
	// Outdated says that iscsid cannot bring the session back, because its secrets
	// have changed.
	Outdated bool

	Disk   string // sdb; "" is no disk of this LUN
	InMap  bool   // the disk is part of the map
	State  string // of the disk: running, blocked, offline, transport-offline
	Number string // of the disk, major:minor
	Serial string // as the kernel knows the disk; "" when it does not
	Bytes  int64
}

// MapCondition is a multipath map.
type MapCondition struct {
	Name, Alias string // dm-2, and the name that multipathd goes by
	Number      string // major:minor
	Bytes       int64
	Suspended   bool
	Queues      bool // it keeps what cannot be sent until a path is back; false also when the kernel does not tell
	Fails       bool // this process made it fail that, and it still does, whatever multipath.conf says
}

// Live says whether the kernel sends commands down the path.
func (p PathCondition) Live() bool { return p.loggedIn() && p.State == stateRunning }

func (p PathCondition) loggedIn() bool { return p.Session == stateLoggedIn }

// String says where a path ends.
func (p PathCondition) String() string {
	switch {
	case p.Session == "":
		return fmt.Sprintf("%s has no session", p.Portal)
	case !p.loggedIn():
		return fmt.Sprintf("%s has a session that is %s", p.Portal, p.Session)
	case p.Disk == "":
		return fmt.Sprintf("%s has a session, but it shows no disk of this LUN", p.Portal)
	case p.State != stateRunning:
		return fmt.Sprintf("%s has %s, which is %s", p.Portal, p.Disk, p.State)
	}
	return fmt.Sprintf("%s has %s", p.Portal, p.Disk)
}

// Condition reads how a LUN is reached. It asks no device and runs no tool, takes
// no lock and finds no fault: what is missing, is missing from the answer.
func (i *Initiator) Condition(ctx context.Context, t Target) (Condition, error) {
	if err := t.check(); err != nil {
		return Condition{}, err
	}
	sessions, err := i.sysfs.sessions(t.IQN)
	if err != nil {
		return Condition{}, err
	}
	c := Condition{OnePath: i.cfg.Multipath == MultipathOff}
	records := i.recordsOfLost(t, sessions)
	var over dmap
	for _, s := range sessions {
		p := PathCondition{Portal: s.portal(), Session: s.state, Outdated: s.outdated(records)}
		disks, disksErr := i.sysfs.disks(s)
		if disksErr != nil {
			return Condition{}, disksErr
		}
		if n := slices.IndexFunc(disks, func(d disk) bool { return d.lun == t.LUN }); n >= 0 {
			p.describe(disks[n])
			if m, held, mapErr := i.sysfs.holding(disks[n]); mapErr == nil && held {
				over = m
			}
		}
		c.Paths = append(c.Paths, p)
	}
	for _, portal := range t.portals() {
		if !slices.ContainsFunc(c.Paths, func(p PathCondition) bool { return p.Portal == portal }) {
			c.Paths = append(c.Paths, PathCondition{Portal: portal})
		}
	}
	slices.SortStableFunc(c.Paths, func(a, b PathCondition) int {
		return t.rank(a.Portal) - t.rank(b.Portal)
	})
	if over.name == "" {
		if over, _, err = i.orphan(t); err != nil {
			return Condition{}, err
		}
	}
	if over.name == "" {
		return c, nil
	}
	for n, p := range c.Paths {
		c.Paths[n].InMap = slices.Contains(over.slaves, p.Disk)
	}
	c.Map = i.mapCondition(ctx, over)
	return c, nil
}

// describe reads what the kernel has of a disk. What goes meanwhile is left out.
func (p *PathCondition) describe(d disk) {
	p.Disk, p.Number = d.name, d.dev
	p.State, _ = attribute(d.dir, "state")
	p.Bytes, _ = size(d.block)
	if id, err := d.cached(); err == nil {
		p.Serial = id.Serial
	}
}

func (i *Initiator) mapCondition(ctx context.Context, m dmap) *MapCondition {
	c := &MapCondition{Name: m.name, Alias: m.alias, Number: m.dev, Suspended: m.suspended, Queues: i.queues(ctx, m), Fails: i.fails(m)}
	c.Bytes, _ = size(m.dir)
	return c
}

// Attached lists the LUNs that the sessions of this host show, of targets whose names
// begin with prefix: the portals are those of the sessions, the serial number is the
// kernel's, where it has one. A target whose sessions show none is listed with LUN 0.
func (i *Initiator) Attached(ctx context.Context, prefix string) ([]Target, error) {
	sessions, err := i.sysfs.sessions(anyTarget)
	if err = together(err, ctx.Err()); err != nil {
		return nil, err
	}
	var found []Target
	at := func(iqn string, lun int) *Target {
		n := slices.IndexFunc(found, func(t Target) bool { return t.IQN == iqn && t.LUN == lun })
		if n < 0 {
			n, found = len(found), append(found, Target{IQN: iqn, LUN: lun})
		}
		return &found[n]
	}
	for _, s := range sessions {
		if !strings.HasPrefix(s.iqn, prefix) {
			continue
		}
		disks, err := i.sysfs.disks(s)
		if err != nil {
			return nil, err
		}
		if len(disks) == 0 {
			disks = []disk{{session: s}}
		}
		for _, d := range disks {
			t := at(s.iqn, d.lun)
			if p := s.portal(); p.IsValid() {
				t.Portals = append(t.Portals, p)
			}
			if id, err := i.sysfs.known(d); d.dir != "" && err == nil && id.Serial != "" {
				t.Serial = id.Serial
			}
		}
	}
	return found, nil
}

// Session is one iSCSI session of this host.
type Session struct {
	IQN    string
	Portal netip.AddrPort
	State  string
}

// Live says whether the session is logged in.
func (s Session) Live() bool { return s.State == stateLoggedIn }

// Fabric is what this host has to reach arrays with.
type Fabric struct {
	Ready     error // nil, or ErrNotReady: no LUN can be attached
	Sessions  []Session
	Unwatched int // multipath maps that no multipathd watches: their lost paths do not come back

	// DaemonFiles is how many files iscsid may have open, of which each session is
	// one; 0: it does not run, or the kernel does not say.
	DaemonFiles int
}

// Fabric looks at the initiator and at every session, as Condition does.
func (i *Initiator) Fabric(ctx context.Context) (Fabric, error) {
	f := Fabric{Ready: i.Ready(ctx), DaemonFiles: i.daemonFiles()}
	sessions, err := i.sysfs.sessions(anyTarget)
	if err != nil {
		return Fabric{}, err
	}
	for _, s := range sessions {
		f.Sessions = append(f.Sessions, Session{IQN: s.iqn, Portal: s.portal(), State: s.state})
	}
	f.Unwatched, err = i.Unwatched(ctx)
	return f, err
}

// Unwatched counts the multipath maps that no multipathd watches.
func (i *Initiator) Unwatched(context.Context) (int, error) {
	maps, err := i.sysfs.maps()
	if err != nil || len(maps) == 0 {
		return 0, err
	}
	runs, err := i.multipathdRuns()
	if runs {
		return 0, err
	}
	return len(maps), err
}
