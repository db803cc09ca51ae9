package iscsi_test

import (
	"os"
	"slices"
	"testing"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// FM 3: the kernel counts sessions anew when its module was loaded anew. What was the
// session of another target may then be one of this.
func TestASessionNumberThatIsUsedAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	live := func() bool {
		c, err := i.Condition(t.Context(), targetA())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(c.Paths, func(p iscsi.PathCondition) bool { return p.Session == "LOGGED_IN" })
	}
	h.addSession(iqnB, portals()[0])
	for range 2 { // the second time it is known
		if live() {
			t.Fatal("another target's session is taken for this one's")
		}
	}
	h.addSession(iqnA, portals()[0])
	const first, second = "sys/class/iscsi_session/session1", "sys/class/iscsi_session/session2"
	if err := os.Rename(h.path(second), h.path(first)); err != nil {
		t.Fatal(err)
	}
	if !live() {
		t.Error("the session of this target is passed over, for one of its number was another's")
	}
}

// FM 27: a session that another call is about to make is seen before the kernel was told
// its target's name, and shows as "(null)". It is looked at again, not passed over for good.
func TestASessionThatHasNoTargetYetIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	h.addSession(iqnA, portals()[0])
	const name = "sys/class/iscsi_session/session1/targetname"
	for _, unfinished := range []string{"(null)\n", "", "\n"} {
		h.write(name, unfinished)
		if c, err := i.Condition(t.Context(), targetA()); err != nil || slices.ContainsFunc(c.Paths, func(p iscsi.PathCondition) bool { return p.Session != "" }) {
			t.Errorf("%q: got %+v, %v", unfinished, c, err)
		}
	}
	h.write(name, iqnA+"\n")
	if c, err := i.Condition(t.Context(), targetA()); err != nil || !slices.ContainsFunc(c.Paths, func(p iscsi.PathCondition) bool { return p.Session == "LOGGED_IN" }) {
		t.Errorf("got %+v, %v, want the session", c, err)
	}
}
