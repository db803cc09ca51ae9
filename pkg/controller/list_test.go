package controller_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

// list is one page of volumes.
func (l *lab) list(tb testing.TB, most int32, token string) *csi.ListVolumesResponse {
	tb.Helper()
	res, err := l.ListVolumes(tb.Context(), &csi.ListVolumesRequest{MaxEntries: most, StartingToken: token})
	if err != nil {
		tb.Fatal(err)
	}
	if most > 0 && len(res.GetEntries()) > int(most) {
		tb.Errorf("%d entries, at most %d were asked for", len(res.GetEntries()), most)
	}
	if len(res.GetNextToken()) > 128 {
		tb.Errorf("token %q has %d bytes, CSI allows 128", res.GetNextToken(), len(res.GetNextToken()))
	}
	return res
}

// listAll turns pages until the end.
func (l *lab) listAll(tb testing.TB, most int32) []string {
	tb.Helper()
	ids := []string{}
	for token := ""; ; {
		res := l.list(tb, most, token)
		for _, e := range res.GetEntries() {
			ids = append(ids, e.GetVolume().GetVolumeId())
		}
		if token = res.GetNextToken(); token == "" {
			return ids
		}
	}
}

// twoBackends is an array with a tenant of its own for the backend east.
func twoBackends(t *testing.T, opts ...func(*sim.Config)) *lab {
	t.Helper()
	l := start(t, opts...)
	l.api(t, http.MethodPost, "/tenants", map[string]string{"name": "east"}, nil)
	l.addBackend(t, "east", map[string]string{"tenant": "/root/east"})
	return l
}

// addBackend makes a backend on the same array.
func (l *lab) addBackend(tb testing.TB, name string, change map[string]string) {
	tb.Helper()
	dir := filepath.Join(l.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	files := map[string]string{"endpoint": l.array.URL, "username": l.array.User, "password": l.array.Password}
	for file, text := range change {
		files[file] = text
	}
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

func (l *lab) setTopology(tb testing.TB, backend, text string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, backend, "topology"), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// soon is a caller that does not wait long for what is down.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestListTellsSizesAndPublishedNodes(t *testing.T) {
	l := start(t)
	idle := l.create(t, "pvc-idle")
	used := l.create(t, "pvc-used", bytesAsked(3*gib, 0))
	many := l.create(t, "pvc-many", func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = []*csi.VolumeCapability{shared()} })
	if _, err := l.publish(t.Context(), used, node1); err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{node1, node2} {
		req := publishRequest(many, node)
		req.VolumeCapability = shared()
		if _, err := l.publishAs(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	entry := func(id string, size int64, nodes ...string) *csi.ListVolumesResponse_Entry {
		return &csi.ListVolumesResponse_Entry{
			Volume: &csi.Volume{VolumeId: id, CapacityBytes: size},
			Status: &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: nodes},
		}
	}
	want := []*csi.ListVolumesResponse_Entry{entry(idle, 10*gib), entry(many, 10*gib, node1, node2), entry(used, 3*gib, node1)}
	if diff := cmp.Diff(l.list(t, 0, "").GetEntries(), want, protocmp.Transform()); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	for _, w := range want {
		got, err := l.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: w.GetVolume().GetVolumeId()})
		if err != nil {
			t.Fatal(err)
		}
		same := &csi.ControllerGetVolumeResponse{
			Volume: w.GetVolume(),
			Status: &csi.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: w.GetStatus().GetPublishedNodeIds()},
		}
		if diff := cmp.Diff(got, same, protocmp.Transform()); diff != "" {
			t.Errorf("ControllerGetVolume (-got +want):\n%s", diff)
		}
	}
	if err := l.unpublish(t.Context(), used, node1); err != nil {
		t.Fatal(err)
	}
	if e := l.list(t, 0, "").GetEntries()[2]; len(e.GetStatus().GetPublishedNodeIds()) != 0 {
		t.Errorf("unpublished and still there: %v", e)
	}
}

