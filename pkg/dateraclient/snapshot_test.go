package dateraclient_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

const (
	uuid1 = "6f8d1c1e-6a1f-5c62-9f3a-000000000001"
	uuid2 = "6f8d1c1e-6a1f-5c62-9f3a-000000000002"
)

func mustSnapshot(t *testing.T, c *dateraclient.Client, v *dateraclient.Volume, uuid string) *dateraclient.Snapshot {
	t.Helper()
	v, s, err := c.CreateSnapshot(t.Context(), v.Name, dateraclient.SnapshotSpec{UUID: uuid})
	if err == nil {
		s, err = c.AwaitSnapshot(t.Context(), v, s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func snapshots(t *testing.T, c *dateraclient.Client, v *dateraclient.Volume) []dateraclient.Snapshot {
	t.Helper()
	return mustRead(t, c, v.Name).OwnSnapshots()
}

func TestSnapshotIsMadeOnceForOneUUID(t *testing.T) {
	_, c := simulated(t, func(cfg *sim.Config) { cfg.SnapshotDelay = 150 * time.Millisecond })
	v := mustCreate(t, c, small("CSI-a"))
	first := mustSnapshot(t, c, v, uuid1)
	if !first.Available || first.UUID != uuid1 || first.UTCTS == "" || first.Path != v.Path()+"/snapshots/"+first.UTCTS {
		t.Errorf("got %+v", first)
	}
	if again := mustSnapshot(t, c, v, uuid1); *again != *first {
		t.Errorf("again: got %+v, want %+v", again, first)
	}
	second := mustSnapshot(t, c, v, uuid2)
	want := []dateraclient.Snapshot{*first, *second}
	if diff := cmp.Diff(want, snapshots(t, c, v)); diff != "" {
		t.Errorf("list:\n%s", diff)
	}
	if diff := cmp.Diff(want, mustRead(t, c, "CSI-a").Snapshots); diff != "" {
		t.Errorf("in the volume:\n%s", diff)
	}
	if got, err := c.Snapshot(t.Context(), v, second.UTCTS); err != nil || *got != *second {
		t.Errorf("got %+v, %v, want %+v", got, err, second)
	}
}

func TestSnapshotWhoseAnswerIsLost(t *testing.T) {
	for name, f := range map[string]sim.Fault{
		"lost": {LoseAnswer: true}, "half": {Truncate: true}, "busy": {Status: 503}, "unknown token": {ExpireToken: true},
	} {
		s, c := simulated(t)
		v := mustCreate(t, c, small("CSI-a"))
		s.Fail(simtest.Post("/app_instances/**"), f)
		made := mustSnapshot(t, c, v, uuid1)
		if diff := cmp.Diff([]dateraclient.Snapshot{*made}, snapshots(t, c, v)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestDeleteSnapshot(t *testing.T) {
	s, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	made := mustSnapshot(t, c, v, uuid1)
	s.Fail(simtest.Delete("/app_instances/**"), sim.Fault{Status: 503})
	if err := c.DeleteSnapshot(t.Context(), v, made.UTCTS); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteSnapshot(t.Context(), v, made.UTCTS); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("again: %v, want ErrNotFound", err)
	}
	if left := snapshots(t, c, v); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// The array would delete the snapshots with their volume (FM 12).
func TestDeleteRefusesAVolumeWithSnapshots(t *testing.T) {
	s, c := simulated(t)
	before := mustCreate(t, c, small("CSI-a"))
	made := mustSnapshot(t, c, before, uuid1)
	s.ResetRequests()
	err := c.DeleteVolume(t.Context(), mustRead(t, c, "CSI-a"))
	if !errors.Is(err, dateraclient.ErrInUse) || !strings.Contains(err.Error(), made.UTCTS) {
		t.Errorf("got %v, want ErrInUse that names the snapshot", err)
	}
	wantRequests(t, s, "GET /app_instances/*")

	// A view from before the snapshot does not help to get past it.
	if err = c.DeleteVolume(t.Context(), before); !errors.Is(err, dateraclient.ErrInUse) {
		t.Errorf("stale view: got %v, want ErrInUse", err)
	}
	v := mustRead(t, c, "CSI-a")
	if !v.Online || len(v.Snapshots) != 1 {
		t.Errorf("the volume was disturbed: %+v", v)
	}
	if err = c.DeleteSnapshot(t.Context(), v, made.UTCTS); err != nil {
		t.Fatal(err)
	}
	if err = c.DeleteVolume(t.Context(), mustRead(t, c, "CSI-a")); err != nil {
		t.Error(err)
	}
}

func TestDeleteRefusesAnAppInstanceWithSnapshotsOfTheWhole(t *testing.T) {
	s, c := simulated(t)
	mustCreate(t, c, small("CSI-a"))
	administrator(t, s, "/root", "POST", "/app_instances/CSI-a/snapshots", `{}`)
	if err := c.DeleteVolume(t.Context(), mustRead(t, c, "CSI-a")); !errors.Is(err, dateraclient.ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
}
