package lio_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/lio"
	"github.com/datera-csi/datera-csi/internal/sim"
)

// change is a step from one look of a target to another. Everybody in stays is
// logged in before and must be afterwards.
type change struct {
	from, to func(sim.Target) sim.Target
	stays    []string
}

func changes(t *testing.T) map[string]change {
	t.Helper()
	second := sim.LUN{Serial: "0c0ffee0-0000-4000-8000-000000000002", File: file(t, "second", 8*mib), Bytes: 8 * mib}
	other := file(t, "other", 64*mib)
	bigger := file(t, "bigger", 128*mib)
	same := func(x sim.Target) sim.Target { return x }
	two := func(x sim.Target) sim.Target { x.Initiators = []string{hostA, hostB}; return x }
	chap := func(x sim.Target) sim.Target {
		x.Auth = sim.Auth{TargetUser: "user", TargetPassword: secret}
		return x
	}
	mutual := func(x sim.Target) sim.Target {
		x = chap(x)
		x.Auth.InitiatorUser, x.Auth.InitiatorPassword = "array", back
		return x
	}
	all := func(x sim.Target) sim.Target { x.AllowAll = true; return x }
	luns := func(x sim.Target) sim.Target { x.LUNs = append(slices.Clone(x.LUNs), second); return x }
	return map[string]change{
		"made":              {to: same},
		"made for two":      {to: two},
		"made with mutual":  {to: mutual},
		"made for all":      {to: func(x sim.Target) sim.Target { return chap(all(x)) }},
		"made with two":     {to: luns},
		"one more admitted": {from: same, to: two, stays: []string{hostA}},
		"one revoked":       {from: two, to: same, stays: []string{hostA}},
		"other admitted":    {from: same, to: func(x sim.Target) sim.Target { x.Initiators = []string{hostB}; return x }},
		"all revoked":       {from: two, to: func(x sim.Target) sim.Target { x.Initiators = nil; return x }},
		"CHAP on":           {from: same, to: mutual, stays: []string{hostA}},
		"CHAP off":          {from: mutual, to: same, stays: []string{hostA}},
		"opened to all":     {from: same, to: all},
		"closed again":      {from: func(x sim.Target) sim.Target { return chap(all(x)) }, to: two},
		"grown": {
			from:  func(x sim.Target) sim.Target { x.LUNs = one(bigger, 64*mib); return x },
			to:    func(x sim.Target) sim.Target { x.LUNs = one(bigger, 128*mib); return x },
			stays: []string{hostA},
		},
		"LUN added":      {from: two, to: func(x sim.Target) sim.Target { return luns(two(x)) }, stays: []string{hostA, hostB}},
		"LUN taken":      {from: luns, to: same, stays: []string{hostA}},
		"portal moved":   {from: same, to: func(x sim.Target) sim.Target { x.Portals = x.Portals[1:]; return x }, stays: []string{hostA}},
		"file exchanged": {from: same, to: func(x sim.Target) sim.Target { x.LUNs = one(other, 64*mib); return x }},
		"serial changed": {from: luns, to: func(x sim.Target) sim.Target { x.LUNs = []sim.LUN{second}; return x }},
		"no LUN left":    {from: same, to: func(x sim.Target) sim.Target { x.LUNs = nil; return x }},
	}
}

// A process that dies between any two changes leaves a tree that the next one
// finishes, or removes, without a trace.
func TestEveryCrashConverges(t *testing.T) {
	for name, c := range changes(t) {
		t.Run(name, func(t *testing.T) {
			base := target(t)
			to := c.to(base)
			start := func() *kernel {
				k := newKernel(t)
				if e := k.restart(t); c.from != nil {
					apply(t, e, c.from(base))
				}
				for _, i := range c.stays {
					logIn(t, k, i)
				}
				return k
			}
			k := start()
			apply(t, k.restart(t), to)
			steps, want := len(k.writes), k.dump()
			if diff := cmp.Diff(c.stays, k.loggedIn(iqn)); diff != "" {
				t.Errorf("sessions: %s", diff)
			}
			for crash := range steps {
				k := start()
				crashAt(t, k, crash, func(e *lio.Exporter) error { return e.Apply(t.Context(), to) })
				removed(t, k, crash)

				k = start()
				crashAt(t, k, crash, func(e *lio.Exporter) error { return e.Apply(t.Context(), to) })
				apply(t, k.restart(t), to)
				if diff := cmp.Diff(want, k.dump()); diff != "" {
					t.Errorf("crash after %d of %d changes: %s", crash, steps, diff)
				}
				if diff := cmp.Diff(c.stays, k.loggedIn(iqn)); diff != "" {
					t.Errorf("crash after %d of %d changes: sessions: %s", crash, steps, diff)
				}
			}
		})
	}
}

// crashAt runs f in a process that may change the tree n times.
func crashAt(t *testing.T, k *kernel, n int, f func(*lio.Exporter) error) {
	t.Helper()
	e := k.restart(t)
	k.budget = n
	if err := f(e); !errors.Is(err, errCrash) {
		t.Fatalf("crash after %d changes: got %v", n, err)
	}
}

// removed checks that whatever is there is found by Targets and goes by Remove.
func removed(t *testing.T, k *kernel, crash int) {
	t.Helper()
	e := k.restart(t)
	iqns, err := e.Targets()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range iqns {
		if err := e.Remove(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"/iscsi"}, k.dump()); diff != "" {
		t.Errorf("crash after %d changes, Targets %q removed: %s", crash, iqns, diff)
	}
}

func TestEveryCrashOfRemoveConverges(t *testing.T) {
	base := changes(t)["LUN added"].to(target(t))
	start := func() *kernel {
		k := newKernel(t)
		apply(t, k.restart(t), base)
		logIn(t, k, hostA)
		return k
	}
	remove := func(e *lio.Exporter) error { return e.Remove(t.Context(), iqn) }
	k := start()
	if err := remove(k.restart(t)); err != nil {
		t.Fatal(err)
	}
	steps := len(k.writes)
	for crash := range steps {
		k := start()
		crashAt(t, k, crash, remove)
		removed(t, k, crash)

		k = start()
		whole := k.dump()
		crashAt(t, k, crash, remove)
		apply(t, k.restart(t), base)
		if diff := cmp.Diff(whole, k.dump()); diff != "" {
			t.Errorf("crash after %d of %d changes, then applied: %s", crash, steps, diff)
		}
	}
}