// FM 23: an ACL changed by hand shows, so that the attacher can mend it.
func TestListShowsTheACLAsItIs(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	l.api(t, http.MethodPut, "/app_instances/"+id+"/storage_instances/storage-1/acl_policy", map[string]any{"initiators": []any{}}, nil)
	if e := l.list(t, 0, "").GetEntries()[0]; len(e.GetStatus().GetPublishedNodeIds()) != 0 {
		t.Errorf("taken out of the ACL by hand and still published: %v", e)
	}
	if _, err := l.publish(t.Context(), id, node1); err != nil { // as the attacher then does
		t.Fatal(err)
	}
	if e := l.list(t, 0, "").GetEntries()[0]; !slices.Equal(e.GetStatus().GetPublishedNodeIds(), []string{node1}) {
		t.Errorf("published again, and listed as %v", e)
	}
}

func TestListLeavesOutWhatIsNotOurs(t *testing.T) {
	l := start(t)
	app := func(name, mode string, storage ...string) {
		var parts []any
		for _, s := range storage {
			parts = append(parts, map[string]any{"name": s, "volumes": []any{map[string]any{"name": "volume-1", "size": 1}}})
		}
		l.api(t, http.MethodPost, "/app_instances", map[string]any{"name": name, "create_mode": mode, "storage_instances": parts}, nil)
	}
	app("OS-cinder", "openstack", "storage-1")
	app("by-hand", "normal", "storage-1")
	app("CSI-two", "kubernetes", "storage-1", "storage-2") // more than one volume
	app("CSI-adopted", "normal", "storage-1")              // renamed by an administrator
	app("vendor-named", "kubernetes", "storage-1")         // made by the vendor's driver for a name of its own
	ours := l.create(t, "pvc-1")
	if diff := cmp.Diff(l.listAll(t, 0), []string{"CSI-adopted", ours, "vendor-named"}); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	// What is not listed can be asked for all the same: static volumes have any name.
	got, err := l.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: "by-hand"})
	if err != nil || got.GetVolume().GetCapacityBytes() != gib {
		t.Errorf("got %v, %v", got, err)
	}
	// Foreign ones do not make pages shorter.
	if n := len(l.list(t, 2, "").GetEntries()); n != 2 {
		t.Errorf("a page of 2 has %d entries", n)
	}
}

func TestListPagesTakeOneRequestEach(t *testing.T) {
	l := start(t)
	var want []string
	for i := range 25 {
		want = append(want, l.create(t, fmt.Sprintf("pvc-%02d", i)))
	}
	for _, most := range []int32{1, 4, 24, 25, 100, 0} {
		if diff := cmp.Diff(l.listAll(t, most), want); diff != "" {
			t.Errorf("pages of %d (-got +want):\n%s", most, diff)
		}
	}
	l.requests()
	res := l.list(t, 10, "")
	l.wantRequests(t, "the first page", 1)
	res = l.list(t, 10, res.GetNextToken())
	l.wantRequests(t, "the second page", 1)
	res = l.list(t, 10, res.GetNextToken())
	l.wantRequests(t, "the third page", 1)
	if res.GetNextToken() != "" {
		t.Errorf("a token %q after the last page", res.GetNextToken())
	}
	_ = l.list(t, 0, "")
	l.wantRequests(t, "all at once", 1)
	if _, err := l.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: want[0]}); err != nil {
		t.Fatal(err)
	}
	l.wantRequests(t, "ControllerGetVolume", 1)
}

func TestListGoesThroughAllBackends(t *testing.T) {
	l := twoBackends(t)
	want := []string{}
	for i := range 3 {
		want = append(want, l.create(t, fmt.Sprintf("pvc-%d", i)))
	}
	for i := range 3 {
		want = append(want, l.create(t, fmt.Sprintf("pvc-%d", i), parameters("backend", "east")))
	}
	for most := range int32(8) {
		if diff := cmp.Diff(l.listAll(t, most), want); diff != "" {
			t.Errorf("pages of %d (-got +want):\n%s", most, diff)
		}
	}
	token := l.list(t, 4, "").GetNextToken()
	if err := os.RemoveAll(filepath.Join(l.dir, "east")); err != nil {
		t.Fatal(err)
	}
	if res := l.list(t, 4, token); len(res.GetEntries()) != 0 || res.GetNextToken() != "" {
		t.Errorf("the token's backend is gone: got %v", res)
	}
}

