package iscsi_test

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

func targetB() iscsi.Target {
	t := targetA()
	t.IQN, t.Serial = iqnB, serialB
	return t
}

// lines are those of a node record, in an order of no meaning.
func (h *host) lines(iqn string, portal netip.AddrPort) []string {
	return slices.Sorted(strings.Lines(h.read(recordPath(iqn, portal.String()))))
}

func TestNodeRecordsAreMadeAfterTheFirst(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t, func(c *iscsi.Config) { c.Multipath = iscsi.MultipathRequire })
	h.forget()
	attach(t, i, targetB())
	if ran := h.ran("-o new"); len(ran) > 0 {
		t.Errorf("ran %q although there was a template", ran)
	}

	alone := newHost(t).runMultipathd() // where the same records are the first
	for _, p := range portals() {
		one := targetB()
		one.Portals = []netip.AddrPort{p}
		attach(t, alone.initiator(), one)
		if diff := cmp.Diff(alone.lines(iqnB, p), h.lines(iqnB, p)); diff != "" {
			t.Errorf("not as iscsiadm makes it (-want +got):\n%s", diff)
		}
	}
	for _, target := range []iscsi.Target{targetA(), targetB()} {
		detach(t, i, target)
	}
	wantNothingLeft(t, h, i)
}

func TestNodeRecordsFollowTheHostsConfiguration(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*host){
		"iscsid.conf is written in place": func(h *host) { h.write("etc/iscsi/iscsid.conf", "node.startup = manual\n") },
		"iscsid.conf is replaced": func(h *host) {
			h.write("etc/iscsi/new", h.readRaw("etc/iscsi/iscsid.conf"))
			if err := os.Rename(h.path("etc/iscsi/new"), h.path("etc/iscsi/iscsid.conf")); err != nil {
				h.t.Fatal(err)
			}
		},
		"iscsid.conf is gone":  func(h *host) { h.remove("etc/iscsi/iscsid.conf") },
		"iscsiadm is upgraded": func(h *host) { h.write("usr/sbin/iscsiadm", "2.1.9") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			i := h.initiator()
			attach(t, i, targetA())
			change(h)
			h.forget()
			attach(t, i, targetB())
			if got := len(h.ran("-o new")); got != 1 {
				t.Errorf("iscsiadm made %d records after the change, want 1", got)
			}
		})
	}
}

// FM 29: over a record that cannot be read, or that somebody else keeps in another
// place, iscsiadm says what is right.
func TestNodeRecordsOfOthersAreIscsiadmsToChange(t *testing.T) {
	t.Parallel()
	for name, there := range map[string]string{
		recordPath(iqnB, "172.28.0.9:3260"):                      "",
		"etc/iscsi/nodes/" + iqnB + "/172.28.0.9,3260,1/default": "node.name = " + iqnB + "\nnode.conn[0].address = 172.28.0.9\nnode.conn[0].port = 3260\n# END RECORD\n",
	} {
		h := newHost(t)
		i := h.initiator()
		attach(t, i, targetA())
		h.write(name, there)
		h.forget()
		attach(t, i, targetB())
		if got := len(h.ran("-o new")); got != 1 {
			t.Errorf("%s: iscsiadm made %d records, want 1", name, got)
		}
	}
}

// FM 29: a record with a link beside it leaves by iscsiadm, which knows of the
// link; one of ours leaves as a file.
func TestNodeRecordsLeaveWithTheirLinks(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	attach(t, i, targetA())
	h.forget()
	detach(t, i, targetA())
	if ran := h.ran("-o delete"); len(ran) > 0 {
		t.Errorf("ran %q for a file without a link", ran)
	}
	attach(t, i, targetA())
	h.write("etc/iscsi/nodes/"+iqnA+"/172.30.0.9,3260,1/default", "node.name = "+iqnA+"\n# END RECORD\n")
	h.forget()
	detach(t, i, targetA())
	if got := len(h.ran("-o delete")); got != 1 {
		t.Errorf("iscsiadm was asked %d times to delete what has a link, want once", got)
	}
	wantNothingLeft(t, h, i)
}
