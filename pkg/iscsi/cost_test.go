package iscsi_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// started lists what was run since the last call, without its arguments; what
// multipathd is asked starts no process where its socket answers.
func (h *host) started() []string {
	var tools []string
	for _, c := range h.ran() {
		words := strings.Fields(c)
		what := words[len(words)-1]
		if words[0] == "multipathd" {
			what = words[1]
		}
		tools = append(tools, words[0]+" "+what)
	}
	h.forget()
	slices.Sort(tools)
	return tools
}

// Each process costs a good part of all the time that a healthy volume takes, so
// their number is a promise. It counts from the second volume: the first of a
// plugin's life also has its node records made by iscsiadm.
func TestProcessesThatAVolumeCosts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		host           func(testing.TB) *host
		attach, detach []string
	}{
		"multipath": {
			func(tb testing.TB) *host { tb.Helper(); return newHost(tb).runMultipathd() },
			[]string{"iscsiadm --login"},
			[]string{"iscsiadm --logout", "multipathd del"},
		},
		"one path": {newHost, []string{"iscsiadm --login"}, []string{"iscsiadm --logout"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := tt.host(t)
			i := h.initiator()
			attach(t, i, targetA())
			detach(t, i, targetA())
			for range 2 {
				h.forget()
				attach(t, i, targetB())
				if diff := cmp.Diff(tt.attach, h.started()); diff != "" {
					t.Errorf("attach (-want +started):\n%s", diff)
				}
				attach(t, i, targetB())
				if _, err := i.Find(t.Context(), targetB()); err != nil {
					t.Error(err)
				}
				if _, err := i.Rescan(t.Context(), targetB()); err != nil {
					t.Error(err)
				}
				if again := h.started(); len(again) > 0 {
					t.Errorf("what is there already started %q", again)
				}
				detach(t, i, targetB())
				if diff := cmp.Diff(tt.detach, h.started()); diff != "" {
					t.Errorf("detach (-want +started):\n%s", diff)
				}
			}
		})
	}
}

// reads counts the read(2) calls of this process while fn runs.
func reads(t *testing.T, fn func()) int {
	t.Helper()
	count := func() (n int) {
		io, err := os.ReadFile("/proc/self/io")
		if err != nil {
			t.Skip(err)
		}
		_, after, _ := strings.Cut(string(io), "syscr: ")
		if _, err := fmt.Sscan(after, &n); err != nil {
			t.Skip(err)
		}
		return n
	}
	before := count()
	fn()
	return count() - before
}

// crowd gives the host sessions of other volumes, each with its disk.
func (h *host) crowd(from, to int) {
	for n := from; n < to; n++ {
		iqn := fmt.Sprintf("iqn.2013-05.com.daterainc:tc:01:sn:crowd%04d", n)
		serial := fmt.Sprintf("%08x-1111-2222-3333-444455556666", n)
		h.luns[iqn] = map[int]lun{0: {serial, gib}}
		h.addDisk(h.addSession(iqn, portals()[n%2]), 0, h.luns[iqn][0])
	}
}

// FM 27: how many sessions others have hardly matters. Not parallel: it counts what
// the whole process reads.
func TestCostDoesNotGrowWithTheSessionsOfOthers(t *testing.T) { //nolint:paralleltest // see above
	const few, many = 30, 300
	h := newHost(t)
	i := h.initiator()
	cost := func() (find, whole int) {
		attach(t, i, targetA())
		find = reads(t, func() {
			if _, err := i.Find(t.Context(), targetA()); err != nil {
				t.Error(err)
			}
		})
		detach(t, i, targetA())
		whole = reads(t, func() { attach(t, i, targetA()); detach(t, i, targetA()) })
		return find, whole
	}
	h.crowd(0, few)
	findFew, wholeFew := cost()
	h.crowd(few, many)
	findMany, wholeMany := cost()
	t.Logf("reads of Find: %d with %d sessions, %d with %d; of Attach and Detach: %d and %d", findFew, few, findMany, many, wholeFew, wholeMany)
	const once = 3 // reads of a session that is seen for the first time
	if more := wholeMany - wholeFew; more > once*(many-few) {
		t.Errorf("Attach and Detach read %d times more for %d more sessions, want at most %d a session", more, many-few, once)
	}
	if findMany > findFew {
		t.Errorf("Find reads %d times with %d sessions and %d times with %d", findFew, few, findMany, many)
	}
}

func BenchmarkFindAmong300Sessions(b *testing.B) {
	h := newHost(b)
	i := h.initiator()
	h.crowd(0, 300)
	if _, err := i.Attach(b.Context(), targetA(), nil); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := i.Find(b.Context(), targetA()); err != nil {
			b.Fatal(err)
		}
	}
}
