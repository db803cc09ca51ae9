package controller_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

func (l *lab) modify(ctx context.Context, id string, pairs ...string) error {
	req := &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		req.MutableParameters[pairs[i]] = pairs[i+1]
	}
	_, err := l.ControllerModifyVolume(ctx, req)
	return err
}

func mutableParameters(pairs ...string) func(*csi.CreateVolumeRequest) {
	return func(req *csi.CreateVolumeRequest) {
		req.MutableParameters = make(map[string]string)
		for i := 0; i < len(pairs); i += 2 {
			req.MutableParameters[pairs[i]] = pairs[i+1]
		}
	}
}

// Limits change with a look and one request, and nothing changes twice.
func TestModifyTakesTwoRequests(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	for _, pairs := range [][]string{
		{"total_iops_max", "100"}, {"total_iops_max", "200", "read_bandwidth_max", "3"}, {"replica_count", "3", "placement_policy", "all-flash"},
		{"total_iops_max", "0", "read_bandwidth_max", "0"},
	} {
		l.requests()
		if err := l.modify(t.Context(), id, pairs...); err != nil {
			t.Fatal(err)
		}
		l.wantRequests(t, strings.Join(pairs, " "), 2)
		if err := l.modify(t.Context(), id, pairs...); err != nil {
			t.Fatal(err)
		}
		l.wantRequests(t, strings.Join(pairs, " ")+" again", 1)
	}
}

// What has a route of its own on the array costs a request of its own, and no more.
func TestModifyAsksOnceForEachKindOfChange(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1", parameters("replica_count", "2"))
	l.requests()
	pairs := []string{"total_iops_max", "100", "iops_per_gb", "5", "replica_count", "3", "placement_policy", "all-flash"}
	for _, most := range []int{4, 1} { // a look, notes, copies and place, limits; then only a look
		if err := l.modify(t.Context(), id, pairs...); err != nil {
			t.Fatal(err)
		}
		l.wantRequests(t, strings.Join(pairs, " "), most)
	}
}

func TestModifyChangesWhatItNamesAndNothingElse(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1", parameters("replica_count", "2", "read_iops_max", "11", "total_bandwidth_max", "12"), bytesAsked(10*gib, 0))
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	l.array.LogIn(t, l.target(t, id), node1)
	for _, c := range []struct {
		pairs    []string
		qos      dateraclient.QoS
		replicas int
		policy   string
	}{
		{nil, dateraclient.QoS{ReadIOPS: 11, TotalBandwidth: 12}, 2, "default"},
		{[]string{"write_iops_max", "20"}, dateraclient.QoS{ReadIOPS: 11, WriteIOPS: 20, TotalBandwidth: 12}, 2, "default"},
		{[]string{"total_iops_max", "21", "read_bandwidth_max", "22", "write_bandwidth_max", "23", "total_bandwidth_max", "24"},
			dateraclient.QoS{ReadIOPS: 11, WriteIOPS: 20, TotalIOPS: 21, ReadBandwidth: 22, WriteBandwidth: 23, TotalBandwidth: 24}, 2, "default"},
		{[]string{"replica_count", "3", "read_iops_max", "0"},
			dateraclient.QoS{WriteIOPS: 20, TotalIOPS: 21, ReadBandwidth: 22, WriteBandwidth: 23, TotalBandwidth: 24}, 3, "default"},
		{[]string{"placement_policy", "all-flash"},
			dateraclient.QoS{WriteIOPS: 20, TotalIOPS: 21, ReadBandwidth: 22, WriteBandwidth: 23, TotalBandwidth: 24}, 3, "all-flash"},
		{[]string{"iops_per_gb", "1"},
			dateraclient.QoS{WriteIOPS: 20, TotalIOPS: 10, ReadBandwidth: 22, WriteBandwidth: 23, TotalBandwidth: 24}, 3, "all-flash"},
		{[]string{"bandwidth_per_gb", "2", "total_iops_max", "5"},
			dateraclient.QoS{WriteIOPS: 20, TotalIOPS: 5, ReadBandwidth: 22, WriteBandwidth: 23, TotalBandwidth: 20}, 3, "all-flash"},
		{[]string{"iops_per_gb", "0", "bandwidth_per_gb", "0"},
			dateraclient.QoS{WriteIOPS: 20, TotalIOPS: 5, ReadBandwidth: 22, WriteBandwidth: 23, TotalBandwidth: 24}, 3, "all-flash"},
	} {
		for range 2 {
			if err := l.modify(t.Context(), id, c.pairs...); err != nil {
				t.Fatalf("%v: %v", c.pairs, err)
			}
			v := l.volume(t, id)
			if v.QoS != c.qos || v.Replicas != c.replicas || v.PlacementPolicy != c.policy || len(v.ActiveInitiators) != 1 {
				t.Errorf("%v: got %+v", c.pairs, v)
			}
		}
	}
}

