package dateraclient_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

func TestCreateVolumeIsOneRequest(t *testing.T) {
	s, c := simulated(t)
	got := mustCreate(t, c, dateraclient.VolumeSpec{
		Name: "CSI-pvc-1", Description: "PVC shop/data", Size: 5, Replicas: 2,
		PlacementMode: "hybrid", PlacementPolicy: "default", IPPool: "default",
		QoS:  dateraclient.QoS{ReadIOPS: 1, WriteIOPS: 2, TotalIOPS: 3, ReadBandwidth: 4, WriteBandwidth: 5, TotalBandwidth: 6},
		CHAP: &dateraclient.CHAP{User: "initiator", Password: "password1234", UserIn: "target", PasswordIn: "password5678"},
	})
	wantRequests(t, s, "POST /app_instances")
	want := &dateraclient.Volume{
		Name: "CSI-pvc-1", ID: got.ID, Description: "PVC shop-data", CreateMode: "kubernetes",
		Online: true, Exported: true, StorageInstance: "storage-1", Child: "volume-1",
		Size: 5, Replicas: 2, PlacementMode: got.PlacementMode, PlacementPolicy: "default", IPPool: "default",
		QoS:  dateraclient.QoS{ReadIOPS: 1, WriteIOPS: 2, TotalIOPS: 3, ReadBandwidth: 4, WriteBandwidth: 5, TotalBandwidth: 6},
		CHAP: "mchap", UUID: got.UUID, UsedBytes: got.UsedBytes, IQN: got.IQN,
		Portals: []netip.AddrPort{netip.MustParseAddrPort("172.28.0.9:3260"), netip.MustParseAddrPort("172.29.0.9:3260")},
		Health: dateraclient.Health{
			App:             dateraclient.Condition{Health: "ok", Deployment: "deployed"},
			StorageInstance: dateraclient.Condition{Health: "ok", OpState: "available", Deployment: "deployed"},
			Volume:          dateraclient.Condition{Health: "ok", OpState: "available", Deployment: "deployed"},
		},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("volume (-want +got):\n%s", diff)
	}
	if len(got.ID) != 36 || len(got.UUID) != 36 || !strings.HasPrefix(got.IQN, "iqn.2013-05.com.daterainc:") {
		t.Errorf("id %q, uuid %q, IQN %q", got.ID, got.UUID, got.IQN)
	}
	if diff := cmp.Diff(got, mustRead(t, c, "CSI-pvc-1"), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("created and read differ:\n%s", diff)
	}
}

func TestPlacementFollowsTheProduct(t *testing.T) {
	const (
		mode   = "all_flash"
		policy = "all-flash"
	)
	for _, tc := range []struct {
		product, mode, policy string
		wantMode, wantPolicy  string
		kind                  error
	}{
		{product: "3.3.0.0", mode: "hybrid", policy: policy, wantPolicy: policy},
		{product: "3.3.4.0", policy: policy, wantPolicy: policy},
		{product: "3.2.6.1", mode: mode, policy: "default", wantMode: mode},
		{product: "3.2.6.1", policy: policy, kind: dateraclient.ErrInvalid},
		{product: "3.2.6.1", wantMode: "hybrid"},
	} {
		t.Run(tc.product+tc.mode+tc.policy, func(t *testing.T) {
			_, c := simulated(t, func(cfg *sim.Config) { cfg.SWVersion = tc.product })
			spec := small("CSI-a")
			spec.PlacementMode, spec.PlacementPolicy = tc.mode, tc.policy
			v, err := c.CreateVolume(t.Context(), spec)
			if !errors.Is(err, tc.kind) {
				t.Fatalf("got %v, want %v", err, tc.kind)
			}
			if err != nil {
				return
			}
			if tc.wantMode != "" && v.PlacementMode != tc.wantMode || v.PlacementPolicy != tc.wantPolicy {
				t.Errorf("mode %q, policy %q", v.PlacementMode, v.PlacementPolicy)
			}
		})
	}
}

