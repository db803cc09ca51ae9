package controller_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/controller"
)

func place(segments ...string) *csi.Topology {
	t := &csi.Topology{Segments: map[string]string{}}
	for i := 0; i < len(segments); i += 2 {
		t.Segments[segments[i]] = segments[i+1]
	}
	return t
}

// zone is short for the places most tests use.
func zone(names ...string) []*csi.Topology {
	var all []*csi.Topology
	for _, n := range names {
		all = append(all, place("zone", n))
	}
	return all
}

func within(requisite, preferred []*csi.Topology) func(*csi.CreateVolumeRequest) {
	return func(req *csi.CreateVolumeRequest) {
		req.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: requisite, Preferred: preferred}
	}
}

// zoned is a default backend in west, and east and north on two more arrays.
type zoned struct {
	*lab
	east, north *simtest.Server
}

func startZoned(t *testing.T) *zoned {
	t.Helper()
	z := &zoned{lab: start(t), east: simtest.Start(t), north: simtest.Start(t)}
	z.setTopology(t, "default", "zone=west\n")
	z.addBackend(t, "east", map[string]string{"endpoint": z.east.URL, "topology": "zone=east"})
	z.addBackend(t, "north", map[string]string{"endpoint": z.north.URL, "topology": "# both racks\nzone=north,rack=1\nzone=north,rack=2"})
	return z
}

func TestVolumesAreMadeWhereTheyAreReached(t *testing.T) {
	z := startZoned(t)
	for _, c := range []struct {
		name   string
		change []func(*csi.CreateVolumeRequest)
		id     string
		where  []*csi.Topology
	}{
		{"nowhere-in-particular", nil, "CSI-nowhere-in-particular", zone("west")},
		{"one-zone", []func(*csi.CreateVolumeRequest){within(zone("east"), nil)}, "east/CSI-one-zone", zone("east")},
		{"preferred-first", []func(*csi.CreateVolumeRequest){within(zone("west", "east"), zone("east", "west"))}, "east/CSI-preferred-first", zone("east")},
		{"preferred-alone", []func(*csi.CreateVolumeRequest){within(nil, zone("east"))}, "east/CSI-preferred-alone", zone("east")},
		{"unknown-preferred", []func(*csi.CreateVolumeRequest){within(zone("south", "west"), zone("south"))}, "CSI-unknown-preferred", zone("west")},
		{"racks", []func(*csi.CreateVolumeRequest){within([]*csi.Topology{place("zone", "north", "rack", "2", "host", "h")}, nil)}, "north/CSI-racks",
			[]*csi.Topology{place("zone", "north", "rack", "1"), place("zone", "north", "rack", "2")}},
		{"named", []func(*csi.CreateVolumeRequest){parameters("backend", "east"), within(zone("west", "east"), zone("west", "east"))}, "east/CSI-named", zone("east")},
	} {
		res, err := z.CreateVolume(t.Context(), createRequest(c.name, c.change...))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		want := &csi.Volume{VolumeId: c.id, CapacityBytes: 10 * gib, AccessibleTopology: c.where}
		if diff := cmp.Diff(res.GetVolume(), want, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-got +want):\n%s", c.name, diff)
		}
		got, err := z.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: c.id})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got.GetVolume(), want, protocmp.Transform()); diff != "" {
			t.Errorf("%s, later (-got +want):\n%s", c.name, diff)
		}
	}
}