func TestModifyIsCheckedBeforeAnythingChanges(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1", parameters("replica_count", "2", "read_iops_max", "11"))
	before := l.volume(t, id)
	for _, c := range []struct {
		pairs []string
		code  codes.Code
		says  string
	}{
		{[]string{"read_iops_max", "12", "replica_count", "1"}, codes.InvalidArgument, "2 replicas"},
		{[]string{"read_iops_max", "12", "replica_count", "6"}, codes.InvalidArgument, "1 to 5"},
		{[]string{"read_iops_max", "12", "replica_count", "5"}, codes.InvalidArgument, "storage nodes"},
		{[]string{"read_iops_max", "12", "placement_policy", "gold-leaf"}, codes.InvalidArgument, "gold-leaf"},
		{[]string{"read_iops_max", "12", "write_iops_max", "x"}, codes.InvalidArgument, "write_iops_max"},
		{[]string{"read_iops_max", ""}, codes.InvalidArgument, "read_iops_max"},
		{[]string{"read_iops_max", "12", "ip_pool", "blue"}, codes.InvalidArgument, "ip_pool"},
		{[]string{"read_iops_max", "12", "XXX_FakeKey", "x"}, codes.InvalidArgument, "XXX_FakeKey"},
	} {
		wantCode(t, strings.Join(c.pairs, " "), l.modify(t.Context(), id, c.pairs...), c.code, c.says)
	}
	if after := l.volume(t, id); after.QoS != before.QoS || after.Replicas != 2 {
		t.Errorf("got %+v", after)
	}
	wantCode(t, "no id", l.modify(t.Context(), "", "read_iops_max", "1"), codes.InvalidArgument, "volume id")
	wantCode(t, "absent", l.modify(t.Context(), "CSI-absent", "read_iops_max", "1"), codes.NotFound, "CSI-absent")
	l.array.Fail(simtest.Get("/app_instances/*"), sim.Fault{Status: 500})
	wantCode(t, "the array fails", l.modify(t.Context(), id, "read_iops_max", "1"), codes.Internal, id)
}