func TestTakenNameIsAConflict(t *testing.T) {
	_, c := simulated(t)
	first := mustCreate(t, c, small("CSI-a"))
	if _, err := c.CreateVolume(t.Context(), small("CSI-a")); !errors.Is(err, dateraclient.ErrConflict) {
		t.Errorf("got %v, want ErrConflict", err)
	}
	if v := mustRead(t, c, "CSI-a"); v.ID != first.ID {
		t.Error("the first volume was replaced")
	}
}

func TestUnknownReferencesAreInvalid(t *testing.T) {
	_, c := simulated(t)
	for name, change := range map[string]func(*dateraclient.VolumeSpec){
		"pool":   func(s *dateraclient.VolumeSpec) { s.IPPool = "nowhere" },
		"policy": func(s *dateraclient.VolumeSpec) { s.PlacementPolicy = "nowhere" },
		"mode":   func(s *dateraclient.VolumeSpec) { s.PlacementMode = "nowhere" },
		"template": func(s *dateraclient.VolumeSpec) {
			s.Template = &dateraclient.Template{Name: "nowhere", Path: "/app_templates/nowhere", StorageInstance: "disk", Child: "data"}
		},
		"pool path":         func(s *dateraclient.VolumeSpec) { s.IPPool = "../system" },
		"replicas":          func(s *dateraclient.VolumeSpec) { s.Replicas = 6 },
		"negative replicas": func(s *dateraclient.VolumeSpec) { s.Replicas = -1 },
		"no size":           func(s *dateraclient.VolumeSpec) { s.Size = 0 },
		"negative size":     func(s *dateraclient.VolumeSpec) { s.Size = -1 },
		"absurd size":       func(s *dateraclient.VolumeSpec) { s.Size = 1 << 40 },
		"too large a size":  func(s *dateraclient.VolumeSpec) { s.Size = 1 << 30 },
		"short password":    func(s *dateraclient.VolumeSpec) { s.CHAP = &dateraclient.CHAP{User: "user", Password: "short"} },
		"two sources":       func(s *dateraclient.VolumeSpec) { s.Source = dateraclient.Source{Volume: "/a", Snapshot: "/b"} },
		"template and source": func(s *dateraclient.VolumeSpec) {
			s.Template, s.Source = &dateraclient.Template{Name: "t"}, dateraclient.Source{Volume: "/a"}
		},
	} {
		spec := small("CSI-a")
		change(&spec)
		if _, err := c.CreateVolume(t.Context(), spec); !errors.Is(err, dateraclient.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
		if _, err := c.Volume(t.Context(), "CSI-a"); !errors.Is(err, dateraclient.ErrNotFound) {
			t.Fatalf("%s: left something behind: %v", name, err)
		}
	}
}

func TestFullArrayIsErrNoSpace(t *testing.T) {
	_, c := simulated(t, func(cfg *sim.Config) { cfg.Limits.AppInstances = 1 })
	mustCreate(t, c, small("CSI-a"))
	if _, err := c.CreateVolume(t.Context(), small("CSI-b")); !errors.Is(err, dateraclient.ErrNoSpace) {
		t.Errorf("got %v, want ErrNoSpace", err)
	}
}

// Whatever becomes of the answer to the create, there is one volume in the end,
// and the caller gets it (FM 33).
func TestCreateWhoseAnswerIsLost(t *testing.T) {
	for name, f := range map[string]sim.Fault{
		"work done, answer lost":       {LoseAnswer: true},
		"work done, half an answer":    {Truncate: true},
		"nothing done, reset":          {Reset: true},
		"nothing done, reset twice":    {Reset: true, Times: 2},
		"nothing done, no body":        {Empty: true},
		"nothing done, HTML":           {HTML: true},
		"nothing done, 503":            {Status: 503},
		"nothing done, not ready":      sim.StillInitializing(),
		"nothing done, bad gateway":    {Status: 502, HTML: true},
		"nothing done, token unknown":  {ExpireToken: true},
		"work done, answer lost twice": {LoseAnswer: true, Times: 2},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := simulated(t)
			s.Fail(simtest.Post("/app_instances"), f)
			spec := small("CSI-a")
			spec.CHAP = &dateraclient.CHAP{User: "user", Password: "password1234"}
			v := mustCreate(t, c, spec)
			if v.Name != "CSI-a" || v.Size != 1 || v.CHAP != "chap" {
				t.Errorf("got %+v", v)
			}
			if n := len(names(t, c)); n != 1 {
				t.Errorf("%d volumes, want 1", n)
			}
		})
	}
}