func TestPlacesThatNothingReachesAreRefused(t *testing.T) {
	z := startZoned(t)
	for name, c := range map[string]struct {
		change []func(*csi.CreateVolumeRequest)
		code   codes.Code
		says   string
	}{
		"no such zone":       {[]func(*csi.CreateVolumeRequest){within(zone("south"), nil)}, codes.ResourceExhausted, "zone=south"},
		"named, elsewhere":   {[]func(*csi.CreateVolumeRequest){parameters("backend", "east"), within(zone("west"), nil)}, codes.ResourceExhausted, "backend east is at zone=east"},
		"another domain":     {[]func(*csi.CreateVolumeRequest){within([]*csi.Topology{place("host", "h")}, nil)}, codes.ResourceExhausted, "host=h"},
		"no places":          {[]func(*csi.CreateVolumeRequest){within(nil, nil)}, codes.InvalidArgument, "requisite"},
		"a place of nothing": {[]func(*csi.CreateVolumeRequest){within([]*csi.Topology{{}}, nil)}, codes.InvalidArgument, "names no place"},
		"no label":           {[]func(*csi.CreateVolumeRequest){within(zone("a b"), nil)}, codes.InvalidArgument, "value"},
	} {
		_, err := z.CreateVolume(t.Context(), createRequest("pvc-1", c.change...))
		wantCode(t, name, err, c.code, c.says)
	}
	for _, l := range []*lab{z.lab, {array: z.east}, {array: z.north}} {
		if left := l.objects(t); len(left) != 0 {
			t.Errorf("made: %v", left)
		}
	}
}

// TestARetryFindsItsVolumeWhateverIsPreferredNow: the preference may change between
// two calls, the volume must not be made twice.
func TestARetryFindsItsVolumeWhateverIsPreferredNow(t *testing.T) {
	z := startZoned(t)
	first, err := z.CreateVolume(t.Context(), createRequest("pvc-1", within(zone("west", "east"), zone("east"))))
	if err != nil {
		t.Fatal(err)
	}
	again, err := z.CreateVolume(t.Context(), createRequest("pvc-1", within(zone("west", "east"), zone("west"))))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(again, first, protocmp.Transform()); diff != "" {
		t.Errorf("(-second +first):\n%s", diff)
	}
	if got := z.objects(t); len(got) != 0 {
		t.Errorf("a second volume on the default backend: %v", got)
	}
}

func TestAFullBackendLeavesTheVolumeToTheNext(t *testing.T) {
	z := startZoned(t)
	full := sim.Fault{Status: 507, Body: `{"name":"NoSpaceError","http":507,"message":"no space left","errors":[]}`, Times: -1}
	z.east.Fail(simtest.Post("/app_instances"), full)
	res, err := z.CreateVolume(t.Context(), createRequest("pvc-1", within(zone("east", "west"), zone("east"))))
	if err != nil || res.GetVolume().GetVolumeId() != "CSI-pvc-1" {
		t.Errorf("got %v, %v; want it on the default backend", res, err)
	}
	z.array.Fail(simtest.Post("/app_instances"), full)
	_, err = z.CreateVolume(t.Context(), createRequest("pvc-2", within(zone("east", "west"), zone("east"))))
	wantCode(t, "both full", err, codes.ResourceExhausted, "backend east", "backend default")
}

// FM 33: a backend that is full now may have made the volume already, and then none
// is made on the next.
func TestABackendThatMayHaveTheVolumeIsNotLeftThoughItIsFull(t *testing.T) {
	full := sim.Fault{Status: 507, Body: `{"name":"NoSpaceError","http":507,"message":"no space left","errors":[]}`, Times: -1}
	create := simtest.Post("/app_instances")
	for name, faults := range map[string][]struct {
		match sim.Match
		fault sim.Fault
	}{
		"the first answer was lost": {{create, sim.Fault{Reset: true}}, {create, full}},
		"nobody can look":           {{create, full}, {simtest.Get("/app_instances/*"), sim.Fault{Status: 403, Times: -1}}},
	} {
		z := startZoned(t)
		for _, f := range faults {
			z.east.Fail(f.match, f.fault)
		}
		_, err := z.CreateVolume(t.Context(), createRequest("pvc-1", within(zone("east", "west"), zone("east"))))
		wantCode(t, name, err, codes.Unavailable, "no space left")
		if left := z.objects(t); len(left) != 0 {
			t.Errorf("%s: made in the west: %v", name, left)
		}
	}
}

