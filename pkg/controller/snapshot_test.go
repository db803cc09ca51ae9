package controller_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
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
)

func snapshotRequest(name, source string, pairs ...string) *csi.CreateSnapshotRequest {
	req := &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: source, Parameters: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		req.Parameters[pairs[i]] = pairs[i+1]
	}
	return req
}

// snap makes a snapshot that must come to be.
func (l *lab) snap(tb testing.TB, name, source string, pairs ...string) *csi.Snapshot {
	tb.Helper()
	res, err := l.CreateSnapshot(tb.Context(), snapshotRequest(name, source, pairs...))
	if err != nil {
		tb.Fatal(err)
	}
	return res.GetSnapshot()
}

func (l *lab) deleteSnapshot(ctx context.Context, id string) error {
	_, err := l.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: id})
	return err
}

// stored are the snapshots that the array has of a volume.
func (l *lab) stored(tb testing.TB, id string) []storedSnapshot {
	tb.Helper()
	var list []storedSnapshot
	l.api(tb, http.MethodGet, "/app_instances/"+id+"/storage_instances/storage-1/volumes/volume-1/snapshots", nil, &list)
	return list
}

type storedSnapshot struct {
	UTCTS     string `json:"utc_ts"`
	UUID      string `json:"uuid"`
	Type      string `json:"type"`
	Providers []struct {
		UUID string `json:"uuid"`
	} `json:"remote_providers"`
}

func TestSnapshotIsOneRequestAndALook(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	l.requests()
	l.snap(t, "snapshot-1", id)
	if got := l.requests(); len(got) != 2 || !strings.HasPrefix(got[0], "POST ") || !strings.HasPrefix(got[1], "GET /app_instances/") {
		t.Errorf("got %v, want one POST and a look at the volume", got)
	}
}

func TestEachAnswerOfCreateSnapshotIsTheSame(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	first := l.snap(t, "snapshot-1", id)
	stored := l.stored(t, id)
	if len(stored) != 1 {
		t.Fatalf("the array has %v", stored)
	}
	whole, fraction, _ := strings.Cut(stored[0].UTCTS, ".")
	made := fmt.Sprintf("%d.%09d", first.GetCreationTime().GetSeconds(), first.GetCreationTime().GetNanos())
	got := []any{first.GetSnapshotId(), first.GetSourceVolumeId(), first.GetSizeBytes(), first.GetReadyToUse(), made}
	want := []any{id + ":" + stored[0].UTCTS, id, 10 * gib, true, whole + "." + (fraction + "000000000")[:9]}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("snapshot (-got +want):\n%s", diff)
	}
	for range 3 {
		if again := l.snap(t, "snapshot-1", id); again.String() != first.String() {
			t.Errorf("again: got %v, want %v", again, first)
		}
	}
	res, err := l.GetSnapshot(t.Context(), &csi.GetSnapshotRequest{SnapshotId: first.GetSnapshotId()})
	if err != nil || res.GetSnapshot().String() != first.String() {
		t.Errorf("GetSnapshot: got %v, %v, want %v", res, err, first)
	}
	if n := len(l.stored(t, id)); n != 1 {
		t.Errorf("%d snapshots, want 1", n)
	}
}

// What the vendor's driver made is found by its name.
func TestSnapshotsOfTheVendorsDriverAreOurs(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	var made storedSnapshot
	l.api(t, http.MethodPost, "/app_instances/"+id+"/storage_instances/storage-1/volumes/volume-1/snapshots",
		map[string]any{"uuid": "bc042c53-3aca-54bd-a76e-db8eafcae24c"}, &made)
	if got := l.snap(t, "a", id).GetSnapshotId(); got != id+":"+made.UTCTS {
		t.Errorf("got %s, want the one that is there, %s", got, made.UTCTS)
	}
}