func names(t *testing.T, c *dateraclient.Client) []string {
	t.Helper()
	var out []string
	for v, err := range c.Volumes(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v.Name)
	}
	return out
}

// The lost answer may have been a conflict: then what is found is not ours.
func TestCreateWhoseAnswerIsLostDoesNotTakeAnothersVolume(t *testing.T) {
	s, c := simulated(t)
	mustCreate(t, c, small("CSI-a"))
	s.Fail(simtest.Post("/app_instances"), sim.Fault{LoseAnswer: true})
	larger := small("CSI-a")
	larger.Size = 2
	if _, err := c.CreateVolume(t.Context(), larger); !errors.Is(err, dateraclient.ErrConflict) {
		t.Errorf("got %v, want ErrConflict", err)
	}
}

func TestFailedCreateIsLookedUp(t *testing.T) {
	s, c := simulated(t)
	s.Fail(simtest.Post("/app_instances"), sim.Fault{Status: 500})
	if _, err := c.CreateVolume(t.Context(), small("CSI-a")); !errors.Is(err, dateraclient.ErrFault) {
		t.Errorf("got %v, want ErrFault", err)
	}
	wantRequests(t, s, "POST /app_instances", "GET /app_instances/CSI-a")
}

func TestCreateThatNobodyCanClearUpIsNotFinal(t *testing.T) {
	s, c := simulated(t)
	s.Fail(simtest.Post("/app_instances"), sim.Fault{LoseAnswer: true})
	s.Fail(simtest.Get("/app_instances/*"), sim.Fault{HTML: true, Times: -1})
	_, err := c.CreateVolume(t.Context(), small("CSI-a"))
	if !errors.Is(err, dateraclient.ErrAnswerLost) || errors.Is(err, dateraclient.ErrNotDatera) {
		t.Errorf("got %v, want ErrAnswerLost and no final kind", err)
	}
}

// FM 33: a request whose answer was lost may be carried out yet, whatever the array
// says to the same request sent again.
func TestARefusalAfterALostAnswerIsNotFinal(t *testing.T) {
	for status, kind := range map[int]error{
		400: dateraclient.ErrInvalid, 403: dateraclient.ErrPermission, 404: dateraclient.ErrNotFound, 507: dateraclient.ErrNoSpace,
	} {
		s, c := simulated(t)
		s.Fail(simtest.Post("/app_instances"), sim.Fault{Reset: true})
		s.Fail(simtest.Post("/app_instances"), sim.Fault{Status: status})
		_, err := c.CreateVolume(t.Context(), small("CSI-a"))
		if !errors.Is(err, dateraclient.ErrAnswerLost) || errors.Is(err, kind) || !strings.Contains(fmt.Sprint(err), kind.Error()) {
			t.Errorf("%d: got %v, want ErrAnswerLost that tells of %v", status, err, kind)
		}
		s.Fail(simtest.Post("/app_instances"), sim.Fault{Status: status})
		if _, err = c.CreateVolume(t.Context(), small("CSI-a")); errors.Is(err, dateraclient.ErrAnswerLost) {
			t.Errorf("%d at once: got %v, want it final", status, err)
		}
	}
}

func TestVolumeIsFoundByNameOnly(t *testing.T) {
	_, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	if _, err := c.Volume(t.Context(), v.ID); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("by id: %v, want ErrNotFound: one volume must not have two names", err)
	}
	if _, err := c.Volume(t.Context(), "CSI-b"); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("absent: %v, want ErrNotFound", err)
	}
}

func foreign(t *testing.T, s *simtest.Server, name string, volumes ...string) {
	t.Helper()
	var parts []string
	for _, v := range volumes {
		parts = append(parts, fmt.Sprintf(`{"name":%q,"size":1}`, v))
	}
	administrator(t, s, "/root", "POST", "/app_instances", fmt.Sprintf(
		`{"name":%q,"storage_instances":[{"name":"storage-1","volumes":[%s]}]}`, name, strings.Join(parts, ",")))
}

