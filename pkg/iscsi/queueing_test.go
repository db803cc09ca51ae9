package iscsi_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// FM 21: a portal refuses this host, and while it is asked again the array turns out to
// be one that starts: what waits is kept.
func TestOneRefusalDropsNothing(t *testing.T) {
	t.Parallel()
	refused := loginAnswer(2, 2)
	for name, later := range map[string][]byte{
		"then it admits":         loginAnswer(0, 0),
		"then it is silent":      nil,
		"then a session works":   refused,
		"then the caller leaves": refused,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, i := attachedHost(t, func(c *iscsi.Config) { c.RefusalPause = 200 * time.Millisecond })
			for _, p := range portals() {
				h.fail(iqnA, p)
			}
			h.queueing, h.opens = true, 1
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			meanwhile := func(string) {
				switch name {
				case "then a session works":
					h.write("sys/class/iscsi_session/session1/state", "LOGGED_IN\n")
				case "then the caller leaves":
					time.AfterFunc(50*time.Millisecond, cancel)
				}
			}
			target := targetA()
			target.Portals = []netip.AddrPort{serveLoginTo(t, meanwhile, refused, later)}
			h.forget()
			if err := i.FailRefusedIO(ctx, target); ctx.Err() == nil && err != nil {
				t.Error(err)
			}
			if !h.queueing || len(h.ran()) > 0 {
				t.Errorf("it still waits: %v; ran %q", h.queueing, h.ran())
			}
		})
	}
	t.Run("nor does a detach", func(t *testing.T) {
		t.Parallel()
		h, i := attachedHost(t)
		for _, p := range portals() {
			h.fail(iqnA, p)
		}
		h.queueing, h.opens = true, 1
		target := targetA()
		target.Portals = []netip.AddrPort{serveLogin(t, refused, loginAnswer(0, 0))}
		h.forget()
		if err := i.Detach(t.Context(), target); !errors.Is(err, iscsi.ErrBusy) || !h.queueing || len(h.ran()) > 0 {
			t.Errorf("err = %v, want ErrBusy; it still waits: %v; ran %q", err, h.queueing, h.ran())
		}
	})
}

// FM 6, 21: what a map keeps waiting fails once the array refuses this host, also
// when multipathd is no help, and for no lesser reason.
func TestWhatWaitsFailsOnlyWhenTheArrayRefusesThisHost(t *testing.T) {
	t.Parallel()
	refused, admitted := loginAnswer(2, 2), loginAnswer(0, 0)
	for name, c := range map[string]struct {
		answers [][]byte
		spoil   func(h *host)
		givenUp bool // FailQueuedIO instead of FailRefusedIO
		waits   bool // afterwards
		told    int  // multipathd, how often
	}{
		"deleted":                         {answers: [][]byte{loginAnswer(2, 3)}, waits: true},
		"deleted, and given up":           {answers: [][]byte{loginAnswer(2, 3)}, givenUp: true, told: 1},
		"given up, but a session works":   {givenUp: true, spoil: func(h *host) { h.write("sys/class/iscsi_session/session1/state", "LOGGED_IN\n") }, waits: true},
		"refused":                         {answers: [][]byte{refused, refused}, told: 1},
		"refused by one, silence":         {answers: [][]byte{refused, nil}, told: 1},
		"refused, multipathd does not do": {answers: [][]byte{refused}, spoil: func(h *host) { h.exits["disablequeueing"] = 1 }, told: 1},
		"refused, multipathd is dead":     {answers: [][]byte{refused}, spoil: func(h *host) { h.exits["multipathd"] = 1; h.remove("proc/4711/comm") }, told: 1},
		"refused, all paths are gone":     {answers: [][]byte{refused}, spoil: func(h *host) { h.claimed["dm-0"] = true; h.logOutAll(iqnA) }, told: 1},
		"silence":                         {answers: [][]byte{nil, nil}, waits: true},
		"another portal would admit":      {answers: [][]byte{refused, admitted}, waits: true},
		"a session works":                 {answers: [][]byte{refused}, spoil: func(h *host) { h.write("sys/class/iscsi_session/session1/state", "LOGGED_IN\n") }, waits: true},
		"nothing waits":                   {answers: nil, spoil: func(h *host) { h.queueing = false }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, i := attachedHost(t)
			for _, p := range portals() {
				h.fail(iqnA, p)
			}
			h.queueing = true
			if c.spoil != nil {
				c.spoil(h)
			}
			h.forget()
			target := targetA()
			target.Portals = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")} // which nobody may ask
			if c.answers != nil {
				target.Portals = nil
			}
			for _, a := range c.answers {
				target.Portals = append(target.Portals, serveLogin(t, a))
			}
			end := i.FailRefusedIO
			if c.givenUp {
				end = i.FailQueuedIO
			}
			if err := end(t.Context(), target); err != nil {
				t.Fatal(err)
			}
			if h.queueing != c.waits {
				t.Errorf("it still waits: %v, want %v", h.queueing, c.waits)
			}
			if ran := h.ran(); len(ran) != c.told {
				t.Errorf("ran %q, want multipathd told %d times and nothing else", ran, c.told)
			}
		})
	}
}

