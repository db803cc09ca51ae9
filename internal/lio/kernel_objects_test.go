package lio_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

var hbaName = regexp.MustCompile(`^(fileio|iblock|rd_mcp|pscsi|user)_[0-9]+$`)

func (k *kernel) newHBA(n *node) error {
	if !hbaName.MatchString(n.name) {
		return syscall.EINVAL
	}
	n.plain(map[string]string{"hba_mode": "0"})
	n.mkdir = k.newDevice
	return nil
}

type device struct {
	file    string
	size    int64
	enabled bool
	exports int
}

func (k *kernel) newDevice(n *node) error {
	d := &device{}
	n.data = d
	n.file("enable", func() string { return bit(d.enabled) }, func(v string) error {
		switch {
		case v != "1":
			return syscall.EINVAL
		case d.enabled:
			return syscall.EEXIST
		case d.file == "" || d.size == 0:
			return syscall.EINVAL
		}
		d.enabled = true
		return nil
	})
	n.file("control", nil, func(v string) error {
		for kv := range strings.SplitSeq(v, ",") {
			key, val, _ := strings.Cut(kv, "=")
			switch key {
			case "fd_dev_name":
				if d.enabled {
					k.wrong("file of enabled %s changed", n.path())
				}
				d.file = val
			case "fd_dev_size":
				size, err := strconv.ParseInt(val, 10, 64)
				if err != nil {
					return syscall.EINVAL
				}
				if d.exports > 0 && size < d.size {
					k.wrong("%s shrank beneath a LUN", n.path())
				}
				d.size = size
			case "fd_buffered_io":
				k.wrong("%s loses what it acknowledged when the power fails", n.path())
			default:
				return syscall.EINVAL
			}
		}
		return nil
	})
	n.file("info", func() string {
		status := "DEACTIVATED"
		if d.enabled {
			status = "ACTIVATED"
		}
		return fmt.Sprintf("Status: %s  Max Queue Depth: 128  SectorSize: 512  HwMaxSectors: 16384\n"+
			"        TCM FILEIO ID: 0        File: %s  Size: %d  Mode: O_DSYNC Async: 0\n", status, d.file, d.size)
	}, nil)
	unexported := func(limit int, prefix, v string) (func() string, func(string) error) {
		return func() string { return prefix + v + "\n" }, func(s string) error {
			if d.exports > 0 {
				return syscall.EINVAL
			}
			if len(s) > limit {
				return syscall.EOVERFLOW
			}
			v = s
			return nil
		}
	}
	wwn := n.addGroup("wwn")
	for name, limit := range map[string]int{"vendor_id": 8, "product_id": 16, "revision": 4} {
		show, store := unexported(limit, "", "LIO-ORG")
		wwn.file(name, show, store)
	}
	show, store := unexported(254, "T10 VPD Unit Serial Number: ", "")
	wwn.file("vpd_unit_serial", show, store)
	attrib := n.addGroup("attrib")
	attrib.plain(map[string]string{"max_unmap_lba_count": "8192", "emulate_tpu": "0", "emulate_tpws": "0", "emulate_write_cache": "0"})
	for name, v := range map[string]string{"block_size": "512", "unmap_zeroes_data": "0"} {
		show, store := unexported(8, "", v)
		attrib.file(name, show, store)
	}
	n.addGroup("alua").addGroup("default_tg_pt_gp")
	return nil
}

func bit(on bool) string {
	if on {
		return "1\n"
	}
	return "0\n"
}

type group struct {
	node    *node
	enabled bool
	attrib  map[string]string
	auth    map[string]string
}

func (k *kernel) newTarget(n *node) error {
	n.addGroup("fabric_statistics")
	n.mkdir = func(n *node) error {
		if !strings.HasPrefix(n.name, "tpgt_") {
			return syscall.EINVAL
		}
		return k.newGroup(n)
	}
	return nil
}

