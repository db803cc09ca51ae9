package node

import (
	"fmt"
	"strings"

	"github.com/datera-csi/datera-csi/internal/health"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// paths says how many of the ways to the LUN are live, and whether any is.
func (d *diagnosis) paths(rec *record, c iscsi.Condition) (reachable bool) {
	var live, broken []string
	for _, p := range c.Paths {
		if p.Serial != "" && rec.Target.Serial != "" && p.Serial != rec.Target.Serial {
			d.Add(health.Inaccessible, "ForeignDevice", fmt.Sprintf("%s shows a LUN with serial number %s, the volume's is %s; stop the volume's pods on this node and look at the array", p.Disk, p.Serial, rec.Target.Serial))
		}
		if p.Live() {
			live = append(live, p.String())
		} else {
			broken = append(broken, p.String())
		}
	}
	const remedy = "see that the network to the portals works and that iscsid runs"
	switch {
	case len(live) == 0:
		d.Add(health.Inaccessible, "NoPath", fmt.Sprintf("no path to the volume is live: %s; %s. If the array does not admit this node any more, stop the volume's pods on it", strings.Join(broken, ", "), remedy))
		d.queueing(c.Map)
	case len(broken) > 0 && (c.Map != nil || len(live) > 1):
		d.Add(health.Degraded, "PathsLost", fmt.Sprintf("%d of %d paths to the volume are live: %s; %s", len(live), len(c.Paths), strings.Join(broken, ", "), remedy))
	case c.Map == nil && !c.OnePath && len(rec.Target.Portals) > 1:
		d.Add(health.Degraded, "SinglePath", fmt.Sprintf("the volume has %d portals and one path, because multipathd did not run or excludes the array when it was staged: %s. An outage of that portal stops it; run multipathd and stage the volume anew, or choose --multipath=off", len(rec.Target.Portals), live[0]))
	}
	return len(live) > 0
}

func (d *diagnosis) queueing(m *iscsi.MapCondition) {
	if m != nil && m.Queues {
		d.Add(health.Inaccessible, "IOQueued", fmt.Sprintf("map %s (%s) has no path and keeps what is written until one is back or until no_path_retry is over; programs that use the volume wait, and cannot be ended meanwhile", m.Name, m.Alias))
	}
}

// device says whether the map works, and whether everything is as large as it was
// promised: a file system has been made for that size.
func (d *diagnosis) device(rec *record, c iscsi.Condition) {
	promised := rec.Target.Bytes
	smallest := int64(0)
	for _, p := range c.Paths {
		if p.Bytes > 0 && (smallest == 0 || p.Bytes < smallest) {
			smallest = p.Bytes
		}
		if p.Bytes > 0 && p.Bytes < promised {
			d.Add(health.Inaccessible, "DeviceShrunk", fmt.Sprintf("%s has %d bytes, the volume has %d; what lies beyond cannot be reached, look at the volume on the array", p.Disk, p.Bytes, promised))
		}
	}
	if c.Map == nil {
		return
	}
	if c.Map.Suspended {
		d.Add(health.Inaccessible, "MapSuspended", fmt.Sprintf("map %s is suspended, everything that uses it waits; unless something works on it just now: multipathd resume map %s", c.Map.Name, c.Map.Alias))
	}
	if c.Map.Bytes > 0 && c.Map.Bytes < min(promised, smallest) {
		d.Add(health.Inaccessible, "MapTooSmall", fmt.Sprintf("map %s has %d bytes, its paths have %d and the volume %d: multipathd resize map %s", c.Map.Name, c.Map.Bytes, smallest, promised, c.Map.Alias))
	}
}
