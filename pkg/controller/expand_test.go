package controller_test

import (
	"math"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

func (l *lab) expand(tb testing.TB, id string, required, limit int64) (*csi.ControllerExpandVolumeResponse, error) {
	tb.Helper()
	return l.ControllerExpandVolume(tb.Context(), &csi.ControllerExpandVolumeRequest{
		VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: required, LimitBytes: limit}, VolumeCapability: writer("xfs"),
	})
}

// A published volume grows, too; each call may be repeated, and a smaller one
// after a larger one changes nothing.
func TestExpandOnline(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	l.array.LogIn(t, l.target(t, id), node1)
	for _, c := range []struct {
		name            string
		required, limit int64
		want            int64
	}{
		{"grow", 20*gib + 1, 0, 21}, {"again", 20*gib + 1, 0, 21}, {"smaller", 15 * gib, 0, 21},
		{"only a limit", 0, 30 * gib, 21}, {"exact", 25 * gib, 25 * gib, 25},
	} {
		res, err := l.expand(t, id, c.required, c.limit)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if res.GetCapacityBytes() != c.want*gib || !res.GetNodeExpansionRequired() {
			t.Errorf("%s: got %v, want %d GiB and node expansion", c.name, res, c.want)
		}
	}
	promise, err := l.publish(t.Context(), id, node1)
	if err != nil || promise.Target.Bytes != 25*gib {
		t.Errorf("published again: got %+v, %v, want 25 GiB", promise, err)
	}
}

func TestBadExpandRequests(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	for _, c := range []struct {
		name            string
		id              string
		required, limit int64
		code            codes.Code
		says            string
	}{
		{"absent", "CSI-absent", 20 * gib, 0, codes.NotFound, "CSI-absent"},
		{"absurd", id, math.MaxInt64, 0, codes.OutOfRange, "262144"},
		{"negative", id, -1, 0, codes.InvalidArgument, "negative"},
		{"nothing", id, 0, 0, codes.InvalidArgument, "capacity_range"},
		{"limit below required", id, 20 * gib, 19 * gib, codes.InvalidArgument, "limit"},
		{"limit below the volume", id, 5 * gib, 9 * gib, codes.OutOfRange, "10 GiB"},
		{"no whole GiB", id, 20*gib + 1, 20*gib + 2, codes.OutOfRange, "whole GiB"},
	} {
		_, err := l.expand(t, c.id, c.required, c.limit)
		wantCode(t, c.name, err, c.code, c.says)
	}
	_, err := l.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: id})
	wantCode(t, "no range", err, codes.InvalidArgument, "capacity_range")
	_, err = l.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
		VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 20 * gib}, VolumeCapability: writer("ntfs"),
	})
	wantCode(t, "foreign file system", err, codes.InvalidArgument, "ntfs")
	if size := l.objects(t)[0].StorageInstances[0].Volumes[0].Size; size != 10 {
		t.Errorf("the volume has %d GiB, want 10", size)
	}
}

// Growing takes two requests, and one more for limits that follow the size.
func TestExpandTakesTwoRequests(t *testing.T) {
	l := start(t)
	plain, limited := l.create(t, "pvc-1"), l.create(t, "pvc-2", parameters("iops_per_gb", "10", "total_bandwidth_max", "5"))
	l.requests()
	for id, most := range map[string]int{plain: 2, limited: 3} {
		if _, err := l.expand(t, id, 20*gib, 0); err != nil {
			t.Fatal(err)
		}
		l.wantRequests(t, "expand", most)
		if _, err := l.expand(t, id, 20*gib, 0); err != nil {
			t.Fatal(err)
		}
		l.wantRequests(t, "expand again", 1)
	}
}

func TestLimitsGrowWithTheVolume(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1", parameters("iops_per_gb", "10", "total_iops_max", "250", "bandwidth_per_gb", "3", "read_iops_max", "7"))
	for _, c := range []struct {
		size int64
		want dateraclient.QoS
	}{
		{10, dateraclient.QoS{ReadIOPS: 7, TotalIOPS: 100, TotalBandwidth: 30}},
		{20, dateraclient.QoS{ReadIOPS: 7, TotalIOPS: 200, TotalBandwidth: 60}},
		{40, dateraclient.QoS{ReadIOPS: 7, TotalIOPS: 250, TotalBandwidth: 120}},
	} {
		l.array.Fail(simtest.Put("/app_instances/*/storage_instances/*/volumes/*/performance_policy"), sim.Fault{Status: 500})
		if _, err := l.expand(t, id, c.size*gib, 0); err != nil && c.size > 10 {
			_, err = l.expand(t, id, c.size*gib, 0) // the volume has its size, and the limits not yet
			if err != nil {
				t.Fatal(err)
			}
		}
		l.array.Array.ClearFaults()
		if v := l.volume(t, id); v.QoS != c.want {
			t.Errorf("%d GiB: got %+v, want %+v", c.size, v.QoS, c.want)
		}
	}
}

// A growth that failed may be asked for again with a smaller size.
func TestExpandToLessAfterAFailure(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	l.array.Fail(simtest.Put("/app_instances/*/storage_instances/*/volumes/*"), sim.Fault{Status: 507,
		Body: `{"name":"InsufficientStorageError","code":1,"http":507,"message":"full"}`})
	_, err := l.expand(t, id, 200*gib, 0)
	wantCode(t, "no room", err, codes.ResourceExhausted, "full")
	res, err := l.expand(t, id, 12*gib, 0)
	if err != nil || res.GetCapacityBytes() != 12*gib || !res.GetNodeExpansionRequired() {
		t.Errorf("got %v, %v, want 12 GiB", res, err)
	}
}