// What the array has changed before it refuses the limits is told, since it takes no replica
// away, and InvalidArgument would mean that nothing was changed. Nothing is noted of the limits.
func TestModifyWhoseLimitsAreRefusedSaysWhatChanged(t *testing.T) {
	const policy = "/app_instances/*/storage_instances/*/volumes/*/performance_policy"
	for name, class := range map[string]func(*csi.CreateVolumeRequest){
		"no limits": parameters("replica_count", "2"), "limits": parameters("replica_count", "2", "read_iops_max", "11", "iops_per_gb", "9"),
	} {
		l := start(t)
		id := l.create(t, "pvc-1", class)
		before := l.volume(t, id)
		refuse := func() {
			l.array.Array.ClearFaults()
			for _, match := range []sim.Match{simtest.Post(policy), simtest.Put(policy)} {
				l.array.Fail(match, sim.Fault{Status: 400})
			}
		}
		refuse()
		pairs := []string{"read_iops_max", "12", "iops_per_gb", "7", "replica_count", "3", "placement_policy", "all-flash"}
		wantCode(t, name, l.modify(t.Context(), id, pairs...), codes.FailedPrecondition, id, "only a part", "limits are refused")
		if after := l.volume(t, id); after.Replicas != 3 || after.PlacementPolicy != "all-flash" || after.QoS != before.QoS || after.Description != before.Description {
			t.Errorf("%s: got %+v, want the placement changed and the rest as before: %+v", name, after, before)
		}
		refuse()
		wantCode(t, name+", again", l.modify(t.Context(), id, pairs...), codes.FailedPrecondition, id, "only a part", "limits are refused")
		refuse()
		l.array.Fail(simtest.Put("/app_instances/*"), sim.Fault{Delay: time.Millisecond})
		l.array.Fail(simtest.Put("/app_instances/*"), sim.Fault{Status: 403})
		wantCode(t, name+", and its note stays", l.modify(t.Context(), id, pairs...), codes.FailedPrecondition, "could not be set back")
	}
}

// A description that is refused is not taken for refused limits: they are not sent, and
// what was changed before is told.
func TestModifyWhoseNoteIsRefusedSetsNoLimits(t *testing.T) {
	for _, c := range []struct {
		pairs  []string
		passes int // requests of a description before the one that is refused
		code   codes.Code
		says   string
		sent   int // changes
	}{
		{[]string{"iops_per_gb", "7"}, 0, codes.InvalidArgument, "refuses the request", 1},
		{[]string{"iops_per_gb", "7", "replica_count", "3"}, 0, codes.FailedPrecondition, "its placement is as asked", 2},
		{[]string{"bandwidth_per_gb", "0", "read_iops_max", "9"}, 0, codes.FailedPrecondition, "its limits are as asked", 2},
		{[]string{"iops_per_gb", "7", "bandwidth_per_gb", "0"}, 1, codes.FailedPrecondition, "its limits are as asked", 3},
	} {
		l := start(t)
		id := l.create(t, "pvc-1", parameters("replica_count", "2", "bandwidth_per_gb", "8"))
		if c.passes > 0 {
			l.array.Fail(simtest.Put("/app_instances/*"), sim.Fault{Delay: time.Millisecond, Times: c.passes})
		}
		l.array.Fail(simtest.Put("/app_instances/*"), sim.Fault{Status: 400})
		l.requests()
		wantCode(t, strings.Join(c.pairs, " "), l.modify(t.Context(), id, c.pairs...), c.code, c.says)
		l.wantRequests(t, strings.Join(c.pairs, " "), 1+c.sent)
	}
}

// Whatever the array refuses, has no room for or does not allow of replicas and placement,
// at once or after a call that was cut off, leaves the volume as it was.
func TestModifyThatIsRefusedLeavesNoLimitsAndNoNotes(t *testing.T) {
	const volume = "/app_instances/*/storage_instances/*/volumes/*"
	for name, class := range map[string]func(*csi.CreateVolumeRequest){
		"no limits": parameters("replica_count", "2"), "limits": parameters("replica_count", "2", "read_iops_max", "11", "iops_per_gb", "9"),
		"a description": parameters("replica_count", "2", "csi.storage.k8s.io/pvc/name", "data"),
	} {
		l := start(t)
		id := l.create(t, "pvc-1", class)
		before := l.volume(t, id)
		pairs := []string{"read_iops_max", "12", "iops_per_gb", "7", "replica_count", "5"}
		for _, refusal := range []struct {
			fault sim.Fault
			code  codes.Code
		}{
			{sim.Fault{Status: 503, Times: 9}, codes.Unavailable},
			{sim.Fault{Status: 507}, codes.ResourceExhausted},
			{sim.Fault{Status: 403}, codes.PermissionDenied},
		} {
			l.array.Fail(simtest.Put(volume), refusal.fault)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			err := l.modify(ctx, id, pairs...)
			cancel()
			if got := status.Code(err); got != refusal.code && (refusal.code != codes.Unavailable || got != codes.DeadlineExceeded) {
				t.Errorf("%s, HTTP %d: %v", name, refusal.fault.Status, err)
			}
			l.array.Array.ClearFaults()
		}
		wantCode(t, name, l.modify(t.Context(), id, pairs...), codes.InvalidArgument, "storage nodes")
		if after := l.volume(t, id); after.QoS != before.QoS || after.Description != before.Description {
			t.Errorf("%s: got %+v, want it as before: %+v", name, after, before)
		}
	}
}

