package dateraclient_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

func mustClone(t *testing.T, c *dateraclient.Client, spec dateraclient.VolumeSpec, from dateraclient.Origin) *dateraclient.Volume {
	t.Helper()
	v, err := c.CloneVolume(t.Context(), spec, from)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestCloneIsOneRequestAndOneMoreWhenLarger(t *testing.T) {
	s, c := simulated(t)
	origin := mustCreate(t, c, small("CSI-a"))
	snap := mustSnapshot(t, c, origin, uuid1)
	for name, from := range map[string]dateraclient.Origin{
		"volume": {Volume: "CSI-a"}, "snapshot": {Volume: "CSI-a", UTCTS: snap.UTCTS},
	} {
		spec := small("CSI-same-" + name)
		s.ResetRequests()
		v := mustClone(t, c, spec, from)
		wantRequests(t, s, "POST /app_instances")
		if !v.MadeFrom(origin, from) || v.Size != 1 {
			t.Errorf("%s: got %+v", name, v)
		}
		spec = small("CSI-larger-" + name)
		spec.Size = 3
		v = mustClone(t, c, spec, from)
		wantRequests(t, s, "POST /app_instances", "PUT /app_instances/*/storage_instances/storage-1/volumes/volume-1")
		if v.Size != 3 || v.MadeFrom(v, from) {
			t.Errorf("%s: got %+v", name, v)
		}
	}
}

// Volumes from AppTemplates and those of administrators have children of other
// names, and an id is a second name of an app instance.
func TestCloneAndSnapshotOfVolumesThatAreNotOurs(t *testing.T) {
	s, c := simulated(t)
	administrator(t, s, "/root", "POST", "/app_templates", goldTemplate)
	gold := mustTemplate(t, c, "gold")
	origin := mustCreate(t, c, dateraclient.VolumeSpec{Name: "by-hand", Template: gold, QoS: gold.QoS})
	s.ResetRequests()
	v, snap, err := c.CreateSnapshot(t.Context(), "by-hand", dateraclient.SnapshotSpec{UUID: uuid1})
	if err != nil || v.ID != origin.ID || snap.UUID != uuid1 {
		t.Fatalf("got %+v, %+v, %v", v, snap, err)
	}
	spec := small("CSI-b")
	spec.Size, spec.Replicas = 7, 2
	clone := mustClone(t, c, spec, dateraclient.Origin{Volume: "by-hand", UTCTS: snap.UTCTS})
	if !clone.MadeFrom(origin, dateraclient.Origin{Volume: "by-hand", UTCTS: snap.UTCTS}) || clone.Child != "data" {
		t.Errorf("got %+v", clone)
	}
	if _, _, err = c.CreateSnapshot(t.Context(), origin.ID, dateraclient.SnapshotSpec{UUID: uuid2}); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("snapshot by id: got %v, want ErrNotFound", err)
	}
	if _, err = c.CloneVolume(t.Context(), small("CSI-c"), dateraclient.Origin{Volume: origin.ID}); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("clone by id: got %v, want ErrNotFound", err)
	}
	if got := names(t, c); len(got) != 2 {
		t.Errorf("there are %v", got)
	}
}

func TestCloneOfWhatIsNotThereOrNotReady(t *testing.T) {
	_, c := simulated(t, func(cfg *sim.Config) { cfg.SnapshotDelay, cfg.CloneDelay = time.Hour, time.Hour })
	mustCreate(t, c, small("CSI-a"))
	_, snap, err := c.CreateSnapshot(t.Context(), "CSI-a", dateraclient.SnapshotSpec{UUID: uuid1})
	if err != nil || snap.Available {
		t.Fatalf("got %+v, %v, want one that is not available", snap, err)
	}
	for name, tc := range map[string]struct {
		from dateraclient.Origin
		kind error
	}{
		"no volume":          {dateraclient.Origin{Volume: "CSI-x"}, dateraclient.ErrNotFound},
		"no snapshot":        {dateraclient.Origin{Volume: "CSI-a", UTCTS: "1.5"}, dateraclient.ErrNotFound},
		"no snapshot's name": {dateraclient.Origin{Volume: "CSI-a", UTCTS: "../1.5"}, dateraclient.ErrNotFound},
		"no volume's name":   {dateraclient.Origin{Volume: "../system"}, dateraclient.ErrNotFound},
		"not available":      {dateraclient.Origin{Volume: "CSI-a", UTCTS: snap.UTCTS}, dateraclient.ErrUnavailable},
	} {
		if _, err := c.CloneVolume(t.Context(), small("CSI-b"), tc.from); !errors.Is(err, tc.kind) {
			t.Errorf("%s: got %v, want %v", name, err, tc.kind)
		}
	}
	if got := names(t, c); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
}

