package dateraclient_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

func TestCloneGetsWhatTheArrayDoesNotCopy(t *testing.T) {
	s, c := simulated(t, func(cfg *sim.Config) { cfg.CloneDelay = 100 * time.Millisecond })
	administrator(t, s, "/root", "POST", "/access_network_ip_pools", `{"name":"fast"}`)
	origin := mustCreate(t, c, small("CSI-a"))
	snapshot := mustSnapshot(t, c, origin, uuid1)
	for name, source := range map[string]dateraclient.Source{
		"CSI-of-volume":   {Volume: origin.Path()},
		"CSI-of-snapshot": {Snapshot: snapshot.Path},
	} {
		spec := dateraclient.VolumeSpec{
			Name: name, Size: 3, Replicas: 2, PlacementPolicy: "all-flash", IPPool: "fast",
			QoS: dateraclient.QoS{TotalIOPS: 100}, CHAP: &dateraclient.CHAP{User: "user", Password: "password1234"},
			Source: source,
		}
		v := mustCreate(t, c, spec)
		if v.Size != 3 || v.Replicas != 2 || v.PlacementPolicy != "all-flash" || v.IPPool != "fast" || v.QoS != spec.QoS ||
			v.CHAP != "chap" || !v.Online || v.Source.IsZero() || v.CreateMode != "kubernetes" {
			t.Errorf("got %+v", v)
		}
		s.ResetRequests()
		if again, err := c.Conform(t.Context(), v, spec); err != nil || again != v {
			t.Errorf("once more: %+v, %v", again, err)
		}
		wantRequests(t, s)
	}
}

func TestCloneIsAsLargeAsItsSourceAtLeast(t *testing.T) {
	_, c := simulated(t)
	spec := small("CSI-a")
	spec.Size = 4
	origin := mustCreate(t, c, spec)
	spec = small("CSI-b")
	spec.Source.Volume = origin.Path()
	if v := mustCreate(t, c, spec); v.Size != 4 {
		t.Errorf("got %d GiB, want 4", v.Size)
	}
}

func TestCloneOfNothingIsNotFound(t *testing.T) {
	_, c := simulated(t)
	origin := mustCreate(t, c, small("CSI-a"))
	for _, source := range []dateraclient.Source{
		{Snapshot: origin.Path() + "/snapshots/1.5"}, {Volume: "/app_instances/CSI-x"},
	} {
		spec := small("CSI-b")
		spec.Source = source
		if _, err := c.CreateVolume(t.Context(), spec); !errors.Is(err, dateraclient.ErrNotFound) {
			t.Errorf("%+v: got %v, want ErrNotFound", source, err)
		}
	}
}

// A clone that cannot become what was asked for is not left behind: the error is
// final, and the name would be taken.
func TestCloneThatCannotConformIsUndone(t *testing.T) {
	_, c := simulated(t)
	origin := mustCreate(t, c, small("CSI-a"))
	spec := small("CSI-b")
	spec.Source.Volume, spec.IPPool = origin.Path(), "nowhere"
	if _, err := c.CreateVolume(t.Context(), spec); err == nil {
		t.Error("made in a pool that is not there")
	}
	if got := names(t, c); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
}

func TestCloneIsFinishedAfterAFailure(t *testing.T) {
	s, c := simulated(t)
	origin := mustCreate(t, c, small("CSI-a"))
	spec := small("CSI-b")
	spec.Source.Volume, spec.Size, spec.QoS.ReadIOPS = origin.Path(), 2, 50
	s.Fail(simtest.Any("/app_instances/*/storage_instances/*/volumes/*/performance_policy"), sim.Fault{Status: 500})
	if _, err := c.CreateVolume(t.Context(), spec); !errors.Is(err, dateraclient.ErrAnswerLost) {
		t.Fatalf("got %v, want ErrAnswerLost: there is a clone now", err)
	}
	if _, err := c.CreateVolume(t.Context(), spec); !errors.Is(err, dateraclient.ErrConflict) {
		t.Fatalf("got %v, want ErrConflict", err)
	}
	v, err := c.Conform(t.Context(), mustRead(t, c, "CSI-b"), spec)
	if err != nil || v.Size != 2 || v.QoS != spec.QoS {
		t.Errorf("got %+v, %v", v, err)
	}
}

func TestCloneWhoseAnswerIsLost(t *testing.T) {
	s, c := simulated(t)
	origin := mustCreate(t, c, small("CSI-a"))
	s.Fail(simtest.Post("/app_instances"), sim.Fault{LoseAnswer: true})
	spec := small("CSI-b")
	spec.Source.Volume = origin.Path()
	if v := mustCreate(t, c, spec); v.Source.IsZero() {
		t.Errorf("got %+v", v)
	}
}

const goldTemplate = `{"name":"gold","storage_templates":[{"name":"disk","ip_pool":{"path":"/access_network_ip_pools/default"},
	"volume_templates":[{"name":"data","size":7,"replica_count":2,"performance_policy":{"total_iops_max":900}}]}]}`