func (k *kernel) newGroup(n *node) error {
	g := &group{node: n, attrib: map[string]string{
		"authentication": "1", "generate_node_acls": "0", "demo_mode_write_protect": "1", "demo_mode_discovery": "1",
	}}
	n.data = g
	n.file("enable", func() string { return bit(g.enabled) }, func(v string) error {
		if bit(g.enabled) == v+"\n" {
			return syscall.EINVAL
		}
		g.enabled = v == "1"
		if !g.enabled {
			k.end(func(s *session) bool { return s.group == g })
		}
		return nil
	})
	n.file("dynamic_sessions", func() string {
		var b strings.Builder
		for _, s := range k.sessions {
			if s.group == g && s.acl == nil {
				b.WriteString(s.initiator + "\n\x00")
			}
		}
		return b.String()
	}, nil)
	attrib := n.addGroup("attrib")
	for name := range g.attrib {
		attrib.file(name, func() string { return g.attrib[name] + "\n" }, func(v string) error { g.attrib[name] = v; return nil })
	}
	g.auth = chap(n.addGroup("auth"))
	n.addGroup("param")
	n.addGroup("lun").mkdir = k.newLUN
	n.addGroup("np").mkdir = func(n *node) error {
		if _, err := netip.ParseAddrPort(n.name); err != nil {
			return syscall.EINVAL
		}
		return nil
	}
	n.addGroup("acls").mkdir = func(n *node) error { return k.newACL(g, n) }
	n.rmdir = func() error {
		if g.enabled || slices.ContainsFunc(k.sessions, func(s *session) bool { return s.group == g }) {
			k.wrong("%s removed while enabled or in use", n.path())
		}
		return nil
	}
	return nil
}

// chap adds the four files of CHAP; "NULL" clears.
func chap(n *node) map[string]string {
	set := map[string]string{}
	for _, name := range []string{"userid", "password", "userid_mutual", "password_mutual"} {
		text := ""
		n.file(name, func() string { return text + "\n" }, func(v string) error {
			text = v
			if set[name] = v; strings.HasPrefix(v, "NULL") {
				delete(set, name)
			}
			return nil
		})
	}
	return set
}

func (k *kernel) newLUN(n *node) error {
	if !strings.HasPrefix(n.name, "lun_") {
		return syscall.EINVAL
	}
	n.addGroup("statistics")
	n.symlink = func(l *node) error {
		d, ok := l.target.data.(*device)
		switch {
		case !ok:
			return syscall.EINVAL
		case !d.enabled:
			return syscall.ENODEV
		case linkIn(n) != nil:
			return syscall.EEXIST
		}
		d.exports++
		l.unlink = func() error {
			if n.links > 0 {
				k.wrong("LUN %s unlinked while mapped", n.path())
			}
			d.exports--
			return nil
		}
		return nil
	}
	return nil
}

func linkIn(n *node) *node {
	if n == nil {
		return nil
	}
	for _, c := range n.children {
		if c.target != nil {
			return c
		}
	}
	return nil
}

func (k *kernel) newACL(g *group, n *node) error {
	ended := func() { k.end(func(s *session) bool { return s.acl == n }) }
	for _, s := range k.sessions {
		if s.group == g && s.initiator == n.name {
			k.wrong("ACL %s made over a dynamic session", n.path())
		}
	}
	depth := "64"
	n.file("cmdsn_depth", func() string { return depth + "\n" }, func(v string) error {
		if d, err := strconv.Atoi(v); err != nil || d < 1 || d > 512 {
			return syscall.EINVAL
		}
		if v != depth {
			ended()
		}
		depth = v
		return nil
	})
	n.file("info", func() string {
		for _, s := range slices.Backward(k.sessions) {
			if s.acl == n {
				return "InitiatorName: " + n.name + "\nInitiatorAlias: \nLIO Session ID: 1   ISID: 0x00 02 3d 00 00 00  TSIH: 1  SessionType: Normal\n" +
					"Session State: " + s.state + "\n---------------------[iSCSI Session Values]-----------------------\n" +
					"CID: 0  Connection State: TARG_CONN_STATE_LOGGED_IN\n"
			}
		}
		return "No active iSCSI Session for Initiator Endpoint: " + n.name + "\n"
	}, nil)
	n.addGroup("attrib")
	n.addGroup("param")
	n.data = chap(n.addGroup("auth"))
	n.mkdir = func(l *node) error {
		if !strings.HasPrefix(l.name, "lun_") {
			return syscall.EINVAL
		}
		l.plain(map[string]string{"write_protect": "0"})
		l.addGroup("statistics")
		l.symlink = func(m *node) error {
			if m.target.parent != g.node.children["lun"] || linkIn(m.target) == nil || linkIn(l) != nil {
				return syscall.EINVAL
			}
			return nil
		}
		return nil
	}
	n.rmdir = func() error { ended(); return nil }
	return nil
}