func TestANameIsThatOfOneSnapshot(t *testing.T) {
	l := start(t)
	one, two := l.create(t, "pvc-1"), l.create(t, "pvc-2")
	first := l.snap(t, "snapshot-1", one)
	_, err := l.CreateSnapshot(t.Context(), snapshotRequest("snapshot-1", two))
	wantCode(t, "of another volume", err, codes.AlreadyExists, first.GetSnapshotId())
	if n := len(l.stored(t, two)); n != 0 {
		t.Errorf("the second volume has %d snapshots", n)
	}
	if err := l.deleteSnapshot(t.Context(), first.GetSnapshotId()); err != nil {
		t.Fatal(err)
	}
	l.snap(t, "snapshot-1", two)
	if err := l.deleteSnapshot(t.Context(), l.snap(t, "snapshot-2", one).GetSnapshotId()); err != nil {
		t.Fatal(err)
	}
	if err := l.delete(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	l.snap(t, "snapshot-2", two)
}

// FM 33 for snapshots: however an answer is lost, there is one snapshot, and no
// code says that there is none when there may be.
func TestLostAnswersMakeOneSnapshot(t *testing.T) {
	for name, fault := range map[string]sim.Fault{
		"reset after the work": {LoseAnswer: true}, "half an answer": {Truncate: true}, "failed": {Status: 500}, "refused": {Status: 400},
		"locked out": {Status: 401, Times: 2}, "HTML": {HTML: true}, "forbidden": {Status: 403},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := start(t)
			id := l.create(t, "pvc-1")
			l.array.Fail(simtest.Post("/app_instances/**"), fault)
			l.array.Fail(simtest.Get("/app_instances/*"), sim.Fault{Status: 403})
			_, err := l.CreateSnapshot(t.Context(), snapshotRequest("snapshot-1", id))
			if err == nil || final(err) {
				t.Errorf("got %v, want an error that is not final: nobody could look", err)
			}
			l.array.Array.ClearFaults()
			l.snap(t, "snapshot-1", id)
			if n := len(l.stored(t, id)); n != 1 {
				t.Errorf("%d snapshots, want 1", n)
			}
		})
	}
}

func TestRefusedSnapshotsHaveTheArraysWords(t *testing.T) {
	for _, c := range []struct {
		fault sim.Fault
		code  codes.Code
	}{
		{sim.Fault{Status: 400, Body: `{"name":"InvalidRequestError","code":1,"http":400,"message":"the array says no"}`}, codes.FailedPrecondition},
		{sim.Fault{Status: 403, Body: `{"name":"PermissionDeniedError","code":1,"http":403,"message":"the array says no"}`}, codes.PermissionDenied},
		{sim.Fault{Status: 507, Body: `{"name":"InsufficientStorageError","code":1,"http":507,"message":"the array says no"}`}, codes.ResourceExhausted},
		{sim.Fault{Status: 500, Body: `{"name":"InternalError","code":1,"http":500,"message":"the array says no"}`}, codes.Unavailable},
	} {
		l := start(t)
		id := l.create(t, "pvc-1")
		l.array.Fail(simtest.Post("/app_instances/**"), c.fault)
		_, err := l.CreateSnapshot(t.Context(), snapshotRequest("snapshot-1", id))
		wantCode(t, "create snapshot", err, c.code, "snapshot-1", id, "the array says no")
	}
	l := start(t, func(cfg *sim.Config) { cfg.Limits.SnapshotsPerVolume = 1 })
	id := l.create(t, "pvc-1")
	l.snap(t, "snapshot-1", id)
	_, err := l.CreateSnapshot(t.Context(), snapshotRequest("snapshot-2", id))
	wantCode(t, "one too many", err, codes.ResourceExhausted, "limit of 1")
}

func TestBadSnapshotRequests(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	l.requests()
	for _, c := range []struct {
		name string
		req  *csi.CreateSnapshotRequest
		says string
	}{
		{"no name", snapshotRequest("", id), "name is missing"},
		{"slash", snapshotRequest("a/b", id), "slash"},
		{"no source", snapshotRequest("s", ""), "source_volume_id"},
		{"a place", &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: id, AccessibilityRequirements: &csi.TopologyRequirement{}}, "accessibility_requirements"},
		{"bad source", snapshotRequest("s", "a:b"), "source_volume_id"},
		{"unknown key", snapshotRequest("s", id, "retention", "3"), "remote_provider_uuid"},
		{"unknown type", snapshotRequest("s", id, "type", "tape"), "local_and_remote"},
		{"a type without a provider", snapshotRequest("s", id, "type", "remote"), "needs a remote_provider_uuid"},
		{"a provider that is no uuid", snapshotRequest("s", id, "remote_provider_uuid", "s3"), "not a uuid"},
		{"two providers", snapshotRequest("s", id, "remote_provider_uuid", "00000000-0000-0000-0000-000000000001", "remote_provider", "00000000-0000-0000-0000-000000000002"), "differ"},
	} {
		_, err := l.CreateSnapshot(t.Context(), c.req)
		wantCode(t, c.name, err, codes.InvalidArgument, c.says)
	}
	if got := l.requests(); len(got) != 0 {
		t.Errorf("bad requests reached the array: %v", got)
	}
	_, err := l.CreateSnapshot(t.Context(), snapshotRequest("s", "CSI-absent"))
	wantCode(t, "absent source", err, codes.NotFound, "CSI-absent")
	_, err = l.CreateSnapshot(t.Context(), snapshotRequest("s", "nowhere/CSI-absent"))
	wantCode(t, "absent backend", err, codes.FailedPrecondition, "nowhere")
	_, err = l.CreateSnapshot(t.Context(), snapshotRequest("s", id, "remote_provider_uuid", "00000000-0000-0000-0000-000000000001"))
	wantCode(t, "absent provider", err, codes.FailedPrecondition, "00000000-0000-0000-0000-000000000001")
}