// What is made and cannot be kept is taken back, so that no final error leaves
// anything behind (FM 33).
func TestNothingIsLeftOfACloneThatIsRefused(t *testing.T) {
	s, c := simulated(t)
	spec := small("CSI-a")
	spec.Size = 4
	mustCreate(t, c, spec)
	for name, tc := range map[string]struct {
		change func(*dateraclient.VolumeSpec)
		fault  sim.Fault
		kind   error
	}{
		"larger than wanted":      {func(s *dateraclient.VolumeSpec) { s.Size, s.Most = 2, 3 }, sim.Fault{}, dateraclient.ErrLarger},
		"unknown pool":            {func(s *dateraclient.VolumeSpec) { s.IPPool = "nowhere" }, sim.Fault{}, dateraclient.ErrInvalid},
		"unknown policy":          {func(s *dateraclient.VolumeSpec) { s.PlacementPolicy = "nowhere" }, sim.Fault{}, dateraclient.ErrInvalid},
		"too many replicas":       {func(s *dateraclient.VolumeSpec) { s.Replicas = 5 }, sim.Fault{}, dateraclient.ErrInvalid},
		"growth is not permitted": {func(s *dateraclient.VolumeSpec) { s.Size = 9 }, sim.Fault{Status: 403}, dateraclient.ErrPermission},
	} {
		if tc.fault.Status != 0 {
			s.Fail(simtest.Put("/app_instances/*/storage_instances/*/volumes/*"), tc.fault)
		}
		spec := small("CSI-b")
		tc.change(&spec)
		if _, err := c.CloneVolume(t.Context(), spec, dateraclient.Origin{Volume: "CSI-a"}); !errors.Is(err, tc.kind) {
			t.Errorf("%s: got %v, want %v", name, err, tc.kind)
		}
		if got := names(t, c); len(got) != 1 {
			t.Fatalf("%s: left %v", name, got)
		}
	}
}

// A clone that is found after a lost answer may be of long ago: nothing tells it
// from one that holds somebody's data, and it is never deleted.
func TestACloneThatWasLookedUpIsNeverDeleted(t *testing.T) {
	s, c := simulated(t)
	mustCreate(t, c, small("CSI-a"))
	spec, from := small("CSI-b"), dateraclient.Origin{Volume: "CSI-a"}
	old := mustClone(t, c, spec, from)
	s.Fail(simtest.Post("/app_instances"), sim.Fault{LoseAnswer: true})
	spec.IPPool = "nowhere"
	if _, err := c.CloneVolume(t.Context(), spec, from); !errors.Is(err, dateraclient.ErrAnswerLost) {
		t.Errorf("got %v, want ErrAnswerLost", err)
	}
	if v := mustRead(t, c, "CSI-b"); v.ID != old.ID {
		t.Error("the volume was deleted and made again")
	}
}

