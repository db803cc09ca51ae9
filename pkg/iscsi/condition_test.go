package iscsi_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// FM 5
func TestAttachedListsTheLUNsOfAnArray(t *testing.T) {
	t.Parallel()
	_, i := attachedHost(t)
	got, err := i.Attached(t.Context(), "iqn.2013-05.com.daterainc:")
	if err != nil || len(got) != 1 || got[0].IQN != iqnA || got[0].LUN != 0 || got[0].Serial != serialA || len(got[0].Portals) != 2 {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := i.Attached(t.Context(), "iqn.2001-01.org.example:"); err != nil || len(got) != 0 {
		t.Errorf("of another array: %+v, %v", got, err)
	}
}

// FM 31
func TestConditionTellsEachPathAndAsksNoDevice(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	h.forget()
	h.hang("sdb")
	h.hang("sdc")
	h.hang("dm-0")
	ps := portals()
	whole := iscsi.Condition{
		Paths: []iscsi.PathCondition{
			{Portal: ps[0], Session: "LOGGED_IN", Disk: "sdb", InMap: true, State: "running", Number: "8:16", Serial: serialA, Bytes: gib},
			{Portal: ps[1], Session: "LOGGED_IN", Disk: "sdc", InMap: true, State: "running", Number: "8:32", Serial: serialA, Bytes: gib},
		},
		Map: &iscsi.MapCondition{Name: "dm-0", Alias: wwidA, Number: "253:0", Bytes: gib},
	}
	expect := func(what string, want iscsi.Condition) {
		t.Helper()
		got, err := i.Condition(t.Context(), targetA())
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		byPortal := cmpopts.SortSlices(func(a, b iscsi.PathCondition) bool { return a.Portal.Compare(b.Portal) < 0 })
		ignore := cmpopts.IgnoreFields(iscsi.PathCondition{}, "Disk", "Number") // logins race for the names
		if diff := cmp.Diff(want, got, byPortal, ignore, cmpopts.EquateComparable(ps[0])); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	expect("whole", whole)

	id := h.sessionTo(iqnA, ps[1])
	state := "sys/class/iscsi_session/session" + string(rune('0'+id)) + "/state"
	h.write(state, "FAILED\n")
	failed := whole
	failed.Paths = append([]iscsi.PathCondition(nil), whole.Paths...)
	failed.Paths[1].Session = "FAILED"
	expect("a session failed", failed)
	h.write(state, "LOGGED_IN\n")

	h.claimed["dm-0"] = true // mounted, so that the map outlives its paths
	h.queueing = true
	h.logOut("1")
	h.logOut("2")
	expect("logged out by hand", iscsi.Condition{
		Paths: []iscsi.PathCondition{{Portal: ps[0]}, {Portal: ps[1]}},
		Map:   &iscsi.MapCondition{Name: "dm-0", Alias: wwidA, Number: "253:0", Bytes: gib, Queues: true},
	})
	if len(h.ran())+len(h.writes) > 0 {
		t.Errorf("ran %q, wrote %q", h.ran(), h.writes)
	}
}

func TestFabricTellsSessionsAndWhatIsMissing(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	f, err := i.Fabric(t.Context())
	if err != nil || f.Ready != nil || f.Unwatched != 0 || len(f.Sessions) != 2 || !f.Sessions[0].Live() || f.Sessions[0].IQN != iqnA {
		t.Fatalf("got %+v, %v", f, err)
	}
	h.remove("proc/4711")
	h.write("proc/1/net/unix", "")
	f, err = i.Fabric(t.Context())
	if err != nil || !errors.Is(f.Ready, iscsi.ErrNotReady) || f.Unwatched != 1 {
		t.Errorf("got %+v, %v, want iscsid and multipathd missed", f, err)
	}
}

// FM 2
func TestProveBelievesTheDeviceAndNotTheKernelsMemory(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, h *host) {
		i := h.initiator()
		want := attach(t, i, targetA())
		if got, err := i.Prove(t.Context(), targetA()); err != nil || got.Path != want.Path {
			t.Fatalf("got %+v, %v", got, err)
		}
		h.forget()
		h.luns[iqnA][0] = lun{serialB, 2 * gib} // the number is given to another LUN
		if got, err := i.Find(t.Context(), targetA()); err != nil || got.Path != want.Path {
			t.Fatalf("sysfs: got %+v, %v, want the old LUN", got, err)
		}
		if _, err := i.Prove(t.Context(), targetA()); !errors.Is(err, iscsi.ErrForeign) {
			t.Errorf("prove: %v, want ErrForeign", err)
		}
		grown := targetA()
		grown.Bytes = 2 * gib
		if _, err := i.Rescan(t.Context(), grown); !errors.Is(err, iscsi.ErrForeign) {
			t.Errorf("rescan: %v, want ErrForeign", err)
		}
		if len(h.ran())+len(h.writes) > 0 {
			t.Errorf("ran %q, wrote %q", h.ran(), h.writes)
		}
	})
}