func mustTemplate(t *testing.T, c *dateraclient.Client, name string) *dateraclient.Template {
	t.Helper()
	template, err := c.Template(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return template
}

func TestVolumeFromTemplate(t *testing.T) {
	s, c := simulated(t)
	administrator(t, s, "/root", "POST", "/access_network_ip_pools", `{"name":"fast"}`)
	administrator(t, s, "/root", "POST", "/app_templates", goldTemplate)
	s.ResetRequests()
	gold := mustTemplate(t, c, "gold")
	v := mustCreate(t, c, dateraclient.VolumeSpec{Name: "CSI-a", Template: gold, QoS: gold.QoS})
	wantRequests(t, s, "GET /app_templates/gold", "POST /app_instances")
	if v.Size != 7 || v.Replicas != 2 || v.QoS.TotalIOPS != 900 || v.Template != "gold" || v.StorageInstance != "disk" || v.Child != "data" {
		t.Errorf("got %+v", v)
	}
	v = mustCreate(t, c, dateraclient.VolumeSpec{
		Name: "CSI-b", Template: gold, Size: 20, Replicas: 1, IPPool: "fast", PlacementPolicy: "all-flash",
		QoS: dateraclient.QoS{ReadIOPS: 30},
	})
	if v.Size != 20 || v.Replicas != 1 || v.IPPool != "fast" || v.PlacementPolicy != "all-flash" || v.QoS != (dateraclient.QoS{ReadIOPS: 30}) {
		t.Errorf("overridden: got %+v", v)
	}
	v = mustCreate(t, c, dateraclient.VolumeSpec{
		Name: "CSI-c", Template: gold, QoS: gold.QoS, CHAP: &dateraclient.CHAP{User: "user", Password: "password1234"},
	})
	if v.CHAP != "chap" || v.QoS.TotalIOPS != 900 {
		t.Errorf("with CHAP: got %+v", v)
	}
	if v = mustGrant(t, c, v, hostA); len(v.Initiators) != 1 {
		t.Errorf("granted: %+v", v)
	}
	if v, err := c.GrowVolume(t.Context(), mustRead(t, c, "CSI-b"), 21); err != nil || v.Size != 21 {
		t.Errorf("grown: %+v, %v", v, err)
	}
}

func TestTemplateOfSeveralVolumesIsRefusedByName(t *testing.T) {
	s, c := simulated(t)
	administrator(t, s, "/root", "POST", "/app_templates", strings.Replace(goldTemplate,
		`"volume_templates":[`, `"volume_templates":[{"name":"log","size":1},`, 1))
	_, err := c.Template(t.Context(), "gold")
	if !errors.Is(err, dateraclient.ErrShape) || !strings.Contains(err.Error(), "gold") || !strings.Contains(err.Error(), "disk/log, disk/data") {
		t.Errorf("got %v, want ErrShape that names the template and its volumes", err)
	}
}

func TestTemplateIsRead(t *testing.T) {
	s, c := simulated(t)
	administrator(t, s, "/root", "POST", "/app_templates", goldTemplate)
	got, err := c.Template(t.Context(), "gold")
	if err != nil {
		t.Fatal(err)
	}
	want := dateraclient.Template{
		Name: "gold", Path: "/app_templates/gold", StorageInstance: "disk", Child: "data", Size: 7, Replicas: 2,
		PlacementMode: got.PlacementMode, PlacementPolicy: got.PlacementPolicy, IPPool: "default",
		QoS: dateraclient.QoS{TotalIOPS: 900},
	}
	if *got != want {
		t.Errorf("got  %+v\nwant %+v", *got, want)
	}
	if _, err = c.Template(t.Context(), "silver"); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

// TestALostAnswerDoesNotChangeAVolumeInUse: the POST was a repeat, its answer would
// have been a conflict, and the clone of long ago has limits that were changed
// while it was used.
func TestALostAnswerDoesNotChangeAVolumeInUse(t *testing.T) {
	s, c := simulated(t)
	source := mustCreate(t, c, small("source"))
	spec := small("copy")
	spec.Source = dateraclient.Source{Volume: source.Path()}
	v := mustCreate(t, c, spec)
	v, err := c.Grant(t.Context(), v, hostA)
	if err != nil {
		t.Fatal(err)
	}
	limits := dateraclient.QoS{ReadIOPS: 1000}
	if err = c.ModifyVolume(t.Context(), v, dateraclient.Change{QoS: &limits}); err != nil {
		t.Fatal(err)
	}
	s.Fail(simtest.Post("/app_instances"), sim.Fault{LoseAnswer: true})
	if _, err = c.CreateVolume(t.Context(), spec); !errors.Is(err, dateraclient.ErrConflict) {
		t.Errorf("got %v, want ErrConflict", err)
	}
	if got := mustRead(t, c, "copy"); got.QoS != limits || len(got.Initiators) != 1 {
		t.Errorf("it was changed: %+v", got)
	}
}
