package controller_test

import (
	"flag"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

var listedCount = flag.Int("listed", 6000, "app instances to list; the long run takes 100000")

// clientTakes is what a gRPC client takes in one message unless it says otherwise.
const clientTakes = 4 << 20

// An array that is full of volumes is listed in answers that a client takes, with
// one request for each and a memory that does not grow with their number.
func TestManyAppInstancesAreListedInBoundedMemory(t *testing.T) {
	l := start(t, func(c *sim.Config) {
		c.Limits.AppInstances, c.Limits.StorageInstances, c.Limits.Volumes = -1, -1, -1
	})
	l.array.Fill(t, *listedCount)
	ill := fmt.Sprintf("CSI-pvc-%06d", *listedCount-1) // the last one
	if err := l.array.Array.SetHealth("/root", ill, sim.Health{Storage: "replicas_degraded"}); err != nil {
		t.Fatal(err)
	}
	before := heap()
	within := func(what string) {
		if grown := int64(heap()) - int64(before); grown > 32<<20 {
			t.Errorf("%s: %d MiB more in use with %d app instances", what, grown>>20, *listedCount)
		}
	}
	l.requests()

	n, last := 0, ""
	for token, more := "", true; more; more = token != "" {
		res := l.list(t, 0, token)
		if size := proto.Size(res); len(res.GetEntries()) >= dateraclient.MaxPage || size > clientTakes {
			t.Errorf("%d entries of %d bytes at once", len(res.GetEntries()), size)
		}
		for _, e := range res.GetEntries() {
			if id := e.GetVolume().GetVolumeId(); id > last {
				n, last = n+1, id
				continue
			}
			t.Fatalf("%s came after %s", e.GetVolume().GetVolumeId(), last)
		}
		l.wantRequests(t, "a page of ListVolumes", 1)
		token = res.GetNextToken()
		within("ListVolumes")
	}
	if n != *listedCount {
		t.Errorf("%d volumes are listed, want %d", n, *listedCount)
	}

	// Nothing to tell of all but one: pages may be empty, but no call reads on and on.
	var found []string
	for token, more := "", true; more; more = token != "" {
		res, err := l.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{StartingToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range res.GetEntries() {
			found = append(found, h.GetVolumeId())
		}
		l.wantRequests(t, "a page of ControllerListVolumeHealth", 6)
		token = res.GetNextToken()
		within("ControllerListVolumeHealth")
	}
	if len(found) != 1 || found[0] != ill {
		t.Errorf("ill are %v, want %s", found, ill)
	}

	ids, next := l.listSnapshots(t, &csi.ListSnapshotsRequest{})
	if len(ids) > 0 || next != "" {
		t.Errorf("snapshots %v and token %q, where there are none", ids, next)
	}
	l.wantRequests(t, "ListSnapshots", *listedCount/(dateraclient.MaxPage-1)+1)
	within("ListSnapshots")
}

// Volumes that many nodes share make long entries; an answer of a thousand of those
// would be more than a client takes, and the list would fail for ever.
func TestAnswersFitAClient(t *testing.T) {
	const volumes, nodes = 100, 200
	l := start(t)
	var admitted []map[string]string
	for i := range nodes {
		iqn := fmt.Sprintf("iqn.1993-08.org.debian:%0200d", i)
		l.api(t, http.MethodPost, "/initiators", map[string]any{"id": iqn, "name": fmt.Sprint("host-", i)}, nil)
		admitted = append(admitted, map[string]string{"path": "/initiators/" + iqn})
	}
	for i := range volumes {
		l.api(t, http.MethodPost, "/app_instances", map[string]any{
			"name": fmt.Sprintf("CSI-pvc-%03d", i), "create_mode": "kubernetes",
			"storage_instances": []map[string]any{{
				"name": "storage-1", "acl_policy": map[string]any{"initiators": admitted},
				"volumes": []map[string]any{{"name": "volume-1", "size": 1, "replica_count": 1}},
			}},
		}, nil)
	}
	n, pages := 0, 0
	for token, more := "", true; more; more = token != "" {
		res := l.list(t, 0, token)
		if size := proto.Size(res); size > clientTakes {
			t.Errorf("page %d has %d bytes, and a client takes %d", pages, size, clientTakes)
		}
		for _, e := range res.GetEntries() {
			if got := len(e.GetStatus().GetPublishedNodeIds()); got != nodes || !strings.HasSuffix(e.GetVolume().GetVolumeId(), fmt.Sprintf("%03d", n)) {
				t.Errorf("entry %d is %s with %d nodes", n, e.GetVolume().GetVolumeId(), got)
			}
			n++
		}
		pages, token = pages+1, res.GetNextToken()
	}
	if n != volumes || pages != 3 {
		t.Errorf("%d volumes in %d pages, want %d in 3", n, pages, volumes)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