func TestProveNeedsOneAnswerOnly(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	h.hang("sdb")
	if _, err := i.Prove(t.Context(), targetA()); err != nil {
		t.Error(err)
	}
	h.hang("sdc")
	if _, err := i.Prove(t.Context(), targetA()); !errors.Is(err, iscsi.ErrUnavailable) {
		t.Errorf("no path answers: %v, want ErrUnavailable", err)
	}
}

func TestATableSaysWhetherItsMapQueues(t *testing.T) {
	t.Parallel()
	for table, want := range map[string]bool{
		"2 queue_if_no_path retain_attached_hw_handler 1 alua 1 1 service-time 0 2 1 8:16 1 8:32 1 ": true,
		"1 queue_if_no_path 0 0 0 ":                        true, // no path is left
		"0 1 alua 1 1 round-robin 0 1 1 8:16 1 ":           false,
		"1 retain_attached_hw_handler 0 queue_if_no_path ": false, // not among the features
		"": false, "x": false, "9 a": false, "-1 queue_if_no_path": false,
	} {
		if got := iscsi.TableQueues(table); got != want {
			t.Errorf("%q: got %v, want %v", table, got, want)
		}
	}
}

// FM 27: how many sessions there may be depends on how many files iscsid may open.
func TestFabricTellsHowManyFilesTheHostsIscsidMayOpen(t *testing.T) {
	t.Parallel()
	const limits = "Limit                     Soft Limit           Hard Limit           Units     \nMax processes             7823                 7823                 processes \nMax open files            %s                 524288               files     \n"
	for name, c := range map[string]struct {
		change func(*host)
		want   int
	}{
		"it does not run": {func(*host) {}, 0},
		"it does":         {func(h *host) { h.write("proc/812/limits", fmt.Sprintf(limits, "1024")) }, 1024},
		"the one that writes its log may open less": {func(h *host) {
			h.write("proc/811/comm", "iscsid\n")
			h.write("proc/811/limits", fmt.Sprintf(limits, "1024"))
			h.write("proc/812/limits", fmt.Sprintf(limits, "16384"))
		}, 16384},
		"without a limit": {func(h *host) { h.write("proc/812/limits", fmt.Sprintf(limits, "unlimited")) }, 0},
		"unreadable":      {func(h *host) { h.write("proc/812/limits", "Max open files\n") }, 0},
		"one of a container": {func(h *host) {
			h.write("proc/812/limits", fmt.Sprintf(limits, "256"))
			h.symlink("proc/1/ns/net", "net:[4026531840]")
			h.symlink("proc/812/ns/net", "net:[4026532999]")
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if name != "it does not run" {
				h.write("proc/812/comm", "iscsid\n")
			}
			c.change(h)
			f, err := h.initiator().Fabric(t.Context())
			if err != nil || f.DaemonFiles != c.want {
				t.Errorf("got %d files, %v; want %d", f.DaemonFiles, err, c.want)
			}
		})
	}
}