// FM 21: the array admits this host again, and its sessions come back under a map that
// is still in use. It waits for its paths as before, or the next outage would be an error.
func TestAMapWaitsForItsPathsAgainOnceOneWorks(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(*iscsi.Initiator) error{
		"attach": func(i *iscsi.Initiator) error { _, err := i.Attach(t.Context(), targetA(), nil); return err },
		"heal":   func(i *iscsi.Initiator) error { _, err := i.Heal(t.Context(), targetA(), nil); return err },
		"resume": func(i *iscsi.Initiator) error { return i.Resume(t.Context(), targetA()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, i := attachedHost(t, func(c *iscsi.Config) { c.LoginTimeout = 50 * time.Millisecond })
			for _, p := range portals() {
				h.fail(iqnA, p)
			}
			h.queueing = true
			if err := i.FailQueuedIO(t.Context(), targetA()); err != nil || h.queueing {
				t.Fatalf("err %v; it still waits: %v", err, h.queueing)
			}
			h.forget()
			_ = again(i) // nothing works yet
			if s := inspect(t, i); s.Healable() || len(h.ran("restorequeueing")) > 0 {
				t.Errorf("without a path it shows as %+v; ran %q", s, h.ran())
			}
			for id := range portals() {
				h.write(fmt.Sprintf("sys/class/iscsi_session/session%d/state", id+1), "LOGGED_IN\n")
			}
			if s := inspect(t, i); !s.Healable() {
				t.Errorf("with paths it shows as %+v", s)
			}
			h.exits["restorequeueing"] = 1 // no time just now
			for _, want := range []bool{false, true} {
				if err := again(i); err != nil || h.queueing != want {
					t.Errorf("err %v; it waits: %v, want %v", err, h.queueing, want)
				}
			}
			h.forget()
			if err := again(i); err != nil || len(h.ran()) > 0 || inspect(t, i).Healable() {
				t.Errorf("a third time: err %v, ran %q, shows as %+v", err, h.ran(), inspect(t, i))
			}
		})
	}
}

// A map that went after it was made to fail is forgotten: the next one of the LUN is as
// multipathd makes it.
func TestAMapIsMadeAnewAsMultipathdMakesIt(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	for _, p := range portals() {
		h.fail(iqnA, p)
	}
	detach(t, i, targetA())
	h.forget()
	attach(t, i, targetA())
	if ran := h.ran("queueing"); len(ran) > 0 {
		t.Errorf("ran %q", ran)
	}
}

// A host where nothing of the LUN is has nothing that could fail.
func TestNothingToFail(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	if err := h.initiator().FailRefusedIO(t.Context(), targetA()); err != nil || len(h.ran()) > 0 {
		t.Errorf("err %v, ran %q", err, h.ran())
	}
	if err := h.initiator().FailRefusedIO(t.Context(), iscsi.Target{}); err == nil {
		t.Error("a target without a name was looked for")
	}
}
