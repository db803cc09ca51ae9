package controller_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

// A deletion by mistake can be undone: all that docs/operate-retained-volumes.md
// says is done here.
func TestRetainedVolumesAreListedRestoredAndPurged(t *testing.T) {
	l := start(t)
	class := parameters("deletionPolicy", "retain-offline", "csi.storage.k8s.io/pvc/name", "data")
	id := l.create(t, "pvc-1", class)
	made := l.volume(t, id)
	l.array.Fail(simtest.Put("/app_instances/*"), sim.Fault{LoseAnswer: true})
	for range 2 {
		if err := l.delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	kept := l.objects(t)
	if len(kept) != 1 || !strings.HasPrefix(kept[0].Name, "RETAINED-") || !strings.HasSuffix(kept[0].Name, "-"+id) || kept[0].AdminState != "offline" ||
		!strings.HasPrefix(kept[0].Descr, "deleted 2") || !strings.Contains(kept[0].Descr, " was "+id) || kept[0].StorageInstances[0].Volumes[0].UUID != made.UUID {
		t.Fatalf("got %+v", kept)
	}
	res, err := l.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	if err != nil || len(res.GetEntries()) != 0 {
		t.Errorf("it is listed: %v, %v", res, err)
	}
	_, err = l.publish(t.Context(), id, node1)
	wantCode(t, "publish", err, codes.NotFound, id)

	l.api(t, http.MethodPut, "/app_instances/"+kept[0].Name, map[string]any{"name": id, "admin_state": "online"}, nil)
	promise, err := l.publish(t.Context(), id, node1)
	if err != nil || promise.Target.Serial != made.UUID {
		t.Errorf("restored: got %+v, %v", promise, err)
	}
	if err = l.unpublish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	if err = l.delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	again := l.objects(t)
	if len(again) != 1 || !strings.HasPrefix(again[0].Name, "RETAINED-") {
		t.Fatalf("deleted again: got %+v, want it retained again", again)
	}
	l.api(t, http.MethodDelete, "/app_instances/"+again[0].Name, nil, nil)
	if n := len(l.objects(t)); n != 0 {
		t.Errorf("purged: %d are left", n)
	}
	l.create(t, "pvc-1", class)
}

func TestRetainedVolumesOfOneNameDoNotMeet(t *testing.T) {
	l := start(t)
	long := strings.Repeat("n", 60)
	for range 3 { // the clock has seconds: two deletions in one of them are told to wait
		id := l.create(t, long, parameters("deletionPolicy", "retain-offline"))
		for {
			err := l.delete(t.Context(), id)
			if err == nil {
				break
			}
			wantCode(t, "in the same second", err, codes.Aborted, "RETAINED-")
		}
	}
	if n := len(l.objects(t)); n != 3 {
		t.Errorf("%d are there, want 3", n)
	}
}

// A policy that the array does not know of is none: a class that demands it does
// not take a volume without.
func TestThePolicyIsPartOfTheVolume(t *testing.T) {
	l := start(t)
	l.create(t, "pvc-1")
	_, err := l.CreateVolume(t.Context(), createRequest("pvc-1", parameters("deletionPolicy", "retain-offline")))
	wantCode(t, "made without", err, codes.AlreadyExists, "retain-offline")
	id := l.create(t, "pvc-2", parameters("deletionPolicy", "retain-offline"))
	l.snap(t, "snapshot-1", id)
	wantCode(t, "with a snapshot", l.delete(t.Context(), id), codes.FailedPrecondition, "snapshots")
	if _, err = l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	if err = l.deleteSnapshot(t.Context(), id+":"+l.stored(t, id)[0].UTCTS); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "published", l.delete(t.Context(), id), codes.FailedPrecondition, node1)
	if v := l.volume(t, id); !v.Online {
		t.Error("it was taken offline all the same")
	}
}
