package controller_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/datera-csi/datera-csi/internal/sim"
)

// findings are "STATUS Reason" of a volume.
func (l *lab) findings(tb testing.TB, id string) []string {
	tb.Helper()
	res, err := l.ControllerGetVolumeHealth(tb.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: id})
	if err != nil {
		tb.Fatal(err)
	}
	if got := res.GetVolumeHealth().GetVolumeId(); got != id {
		tb.Errorf("health of %q, want of %q", got, id)
	}
	return words(tb, res.GetVolumeHealth())
}

func words(tb testing.TB, h *csi.VolumeHealth) []string {
	tb.Helper()
	found, seen := []string{}, map[string]bool{}
	for _, e := range h.GetHealthStatuses() {
		word := e.GetStatus().String() + " " + e.GetReason()
		if seen[word] {
			tb.Errorf("%s is there twice (CSI v1.13 forbids it)", word)
		}
		if e.GetMessage() == "" {
			tb.Errorf("%s says nothing", word)
		}
		seen[word] = true
		found = append(found, word)
	}
	return found
}

func TestHealthFollowsTheArray(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	for _, c := range []struct {
		is   sim.Health
		want []string
	}{
		{sim.Health{}, []string{}},
		{sim.Health{Health: "unknown"}, []string{}},
		{sim.Health{Storage: "replicas_degraded"}, []string{"DEGRADED ReplicasDegraded"}},
		{sim.Health{Storage: "flash_degraded"}, []string{"DEGRADED FlashDegraded"}},
		{sim.Health{Recovery: "recovery_in_progress"}, []string{"DEGRADED RecoveryInProgress"}},
		{sim.Health{Recovery: "recovery_pending"}, []string{"DEGRADED RecoveryPending"}},
		{sim.Health{Recovery: "recovery_failed", Availability: "available"}, []string{"DEGRADED RecoveryFailed"}},
		{sim.Health{Recovery: "recovery_failed", Availability: "unavailable"}, []string{"INACCESSIBLE VolumeUnavailable", "DATA_LOSS RecoveryFailed"}},
		{sim.Health{Availability: "unavailable"}, []string{"INACCESSIBLE VolumeUnavailable"}},
		{sim.Health{OpState: "unavailable"}, []string{"INACCESSIBLE TargetUnavailable", "INACCESSIBLE VolumeUnavailable"}},
		{sim.Health{OpState: "failed"}, []string{"INACCESSIBLE TargetFailed", "INACCESSIBLE VolumeFailed"}},
		{sim.Health{OpState: "unavailable", Availability: "unavailable"}, []string{"INACCESSIBLE TargetUnavailable", "INACCESSIBLE VolumeUnavailable"}},
		{sim.Health{Health: "warning"}, []string{"DEGRADED AppHealthWarning", "DEGRADED StorageInstanceHealthWarning", "DEGRADED VolumeHealthWarning"}},
		{sim.Health{Health: "critical", Storage: "replicas_degraded"}, []string{
			"DEGRADED ReplicasDegraded", "DEGRADED AppHealthCritical", "DEGRADED StorageInstanceHealthCritical", "DEGRADED VolumeHealthCritical"}},
		{sim.Health{Storage: "some new-state"}, []string{"DEGRADED SomeNewState"}}, // a later product
	} {
		if err := l.array.Array.SetHealth("/root", id, c.is); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(l.findings(t, id), c.want); diff != "" {
			t.Errorf("%+v (-got +want):\n%s", c.is, diff)
		}
	}
}

func TestHealthTellsTheCauses(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	err := l.array.Array.SetHealth("/root", id, sim.Health{Health: "warning", Causes: []string{"node 2 is down", "rebuild waits"}})
	if err != nil {
		t.Fatal(err)
	}
	res, err := l.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: id})
	if err != nil {
		t.Fatal(err)
	}
	want := &csi.VolumeHealth_VolumeHealthEntry{Status: csi.VolumeHealthErrorType_DEGRADED, Reason: "VolumeHealthWarning",
		Message: "health of the volume is warning: node 2 is down, rebuild waits"}
	if diff := cmp.Diff(res.GetVolumeHealth().GetHealthStatuses()[2], want, protocmp.Transform()); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

// TestOfflineIsIllOnlyWhereItIsUsed: a volume at rest may be offline, publishing
// brings it online; one that nodes are admitted to may not.
func TestOfflineIsIllOnlyWhereItIsUsed(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	offline := func() {
		l.api(t, http.MethodPut, "/app_instances/"+id, map[string]any{"admin_state": "offline", "force": true}, nil)
	}
	offline()
	if got := l.findings(t, id); len(got) != 0 {
		t.Errorf("at rest: got %v", got)
	}
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	if got := l.findings(t, id); len(got) != 0 {
		t.Errorf("published: got %v", got)
	}
	offline()
	if diff := cmp.Diff(l.findings(t, id), []string{"INACCESSIBLE Offline"}); diff != "" {
		t.Errorf("taken offline under a node (-got +want):\n%s", diff)
	}
}

func TestHealthListNamesOnlyTheIll(t *testing.T) {
	l := twoBackends(t)
	want := []string{}
	for i := range 12 {
		id := l.create(t, fmt.Sprintf("pvc-%02d", i))
		if i%3 == 0 {
			want = append(want, id)
			if err := l.array.Array.SetHealth("/root", id, sim.Health{Storage: "replicas_degraded"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	id := l.create(t, "pvc-east", parameters("backend", "east"))
	if err := l.array.Array.SetHealth("/root/east", "CSI-pvc-east", sim.Health{Availability: "unavailable"}); err != nil {
		t.Fatal(err)
	}
	want = append(want, id)
	l.api(t, http.MethodPost, "/app_instances", map[string]any{"name": "foreign", "storage_instances": []any{
		map[string]any{"name": "s-1", "volumes": []any{map[string]any{"name": "v-1", "size": 1}}}}}, nil)
	if err := l.array.Array.SetHealth("/root", "foreign", sim.Health{Storage: "replicas_degraded"}); err != nil {
		t.Fatal(err)
	}
	for most := range int32(7) {
		got := []string{}
		for token := ""; ; {
			res, err := l.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{MaxEntries: most, StartingToken: token})
			if err != nil {
				t.Fatal(err)
			}
			if n := len(res.GetEntries()); most > 0 && n > int(most) {
				t.Errorf("%d entries, at most %d were asked for", n, most)
			}
			for _, h := range res.GetEntries() {
				if len(words(t, h)) == 0 {
					t.Errorf("%s is well and yet listed", h.GetVolumeId())
				}
				got = append(got, h.GetVolumeId())
			}
			if token = res.GetNextToken(); token == "" {
				break
			}
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("pages of %d (-got +want):\n%s", most, diff)
		}
	}
	l.requests()
	if _, err := l.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{}); err != nil {
		t.Fatal(err)
	}
	l.wantRequests(t, "ControllerListVolumeHealth of two backends", 2)
	l.findings(t, id)
	l.wantRequests(t, "ControllerGetVolumeHealth", 1)
}
