package dateraclient_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

func TestHealthIsReadWithTheVolume(t *testing.T) {
	s, c := simulated(t)
	mustCreate(t, c, small("vol-1"))
	err := s.Array.SetHealth("/root", "vol-1", sim.Health{
		Health: "warning", Causes: []string{"a node is down"}, OpState: "unavailable",
		Availability: "available", Recovery: "recovery_pending", Storage: "replicas_degraded",
	})
	if err != nil {
		t.Fatal(err)
	}
	why := []string{"a node is down"}
	want := dateraclient.Health{
		App:             dateraclient.Condition{Health: "warning", Deployment: "deployed", Causes: why},
		StorageInstance: dateraclient.Condition{Health: "warning", OpState: "unavailable", Deployment: "deployed", Causes: why},
		Volume: dateraclient.Condition{Health: "warning", OpState: "unavailable", Deployment: "deployed", Causes: why,
			Availability: "available", Recovery: "recovery_pending", Storage: "replicas_degraded"},
	}
	if diff := cmp.Diff(mustRead(t, c, "vol-1").Health, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestCausesInAnyFormAreTold(t *testing.T) {
	for form, want := range map[string][]string{
		`null`: nil, `[]`: nil, `""`: nil, `"one"`: {"one"}, `["one",""]`: {"one"}, `{"a":1}`: {`{"a":1}`}, `[{"a":1},2,"x"]`: {`{"a":1}`, "2", "x"},
	} {
		f, s := newFake(t)
		f.rest = body(200, `{"data":{"name":"vol-1","id":"id-1","causes":`+form+`,"storage_instances":[{"name":"storage-1","volumes":[{"name":"volume-1","size":1}]}]}}`)
		v, err := client(t, s.URL).Volume(t.Context(), "vol-1")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(v.Health.App.Causes, want); diff != "" {
			t.Errorf("%s (-got +want):\n%s", form, diff)
		}
	}
}