func TestRemoteSnapshots(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	var provider struct {
		UUID string `json:"uuid"`
	}
	l.api(t, http.MethodPost, "/remote_providers", map[string]any{
		"remote_type": "AWS S3", "label": "backup", "host": "s3.example.com", "access_key": "key", "secret_key": "secret",
	}, &provider)
	l.snap(t, "snapshot-1", id, "remote_provider_uuid", provider.UUID, "type", "local_and_remote")
	l.snap(t, "snapshot-2", id, "remote_provider", provider.UUID, "type", "local_and_remote", "csi.storage.k8s.io/volumesnapshot/name", "x")
	for _, s := range l.stored(t, id) {
		if s.Type != "local_and_remote" || len(s.Providers) != 1 || s.Providers[0].UUID != provider.UUID {
			t.Errorf("got %+v", s)
		}
	}
}

// Products before 3.2 know neither types nor providers.
func TestSnapshotsOfOlderProducts(t *testing.T) {
	l := start(t, func(cfg *sim.Config) { cfg.SWVersion = "3.1.0.0" })
	id := l.create(t, "pvc-1")
	l.snap(t, "snapshot-1", id, "type", "local")
	_, err := l.CreateSnapshot(t.Context(), snapshotRequest("s", id, "remote_provider_uuid", "00000000-0000-0000-0000-000000000001"))
	wantCode(t, "a provider", err, codes.FailedPrecondition, "remote_provider_uuid")
}

// A snapshot is ready when the array says so: a call waits some seconds, and then
// answers what is true.
func TestASnapshotIsReadyWhenItIsAvailable(t *testing.T) {
	now := time.Now()
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	l := start(t, func(cfg *sim.Config) { cfg.SnapshotDelay, cfg.Clock = time.Hour, clock })
	id := l.create(t, "pvc-1")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	res, err := l.CreateSnapshot(ctx, snapshotRequest("snapshot-1", id))
	if err != nil || res.GetSnapshot().GetReadyToUse() {
		t.Fatalf("got %v, %v, want one that is not ready", res, err)
	}
	_, err = l.CreateVolume(t.Context(), createRequest("pvc-2", fromSnapshot(res.GetSnapshot().GetSnapshotId())))
	wantCode(t, "restored too early", err, codes.Unavailable, "not ready")
	mu.Lock()
	now = now.Add(2 * time.Hour)
	mu.Unlock()
	if later := l.snap(t, "snapshot-1", id); !later.GetReadyToUse() || later.GetSnapshotId() != res.GetSnapshot().GetSnapshotId() {
		t.Errorf("got %v, want the same and ready", later)
	}

	slow := start(t, func(cfg *sim.Config) { cfg.SnapshotDelay = 200 * time.Millisecond })
	if s := slow.snap(t, "snapshot-1", slow.create(t, "pvc-1")); !s.GetReadyToUse() {
		t.Errorf("got %v, want it waited for", s)
	}
}

