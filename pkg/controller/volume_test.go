package controller_test

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

func TestCreateAsksTheArrayOnce(t *testing.T) {
	l := start(t)
	l.create(t, "warm-up")
	l.requests()
	l.create(t, "pvc-1")
	l.wantRequests(t, "CreateVolume", 1)
}

func TestCreateGivesTheArrayWhatTheClassSays(t *testing.T) {
	l := start(t)
	l.api(t, http.MethodPost, "/access_network_ip_pools", map[string]any{"name": "blue"}, nil)
	id := l.create(t, "pvc-1", bytesAsked(20*gib+1, 0), parameters(
		"replica_count", "2", "ip_pool", "blue", "placement_policy", "default",
		"read_iops_max", "100", "write_bandwidth_max", "2048", "total_iops_max", "1000", "iops_per_gb", "10",
		"csi.storage.k8s.io/pvc/name", "data-web-0", "csi.storage.k8s.io/pvc/namespace", "shop", "csi.storage.k8s.io/pv/name", "pvc-1",
	))
	v, err := l.client(t).Volume(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	got := []any{v.Name, v.Size, v.Replicas, v.IPPool, v.PlacementPolicy, v.Description, v.CreateMode, v.CHAP, v.AllowAll, v.Online, v.QoS}
	want := []any{"CSI-pvc-1", dateraclient.GiB(21), 2, "blue", "default", "PVC data-web-0 namespace shop PV pvc-1 -- iops-per-GiB-10-most-1000", "kubernetes", "none", false, true,
		dateraclient.QoS{ReadIOPS: 100, TotalIOPS: 210, WriteBandwidth: 2048}}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("volume (-got +want):\n%s", diff)
	}
}

func TestEachAnswerOfCreateIsTheSame(t *testing.T) {
	for _, name := range []string{"pvc-1", strings.Repeat("long name ", 12)} {
		l := start(t)
		req := createRequest(name, parameters("round_robin", "true"))
		first, err := l.CreateVolume(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			again, err := l.CreateVolume(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(again.String(), first.String()); diff != "" {
				t.Errorf("%q: another answer (-got +want):\n%s", name, diff)
			}
		}
		if first.GetVolume().GetCapacityBytes() != 10*gib || first.GetVolume().GetVolumeContext()["round_robin"] != "true" {
			t.Errorf("%q: got %v, want 10 GiB and round_robin", name, first)
		}
		if n := len(l.objects(t)); n != 1 {
			t.Errorf("%q: %d app instances, want 1", name, n)
		}
	}
}

func TestCreateTakesAVolumeThatIsAsAsked(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1", bytesAsked(10*gib, 0))
	for _, c := range []struct {
		name            string
		required, limit int64
		code            codes.Code
	}{
		{"the same", 10 * gib, 0, codes.OK},
		{"less", 9*gib + 1, 0, codes.OK},
		{"within", gib, 10 * gib, codes.OK},
		{"more", 10*gib + 1, 0, codes.AlreadyExists},
		{"less than there is", gib, 9 * gib, codes.AlreadyExists},
	} {
		res, err := l.CreateVolume(t.Context(), createRequest("pvc-1", bytesAsked(c.required, c.limit)))
		if status.Code(err) != c.code {
			t.Errorf("%s: got %v, want %s", c.name, err, c.code)
		}
		if err == nil && (res.GetVolume().GetVolumeId() != id || res.GetVolume().GetCapacityBytes() != 10*gib) {
			t.Errorf("%s: got %v, want %s with 10 GiB", c.name, res, id)
		}
	}
}

// A name is free when the array has forgotten the volume that had it: until then
// CreateVolume is asked to come again, and makes no claim on what goes.
func TestCreateWhileTheVolumeBeforeIsBeingDeleted(t *testing.T) {
	const slow = 500 * time.Millisecond
	l := start(t, func(cfg *sim.Config) { cfg.DeleteDelay = slow })
	id := l.create(t, "pvc-1")
	l.api(t, http.MethodPut, "/app_instances/"+id, map[string]any{"admin_state": "offline"}, nil)
	l.api(t, http.MethodDelete, "/app_instances/"+id, nil, nil)
	_, err := l.CreateVolume(t.Context(), createRequest("pvc-1"))
	wantCode(t, "in the meantime", err, codes.Aborted, "still deleting")
	if _, err := l.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
		t.Fatal(err)
	}
	if n := len(l.objects(t)); n != 0 {
		t.Errorf("%d app instances after DeleteVolume, want none", n)
	}
	l.create(t, "pvc-1")
}