func TestAppInstanceOfAnotherShapeIsNamed(t *testing.T) {
	s, c := simulated(t)
	foreign(t, s, "database", "data", "log")
	_, err := c.Volume(t.Context(), "database")
	if !errors.Is(err, dateraclient.ErrShape) || !strings.Contains(err.Error(), "storage-1/data, storage-1/log") {
		t.Errorf("got %v, want ErrShape that names the volumes", err)
	}
}

func TestListGoesOnPastForeignShapes(t *testing.T) {
	s, c := simulated(t)
	mustCreate(t, c, small("CSI-a"))
	foreign(t, s, "CSI-b", "data", "log")
	mustCreate(t, c, small("CSI-c"))
	foreign(t, s, "CSI-d")
	var got []string
	for v, err := range c.Volumes(t.Context(), 0) {
		switch {
		case errors.Is(err, dateraclient.ErrShape):
			got = append(got, "shape")
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, v.Name)
		}
	}
	if diff := cmp.Diff([]string{"CSI-a", "shape", "CSI-c", "shape"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestListIsPaged(t *testing.T) {
	s, c := simulated(t)
	var want []string
	for i := range 250 {
		name := fmt.Sprintf("CSI-%03d", i)
		mustCreate(t, c, small(name))
		want = append(want, name)
	}
	s.ResetRequests()
	if diff := cmp.Diff(want, names(t, c)); diff != "" {
		t.Error(diff)
	}
	wantRequests(t, s, "GET /app_instances", "GET /app_instances", "GET /app_instances")
	var rest []string
	for v, err := range c.Volumes(t.Context(), 240) {
		if err != nil {
			t.Fatal(err)
		}
		rest = append(rest, v.Name)
	}
	if diff := cmp.Diff(want[240:], rest); diff != "" {
		t.Errorf("from 240 on:\n%s", diff)
	}
	s.ResetRequests()
	for range c.Volumes(t.Context(), 0) {
		break
	}
	wantRequests(t, s, "GET /app_instances")
	for v, err := range c.Volumes(t.Context(), 1000) {
		t.Errorf("beyond the end: %v, %v", v, err)
	}
}

func TestListEndsWhenVolumesVanish(t *testing.T) {
	_, c := simulated(t)
	for i := range 120 {
		mustCreate(t, c, small(fmt.Sprintf("CSI-%03d", i)))
	}
	seen := 0
	for v, err := range c.Volumes(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		seen++
		if err = c.DeleteVolume(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	if seen != 100 { // the second page begins behind what is left
		t.Errorf("saw %d, want 100", seen)
	}
}

func TestListSaysWhatFailed(t *testing.T) {
	s, c := simulated(t)
	mustCreate(t, c, small("CSI-a"))
	s.Fail(simtest.Get("/app_instances"), sim.Fault{Status: 403})
	var got []error
	for _, err := range c.Volumes(t.Context(), 0) {
		got = append(got, err)
	}
	if len(got) != 1 || !errors.Is(got[0], dateraclient.ErrPermission) {
		t.Errorf("got %v, want one ErrPermission", got)
	}
}

func TestGrowVolume(t *testing.T) {
	s, c := simulated(t, func(cfg *sim.Config) { cfg.ResizeDelay = 150 * time.Millisecond })
	v := mustCreate(t, c, small("CSI-a"))
	begun := time.Now()
	v, err := c.GrowVolume(t.Context(), v, 3)
	if err != nil || v.Size != 3 {
		t.Fatalf("got %+v, %v, want 3 GiB", v, err)
	}
	if time.Since(begun) < 150*time.Millisecond {
		t.Error("the resize is still in progress")
	}
	s.ResetRequests()
	if v, err = c.GrowVolume(t.Context(), v, 2); err != nil || v.Size != 3 {
		t.Errorf("to less: got %+v, %v, want 3 GiB left alone", v, err)
	}
	wantRequests(t, s)
	if _, err = c.GrowVolume(t.Context(), v, 1<<40); !errors.Is(err, dateraclient.ErrInvalid) {
		t.Errorf("absurd: %v, want ErrInvalid", err)
	}
	if err = c.DeleteVolume(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if _, err = c.GrowVolume(t.Context(), v, 5); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("absent: %v, want ErrNotFound", err)
	}
}

func TestGrowIsOneRequestWhenTheArraySaysSoAtOnce(t *testing.T) {
	s, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	s.ResetRequests()
	if grown, err := c.GrowVolume(t.Context(), v, 3); err != nil || grown.Size != 3 {
		t.Errorf("got %+v, %v, want 3 GiB", grown, err)
	}
	wantRequests(t, s, "PUT /app_instances/*/storage_instances/storage-1/volumes/volume-1")
}

func TestGrowWhoseAnswerIsLost(t *testing.T) {
	s, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	s.Fail(simtest.Put("/app_instances/**"), sim.Fault{LoseAnswer: true})
	if grown, err := c.GrowVolume(t.Context(), v, 3); err != nil || grown.Size != 3 {
		t.Errorf("got %+v, %v, want 3 GiB", grown, err)
	}
}

func TestLimitsAreSetChangedAndLifted(t *testing.T) {
	_, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	for _, q := range []dateraclient.QoS{
		{}, {ReadIOPS: 10, TotalBandwidth: 20}, {WriteIOPS: 30}, {WriteIOPS: 30}, {},
	} {
		for _, stale := range []bool{false, true} { // a view from before the limits will do
			seen := v
			if !stale {
				seen = mustRead(t, c, "CSI-a")
			}
			if err := c.ModifyVolume(t.Context(), seen, dateraclient.Change{QoS: &q}); err != nil {
				t.Fatal(err)
			}
			if got := mustRead(t, c, "CSI-a").QoS; got != q {
				t.Errorf("got %+v, want %+v", got, q)
			}
		}
	}
}

func TestDeleteVolumeIsTwoRequests(t *testing.T) {
	s, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	s.ResetRequests()
	if err := c.DeleteVolume(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	wantRequests(t, s, "PUT /app_instances/*", "DELETE /app_instances/*")
	if _, err := c.Volume(t.Context(), "CSI-a"); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	if err := c.DeleteVolume(t.Context(), v); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("again: %v, want ErrNotFound", err)
	}
}

// Where the array takes its time, DeleteVolume returns when it has forgotten the
// volume, and a repeat of a call that was cut off only waits.
func TestDeleteWaitsUntilTheVolumeIsForgotten(t *testing.T) {
	const slow = time.Minute
	start := time.Now()
	var passed atomic.Int64 // on the array's clock
	s, c := simulated(t, func(cfg *sim.Config) {
		cfg.DeleteDelay, cfg.Clock = slow, func() time.Time { return start.Add(time.Duration(passed.Load())) }
	})
	v := mustCreate(t, c, small("CSI-a"))
	// begun is a call that has looked twice whether the volume is gone.
	begun := func(ctx context.Context, v *dateraclient.Volume) <-chan error {
		t.Helper()
		s.ResetRequests()
		done := make(chan error, 1)
		go func() { done <- c.DeleteVolume(ctx, v) }()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			looks := slices.DeleteFunc(s.Requests(), func(r sim.Request) bool { return r.Method != http.MethodGet })
			if len(looks) > 1 {
				return done
			}
			if time.Now().After(end) {
				t.Fatalf("the array was asked %v", s.Requests())
			}
		}
	}
	ctx, leave := context.WithCancel(t.Context())
	cut := begun(ctx, v)
	leave()
	if err := <-cut; err == nil {
		t.Error("deleted before the array had forgotten it")
	}
	leaving := mustRead(t, c, "CSI-a")
	if !leaving.Leaving() {
		t.Errorf("the array is %q", leaving.OpState)
	}
	again := begun(t.Context(), leaving)
	select {
	case err := <-again:
		t.Fatalf("the repeat answered %v before the array had forgotten it", err)
	default:
	}
	passed.Store(int64(2 * slow))
	if err := <-again; err != nil {
		t.Fatal(err)
	}
	for _, r := range requested(s) {
		if !strings.HasPrefix(r, "GET ") {
			t.Errorf("a volume that goes was asked to %s", r)
		}
	}
	if _, err := c.Volume(t.Context(), "CSI-a"); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

func TestDeleteGetsThroughFaults(t *testing.T) {
	for name, f := range map[string]sim.Fault{
		"lost": {LoseAnswer: true}, "reset": {Reset: true}, "half": {Truncate: true}, "busy": {Status: 503, Times: 2},
		"unknown token": {ExpireToken: true}, "bad gateway": {Status: 502},
	} {
		for where, match := range map[string]sim.Match{
			"offline": simtest.Put("/app_instances/*"), "delete": simtest.Delete("/app_instances/*"),
		} {
			t.Run(name+" "+where, func(t *testing.T) {
				s, c := simulated(t)
				v := mustCreate(t, c, small("CSI-a"))
				s.Fail(match, f)
				if err := c.DeleteVolume(t.Context(), v); err != nil {
					t.Fatal(err)
				}
				if left := names(t, c); len(left) != 0 {
					t.Errorf("left: %v", left)
				}
			})
		}
	}
}

func TestDeleteDoesNotHitTheNextVolumeOfThatName(t *testing.T) {
	_, c := simulated(t)
	old := mustCreate(t, c, small("CSI-a"))
	if err := c.DeleteVolume(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, c, small("CSI-a"))
	if err := c.DeleteVolume(t.Context(), old); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	mustRead(t, c, "CSI-a")
}

func TestDeleteRefusesAVolumeInUse(t *testing.T) {
	s, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	granted, err := c.Grant(t.Context(), v, hostA)
	if err != nil {
		t.Fatal(err)
	}
	s.LogIn(t, v.IQN, hostA)
	// Neither from a fresh view, nor from one taken before the login.
	for _, view := range []*dateraclient.Volume{mustRead(t, c, "CSI-a"), granted} {
		err = c.DeleteVolume(t.Context(), view)
		if !errors.Is(err, dateraclient.ErrInUse) || !strings.Contains(err.Error(), hostA) {
			t.Errorf("got %v, want ErrInUse that names the host", err)
		}
		if got := mustRead(t, c, "CSI-a"); !got.Online || len(got.ActiveInitiators) != 1 {
			t.Errorf("the volume was disturbed: %+v", got)
		}
	}
}

func TestDeleteOfAnAdmittedVolumeWithoutSessions(t *testing.T) {
	_, c := simulated(t)
	v, err := c.Grant(t.Context(), mustCreate(t, c, small("CSI-a")), hostA)
	if err != nil {
		t.Fatal(err)
	}
	if err = c.DeleteVolume(t.Context(), v); err != nil {
		t.Error(err)
	}
}

// Who was admitted since the caller looked has not been judged by anybody. The
// refusal stays one when the volume cannot be brought online again, whatever the
// array says to that.
func TestDeleteRefusesWhoWasAdmittedMeanwhile(t *testing.T) {
	s, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	seen := mustGrant(t, c, v, hostA)
	for _, view := range []*dateraclient.Volume{v, seen} {
		mustGrant(t, c, seen, hostB)
		err := c.DeleteVolume(t.Context(), view)
		if !errors.Is(err, dateraclient.ErrInUse) || !strings.Contains(err.Error(), hostB) || strings.Contains(err.Error(), hostA) != (view == v) {
			t.Errorf("got %v, want ErrInUse that names who was admitted since", err)
		}
		if got := mustRead(t, c, "CSI-a"); !got.Online || len(got.Initiators) != 2 {
			t.Errorf("the volume was disturbed: %+v", got)
		}
	}
	s.Fail(simtest.Put("/app_instances/*"), sim.Fault{Delay: time.Millisecond}) // the offline
	s.Fail(simtest.Put("/app_instances/*"), sim.Fault{Status: 404})
	if err := c.DeleteVolume(t.Context(), seen); !errors.Is(err, dateraclient.ErrInUse) || errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("got %v, want ErrInUse only", err)
	}
	admitGroup(t, s, "CSI-a", hostA)
	if err := c.DeleteVolume(t.Context(), mustGrant(t, c, seen, hostB)); err != nil { // the view of now has the group, too
		t.Error(err)
	}
}

func TestSystemIsAsked(t *testing.T) {
	s, c := simulated(t)
	for range 2 {
		got, err := c.System(t.Context())
		if err != nil || got.SWVersion != "3.3.4.0" || got.All.Total <= 0 || got.All.Available <= 0 {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	wantRequests(t, s, "GET /system", "GET /system")
}