func TestDeleteSnapshotIsSafeToRepeat(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	snapshot := l.snap(t, "snapshot-1", id).GetSnapshotId()
	kept := l.snap(t, "snapshot-2", id).GetSnapshotId()
	for _, gone := range []string{
		snapshot, snapshot, "reallyfakesnapshotid", id + ":1.5", "CSI-absent:1.5", id, "CSI-absent:" + strings.TrimPrefix(kept, id+":"),
	} {
		if err := l.deleteSnapshot(t.Context(), gone); err != nil {
			t.Errorf("%s: %v", gone, err)
		}
	}
	if stored := l.stored(t, id); len(stored) != 1 || id+":"+stored[0].UTCTS != kept {
		t.Errorf("left are %v, want %s", stored, kept)
	}
	for name, bad := range map[string]string{"missing": "", "a path": "/app_instances/x/snapshots/1.5", "dots": "a..b:1.5"} {
		wantCode(t, name, l.deleteSnapshot(t.Context(), bad), codes.InvalidArgument, "snapshot id")
	}
	wantCode(t, "absent backend", l.deleteSnapshot(t.Context(), "nowhere/"+kept), codes.FailedPrecondition, "nowhere")
	l.array.Fail(simtest.Delete("/app_instances/**"), sim.Fault{Status: 400,
		Body: `{"name":"InvalidRequestError","code":1,"http":400,"message":"the snapshot has clones"}`})
	wantCode(t, "the array keeps it", l.deleteSnapshot(t.Context(), kept), codes.FailedPrecondition, kept, "has clones")
}

// FM 4: while an array takes its time to delete a snapshot, its volume is fenced and admitted.
func TestASnapshotThatIsBeingDeletedKeepsNoPodFromMoving(t *testing.T) {
	made := start(t)
	id := made.create(t, "pvc-1")
	snapshot := made.snap(t, "snapshot-1", id).GetSnapshotId()
	if _, err := made.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	l, until, release := made.gated(t, http.MethodDelete)
	done := until(func() error { return l.deleteSnapshot(t.Context(), snapshot) })
	wantCode(t, "the same deletion", l.deleteSnapshot(t.Context(), snapshot), codes.Aborted, snapshot)
	if err := l.unpublish(t.Context(), id, node1); err != nil {
		t.Errorf("unpublish: %v", err)
	}
	if _, err := l.publish(t.Context(), id, node2); err != nil {
		t.Errorf("publish: %v", err)
	}
	release()
	if err := <-done; err != nil {
		t.Errorf("delete: %v", err)
	}
}

// Clones do not need their snapshot: the array lets it go, and they keep the data.
func TestDeleteSnapshotOfAClone(t *testing.T) {
	l := start(t)
	snapshot := l.snap(t, "snapshot-1", l.create(t, "pvc-1")).GetSnapshotId()
	clone := l.create(t, "pvc-2", fromSnapshot(snapshot))
	if err := l.deleteSnapshot(t.Context(), snapshot); err != nil {
		t.Fatal(err)
	}
	if again := l.create(t, "pvc-2", fromSnapshot(snapshot)); again != clone {
		t.Errorf("created again: got %s, want %s", again, clone)
	}
}