// Each thing the array shows is compared, and the difference is named.
func TestCreateNamesTheDifference(t *testing.T) {
	secret := map[string]string{"node.session.auth.username": "initiator", "node.session.auth.password": "canary-passwd"}
	for _, c := range []struct {
		change func(*csi.CreateVolumeRequest)
		says   string
	}{
		{bytesAsked(11*gib, 0), "size is 10 GiB"},
		{parameters("replica_count", "2"), "replica_count is 3, asked for 2"},
		{parameters("ip_pool", "other"), `ip_pool is "default", asked for "other"`},
		{parameters("placement_policy", "other"), `placement_policy is "default", asked for "other"`},
		{parameters("placement_mode", "all_flash"), `placement_mode is "hybrid", asked for "all_flash"`},
		{parameters("read_iops_max", "5"), "QoS"},
		{parameters("iops_per_gb", "5"), "QoS"},
		{func(req *csi.CreateVolumeRequest) { req.Secrets = secret }, `CHAP is "none", asked for "chap"`},
	} {
		l := start(t)
		l.create(t, "pvc-1")
		req := createRequest("pvc-1")
		c.change(req)
		_, err := l.CreateVolume(t.Context(), req)
		wantCode(t, c.says, err, codes.AlreadyExists, "CSI-pvc-1", c.says)
		if n := len(l.objects(t)); n != 1 {
			t.Errorf("%s: %d app instances, want 1", c.says, n)
		}
	}
}

func TestCreateTakesTheVolumesOfTheVendorsDriver(t *testing.T) {
	l := start(t)
	l.api(t, http.MethodPost, "/app_instances", map[string]any{
		"name": "CSI-pvc-1", "create_mode": "kubernetes", "storage_instances": []map[string]any{{
			"name": "storage-1", "ip_pool": map[string]string{"path": "/access_network_ip_pools/default"}, "auth": map[string]string{"type": "none"},
			"volumes": []map[string]any{{"name": "volume-1", "size": 10, "replica_count": 3, "placement_mode": "hybrid",
				"placement_policy": map[string]string{"path": "/placement_policies/default"}, "performance_policy": map[string]any{}}},
		}},
	}, nil)
	if id := l.create(t, "pvc-1"); id != "CSI-pvc-1" {
		t.Errorf("got %s, want CSI-pvc-1", id)
	}
	if n := len(l.objects(t)); n != 1 {
		t.Errorf("%d app instances, want 1", n)
	}
}

