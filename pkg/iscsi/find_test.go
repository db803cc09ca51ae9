package iscsi_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

func TestFindReturnsWhatAttachReturned(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, h *host) {
		i := h.initiator()
		want := attach(t, i, targetA())
		h.forget()
		h.hang("sdb") // Find asks no device
		got, err := i.Find(t.Context(), targetA())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if len(h.ran())+len(h.writes) > 0 {
			t.Errorf("ran %q, wrote %q", h.ran(), h.writes)
		}
	})
}

func TestFindSaysNotAttached(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	if _, err := i.Find(t.Context(), targetA()); !errors.Is(err, iscsi.ErrNotAttached) {
		t.Errorf("err = %v, want ErrNotAttached", err)
	}
	attach(t, i, targetA())
	other := targetA()
	other.LUN = 3
	if _, err := i.Find(t.Context(), other); !errors.Is(err, iscsi.ErrNotAttached) {
		t.Errorf("another LUN: err = %v, want ErrNotAttached", err)
	}
}

func TestFindTwoPathsWithoutMapIsAHalfAttach(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.addBothPaths()
	i := h.initiator()
	if _, err := i.Find(t.Context(), targetA()); !errors.Is(err, iscsi.ErrNotAttached) {
		t.Errorf("err = %v, want ErrNotAttached", err)
	}
	h.mount("8:32", "/", "/data", "xfs", "/dev/sdc")
	got, err := i.Find(t.Context(), targetA())
	if err != nil || got.Path != "/dev/sdc" {
		t.Errorf("got %+v, %v, want the mounted path", got, err)
	}
}

func TestFindRefusesAnotherIdentity(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	attach(t, i, targetA())
	other := targetA()
	other.Serial = serialB
	if _, err := i.Find(t.Context(), other); !errors.Is(err, iscsi.ErrForeign) {
		t.Errorf("err = %v, want ErrForeign", err)
	}
}

// FM 2, 28: of two paths that the kernel knows as two LUNs, the one in use is not known
// to be ours.
func TestFindRefusesPathsThatDiffer(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.renamed["sdc"] = wwidB
	h.addBothPaths()
	h.mount("8:16", "/", "/data", "xfs", "/dev/sdb")
	if got, err := h.initiator().Find(t.Context(), targetA()); !errors.Is(err, iscsi.ErrForeign) || !strings.Contains(err.Error(), "two paths to LUN 0 of "+iqnA+" differ") {
		t.Errorf("got %+v, %v, want ErrForeign that says so", got, err)
	}
}

// FM 15: every path, then the map.
func TestRescanShowsGrowth(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, h *host) {
		i := h.initiator()
		attach(t, i, targetA())
		h.luns[iqnA][0] = lun{serialA, 5 * gib}
		grown := targetA()
		grown.Bytes = 4 * gib // less than there is: the array rounds up
		got, err := i.Rescan(t.Context(), grown)
		if err != nil || got != 5*gib {
			t.Errorf("%d, %v, want %d", got, err, 5*gib)
		}
		if d, err := i.Find(t.Context(), grown); err != nil || d.Bytes != 5*gib {
			t.Errorf("found %+v, %v", d, err)
		}
	})
}

func TestRescanOfAVolumeThatDidNotGrow(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	attach(t, i, targetA())
	asked := targetA()
	asked.Bytes = 2 * gib
	got, err := i.Rescan(t.Context(), asked)
	if !errors.Is(err, iscsi.ErrUnavailable) || got != gib {
		t.Errorf("%d, %v, want ErrUnavailable and the %d bytes there are", got, err, gib)
	}
}

// FM 15: one path does not show the growth, so the map stays whole and small.
func TestRescanWithALaggingPath(t *testing.T) {
	t.Parallel()
	for name, down := range map[string]bool{"that answers nothing": false, "that is down": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rescanWithALaggingPath(t, down)
		})
	}
}

func rescanWithALaggingPath(t *testing.T, down bool) {
	t.Helper()
	h, i := attachedHost(t)
	if down {
		h.write("sys/class/iscsi_session/session2/state", "FAILED\n")
	}
	h.luns[iqnA][0] = lun{serialA, 2 * gib}
	h.hang("2:0:0:0")
	grown := targetA()
	grown.Bytes = 2 * gib
	start := time.Now()
	got, err := i.Rescan(t.Context(), grown)
	lagging := filepath.Base(h.glob("sys/devices/platform/host2/session2/target*/*/block/sd*")[0])
	if !errors.Is(err, iscsi.ErrUnavailable) || !strings.Contains(err.Error(), lagging+" ") || got != gib {
		t.Errorf("%d, %v, want ErrUnavailable naming %s", got, err, lagging)
	}
	if says := err != nil && strings.Contains(err.Error(), ":3260, is down"); says != down {
		t.Errorf("%v: is the path down?", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if d, err := i.Find(t.Context(), targetA()); err != nil || d.Bytes != gib || len(d.Paths) != 2 {
		t.Errorf("found %+v, %v, want the map as it was", d, err)
	}
}

func TestRescanOfNothing(t *testing.T) {
	t.Parallel()
	if _, err := newHost(t).initiator().Rescan(t.Context(), targetA()); !errors.Is(err, iscsi.ErrNotAttached) {
		t.Errorf("err = %v, want ErrNotAttached", err)
	}
}
