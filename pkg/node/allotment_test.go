package node_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

// takes is how many volumes the node says that it takes.
func (m *machine) takes() int64 {
	m.t.Helper()
	info, err := m.server.NodeGetInfo(m.ctx(), &csi.NodeGetInfoRequest{})
	ok(m.t, err)
	return info.GetMaxVolumesPerNode()
}

// beside are the sessions of staged volumes, two each, and so many of others.
func beside(others int, staged ...*volume) iscsi.Fabric {
	var f iscsi.Fabric
	for _, v := range staged {
		for _, p := range v.target.Portals {
			f.Sessions = append(f.Sessions, iscsi.Session{IQN: v.target.IQN, Portal: p, State: "LOGGED_IN"})
		}
	}
	for n := range others {
		f.Sessions = append(f.Sessions, iscsi.Session{IQN: fmt.Sprintf("iqn.2001-04.com.stranger:%d", n), State: "LOGGED_IN"})
	}
	return f
}

// FM 27: what a node takes is what its sessions suffice for, those of others left
// out, at two portals a volume or at as many as a staged one has.
func TestANodeTakesWhatItsSessionsSufficeFor(t *testing.T) {
	for name, c := range map[string]struct {
		config  func(*node.Config)
		portals int // of the two staged volumes
		others  int
		files   int // that iscsid may open
		want    int64
	}{
		"alone":                           {portals: 2, want: 256},
		"beside others":                   {portals: 2, others: 101, want: 205},
		"four portals":                    {portals: 4, want: 128},
		"one portal":                      {portals: 1, want: 256},
		"one path":                        {config: func(c *node.Config) { c.OnePath = true }, portals: 2, want: 512},
		"iscsid opens enough":             {portals: 2, files: 1024, want: 256},
		"iscsid opens few files":          {portals: 2, files: 264, want: 100},
		"iscsid opens fewer than it uses": {portals: 2, files: 10, want: 2},
		"nothing is left":                 {portals: 2, others: 600, want: 2},
		"fewer are allowed":               {config: func(c *node.Config) { c.MaxSessions = 40 }, portals: 2, others: 20, want: 10},
		"an administrator knows better":   {config: func(c *node.Config) { c.MaxVolumes = 7 }, portals: 2, others: 600, want: 7},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, func(cfg *node.Config) {
				if c.config != nil {
					c.config(cfg)
				}
			})
			a, b := m.volume("a"), m.volume("b")
			for _, v := range []*volume{a, b} {
				v.target.Portals = nil
				for n := range c.portals {
					v.target.Portals = append(v.target.Portals, netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 28, byte(n), 9}), 3260))
				}
				v.context.Target = v.target
				ok(t, v.stage())
			}
			f := beside(c.others, a, b)
			f.DaemonFiles = c.files
			m.SetFabric(f)
			if got := m.takes(); got != c.want {
				t.Errorf("got %d volumes, want %d", got, c.want)
			}
		})
	}
}

// To CSI no limit is 0, so a node without any room says one.
func TestANodeWithoutRoomTakesOneAtLeast(t *testing.T) {
	m := newMachine(t)
	m.SetFabric(beside(600))
	if got := m.takes(); got != 1 {
		t.Errorf("got %d volumes, want 1", got)
	}
}

// Each answer is told to every scheduler, so it does not follow each login of
// others: less room is told at once, more only when it has lasted.
func TestWhatANodeTakesDoesNotFlap(t *testing.T) {
	w := newWheel(t)
	for _, step := range []struct {
		after  time.Duration
		others int
		want   int64
	}{
		{0, 100, 206},
		{time.Minute, 110, 201},      // others took sessions
		{time.Minute, 100, 201},      // gave them back
		{10 * time.Minute, 102, 201}, // but not all, and not for long
		{time.Minute, 110, 201},
		{time.Minute, 100, 201},
		{10 * time.Minute, 104, 201},
		{4 * time.Minute, 90, 201},
		{time.Minute, 90, 204}, // what there was all the time, for a quarter of an hour
		{time.Minute, 90, 204},
		{15 * time.Minute, 90, 211},
	} {
		w.now = w.now.Add(step.after)
		w.SetFabric(beside(step.others))
		if got := w.takes(); got != step.want {
			t.Fatalf("at %s, beside %d sessions of others: got %d volumes, want %d", w.now.Format(time.TimeOnly), step.others, got, step.want)
		}
	}
}

// FM 25: what cannot be looked at does not keep a node from registering.
func TestANodeRegistersThoughItsSessionsCannotBeCounted(t *testing.T) {
	m := newMachine(t)
	m.Fail("fabric", errors.New("sysfs is not there"))
	if got := m.takes(); got != 256 {
		t.Errorf("got %d volumes, want 256", got)
	}
}
