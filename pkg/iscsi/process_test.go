package iscsi_test

import "testing"

// A daemon that has another process number after a restart is found all the same,
// and one that has ended, or whose number now is another program's, does not run.
func TestWhoRunsIsNeverTakenFromMemory(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	runs := func() bool {
		t.Helper()
		runs, err := i.Runs("multipathd")
		if err != nil {
			t.Fatal(err)
		}
		return runs
	}
	h.write("proc/700/comm", "sh\n")
	if runs() {
		t.Error("it runs before it was started")
	}
	h.write("proc/701/comm", "multipathd\n")
	for range 2 {
		if !runs() {
			t.Error("it runs, and is not found")
		}
	}
	h.remove("proc/701")
	if runs() {
		t.Error("it has ended, and is found")
	}
	h.write("proc/702/comm", "multipathd\n")
	if !runs() {
		t.Error("it was started again, and is not found")
	}
	h.write("proc/702/comm", "sh\n")
	if runs() {
		t.Error("its number is another program's, and it is found")
	}
}
