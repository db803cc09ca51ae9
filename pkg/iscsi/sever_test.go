package iscsi_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// FM 4: nothing reaches the LUN, whoever uses it, until it is attached anew.
func TestSeverKeepsEverythingFromTheLUN(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, h *host) {
		i := h.initiator()
		device := attach(t, i, targetA())
		mapped := h.multipathdRuns()
		h.queueing = mapped
		number := map[bool]string{true: "253:0", false: "8:16"}[mapped]
		h.mount(number, "/", "/var/lib/kubelet/x", "xfs", device.Path)
		h.claimed["dm-0"] = mapped
		for range 2 {
			h.forget()
			if err := i.Sever(t.Context(), targetA()); err != nil {
				t.Fatal(err)
			}
		}
		if disks := h.glob("sys/block/sd*"); len(disks) > 0 || h.queueing {
			t.Errorf("disks %q are left, the map keeps I/O: %v", disks, h.queueing)
		}
		if sessions := h.glob("sys/class/iscsi_session/*"); len(sessions) != len(device.Paths) {
			t.Errorf("sessions %q, want those of %q", sessions, device.Paths)
		}
		if mapped { // it is used still, and what is laid over new disks would be used as well
			if err := i.Rejoin(t.Context(), targetA()); !errors.Is(err, iscsi.ErrBusy) {
				t.Errorf("err = %v, want ErrBusy", err)
			}
		}
		h.write("proc/1/mountinfo", "")
		if mapped { // and some other container still has it
			if err := i.Rejoin(t.Context(), targetA()); !errors.Is(err, iscsi.ErrBusy) {
				t.Errorf("err = %v, want ErrBusy", err)
			}
		}
		delete(h.claimed, "dm-0")
		if err := i.Rejoin(t.Context(), targetA()); err != nil {
			t.Fatal(err)
		}
		if again, err := i.Prove(t.Context(), targetA()); err != nil || len(again.Paths) != len(device.Paths) {
			t.Errorf("got %+v, %v", again, err)
		}
		if logins := h.ran("--login"); len(logins) > 0 {
			t.Errorf("sessions that worked were made anew: %q", logins)
		}
	})
}

// FM 4: what the kernel holds for a disk it writes out when the disk is removed.
func TestADiskIsSetOfflineBeforeItIsTakenAway(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	h.writes = nil
	if err := i.Sever(t.Context(), targetA()); err != nil {
		t.Fatal(err)
	}
	offline := map[string]bool{}
	for _, w := range h.writes {
		dir, _, _ := strings.Cut(strings.TrimPrefix(w, "set "), " ")
		switch filepath.Base(dir) {
		case "state":
			offline[filepath.Dir(dir)] = strings.HasSuffix(w, " offline")
		case "delete":
			if !offline[filepath.Dir(dir)] {
				t.Errorf("%s: taken away before it was offline", dir)
			}
		}
	}
	if len(offline) != 2 {
		t.Errorf("offline are %v", offline)
	}
}

// The kernel takes no state without the end of its line.
func TestTheKernelIsWrittenWholeLines(t *testing.T) {
	t.Parallel()
	attribute := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(attribute, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := iscsi.Linux().Set(attribute, "offline"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(attribute); err != nil || string(got) != "offline\n" {
		t.Errorf("wrote %q, %v", got, err)
	}
}

func TestSeverSaysThatADiskGoesOn(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	dir := h.diskDir("sdc")
	var again func()
	again = func() {
		h.write(dir+"/state", "running\n")
		h.mu.Lock()
		defer h.mu.Unlock()
		h.after[dir+"/state offline"] = again
	}
	again()
	if err := i.Sever(t.Context(), targetA()); !errors.Is(err, iscsi.ErrUnavailable) || !strings.Contains(err.Error(), "sdc") {
		t.Errorf("err = %v, want it to name the disk", err)
	}
	if h.diskDir("sdc") == "" {
		t.Error("it was taken away all the same")
	}
	h.mu.Lock()
	h.after[dir+"/state offline"] = func() { h.write(dir+"/state", "running\n") } // once only
	h.mu.Unlock()
	if err := i.Sever(t.Context(), targetA()); err != nil {
		t.Error(err)
	}
}

// FM 21: a map has its paths for a while after their disks have gone.
func TestSeverLetsAMapFailThatLosesItsPathsLate(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	h.queueing, h.claimed["dm-0"] = true, true
	h.after["/delete 1"] = func() {
		h.symlink("sys/block/dm-0/slaves/sdz", "../../../gone")
		time.AfterFunc(100*time.Millisecond, func() { // measured: multipathd writes the map's table anew
			h.mu.Lock()
			defer h.mu.Unlock()
			h.queueing = true
			h.remove("sys/block/dm-0/slaves/sdz")
		})
	}
	if err := i.Sever(t.Context(), targetA()); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.queueing {
		t.Error("the map keeps what it cannot send")
	}
}

// A session that is down may be back in a moment, and its disk with it.
func TestSeverEndsASessionThatIsDown(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	h.fail(iqnA, portals()[1])
	if err := i.Sever(t.Context(), targetA()); err != nil {
		t.Error(err)
	}
	if disks, sessions := h.glob("sys/block/sd*"), h.glob("sys/class/iscsi_session/*"); len(disks) > 0 || len(sessions) != 1 {
		t.Errorf("disks %q, sessions %q", disks, sessions)
	}
	if err := i.Sever(t.Context(), iscsi.Target{IQN: "iqn.x:nobody", Serial: "none"}); err != nil {
		t.Errorf("of a LUN that is not attached: %v", err)
	}
}

// FM 3: nor does one end that carries another LUN.
func TestSeverLeavesAnotherLUNAlone(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	attach(t, i, targetA())
	h.addDisk(1, 5, lun{serial: serialB, bytes: gib})
	h.fail(iqnA, portals()[0])
	if err := i.Sever(t.Context(), targetA()); !errors.Is(err, iscsi.ErrUnavailable) || !strings.Contains(err.Error(), "carries another LUN") {
		t.Errorf("err = %v, want ErrUnavailable", err)
	}
	h.write("sys/class/iscsi_session/session1/state", "LOGGED_IN\n")
	if err := i.Sever(t.Context(), targetA()); err != nil {
		t.Fatal(err)
	}
	if disks := h.glob("sys/block/sd*"); len(disks) != 1 {
		t.Errorf("disks %q, want the other LUN's", disks)
	}
}
