package iscsi_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// states are those of a LUN's disks, as the kernel has them.
func (h *host) states() []string {
	var all []string
	for _, name := range []string{"sdb", "sdc"} {
		if dir := h.diskDir(name); dir != "" {
			all = append(all, strings.TrimSpace(h.read(dir+"/state")))
		}
	}
	return slices.Compact(all)
}

// FM 4: nothing reaches the LUN, whoever uses it, until the host is to use it again.
func TestSeverKeepsEverythingFromTheLUN(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, h *host) {
		i := h.initiator()
		device := attach(t, i, targetA())
		mapped := h.multipathdRuns()
		h.queueing = mapped
		h.mount("8:16", "/", "/var/lib/kubelet/x", "xfs", device.Path)
		h.forget()
		for range 2 {
			if err := i.Sever(t.Context(), targetA()); err != nil {
				t.Fatal(err)
			}
		}
		if got := h.states(); !slices.Equal(got, []string{"offline"}) || h.queueing {
			t.Errorf("disks are %q, the map keeps I/O: %v", got, h.queueing)
		}
		if sessions := h.glob("sys/class/iscsi_session/*"); len(sessions) != len(device.Paths) {
			t.Errorf("sessions %q, want those of %q", sessions, device.Paths)
		}
		if _, err := i.Prove(t.Context(), targetA()); !errors.Is(err, iscsi.ErrUnavailable) {
			t.Errorf("err = %v, want it to have no path", err)
		}
		if err := i.Rejoin(t.Context(), targetA()); err != nil {
			t.Fatal(err)
		}
		if got := h.states(); !slices.Equal(got, []string{"running"}) || mapped != (len(h.ran("restorequeueing")) == 1) {
			t.Errorf("disks are %q, ran %q", got, h.ran())
		}
		if _, err := i.Prove(t.Context(), targetA()); err != nil {
			t.Error(err)
		}
	})
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
	h.mu.Lock()
	h.after[dir+"/state offline"] = func() { h.write(dir+"/state", "running\n") } // once only
	h.mu.Unlock()
	if err := i.Sever(t.Context(), targetA()); err != nil {
		t.Error(err)
	}
}

// A path that is down takes nothing, and the kernel does not let it be set offline.
func TestSeverDoesNotMindAPathThatIsDown(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	h.fail(iqnA, portals()[1])
	if err := i.Sever(t.Context(), targetA()); err != nil {
		t.Error(err)
	}
	if err := i.Sever(t.Context(), iscsi.Target{IQN: "iqn.x:nobody", Serial: "none"}); err != nil {
		t.Errorf("of a LUN that is not attached: %v", err)
	}
}