func TestCreateWithCHAP(t *testing.T) {
	for _, c := range []struct {
		mutual bool
		want   string
	}{{false, "chap"}, {true, "mchap"}} {
		l := start(t)
		req := createRequest("pvc-1", func(req *csi.CreateVolumeRequest) {
			req.Secrets = map[string]string{"node.session.auth.username": "initiator", "node.session.auth.password": "canary-passwd"}
			if c.mutual {
				req.Secrets["node.session.auth.username_in"] = "target"
				req.Secrets["node.session.auth.password_in"] = "canary-passwd-2"
			}
		})
		for range 2 {
			if _, err := l.CreateVolume(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
		auth := l.objects(t)[0].StorageInstances[0].Auth
		if auth.Type != c.want || auth.User != "initiator" {
			t.Errorf("got %+v, want %s of initiator", auth, c.want)
		}
	}
}

func template(name string, sizes ...int) map[string]any {
	var storage []map[string]any
	for i, size := range sizes {
		storage = append(storage, map[string]any{"name": fmt.Sprintf("disk-%d", i),
			"volume_templates": []map[string]any{{"name": "vol", "size": size, "replica_count": 2, "placement_mode": "hybrid"}}})
	}
	return map[string]any{"name": name, "storage_templates": storage}
}

func TestCreateFromATemplate(t *testing.T) {
	l := start(t)
	l.api(t, http.MethodPost, "/app_templates", template("small", 5), nil)
	for _, c := range []struct {
		name   string
		change []func(*csi.CreateVolumeRequest)
		size   int64
	}{
		{"pvc-override", []func(*csi.CreateVolumeRequest){parameters("template", "small")}, 10},
		{"pvc-own", []func(*csi.CreateVolumeRequest){parameters("template", "small", "disable_template_override", "true", "replica_count", "5"), bytesAsked(3*gib, 8*gib)}, 5},
		{"pvc-chap", []func(*csi.CreateVolumeRequest){parameters("template", "small"), func(req *csi.CreateVolumeRequest) {
			req.Secrets = map[string]string{"node.session.auth.username": "initiator", "node.session.auth.password": "canary-passwd"}
		}}, 10},
	} {
		for range 2 {
			res, err := l.CreateVolume(t.Context(), createRequest(c.name, c.change...))
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if got := res.GetVolume().GetCapacityBytes(); got != c.size*gib {
				t.Errorf("%s: got %d bytes, want %d GiB", c.name, got, c.size)
			}
		}
		v, err := l.client(t).Volume(t.Context(), "CSI-"+c.name)
		if err != nil || v.Template != "small" || v.Replicas != 2 {
			t.Errorf("%s: got %+v, %v, want template small with 2 replicas", c.name, v, err)
		}
	}
	_, err := l.CreateVolume(t.Context(), createRequest("pvc-override"))
	wantCode(t, "without the template", err, codes.AlreadyExists, `template is "small"`)
}

func TestTemplatesThatDoNotFitLeaveNothing(t *testing.T) {
	l := start(t)
	l.api(t, http.MethodPost, "/app_templates", template("small", 5), nil)
	l.api(t, http.MethodPost, "/app_templates", template("pair", 5, 6), nil)
	for _, c := range []struct {
		change []func(*csi.CreateVolumeRequest)
		code   codes.Code
		says   []string
	}{
		{[]func(*csi.CreateVolumeRequest){parameters("template", "absent")}, codes.InvalidArgument, []string{"absent"}},
		{[]func(*csi.CreateVolumeRequest){parameters("template", "absent", "disable_template_override", "true")}, codes.InvalidArgument, []string{"absent"}},
		{[]func(*csi.CreateVolumeRequest){parameters("template", "pair")}, codes.InvalidArgument, []string{"pair", "disk-0/vol, disk-1/vol"}},
		{[]func(*csi.CreateVolumeRequest){parameters("template", "pair", "disable_template_override", "true")}, codes.InvalidArgument, []string{"pair", "disk-0/vol, disk-1/vol"}},
		{[]func(*csi.CreateVolumeRequest){parameters("template", "small", "disable_template_override", "true")}, codes.OutOfRange, []string{"small", "5 GiB"}},
		{[]func(*csi.CreateVolumeRequest){parameters("template", "small", "disable_template_override", "true"), bytesAsked(gib, 4*gib)}, codes.OutOfRange, []string{"small", "5 GiB"}},
	} {
		_, err := l.CreateVolume(t.Context(), createRequest("pvc-1", c.change...))
		wantCode(t, strings.Join(c.says, " "), err, c.code, c.says...)
		if n := len(l.objects(t)); n != 0 {
			t.Errorf("%v: %d app instances are left", c.says, n)
		}
	}
}

func TestWhatTheArrayDoesNotKnowIsNamed(t *testing.T) {
	for _, c := range []struct{ key, value string }{
		{"ip_pool", "nowhere"}, {"placement_policy", "gold-leaf"}, {"template", "nowhere"}, {"backend", "nowhere"},
	} {
		l := start(t)
		_, err := l.CreateVolume(t.Context(), createRequest("pvc-1", parameters(c.key, c.value)))
		wantCode(t, c.key, err, codes.InvalidArgument, c.value)
		if n := len(l.objects(t)); n != 0 {
			t.Errorf("%s: %d app instances are left", c.key, n)
		}
	}
}

func TestOlderProductsGetAPlacementMode(t *testing.T) {
	l := start(t, func(cfg *sim.Config) { cfg.SWVersion = "3.2.5.0" })
	id := l.create(t, "pvc-1", parameters("placement_mode", "all_flash"))
	l.create(t, "pvc-1", parameters("placement_mode", "all_flash"))
	v, err := l.client(t).Volume(t.Context(), id)
	if err != nil || v.PlacementMode != "all_flash" {
		t.Errorf("got %+v, %v, want all_flash", v, err)
	}
	_, err = l.CreateVolume(t.Context(), createRequest("pvc-2", parameters("placement_policy", "gold")))
	wantCode(t, "a policy before 3.3", err, codes.InvalidArgument, "gold", "3.3")
}

func TestBadCreateRequests(t *testing.T) {
	l := start(t)
	for _, c := range []struct {
		name string
		req  *csi.CreateVolumeRequest
		code codes.Code
		says string
	}{
		{"no name", createRequest(""), codes.InvalidArgument, "name is missing"},
		{"long name", createRequest(strings.Repeat("n", 129)), codes.InvalidArgument, "129 bytes"},
		{"slash", createRequest("a/b"), codes.InvalidArgument, "slash"},
		{"backslash", createRequest(`a\b`), codes.InvalidArgument, "slash"},
		{"dots", createRequest("a..b"), codes.InvalidArgument, `".."`},
		{"control", createRequest("a\x07b"), codes.InvalidArgument, "control"},
		{"newline", createRequest("a\nb"), codes.InvalidArgument, "control"},
		{"C1 control", createRequest("a\u0085b"), codes.InvalidArgument, "control"},
		{"no UTF-8", createRequest("a\xffb"), codes.InvalidArgument, "UTF-8"},
		{"no capabilities", createRequest("v", func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = nil }), codes.InvalidArgument, "missing"},
		{"foreign file system", createRequest("v", func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = []*csi.VolumeCapability{writer("ntfs")} }), codes.InvalidArgument, "ntfs"},
		{"zero", createRequest("v", bytesAsked(0, 0)), codes.InvalidArgument, "capacity_range"},
		{"negative", createRequest("v", bytesAsked(-gib, 0)), codes.InvalidArgument, "negative"},
		{"limit below required", createRequest("v", bytesAsked(2*gib, gib)), codes.InvalidArgument, "limit"},
		{"absurd", createRequest("v", bytesAsked(math.MaxInt64, 0)), codes.OutOfRange, "262144"},
		{"no room to round up", createRequest("v", bytesAsked(gib+1, gib+2)), codes.OutOfRange, "whole GiB"},
		{"limit below a GiB", createRequest("v", bytesAsked(0, gib-1)), codes.OutOfRange, "whole GiB"},
		{"unknown key", createRequest("v", parameters("replicas", "3")), codes.InvalidArgument, "replica_count"},
		{"replica 0", createRequest("v", parameters("replica_count", "0")), codes.InvalidArgument, "1 to 5"},
		{"replica 6", createRequest("v", parameters("replica_count", "6")), codes.InvalidArgument, "1 to 5"},
		{"a source", createRequest("v", func(r *csi.CreateVolumeRequest) {
			r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: "x"}}}
		}), codes.InvalidArgument, "volume_content_source"},
		{"mutable parameters", createRequest("v", func(r *csi.CreateVolumeRequest) { r.MutableParameters = map[string]string{"a": "b"} }), codes.InvalidArgument, "mutable_parameters"},
		{"a topology", createRequest("v", func(r *csi.CreateVolumeRequest) { r.AccessibilityRequirements = &csi.TopologyRequirement{} }), codes.InvalidArgument, "accessibility_requirements"},
		{"half a secret", createRequest("v", func(r *csi.CreateVolumeRequest) {
			r.Secrets = map[string]string{"node.session.auth.username": "initiator"}
		}), codes.InvalidArgument, "node.session.auth.password"},
	} {
		_, err := l.CreateVolume(t.Context(), c.req)
		wantCode(t, c.name, err, c.code, c.says)
	}
	if got := l.requests(); len(got) != 0 {
		t.Errorf("bad requests reached the array: %v", got)
	}
}

