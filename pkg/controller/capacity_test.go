package controller_test

import (
	"net/http"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/internal/sim"
)

// figures are available, largest and smallest in GiB.
type figures [3]int64

func (l *lab) capacity(tb testing.TB, change ...func(*csi.GetCapacityRequest)) figures {
	tb.Helper()
	req := &csi.GetCapacityRequest{}
	for _, c := range change {
		c(req)
	}
	res, err := l.GetCapacity(tb.Context(), req)
	if err != nil {
		tb.Fatal(err)
	}
	return figures{res.GetAvailableCapacity() / gib, res.GetMaximumVolumeSize().GetValue() / gib, res.GetMinimumVolumeSize().GetValue() / gib}
}

func class(pairs ...string) func(*csi.GetCapacityRequest) {
	return func(req *csi.GetCapacityRequest) {
		req.Parameters = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			req.Parameters[pairs[i]] = pairs[i+1]
		}
	}
}

func at(segments ...string) func(*csi.GetCapacityRequest) {
	return func(req *csi.GetCapacityRequest) { req.AccessibleTopology = place(segments...) }
}

func mixedArray(c *sim.Config) { c.Nodes, c.AllFlashNodes, c.Capacity = 4, 1, 1200<<30 } // 300 GiB a node

func TestCapacityCountsCopiesAndMedia(t *testing.T) {
	l := start(t, mixedArray)
	for _, c := range []struct {
		name  string
		class func(*csi.GetCapacityRequest)
		want  figures
	}{
		{"no class", class(), figures{300, 300, 1}}, // three copies on 900 GiB
		{"one copy", class("replica_count", "1"), figures{900, 900, 1}},
		{"five copies", class("replica_count", "5"), figures{180, 180, 1}},
		{"all-flash", class("replica_count", "1", "placement_policy", "all-flash"), figures{300, 300, 1}},
		{"all-flash by mode", class("replica_count", "1", "placement_mode", "all_flash"), figures{300, 300, 1}},
		{"hybrid by mode", class("replica_count", "2", "placement_mode", "hybrid"), figures{450, 450, 1}},
		{"single flash", class("replica_count", "1", "placement_mode", "single_flash"), figures{900, 900, 1}},
	} {
		if got := l.capacity(t, c.class); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	l.requests()
	l.capacity(t)
	l.wantRequests(t, "GetCapacity", 0) // and one for the system, which is not counted
}

func TestCapacityShrinksWithWhatIsUsedNotWithWhatIsProvisioned(t *testing.T) {
	l := start(t, mixedArray)
	id := l.create(t, "pvc-1", bytesAsked(5000*gib, 0)) // thin: more than there is
	if got, want := l.capacity(t), (figures{300, 300, 1}); got != want {
		t.Errorf("provisioned: got %v, want %v", got, want)
	}
	if err := l.array.Array.SetUsed("/root", id, 100*gib); err != nil {
		t.Fatal(err)
	}
	if got, want := l.capacity(t), (figures{200, 200, 1}); got != want {
		t.Errorf("used: got %v, want %v", got, want)
	}
	if err := l.array.Array.SetUsed("/root", id, 299*gib+gib/2); err != nil {
		t.Fatal(err)
	}
	if got, want := l.capacity(t), (figures{0, 0, 1}); got != want {
		t.Errorf("half a GiB left: got %v, want %v", got, want)
	}
}

func TestCapacityNamesTheArraysLargestVolume(t *testing.T) {
	l := start(t, func(c *sim.Config) { c.Capacity = 4 << 50 })
	if got, want := l.capacity(t, class("replica_count", "1")), (figures{4 << 20, 262_144, 1}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestCapacityFollowsTheTemplate(t *testing.T) {
	l := start(t, mixedArray)
	l.api(t, http.MethodPost, "/app_templates", map[string]any{"name": "gold", "storage_templates": []any{map[string]any{
		"name": "storage-1", "volume_templates": []any{map[string]any{
			"name": "volume-1", "size": 40, "replica_count": 2, "placement_policy": map[string]string{"path": "/placement_policies/all-flash"}}}}}}, nil)
	if got, want := l.capacity(t, class("template", "gold")), (figures{150, 150, 1}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, c := range []struct {
		pairs []string
		want  figures
	}{ // what the class names comes over the template
		{[]string{"replica_count", "3"}, figures{100, 100, 1}},
		{[]string{"placement_policy", "default"}, figures{450, 450, 1}},
		{[]string{"placement_mode", "hybrid", "replica_count", "1"}, figures{900, 900, 1}},
		{[]string{"replica_count", "3", "placement_policy", "default", "disable_template_override", "true"}, figures{150, 40, 40}},
	} {
		if got := l.capacity(t, class(append(c.pairs, "template", "gold")...)); got != c.want {
			t.Errorf("%v: got %v, want %v", c.pairs, got, c.want)
		}
	}
	fixed := class("template", "gold", "disable_template_override", "true")
	if got, want := l.capacity(t, fixed), (figures{150, 40, 40}); got != want {
		t.Errorf("of one size: got %v, want %v", got, want)
	}
}

func TestCapacityOfWhatCannotBe(t *testing.T) {
	l := start(t)
	zero := figures{0, 0, 1}
	writers := func(req *csi.GetCapacityRequest) {
		c := writer("xfs")
		c.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
		req.VolumeCapabilities = []*csi.VolumeCapability{c}
	}
	if got := l.capacity(t, writers); got != zero {
		t.Errorf("a file system for many writers: got %v", got)
	}
	can := func(req *csi.GetCapacityRequest) { req.VolumeCapabilities = []*csi.VolumeCapability{writer("ext4")} }
	if got := l.capacity(t, can); got == zero {
		t.Error("a file system for one writer: nothing is free")
	}
}

func TestCapacityOfAPlace(t *testing.T) {
	l := start(t, mixedArray)
	l.setTopology(t, "default", "zone=west")
	small := start(t, func(c *sim.Config) { c.Capacity = 300 << 30 })
	l.addBackend(t, "east-1", map[string]string{"endpoint": small.array.URL, "topology": "zone=east,rack=1"})
	l.addBackend(t, "east-2", map[string]string{"endpoint": l.array.URL, "topology": "zone=east,rack=2\nzone=east,rack=3"})
	for _, c := range []struct {
		name    string
		request []func(*csi.GetCapacityRequest)
		want    figures
	}{
		{"west", []func(*csi.GetCapacityRequest){at("zone", "west")}, figures{300, 300, 1}},
		{"rack 1", []func(*csi.GetCapacityRequest){at("zone", "east", "rack", "1")}, figures{100, 100, 1}},
		{"rack 3", []func(*csi.GetCapacityRequest){at("zone", "east", "rack", "3")}, figures{300, 300, 1}},
		{"all of the east", []func(*csi.GetCapacityRequest){at("zone", "east")}, figures{400, 300, 1}},
		{"north", []func(*csi.GetCapacityRequest){at("zone", "north")}, figures{0, 0, 1}},
		{"a backend that is there", []func(*csi.GetCapacityRequest){class("backend", "east-1"), at("zone", "east", "rack", "1")}, figures{100, 100, 1}},
		{"a backend that is not", []func(*csi.GetCapacityRequest){class("backend", "east-1"), at("zone", "west")}, figures{0, 0, 1}},
		{"anywhere", nil, figures{300, 300, 1}}, // as CreateVolume: the default backend
	} {
		if got := l.capacity(t, c.request...); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// Two tenants of one array share what is free on it.
func TestTheSpaceOfAnArrayCountsOnce(t *testing.T) {
	l := start(t, mixedArray)
	l.setTopology(t, "default", "zone=west")
	l.api(t, http.MethodPost, "/tenants", map[string]any{"name": "prod"}, nil)
	l.addBackend(t, "prod", map[string]string{"endpoint": l.array.URL, "tenant": "/root/prod", "topology": "zone=west"})
	other := start(t, func(c *sim.Config) { c.Capacity = 300 << 30 })
	l.addBackend(t, "other", map[string]string{"endpoint": other.array.URL, "topology": "zone=west"})
	if got, want := l.capacity(t, at("zone", "west")), (figures{400, 300, 1}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestCapacityTakesTheClassAsTheProvisionerPassesItOn: with the keys that it keeps from CreateVolume.
func TestCapacityTakesTheClassAsTheProvisionerPassesItOn(t *testing.T) {
	l := start(t, mixedArray)
	got := l.capacity(t, class("replica_count", "1", "csi.storage.k8s.io/fstype", "xfs",
		"csi.storage.k8s.io/provisioner-secret-name", "chap", "csi.storage.k8s.io/node-stage-secret-namespace", "shop"))
	if want := (figures{900, 900, 1}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestAMistakeInAClassDoesNotSeemToBeWantOfSpace: the scheduler would let no pod come as far as CreateVolume, whose
// error names the mistake.
func TestAMistakeInAClassDoesNotSeemToBeWantOfSpace(t *testing.T) {
	l := start(t, mixedArray)
	for _, key := range []string{"replicas", "template", "backend"} {
		const value = "nowhere"
		if got, want := l.capacity(t, class(key, value)), l.capacity(t, class()); got != want {
			t.Errorf("%s: got %v, want %v", key, got, want)
		}
		_, err := l.CreateVolume(t.Context(), createRequest("a", parameters(key, value)))
		wantCode(t, "CreateVolume", err, codes.InvalidArgument, key)
	}
}

// TestCapacityOfAClusterWithoutPlaces: external-provisioner then asks for the place without segments.
func TestCapacityOfAClusterWithoutPlaces(t *testing.T) {
	l := start(t, mixedArray)
	if got, want := l.capacity(t, class(), at()), l.capacity(t, class()); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestCapacityOfAPlaceWhileNoBackendHasOne: external-provisioner asks for the places of nodes, whatever the
// controller offers, and the scheduler takes no answer for no space. CreateVolume is not asked for a place then.
func TestCapacityOfAPlaceWhileNoBackendHasOne(t *testing.T) {
	l := start(t, mixedArray)
	l.addBackend(t, "other", map[string]string{"endpoint": start(t, func(c *sim.Config) { c.Capacity = 300 << 30 }).array.URL})
	for _, class := range []func(*csi.GetCapacityRequest){class(), class("backend", "other")} {
		if got, want := l.capacity(t, class, at("zone", "a")), l.capacity(t, class); got != want {
			t.Errorf("got %v, want %v as anywhere", got, want)
		}
	}
	_, err := l.CreateVolume(t.Context(), createRequest("a", within(zone("a"), nil)))
	wantCode(t, "CreateVolume", err, codes.InvalidArgument, "VOLUME_ACCESSIBILITY_CONSTRAINTS")
}