// Nor is one that the array says it has just made, but that admits somebody already.
func TestACloneThatAdmitsSomebodyIsNotTakenBack(t *testing.T) {
	for admitted, admit := range map[string]func(s *simtest.Server, c *dateraclient.Client, v *dateraclient.Volume){
		hostA: func(_ *simtest.Server, c *dateraclient.Client, v *dateraclient.Volume) { mustGrant(t, c, v, hostA) },
		"rack-1": func(s *simtest.Server, _ *dateraclient.Client, _ *dateraclient.Volume) {
			known(t, s, hostA)
			admitGroup(t, s, "CSI-b", hostA)
		},
	} {
		s, c := simulated(t)
		large := small("CSI-a")
		large.Size = 2
		mustCreate(t, c, large)
		spec, from := small("CSI-b"), dateraclient.Origin{Volume: "CSI-a"}
		old := mustClone(t, c, spec, from)
		admit(s, c, old)
		shown, err := json.Marshal(administrator(t, s, "/root", "GET", "/app_instances/CSI-b", ""))
		if err != nil {
			t.Fatal(err)
		}
		s.Fail(simtest.Post("/app_instances"), sim.Fault{Status: 200, Body: string(shown)})
		spec.Most = 1 // which it cannot become
		_, err = c.CloneVolume(t.Context(), spec, from)
		if !errors.Is(err, dateraclient.ErrAnswerLost) || !strings.Contains(err.Error(), admitted) {
			t.Errorf("got %v, want ErrAnswerLost that names %s", err, admitted)
		}
		if v := mustRead(t, c, "CSI-b"); v.ID != old.ID || !v.Online {
			t.Errorf("it was disturbed: %+v", v)
		}
	}
}

// When it cannot be taken back, or when that would not help, the error says that
// something may be there.
func TestHalfMadeClonesAreNoFinalErrors(t *testing.T) {
	grow := simtest.Put("/app_instances/*/storage_instances/*/volumes/*")
	for name, faults := range map[string]map[sim.Match]sim.Fault{
		"the array fails":        {grow: {Status: 500}},
		"not to be deleted":      {grow: {Status: 403}, simtest.Delete("/app_instances/*"): {Status: 403}},
		"not to be taken off":    {grow: {Status: 403}, simtest.Put("/app_instances/*"): {Status: 403}},
		"the user is locked out": {grow: {Status: 401, Times: 2}},
	} {
		s, c := simulated(t)
		mustCreate(t, c, small("CSI-a"))
		for match, fault := range faults {
			s.Fail(match, fault)
		}
		spec := small("CSI-b")
		spec.Size = 2
		if _, err := c.CloneVolume(t.Context(), spec, dateraclient.Origin{Volume: "CSI-a"}); !errors.Is(err, dateraclient.ErrAnswerLost) {
			t.Errorf("%s: got %v, want ErrAnswerLost", name, err)
		}
	}
}

// The template grew a second volume after it was read: what the array makes of it
// is not one volume.
func TestWhatIsNotOneVolumeIsTakenBack(t *testing.T) {
	s, c := simulated(t)
	administrator(t, s, "/root", "POST", "/app_templates", strings.Replace(goldTemplate,
		`"volume_templates":[`, `"volume_templates":[{"name":"log","size":1},`, 1))
	stale := &dateraclient.Template{Name: "gold", Path: "/app_templates/gold", StorageInstance: "disk", Child: "data"}
	if _, err := c.CreateVolume(t.Context(), dateraclient.VolumeSpec{Name: "CSI-a", Template: stale}); !errors.Is(err, dateraclient.ErrShape) {
		t.Errorf("got %v, want ErrShape", err)
	}
	left := administrator(t, s, "/root", "GET", "/app_instances", "")["data"].([]any)
	if len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	s.Fail(simtest.Delete("/app_instances/*"), sim.Fault{Status: 403})
	if _, err := c.CreateVolume(t.Context(), dateraclient.VolumeSpec{Name: "CSI-a", Template: stale}); !errors.Is(err, dateraclient.ErrAnswerLost) {
		t.Errorf("that cannot be deleted: got %v, want ErrAnswerLost", err)
	}
}