// Wherever a call is cut off, repeating it leads to what was asked for.
func TestModifyThatIsCutOffConverges(t *testing.T) {
	const volume = "/app_instances/*/storage_instances/*/volumes/*"
	for name, match := range map[string]sim.Match{
		"look": simtest.Get("/app_instances/*"), "note": simtest.Put("/app_instances/*"), "placement": simtest.Put(volume),
		"limits": simtest.Put(volume + "/performance_policy"), "first limits": simtest.Post(volume + "/performance_policy"),
	} {
		for kind, fault := range map[string]sim.Fault{
			"lost": {LoseAnswer: true, Times: 4}, "failed": {Status: 500}, "reset": {Reset: true, Times: 4}, "slow": {Delay: time.Second}, "forbidden": {Status: 403},
		} {
			for _, limits := range []string{"0", "5"} {
				t.Run(name+" "+kind+" "+limits, func(t *testing.T) {
					t.Parallel()
					l := start(t)
					id := l.create(t, "pvc-1", parameters("replica_count", "2", "write_iops_max", limits))
					l.array.Fail(match, fault)
					for try := 0; ; try++ {
						ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
						err := l.modify(ctx, id, "replica_count", "3", "placement_policy", "all-flash", "iops_per_gb", "7", "read_iops_max", "9")
						cancel()
						if err == nil {
							break
						}
						if try > 4 {
							t.Fatal(err)
						}
						if try > 1 {
							l.array.Array.ClearFaults()
						}
					}
					l.array.Array.ClearFaults()
					v := l.volume(t, id)
					if v.Replicas != 3 || v.PlacementPolicy != "all-flash" || v.QoS.TotalIOPS != 70 || v.QoS.ReadIOPS != 9 {
						t.Errorf("got %+v", v)
					}
					if _, err := l.expand(t, id, 20*gib, 0); err != nil {
						t.Fatal(err)
					}
					if v = l.volume(t, id); v.QoS.TotalIOPS != 140 {
						t.Errorf("grown: got %+v, want 7 IOPS for each of 20 GiB", v.QoS)
					}
				})
			}
		}
	}
}