func TestCreateOfOneNameAtOnceMakesOneVolume(t *testing.T) {
	l := start(t)
	other := serve(l.array, l.dir) // a second replica, which shares no lock
	var wg sync.WaitGroup
	for i := range 32 {
		server := []*lab{l, other}[i%2]
		wg.Go(func() {
			_, err := server.CreateVolume(t.Context(), createRequest("pvc-1"))
			if code := status.Code(err); code != codes.OK && code != codes.Aborted {
				t.Errorf("got %v, want OK or Aborted", err)
			}
		})
	}
	wg.Wait()
	if n := len(l.objects(t)); n != 1 {
		t.Errorf("%d app instances, want 1", n)
	}
}

func TestDeleteTakesAtMostThreeRequests(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	l.requests()
	if err := l.delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	l.wantRequests(t, "DeleteVolume", 3)
	if n := len(l.objects(t)); n != 0 {
		t.Errorf("%d app instances are left", n)
	}
	for _, id := range []string{id, "CSI-never-made", "fake-vol-id"} {
		if err := l.delete(t.Context(), id); err != nil {
			t.Errorf("delete of the absent %s: %v", id, err)
		}
	}
}

// FM 12: snapshots never go with their volume.
func TestDeleteRefusesAVolumeWithSnapshots(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	l.snapshot(t, id)
	v, err := l.client(t).Volume(t.Context(), id)
	if err != nil || len(v.Snapshots) != 1 {
		t.Fatalf("got %+v, %v, want one snapshot", v, err)
	}
	wantCode(t, "delete", l.delete(t.Context(), id), codes.FailedPrecondition, id+":"+v.Snapshots[0].UTCTS)
	if again, err := l.client(t).Volume(t.Context(), id); err != nil || !again.Online || len(again.Snapshots) != 1 {
		t.Errorf("got %+v, %v, want the volume as it was", again, err)
	}
}