// FM 12: no volume is deleted under its snapshots, whoever made them, nor when
// nobody knows whether there are any.
func TestDeleteNeverTakesSnapshotsAlong(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	mine := l.snap(t, "snapshot-1", id).GetSnapshotId()
	l.snapshot(t, id)
	wantCode(t, "two snapshots", l.delete(t.Context(), id), codes.FailedPrecondition, mine, l.stored(t, id)[1].UTCTS)
	for _, s := range l.stored(t, id) {
		if err := l.deleteSnapshot(t.Context(), id+":"+s.UTCTS); err != nil {
			t.Fatal(err)
		}
	}
	l.array.Fail(simtest.Get("/app_instances/*"), sim.Fault{Status: 500})
	if err := l.delete(t.Context(), id); err == nil {
		t.Error("deleted without a look")
	}
	if err := l.delete(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// FM 12: while a volume is deleted, nobody makes a snapshot of it, and while one is
// made, nobody deletes the volume.
func TestDeleteAndSnapshotExcludeEachOther(t *testing.T) {
	l := start(t)
	for i := range 20 {
		id := l.create(t, fmt.Sprint("pvc-", i))
		var wait sync.WaitGroup
		var snapErr, deleteErr error
		wait.Go(func() { _, snapErr = l.CreateSnapshot(t.Context(), snapshotRequest(fmt.Sprint("s-", i), id)) })
		wait.Go(func() { deleteErr = l.delete(t.Context(), id) })
		wait.Wait()
		switch {
		case deleteErr == nil && snapErr == nil:
			t.Fatal("both succeeded")
		case deleteErr == nil && !slices.Contains([]codes.Code{codes.Aborted, codes.NotFound}, status.Code(snapErr)):
			t.Errorf("the volume is gone, and the snapshot has %v", snapErr)
		case deleteErr != nil && !slices.Contains([]codes.Code{codes.Aborted, codes.FailedPrecondition}, status.Code(deleteErr)):
			t.Errorf("the volume is not gone: %v", deleteErr)
		}
	}
}

// A volume that the array is still deleting gets no snapshot, and then is gone.
func TestSnapshotOfAVolumeBeingDeleted(t *testing.T) {
	now := time.Now()
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	l := start(t, func(cfg *sim.Config) { cfg.DeleteDelay, cfg.Clock = time.Minute, clock })
	id := l.create(t, "pvc-1")
	l.api(t, http.MethodPut, "/app_instances/"+id, map[string]any{"admin_state": "offline"}, nil)
	l.api(t, http.MethodDelete, "/app_instances/"+id, nil, nil)
	_, err := l.CreateSnapshot(t.Context(), snapshotRequest("snapshot-1", id))
	wantCode(t, "in the meantime", err, codes.FailedPrecondition, "being deleted")
	mu.Lock()
	now = now.Add(2 * time.Minute)
	mu.Unlock()
	_, err = l.CreateSnapshot(t.Context(), snapshotRequest("snapshot-1", id))
	wantCode(t, "in the end", err, codes.NotFound, id)
}

func (l *lab) listSnapshots(tb testing.TB, req *csi.ListSnapshotsRequest) (ids []string, next string) {
	tb.Helper()
	res, err := l.ListSnapshots(tb.Context(), req)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range res.GetEntries() {
		ids = append(ids, e.GetSnapshot().GetSnapshotId())
	}
	return ids, res.GetNextToken()
}

func TestListSnapshotsByIDAndBySource(t *testing.T) {
	l := start(t)
	one, two := l.create(t, "pvc-1"), l.create(t, "pvc-2")
	var ids []string
	for i := range 3 {
		ids = append(ids, l.snap(t, fmt.Sprint("a", i), one).GetSnapshotId())
	}
	other := l.snap(t, "b", two).GetSnapshotId()
	for name, c := range map[string]struct {
		req  *csi.ListSnapshotsRequest
		want []string
	}{
		"id":                    {&csi.ListSnapshotsRequest{SnapshotId: ids[1]}, ids[1:2]},
		"id and its source":     {&csi.ListSnapshotsRequest{SnapshotId: ids[1], SourceVolumeId: one}, ids[1:2]},
		"id and another source": {&csi.ListSnapshotsRequest{SnapshotId: ids[1], SourceVolumeId: two}, nil},
		"absent id":             {&csi.ListSnapshotsRequest{SnapshotId: one + ":1.5"}, nil},
		"foreign id":            {&csi.ListSnapshotsRequest{SnapshotId: "none-of-ours"}, nil},
		"source":                {&csi.ListSnapshotsRequest{SourceVolumeId: one}, ids},
		"other source":          {&csi.ListSnapshotsRequest{SourceVolumeId: two}, []string{other}},
		"absent source":         {&csi.ListSnapshotsRequest{SourceVolumeId: "CSI-absent"}, nil},
		"foreign source":        {&csi.ListSnapshotsRequest{SourceVolumeId: "none:of:ours"}, nil},
		"all":                   {&csi.ListSnapshotsRequest{}, append(slices.Clone(ids), other)},
	} {
		got, next := l.listSnapshots(t, c.req)
		if diff := cmp.Diff(got, c.want); diff != "" || next != "" {
			t.Errorf("%s: next %q (-got +want):\n%s", name, next, diff)
		}
	}
	got, next := l.listSnapshots(t, &csi.ListSnapshotsRequest{SourceVolumeId: one, MaxEntries: 2})
	rest, end := l.listSnapshots(t, &csi.ListSnapshotsRequest{SourceVolumeId: one, MaxEntries: 2, StartingToken: next})
	if diff := cmp.Diff(append(got, rest...), ids); diff != "" || len(got) != 2 || end != "" {
		t.Errorf("in two pages: %s", diff)
	}
	for name, c := range map[string]struct {
		req  *csi.ListSnapshotsRequest
		code codes.Code
	}{
		"token":    {&csi.ListSnapshotsRequest{StartingToken: "invalid-token"}, codes.Aborted},
		"no key":   {&csi.ListSnapshotsRequest{StartingToken: "@1:" + one}, codes.Aborted},
		"negative": {&csi.ListSnapshotsRequest{MaxEntries: -1}, codes.InvalidArgument},
		"path":     {&csi.ListSnapshotsRequest{SnapshotId: "/app_instances/x"}, codes.InvalidArgument},
		"control":  {&csi.ListSnapshotsRequest{SourceVolumeId: "a\nb"}, codes.InvalidArgument},
		"backend":  {&csi.ListSnapshotsRequest{SourceVolumeId: "nowhere/CSI-a"}, codes.FailedPrecondition},
	} {
		_, err := l.ListSnapshots(t.Context(), c.req)
		wantCode(t, name, err, c.code)
	}
	l.array.Fail(simtest.Get("/app_instances/**"), sim.Fault{Status: 500, Times: -1})
	for _, req := range []*csi.ListSnapshotsRequest{{}, {SourceVolumeId: one}, {SnapshotId: ids[0]}} {
		if _, err := l.ListSnapshots(t.Context(), req); err == nil {
			t.Errorf("%v: an array that fails has no snapshots", req)
		}
	}
}

// Tokens outlive what is made and deleted between the pages: what is there all the
// time is listed exactly once.
func TestPagesOfSnapshotsWhileTheyChange(t *testing.T) {
	for _, size := range []int32{1, 2, 3, 7, 100} {
		l := start(t)
		var volumes, stay []string
		for v := range 5 {
			volumes = append(volumes, l.create(t, fmt.Sprintf("pvc-%d", v)))
			for s := range v {
				stay = append(stay, l.snap(t, fmt.Sprintf("s-%d-%d", v, s), volumes[v]).GetSnapshotId())
			}
		}
		var got []string
		for page, token := 0, ""; ; page++ {
			ids, next := l.listSnapshots(t, &csi.ListSnapshotsRequest{MaxEntries: size, StartingToken: token})
			if len(ids) > int(size) || len(ids) == 0 {
				t.Fatalf("pages of %d: got one of %d", size, len(ids))
			}
			got = append(got, ids...)
			if token = next; token == "" {
				break
			}
			l.create(t, fmt.Sprintf("a-early-%d", page)) // before those that were listed
			gone := l.create(t, fmt.Sprintf("zz-%d", page))
			if err := l.delete(t.Context(), gone); err != nil {
				t.Fatal(err)
			}
			if page%2 == 1 { // the very one that the token names
				last := ids[len(ids)-1]
				if err := l.deleteSnapshot(t.Context(), last); err != nil {
					t.Fatal(err)
				}
			}
		}
		if diff := cmp.Diff(got, stay); diff != "" {
			t.Errorf("pages of %d (-got +want):\n%s", size, diff)
		}
	}
}

func TestListSnapshotsReadsAPageWithOneRequest(t *testing.T) {
	l := start(t)
	for i := range 20 {
		l.snap(t, fmt.Sprint("s-", i), l.create(t, fmt.Sprintf("pvc-%02d", i)))
	}
	l.requests()
	_, next := l.listSnapshots(t, &csi.ListSnapshotsRequest{MaxEntries: 10})
	l.wantRequests(t, "the first page", 1)
	l.listSnapshots(t, &csi.ListSnapshotsRequest{MaxEntries: 10, StartingToken: next})
	l.wantRequests(t, "the second page", 2) // the volume that the token names, and those after it
}

func TestGetSnapshotOfNothing(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	for name, c := range map[string]struct {
		id   string
		code codes.Code
	}{
		"missing": {"", codes.InvalidArgument}, "foreign": {"fake", codes.NotFound}, "no volume": {"CSI-absent:1.5", codes.NotFound},
		"no snapshot": {id + ":1.5", codes.NotFound}, "no backend": {"nowhere/CSI-a:1.5", codes.FailedPrecondition},
	} {
		_, err := l.GetSnapshot(t.Context(), &csi.GetSnapshotRequest{SnapshotId: c.id})
		wantCode(t, name, err, c.code)
	}
}

// Snapshots of a whole app instance have keys of their own: none of them is taken
// for one of the volume, and none is lost with it.
func TestSnapshotsOfTheWholeAppInstance(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	var group storedSnapshot
	l.api(t, http.MethodPost, "/app_instances/"+id+"/snapshots", map[string]any{}, &group)
	if ids, _ := l.listSnapshots(t, &csi.ListSnapshotsRequest{}); len(ids) != 0 {
		t.Errorf("listed: %v", ids)
	}
	_, err := l.GetSnapshot(t.Context(), &csi.GetSnapshotRequest{SnapshotId: id + ":" + group.UTCTS})
	wantCode(t, "get", err, codes.NotFound)
	wantCode(t, "delete", l.delete(t.Context(), id), codes.FailedPrecondition, group.UTCTS)
}