// TestTokensOutliveWhatTheyPointTo deletes a whole page, the token's own volume
// included, and makes new ones before and after it.
func TestTokensOutliveWhatTheyPointTo(t *testing.T) {
	l := start(t)
	var ids []string
	for i := range 20 {
		ids = append(ids, l.create(t, fmt.Sprintf("pvc-%02d", i)))
	}
	first := l.list(t, 10, "")
	for _, e := range first.GetEntries() {
		if err := l.delete(t.Context(), e.GetVolume().GetVolumeId()); err != nil {
			t.Fatal(err)
		}
	}
	l.create(t, "pvc-00a")
	late := l.create(t, "pvc-12a")
	var got []string
	for token := first.GetNextToken(); token != ""; {
		res := l.list(t, 3, token)
		for _, e := range res.GetEntries() {
			got = append(got, e.GetVolume().GetVolumeId())
		}
		token = res.GetNextToken()
	}
	want := slices.Sorted(slices.Values(append(ids[10:], late)))
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestTokensOfOthersAreRefused(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	for _, token := range []string{"invalid", id, "2", ":", "!:x", "-1:" + id, "1:a/b/c", "1:Default/x", "1:../x", "zzzzzzzzzz:" + id, "1:" + strings.Repeat("x", 200), "\x00"} {
		_, err := l.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: token})
		if token == ":" { // the place before everything
			wantCode(t, token, err, codes.OK)
			continue
		}
		wantCode(t, "ListVolumes "+token, err, codes.Aborted, "list again")
		_, err = l.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{StartingToken: token})
		wantCode(t, "ControllerListVolumeHealth "+token, err, codes.Aborted, "list again")
	}
	_, err := l.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: -1})
	wantCode(t, "negative", err, codes.InvalidArgument, "max_entries")
	_, err = l.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{MaxEntries: -1})
	wantCode(t, "negative", err, codes.InvalidArgument, "max_entries")
}

// FM 23: a list without the volumes of an array that is down would say that they
// are detached.
func TestListIsWholeOrAnError(t *testing.T) {
	l := twoBackends(t)
	l.create(t, "pvc-1")
	l.create(t, "pvc-1", parameters("backend", "east"))
	l.addBackend(t, "east", map[string]string{"tenant": "/root/east", "endpoint": "http://127.0.0.1:1"})
	_, err := l.ListVolumes(soon(t), &csi.ListVolumesRequest{})
	wantCode(t, "one backend is down", err, codes.Unavailable, "backend east")
	_, err = l.ControllerListVolumeHealth(soon(t), &csi.ControllerListVolumeHealthRequest{})
	wantCode(t, "one backend is down", err, codes.Unavailable, "backend east")
	// Its other half is still there to be asked.
	if res := l.list(t, 1, ""); len(res.GetEntries()) != 1 || res.GetNextToken() == "" {
		t.Errorf("got %v", res)
	}
}

func TestListSurvivesFaults(t *testing.T) {
	l := start(t)
	want := l.create(t, "pvc-1")
	for name, f := range map[string]sim.Fault{
		"reset": {Reset: true}, "lost": {LoseAnswer: true}, "half": {Truncate: true}, "expired": {ExpireToken: true},
		"busy": {Status: 503}, "starting": sim.StillInitializing(),
	} {
		l.array.Fail(simtest.Get("/app_instances"), f)
		if diff := cmp.Diff(l.listAll(t, 0), []string{want}); diff != "" {
			t.Errorf("%s (-got +want):\n%s", name, diff)
		}
	}
}

func TestGetVolumeOfNothing(t *testing.T) {
	l := start(t)
	for id, code := range map[string]codes.Code{"": codes.InvalidArgument, "../x": codes.InvalidArgument, "CSI-absent": codes.NotFound, "west/CSI-x": codes.FailedPrecondition} {
		_, err := l.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
		wantCode(t, "ControllerGetVolume "+id, err, code)
		_, err = l.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: id})
		wantCode(t, "ControllerGetVolumeHealth "+id, err, code)
	}
}