// Wherever a call is cut off that takes a limit per GiB away, repeating it leads to the
// total that was before that limit, which nothing but the volume's note tells.
func TestModifyThatTakesARateAwayAndIsCutOffConverges(t *testing.T) {
	for name, c := range map[string]struct {
		class, change []string
		want, grown   dateraclient.QoS
	}{
		"a total below": {[]string{"iops_per_gb", "7", "total_iops_max", "50"}, []string{"iops_per_gb", "0"},
			dateraclient.QoS{TotalIOPS: 50}, dateraclient.QoS{TotalIOPS: 50}},
		"a total above": {[]string{"iops_per_gb", "7", "total_iops_max", "5000"}, []string{"iops_per_gb", "0"},
			dateraclient.QoS{TotalIOPS: 5000}, dateraclient.QoS{TotalIOPS: 5000}},
		"no total": {[]string{"bandwidth_per_gb", "7", "read_iops_max", "3"}, []string{"bandwidth_per_gb", "0", "read_iops_max", "4"},
			dateraclient.QoS{ReadIOPS: 4}, dateraclient.QoS{ReadIOPS: 4}},
		"no limit at all": {[]string{"bandwidth_per_gb", "7"}, []string{"bandwidth_per_gb", "0"}, dateraclient.QoS{}, dateraclient.QoS{}},
		"another total": {[]string{"iops_per_gb", "7", "total_iops_max", "5000"}, []string{"iops_per_gb", "0", "total_iops_max", "60"},
			dateraclient.QoS{TotalIOPS: 60}, dateraclient.QoS{TotalIOPS: 60}},
		"another rate": {[]string{"iops_per_gb", "7", "total_iops_max", "5000", "bandwidth_per_gb", "9"},
			[]string{"iops_per_gb", "0", "bandwidth_per_gb", "8", "total_bandwidth_max", "100"},
			dateraclient.QoS{TotalIOPS: 5000, TotalBandwidth: 80}, dateraclient.QoS{TotalIOPS: 5000, TotalBandwidth: 100}},
	} {
		for kind, fault := range map[string]sim.Fault{"lost": {LoseAnswer: true, Times: 4}, "failed": {Status: 500}} {
			for requests := range 5 { // a look, a note, the limits, the last note, and none
				t.Run(fmt.Sprintf("%s, %s after %d", name, kind, requests), func(t *testing.T) {
					t.Parallel()
					l := start(t)
					id := l.create(t, "pvc-1", parameters(c.class...))
					if requests > 0 {
						l.array.Fail(simtest.Any("/app_instances/**"), sim.Fault{Delay: 1, Times: requests})
					}
					l.array.Fail(simtest.Any("/app_instances/**"), fault)
					ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
					defer cancel()
					_ = l.modify(ctx, id, c.change...) // it may have been cut off
					l.array.Array.ClearFaults()
					for range 2 {
						if err := l.modify(t.Context(), id, c.change...); err != nil {
							t.Fatal(err)
						}
						if got := l.volume(t, id).QoS; got != c.want {
							t.Errorf("got %+v, want %+v", got, c.want)
						}
					}
					if _, err := l.expand(t, id, 20*gib, 0); err != nil {
						t.Fatal(err)
					}
					if got := l.volume(t, id).QoS; got != c.grown {
						t.Errorf("grown: got %+v, want %+v", got, c.grown)
					}
				})
			}
		}
	}
}

// The attributes that a claim chose win over its class, and over a template.
func TestCreateWithAttributes(t *testing.T) {
	l := start(t)
	req := createRequest("pvc-1", parameters("read_iops_max", "1", "write_iops_max", "2"), mutableParameters("read_iops_max", "3", "iops_per_gb", "4"))
	for range 2 {
		if _, err := l.CreateVolume(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if got := l.volume(t, "CSI-pvc-1").QoS; got != (dateraclient.QoS{ReadIOPS: 3, WriteIOPS: 2, TotalIOPS: 40}) {
		t.Errorf("got %+v", got)
	}
	res, err := l.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
		VolumeId: "CSI-pvc-1", VolumeCapabilities: req.GetVolumeCapabilities(), Parameters: req.GetParameters(), MutableParameters: req.GetMutableParameters(),
	})
	if err != nil || res.GetConfirmed() == nil {
		t.Errorf("got %v, %v, want it confirmed", res, err)
	}
	l.api(t, "POST", "/app_templates", template("small", 10), nil)
	l.create(t, "pvc-2", parameters("template", "small", "disable_template_override", "true", "read_iops_max", "9"), mutableParameters("write_iops_max", "8"))
	if got := l.volume(t, "CSI-pvc-2").QoS; got != (dateraclient.QoS{WriteIOPS: 8}) {
		t.Errorf("beside a template: got %+v", got)
	}
	_, err = l.CreateVolume(t.Context(), createRequest("pvc-3", mutableParameters("ip_pool", "blue")))
	wantCode(t, "what cannot be changed", err, codes.InvalidArgument, "ip_pool", "total_iops_max")
}
