package lio_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/internal/lio"
	"github.com/datera-csi/datera-csi/internal/sim"
)

func TestTargetsThatCannotBeShownAreRefused(t *testing.T) {
	long := strings.Repeat("x", 256)
	for name, spoil := range map[string]func(*sim.Target){
		"no IQN":              func(x *sim.Target) { x.IQN = "" },
		"IQN with path":       func(x *sim.Target) { x.IQN = "iqn.2013-05.com.daterainc:../../core" },
		"IQN with space":      func(x *sim.Target) { x.IQN = "iqn.2013-05.com daterainc" },
		"IQN too long":        func(x *sim.Target) { x.IQN = "iqn.2013-05.com.daterainc:" + long },
		"initiator with path": func(x *sim.Target) { x.Initiators = []string{"iqn.x/y"} },
		"initiator not named": func(x *sim.Target) { x.Initiators = []string{"host-a"} },
		"no portal":           func(x *sim.Target) { x.Portals = nil },
		"portal without port": func(x *sim.Target) { x.Portals = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:0")} },
		"portal with zone":    func(x *sim.Target) { x.Portals = []netip.AddrPort{netip.MustParseAddrPort("[fe80::1%eth0]:3260")} },
		"zero portal":         func(x *sim.Target) { x.Portals = []netip.AddrPort{{}} },
		"no serial":           func(x *sim.Target) { x.LUNs[0].Serial = "" },
		"serial of two lines": func(x *sim.Target) { x.LUNs[0].Serial = "a\nb" },
		"serial too long":     func(x *sim.Target) { x.LUNs[0].Serial = long },
		"zero bytes":          func(x *sim.Target) { x.LUNs[0].Bytes = 0 },
		"negative bytes":      func(x *sim.Target) { x.LUNs[0].Bytes = -512 },
		"half a sector":       func(x *sim.Target) { x.LUNs[0].Bytes = 513 },
		"no file":             func(x *sim.Target) { x.LUNs[0].File = "" },
		"file with comma":     func(x *sim.Target) { x.LUNs[0].File = "/a,fd_dev_size=512" },
		"file of two lines":   func(x *sim.Target) { x.LUNs[0].File = "/a\nb" },
		"file name too long":  func(x *sim.Target) { x.LUNs[0].File = "/" + long },
		"file too short":      func(x *sim.Target) { x.LUNs[0].Bytes *= 2 },
		"file is a directory": func(x *sim.Target) { x.LUNs[0].File = t.TempDir() },
		"name without secret": func(x *sim.Target) { x.Auth.TargetUser = "user" },
		"secret without name": func(x *sim.Target) { x.Auth.TargetPassword = secret },
		"mutual only":         func(x *sim.Target) { x.Auth.InitiatorUser, x.Auth.InitiatorPassword = "array", back },
		"secret of two lines": func(x *sim.Target) { x.Auth = sim.Auth{TargetUser: "user", TargetPassword: "a\nb"} },
		"secret too long":     func(x *sim.Target) { x.Auth = sim.Auth{TargetUser: "user", TargetPassword: long} },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t)
			e := k.restart(t)
			x := target(t)
			spoil(&x)
			if err := e.Apply(t.Context(), x); !errors.Is(err, lio.ErrInvalid) {
				t.Errorf("got %v", err)
			}
			if len(k.writes) > 0 {
				t.Errorf("changed %q", k.writes)
			}
		})
	}
}