// TestAnOutageElsewhereDoesNotMatter: with late binding every zone is allowed and
// one is preferred.
func TestAnOutageElsewhereDoesNotMatter(t *testing.T) {
	t.Parallel() // it waits
	z := startZoned(t)
	z.addBackend(t, "north", map[string]string{"endpoint": "http://127.0.0.1:1", "topology": "zone=north"})
	z.east.Fail(simtest.Any("/**"), sim.Fault{Delay: 6 * time.Second, Times: -1})
	began := time.Now()
	res, err := z.CreateVolume(t.Context(), createRequest("pvc-1", within(zone("north", "east", "west"), zone("west"))))
	if err != nil || res.GetVolume().GetVolumeId() != "CSI-pvc-1" {
		t.Errorf("got %v, %v", res, err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	_, err = z.CreateVolume(soon(t), createRequest("pvc-2", within(zone("north"), nil)))
	wantCode(t, "an outage where the volume shall be", err, codes.Unavailable)
}

// TestABackendThatIsDownIsWaitedForOnce, and is looked at again after a while.
func TestABackendThatIsDownIsWaitedForOnce(t *testing.T) {
	t.Parallel() // it waits
	z := startZoned(t)
	now := time.Now()
	backends := controller.OpenBackends(controller.BackendsConfig{Dir: z.dir})
	z.Server = controller.New(controller.Config{Backends: backends, Clock: func() time.Time { return now }})
	late := sim.Fault{Delay: 6 * time.Second, Times: -1}
	z.east.Fail(simtest.Any("/**"), late)
	asked := func(name string) int {
		z.east.ResetRequests()
		id := z.create(t, name, within(zone("west", "east"), zone("west")))
		if id != "CSI-"+name {
			t.Errorf("made %s, want it on the default backend", id)
		}
		return len(z.east.Requests())
	}
	if n := asked("pvc-1"); n == 0 {
		t.Error("the backend in the east was not asked")
	}
	for i := range 5 {
		if n := asked(fmt.Sprint("pvc-1-", i)); n != 0 {
			t.Errorf("the backend in the east is down and was asked %d times more", n)
		}
	}
	z.east.Array.ClearFaults()
	now = now.Add(time.Minute)
	for range 2 { // it is up, and stays so
		if n := asked(fmt.Sprint("pvc-", now.Nanosecond())); n == 0 {
			t.Error("the backend in the east was not asked again")
		}
		now = now.Add(time.Nanosecond)
	}
}

// A backend that was asked to make a volume may have it. While it does not say, the
// volume is not made on another one, whatever is preferred now.
func TestNoSecondVolumeWhileTheFirstMayBeThere(t *testing.T) {
	z := startZoned(t)
	east := within(zone("west", "east"), zone("east"))
	west := within(zone("west", "east"), zone("west"))
	z.create(t, "warm-up", east) // logs in
	z.east.Fail(simtest.Post("/app_instances"), sim.Fault{LoseAnswer: true})
	z.east.Fail(simtest.Get("/app_instances/**"), sim.Fault{Status: 503, Times: -1})
	for _, preferred := range []func(*csi.CreateVolumeRequest){east, west, west} {
		_, err := z.CreateVolume(soon(t), createRequest("pvc-1", preferred))
		if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
			t.Errorf("got %v, want an error that is not final", err)
		}
	}
	if left := z.objects(t); len(left) != 0 {
		t.Errorf("made in the west, too: %v", left)
	}
	z.east.Array.ClearFaults()
	if id := z.create(t, "pvc-1", west); id != "east/CSI-pvc-1" {
		t.Errorf("got %s, want the volume that there is", id)
	}
	// When it is deleted its name is free again, in every place.
	if err := z.delete(t.Context(), "east/CSI-pvc-1"); err != nil {
		t.Fatal(err)
	}
	z.east.Fail(simtest.Any("/**"), sim.Fault{Status: 403, Times: -1})
	if id := z.create(t, "pvc-1", west); id != "CSI-pvc-1" {
		t.Errorf("got %s, want a new volume in the west", id)
	}
}

// TestTwoCallsForOneNameMakeOneVolume although each prefers another backend.
func TestTwoCallsForOneNameMakeOneVolume(t *testing.T) {
	z := startZoned(t)
	var wait sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]bool{}
	for i := range 16 {
		preferred := []string{"west", "east"}[i%2]
		wait.Go(func() {
			for {
				res, err := z.CreateVolume(t.Context(), createRequest("pvc-1", within(zone("west", "east"), zone(preferred))))
				if err == nil {
					mu.Lock()
					ids[res.GetVolume().GetVolumeId()] = true
					mu.Unlock()
					return
				}
				if !strings.Contains(err.Error(), "Aborted") {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	if n := len(z.objects(t)) + len((&lab{array: z.east}).objects(t)); n != 1 || len(ids) != 1 {
		t.Errorf("%d volumes with the ids %v, want one", n, ids)
	}
}

// TestABackendEverywhereIsFoundFromEverywhere: the default backend has no topology,
// so a class that names none stays with it.
func TestABackendEverywhereIsFoundFromEverywhere(t *testing.T) {
	l := start(t)
	other := simtest.Start(t)
	l.addBackend(t, "east", map[string]string{"endpoint": other.URL, "topology": "zone=east"})
	l.addBackend(t, "scratch", map[string]string{"endpoint": other.URL}) // chosen by name only
	for _, z := range []string{"east", "south"} {
		res, err := l.CreateVolume(t.Context(), createRequest("pvc-"+z, within(zone(z), nil)))
		want := &csi.Volume{VolumeId: "CSI-pvc-" + z, CapacityBytes: 10 * gib}
		if diff := cmp.Diff(res.GetVolume(), want, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("%v (-got +want):\n%s", err, diff)
		}
	}
}

func TestABrokenTopologyIsNamed(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	l.setTopology(t, "default", "zone: east")
	_, err := l.CreateVolume(t.Context(), createRequest("pvc-2"))
	wantCode(t, "CreateVolume", err, codes.Unavailable, "default/topology", "key=value")
	_, err = l.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	wantCode(t, "ListVolumes", err, codes.Unavailable, "default/topology")
	if err := l.delete(t.Context(), id); err != nil { // what is there is not held up
		t.Error(err)
	}
}

// One tenant's mistake does not stop all: the backend is passed over, but not where
// it is the only one, and not for a volume that it may have.
func TestABrokenTopologyElsewhereDoesNotMatter(t *testing.T) {
	z := startZoned(t)
	z.east.Fail(simtest.Post("/app_instances"), sim.Fault{Status: 500})
	_, err := z.CreateVolume(t.Context(), createRequest("asked-for", within(zone("east", "west"), zone("east"))))
	wantCode(t, "the array fails", err, codes.Unavailable)
	z.setTopology(t, "east", "zone: east")
	if id := z.create(t, "pvc-1", within(zone("east", "west"), zone("east"))); id != "CSI-pvc-1" {
		t.Errorf("made %s, want it on the default backend", id)
	}
	if got := z.capacity(t, at("zone", "west")); got[0] == 0 {
		t.Error("nothing is free in the west")
	}
	for name, change := range map[string][]func(*csi.CreateVolumeRequest){
		"only":      {within(zone("east"), nil)},
		"named":     {parameters("backend", "east"), within(zone("east", "west"), nil)},
		"asked-for": {within(zone("east", "west"), zone("west"))},
	} {
		_, err := z.CreateVolume(t.Context(), createRequest(name, change...))
		wantCode(t, name, err, codes.Unavailable, "east/topology", "key=value")
	}
	if got := len(z.objects(t)); got != 1 {
		t.Errorf("%d volumes in the west, want one", got)
	}
	z.setTopology(t, "default", "zone: west") // north is left
	if id := z.create(t, "pvc-2", within(zone("west", "north"), zone("west"))); id != "north/CSI-pvc-2" {
		t.Errorf("made %s, want it in the north", id)
	}
}

func TestListCarriesTopology(t *testing.T) {
	z := startZoned(t)
	z.create(t, "pvc-1", within(zone("east"), nil))
	z.create(t, "pvc-2")
	var got []string
	for _, e := range z.list(t, 0, "").GetEntries() {
		got = append(got, e.GetVolume().GetVolumeId()+" "+e.GetVolume().GetAccessibleTopology()[0].GetSegments()["zone"])
	}
	if want := []string{"CSI-pvc-2 west", "east/CSI-pvc-1 east"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