// What is shown as just made and is in somebody's hands is somebody else's.
func TestWhatIsInUseIsNotTakenBack(t *testing.T) {
	for name, shown := range map[string]string{
		"a session":                `"storage_instances":[{"active_initiators":["` + hostA + `"]}]`,
		"an admission":             `"storage_instances":[{"acl_policy":{"initiators":[{"path":"/initiators/` + hostA + `"}]}}]`,
		"a group's admission":      `"storage_instances":[{"acl_policy":{"initiator_groups":[{"path":"/initiator_groups/rack-1"}]}}]`,
		"a snapshot":               `"snapshots":[{"utc_ts":"1.5"}]`,
		"a snapshot of one volume": `"storage_instances":[{"volumes":[{},{"snapshots":[{"utc_ts":"1.5"}]}]}]`,
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			c := wired(t, func(r *http.Request) (int, string) {
				asked = append(asked, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v2.3"))
				return 200, `{"data":{"name":"CSI-a","id":"` + uuid1 + `",` + shown + `}}`
			})
			if _, err := c.CreateVolume(t.Context(), small("CSI-a")); !errors.Is(err, dateraclient.ErrAnswerLost) {
				t.Errorf("got %v, want ErrAnswerLost", err)
			}
			if diff := cmp.Diff([]string{"POST /app_instances"}, asked); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSnapshotErrorsAreFinalOnlyWhenNothingIsThere(t *testing.T) {
	snapshots := simtest.Post("/app_instances/**")
	for name, tc := range map[string]struct {
		faults map[sim.Match]sim.Fault
		spec   dateraclient.SnapshotSpec
		kind   error
	}{
		"refused":               {map[sim.Match]sim.Fault{snapshots: {Status: 400}}, dateraclient.SnapshotSpec{UUID: uuid1}, dateraclient.ErrInvalid},
		"refused and not shown": {map[sim.Match]sim.Fault{snapshots: {Status: 400}, simtest.Get("/app_instances/*"): {Status: 403}}, dateraclient.SnapshotSpec{UUID: uuid1}, dateraclient.ErrAnswerLost},
		"the array fails":       {map[sim.Match]sim.Fault{snapshots: {Status: 500}}, dateraclient.SnapshotSpec{UUID: uuid1}, dateraclient.ErrAnswerLost},
		"unknown provider":      {nil, dateraclient.SnapshotSpec{UUID: uuid1, Provider: uuid2, Type: "remote"}, dateraclient.ErrInvalid},
		"no uuid":               {nil, dateraclient.SnapshotSpec{UUID: "x"}, dateraclient.ErrInvalid},
	} {
		s, c := simulated(t)
		mustCreate(t, c, small("CSI-a"))
		for match, fault := range tc.faults {
			s.Fail(match, fault)
		}
		if _, _, err := c.CreateSnapshot(t.Context(), "CSI-a", tc.spec); !errors.Is(err, tc.kind) {
			t.Errorf("%s: got %v, want %v", name, err, tc.kind)
		}
	}
}

// What is named is not one volume: a snapshot of a part of it is not kept.
func TestSnapshotOfWhatIsNotOneVolumeIsTakenBack(t *testing.T) {
	s, c := simulated(t)
	administrator(t, s, "/root", "POST", "/app_instances", `{"name":"two","storage_instances":[{"name":"storage-1","volumes":[
		{"name":"volume-1","size":1},{"name":"volume-2","size":1}]}]}`)
	if _, _, err := c.CreateSnapshot(t.Context(), "two", dateraclient.SnapshotSpec{UUID: uuid1}); !errors.Is(err, dateraclient.ErrShape) {
		t.Errorf("got %v, want ErrShape", err)
	}
	left := administrator(t, s, "/root", "GET", "/app_instances/two/storage_instances/storage-1/volumes/volume-1/snapshots", "")["data"].([]any)
	if len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestModifyTakesOneRequestForEachKind(t *testing.T) {
	s, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	s.ResetRequests()
	if err := c.ModifyVolume(t.Context(), v, dateraclient.Change{QoS: &dateraclient.QoS{TotalIOPS: 10}}); err != nil {
		t.Fatal(err)
	}
	wantRequests(t, s, "POST /app_instances/*/storage_instances/storage-1/volumes/volume-1/performance_policy")
	change := dateraclient.Change{
		Description: "another one", Replicas: 2, PlacementPolicy: "all-flash", QoS: &dateraclient.QoS{WriteIOPS: 5},
	}
	v = mustRead(t, c, "CSI-a")
	s.ResetRequests()
	if err := c.ModifyVolume(t.Context(), v, change); err != nil {
		t.Fatal(err)
	}
	if got := requested(s); len(got) != 3 {
		t.Errorf("got %v, want three requests", got)
	}
	v = mustRead(t, c, "CSI-a")
	if v.Replicas != 2 || v.PlacementPolicy != "all-flash" || v.QoS != *change.QoS || v.Description != "another one" {
		t.Errorf("got %+v", v)
	}
	s.ResetRequests()
	if err := c.ModifyVolume(t.Context(), v, change); err != nil {
		t.Fatal(err)
	}
	wantRequests(t, s)
	for name, bad := range map[string]dateraclient.Change{
		"fewer replicas": {Replicas: 1, QoS: &dateraclient.QoS{}}, "unknown policy": {PlacementPolicy: "nowhere", QoS: &dateraclient.QoS{}},
	} {
		if err := c.ModifyVolume(t.Context(), v, bad); !errors.Is(err, dateraclient.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
	if after := mustRead(t, c, "CSI-a"); after.QoS != v.QoS || after.Replicas != 2 {
		t.Errorf("changed by halves: %+v", after)
	}
}

func TestRetireKeepsEverythingUnderAnotherName(t *testing.T) {
	s, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	s.Fail(simtest.Put("/app_instances/*"), sim.Fault{LoseAnswer: true})
	if err := c.RetireVolume(t.Context(), v, "old-a", "kept by mistake"); err != nil {
		t.Fatal(err)
	}
	kept := mustRead(t, c, "old-a")
	if kept.UUID != v.UUID || kept.Online || kept.Description != "kept by mistake" {
		t.Errorf("got %+v", kept)
	}
	if got := names(t, c); len(got) != 1 {
		t.Errorf("there are %v", got)
	}
	other := mustCreate(t, c, small("CSI-a"))
	if err := c.RetireVolume(t.Context(), other, "old-a", ""); !errors.Is(err, dateraclient.ErrConflict) {
		t.Errorf("a name that is taken: got %v, want ErrConflict", err)
	}
	mustSnapshot(t, c, other, uuid1)
	if err := c.RetireVolume(t.Context(), mustRead(t, c, "CSI-a"), "old-b", ""); !errors.Is(err, dateraclient.ErrInUse) {
		t.Errorf("with snapshots: got %v, want ErrInUse", err)
	}
}

func TestTheLimitOfInitiatorsIsNamed(t *testing.T) {
	_, c := simulated(t, func(cfg *sim.Config) { cfg.Limits.Initiators = 1 })
	v := mustCreate(t, c, small("CSI-a"))
	v = mustGrant(t, c, v, hostA)
	_, err := c.Grant(t.Context(), v, hostB)
	if !errors.Is(err, dateraclient.ErrHosts) || errors.Is(err, dateraclient.ErrNoSpace) {
		t.Fatalf("got %v, want ErrHosts", err)
	}
	for _, says := range []string{hostB, "limit of 1", "docs/operate-initiators.md"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
}

// The environment has no say in where the array's credentials go.
func TestProxyIsUsedOnlyWhenConfigured(t *testing.T) {
	passed := 0
	f, array := newFake(t)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		passed++
		r.URL.Scheme, r.URL.Host = "", ""
		f.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("http_proxy", proxy.URL)
	web, err := dateraclient.HTTPClient(nil, false)
	if err != nil || web.Transport.(*http.Transport).Proxy != nil {
		t.Errorf("got a client with a proxy, %v", err)
	}
	direct := client(t, array.URL)
	if _, err = direct.System(t.Context()); err != nil || passed != 0 {
		t.Errorf("without: %v, %d requests passed through the proxy", err, passed)
	}
	address, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, web := range []*http.Client{nil, {}} {
		passed = 0
		c := client(t, "http://array.invalid", func(cfg *dateraclient.Config) { cfg.Proxy, cfg.HTTP = address, web })
		if _, err := c.System(t.Context()); err != nil || passed == 0 {
			t.Errorf("with: %v, %d requests passed through the proxy", err, passed)
		}
	}
}