func TestDeleteRefusesAPublishedVolume(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "delete", l.delete(t.Context(), id), codes.FailedPrecondition, node1)
	if err := l.unpublish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	if err := l.delete(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// FM 5: the provisioner's leader deletes on one replica what the attacher's leader
// publishes on another: no lock is between them, and the array shows it in time.
func TestDeleteRefusesAVolumeThatIsPublishedMeanwhile(t *testing.T) {
	for name, refused := range map[string]bool{"before the offline": false, "before the force": true} {
		t.Run(name, func(t *testing.T) {
			l := start(t)
			id := l.create(t, "pvc-1")
			deleter, until, release := l.gated(t, http.MethodPut)
			done := until(func() error { return deleter.delete(t.Context(), id) })
			if _, err := l.publish(t.Context(), id, node1); err != nil {
				t.Fatal(err)
			}
			if refused {
				l.array.Fail(simtest.Put("/app_instances/*"), sim.Fault{Status: 400})
			}
			release()
			wantCode(t, "delete", <-done, codes.FailedPrecondition, id, node1)
			if v := l.volume(t, id); !v.Online || !v.Exported {
				t.Errorf("got %+v, want it online for the node that has it", v)
			}
			if err := l.unpublish(t.Context(), id, node1); err != nil {
				t.Fatal(err)
			}
			if err := l.delete(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whatever the array says to any step of a deletion but "not found", the answer
// is an error and a repetition finishes the work.
func TestDeleteSwallowsNoError(t *testing.T) {
	steps := map[string]sim.Match{
		"read": simtest.Get("/app_instances/*"), "offline": simtest.Put("/app_instances/*"), "delete": simtest.Delete("/app_instances/*"),
	}
	for step, match := range steps {
		for _, httpStatus := range []int{400, 401, 403, 409, 422, 500} {
			l := start(t)
			id := l.create(t, "pvc-1")
			l.array.Fail(match, sim.Fault{Status: httpStatus, Times: -1})
			if err := l.delete(t.Context(), id); err == nil {
				t.Errorf("%s answers %d: got OK", step, httpStatus)
			}
			l.array.Array.ClearFaults()
			if err := l.delete(t.Context(), id); err != nil {
				t.Errorf("%s after %d: %v", step, httpStatus, err)
			}
			if n := len(l.objects(t)); n != 0 {
				t.Errorf("%s after %d: %d app instances are left", step, httpStatus, n)
			}
		}
	}
}

func TestBadVolumeIDs(t *testing.T) {
	l := start(t)
	for _, id := range []string{"", "..", "a/../b", "a/b/c", "a\x00b", "CSI-x/..", strings.Repeat("x", 129), "default/CSI-x", "CSI x"} {
		wantCode(t, "delete "+id, l.delete(t.Context(), id), codes.InvalidArgument, "volume id")
		wantCode(t, "unpublish "+id, l.unpublish(t.Context(), id, node1), codes.InvalidArgument, "volume id")
		_, err := l.publish(t.Context(), id, node1)
		wantCode(t, "publish "+id, err, codes.InvalidArgument, "volume id")
		_, err = l.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: gib}})
		wantCode(t, "expand "+id, err, codes.InvalidArgument, "volume id")
		_, err = l.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{VolumeId: id, VolumeCapabilities: []*csi.VolumeCapability{writer("")}})
		wantCode(t, "validate "+id, err, codes.InvalidArgument, "volume id")
	}
	if got := l.requests(); len(got) != 0 {
		t.Errorf("bad ids reached the array: %v", got)
	}
}

// A volume of a backend that is not there is not a volume that is gone.
func TestVolumesOfAnUnknownBackendAreNotGone(t *testing.T) {
	l := start(t)
	const id = "west/CSI-pvc-1"
	wantCode(t, "delete", l.delete(t.Context(), id), codes.FailedPrecondition, "west", "default")
	wantCode(t, "unpublish", l.unpublish(t.Context(), id, node1), codes.FailedPrecondition, "west")
	_, err := l.publish(t.Context(), id, node1)
	wantCode(t, "publish", err, codes.FailedPrecondition, "west")
}

func TestASecondBackendHoldsItsOwnVolumes(t *testing.T) {
	l := start(t)
	east := simtest.Start(t)
	dir := east.BackendDir(t, "east")
	l.dir = dir
	both := serve(l.array, dir)
	id := both.create(t, "pvc-1", parameters("backend", "east"))
	if id != "east/CSI-pvc-1" {
		t.Errorf("got %s, want east/CSI-pvc-1", id)
	}
	if n := len(l.objects(t)); n != 0 {
		t.Errorf("%d app instances on the other array", n)
	}
	if _, err := both.publish(t.Context(), id, node1); err != nil {
		t.Error(err)
	}
	if err := both.unpublish(t.Context(), id, node1); err != nil {
		t.Error(err)
	}
	if err := both.delete(t.Context(), id); err != nil {
		t.Error(err)
	}
}

func TestValidate(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	good := func() *csi.ValidateVolumeCapabilitiesRequest {
		return &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: id, VolumeCapabilities: []*csi.VolumeCapability{writer("xfs")},
			VolumeContext: map[string]string{"round_robin": "true"}, Parameters: map[string]string{"replica_count": "3"},
		}
	}
	res, err := l.ValidateVolumeCapabilities(t.Context(), good())
	if err != nil {
		t.Fatal(err)
	}
	want := &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: good().GetVolumeContext(), VolumeCapabilities: good().GetVolumeCapabilities(), Parameters: good().GetParameters(),
	}
	if diff := cmp.Diff(res.GetConfirmed().String(), want.String()); diff != "" {
		t.Errorf("confirmed (-got +want):\n%s", diff)
	}
	for _, c := range []struct {
		change func(*csi.ValidateVolumeCapabilitiesRequest)
		says   string
	}{
		{func(r *csi.ValidateVolumeCapabilitiesRequest) {
			r.VolumeCapabilities = []*csi.VolumeCapability{writer("ntfs")}
		}, "ntfs"},
		{func(r *csi.ValidateVolumeCapabilitiesRequest) {
			r.VolumeCapabilities = append(r.VolumeCapabilities, shared())
		}, "not both"},
		{func(r *csi.ValidateVolumeCapabilitiesRequest) { r.Parameters["replica_count"] = "2" }, "replica_count is 3"},
		{func(r *csi.ValidateVolumeCapabilitiesRequest) { r.Parameters["zebra"] = "2" }, "zebra"},
		{func(r *csi.ValidateVolumeCapabilitiesRequest) { r.VolumeContext["round_robin"] = "2" }, "round_robin"},
	} {
		req := good()
		c.change(req)
		res, err = l.ValidateVolumeCapabilities(t.Context(), req)
		if err != nil || res.GetConfirmed() != nil || !strings.Contains(res.GetMessage(), c.says) {
			t.Errorf("%s: got %v, %v, want no confirmation and a message", c.says, res, err)
		}
	}
	req := good()
	req.VolumeId = "CSI-absent"
	_, err = l.ValidateVolumeCapabilities(t.Context(), req)
	wantCode(t, "absent", err, codes.NotFound, "CSI-absent")
	req = good()
	req.VolumeCapabilities = nil
	_, err = l.ValidateVolumeCapabilities(t.Context(), req)
	wantCode(t, "no capabilities", err, codes.InvalidArgument)
	req = good()
	l.array.Fail(simtest.Get("/app_instances/*"), sim.Fault{Status: http.StatusInternalServerError})
	_, err = l.ValidateVolumeCapabilities(t.Context(), req)
	wantCode(t, "the array fails", err, codes.Internal, "validate volume "+req.GetVolumeId())
}
