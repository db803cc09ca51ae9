package controller_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/internal/publishctx"
	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/controller"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

func TestPublishPromisesTheLUN(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	got, err := l.publish(t.Context(), id, node1)
	if err != nil {
		t.Fatal(err)
	}
	var o object
	l.api(t, http.MethodGet, "/app_instances/"+id, nil, &o)
	if got.Admission == "" {
		t.Error("the admission has no name")
	}
	want := publishctx.Context{Admission: got.Admission, Target: iscsi.Target{
		IQN:     o.StorageInstances[0].Access.IQN,
		Portals: []netip.AddrPort{netip.MustParseAddrPort("172.28.0.9:3260"), netip.MustParseAddrPort("172.29.0.9:3260")},
		Serial:  o.StorageInstances[0].Volumes[0].UUID,
		Bytes:   10 * gib,
	}}
	if diff := cmp.Diff(got, want, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("promise (-got +want):\n%s", diff)
	}
	if diff := cmp.Diff(l.acl(t, id), []string{node1}); diff != "" {
		t.Errorf("ACL (-got +want):\n%s", diff)
	}
}

func TestRequestsOfPublishAndUnpublish(t *testing.T) {
	l := start(t)
	id, warm := l.create(t, "pvc-1"), l.create(t, "pvc-2")
	first, err := l.publish(t.Context(), warm, node1) // makes the initiator known
	if err != nil {
		t.Fatal(err)
	}
	l.requests()
	promise, err := l.publish(t.Context(), id, node1)
	if err != nil {
		t.Fatal(err)
	}
	l.wantRequests(t, "ControllerPublishVolume", 3)
	again, err := l.publish(t.Context(), id, node1)
	if diff := cmp.Diff(again, promise, cmpopts.EquateComparable(netip.AddrPort{})); err != nil || diff != "" {
		t.Errorf("another answer: %v (-got +want):\n%s", err, diff)
	}
	if again.Target.IQN == first.Target.IQN {
		t.Error("two volumes share a target")
	}
	l.wantRequests(t, "ControllerPublishVolume of a published volume", 1)
	for _, what := range []string{"ControllerUnpublishVolume", "ControllerUnpublishVolume of an unpublished volume"} {
		if err := l.unpublish(t.Context(), id, node1); err != nil {
			t.Fatal(err)
		}
		l.wantRequests(t, what, 3)
	}
	if acl := l.acl(t, id); len(acl) != 0 {
		t.Errorf("ACL %v, want nobody", acl)
	}
}

func TestPublishBringsAnOfflineVolumeOnline(t *testing.T) {
	l := start(t, func(cfg *sim.Config) { cfg.ExportDelay = 50 * time.Millisecond })
	id := l.create(t, "pvc-1")
	l.api(t, http.MethodPut, "/app_instances/"+id, map[string]any{"admin_state": "offline", "force": true}, nil)
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	v, err := l.client(t).Volume(t.Context(), id)
	if err != nil || !v.Online || !v.Exported {
		t.Errorf("got %+v, %v, want it online and exported", v, err)
	}
}

// FM 4: a node that is let in anew after it was out is told so, and by a controller that
// does not know whether it was out nothing else.
func TestEachAdmissionHasANameOfItsOwn(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	name := func(node string) string {
		t.Helper()
		promise, err := l.publish(t.Context(), id, node)
		if err != nil {
			t.Fatal(err)
		}
		return promise.Admission
	}
	first := name(node1)
	if again := name(node1); again != first || first == "" {
		t.Errorf("a repeat has %q, the first was %q", again, first)
	}
	l = serve(l.array, l.dir)
	if later := name(node1); later != "" {
		t.Errorf("a controller that did not admit the node gives it %q", later)
	}
	seen := map[string]bool{first: true}
	for _, node := range []string{node2, node1} {
		if err := errors.Join(l.unpublish(t.Context(), id, node1), l.unpublish(t.Context(), id, node2)); err != nil {
			t.Fatal(err)
		}
		now := name(node)
		if now == "" || seen[now] {
			t.Errorf("%s is let in anew by %q, known are %v", node, now, seen)
		}
		seen[now] = true
	}
}

// FM 4: an array may take long to admit a node; who asks again after that hears the name.
func TestTheNameOfAnAdmissionOutlivesASlowArray(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	var late atomic.Int64
	began := time.Now()
	other, until, release := l.gated(t, http.MethodPut, func(c *controller.Config) {
		c.Clock = func() time.Time { return began.Add(time.Duration(late.Load())) }
	})
	var first publishctx.Context
	done := until(func() (err error) {
		first, err = other.publish(t.Context(), id, node1)
		return err
	})
	late.Store(int64(3 * time.Minute))
	release()
	if err := <-done; err != nil || first.Admission == "" {
		t.Fatalf("admission %q, %v", first.Admission, err)
	}
	again, err := other.publish(t.Context(), id, node1)
	if err != nil || again.Admission != first.Admission {
		t.Errorf("the repeat has %q, the first was %q, %v", again.Admission, first.Admission, err)
	}
	late.Store(int64(time.Hour))
	if again, err = other.publish(t.Context(), id, node1); err != nil || again.Admission != "" {
		t.Errorf("an hour later it has %q, %v: another controller may have let the node out", again.Admission, err)
	}
}

// FM 4: a volume for one node is not given to a second one, whatever the sign of
// the first.
func TestPublishRefusesASecondNode(t *testing.T) {
	modes := []csi.VolumeCapability_AccessMode_Mode{
		csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
	}
	for _, mode := range modes {
		l := start(t)
		id := l.create(t, "pvc-1")
		if _, err := l.publish(t.Context(), id, node1); err != nil {
			t.Fatal(err)
		}
		req := publishRequest(id, node2)
		req.VolumeCapability.AccessMode.Mode = mode
		_, err := l.publishAs(t.Context(), req)
		wantCode(t, mode.String(), err, codes.FailedPrecondition, node1)
		if diff := cmp.Diff(l.acl(t, id), []string{node1}); diff != "" {
			t.Errorf("%s: ACL (-got +want):\n%s", mode, diff)
		}
	}
}

// What Kubernetes takes for the error of a VolumeAttachment, which external-attacher
// fills with all that it hears.
const mostOfAnAttachment = 1024

func wantBrief(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || len(err.Error()) > mostOfAnAttachment || !utf8.ValidString(err.Error()) {
		t.Errorf("%s: got %d bytes, want UTF-8 of at most %d: %v", what, len(fmt.Sprint(err)), mostOfAnAttachment, err)
	}
}

// A volume of many nodes is not given to one: the error names some of them, says how
// many more there are and what to do, and fits into a VolumeAttachment.
func TestErrorsOfAttachmentsFitIntoOne(t *testing.T) {
	const nodes = 40
	for name, length := range map[string]int{"short": 40, "long": 223} {
		l := start(t)
		id := l.create(t, "pvc-1", as(shared()))
		for i := range nodes {
			iqn := fmt.Sprintf("iqn.2026-01.org.example:node-%03d-", i)
			req := publishRequest(id, iqn+strings.Repeat("x", length-len(iqn)))
			req.VolumeCapability = shared()
			if _, err := l.publishAs(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
		_, err := l.publish(t.Context(), id, node1)
		wantBrief(t, name, err)
		wantCode(t, name, err, codes.FailedPrecondition, id, "node-000-", "is published")
		if name == "short" {
			wantCode(t, name, err, codes.FailedPrecondition, "node-007-", " and 32 more", "when it is unpublished there")
		}
	}
}

// Nor does what the array says make them longer.
func TestWordsOfTheArrayFitIntoAnAttachment(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	words := strings.Repeat("ü", 400)
	l.array.Fail(simtest.Put("/app_instances/*/storage_instances/*/acl_policy/initiators"), sim.Fault{Status: http.StatusForbidden, Times: -1,
		Body: fmt.Sprintf(`{"name":"PermissionDeniedError","http":403,"message":%[1]q,"errors":[%[1]q,%[1]q,%[1]q]}`, words)})
	req := publishRequest(id, node2)
	req.VolumeCapability = shared()
	_, err := l.publishAs(t.Context(), req)
	wantBrief(t, "publish", err)
	err = l.unpublish(t.Context(), id, node1)
	wantBrief(t, "unpublish", err)
	wantCode(t, "unpublish", err, codes.PermissionDenied, id, "üü")
	_, err = l.publish(t.Context(), id, strings.Repeat("\x01", 256))
	wantBrief(t, "publish to what is no name", err)
	wantBrief(t, "unpublish of what is no name", l.unpublish(t.Context(), id, strings.Repeat("\x01", 256)))
}

func TestPublishRefusesAVolumeWithAStrangersSession(t *testing.T) {
	l := start(t, func(cfg *sim.Config) { cfg.SessionsStick = true })
	id := l.create(t, "pvc-1")
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	l.array.LogIn(t, l.target(t, id), node1)
	l.api(t, http.MethodPut, "/app_instances/"+id+"/storage_instances/storage-1/acl_policy", map[string]any{"initiators": []any{}}, nil)
	_, err := l.publish(t.Context(), id, node2)
	wantCode(t, "publish", err, codes.FailedPrecondition, node1)
}

func TestPublishRefusesWhatCannotBeFenced(t *testing.T) {
	for name, body := range map[string]map[string]any{
		"deny_all": {"access_control_mode": "allow_all"}, // the remedy is named
		"hosts":    {"acl_policy": map[string]any{"initiator_groups": []map[string]string{{"path": "/initiator_groups/hosts"}}}},
	} {
		for _, c := range []*csi.VolumeCapability{writer("xfs"), shared()} {
			l := start(t)
			l.api(t, http.MethodPost, "/initiators", map[string]any{"id": node2, "name": "other"}, nil)
			l.api(t, http.MethodPost, "/initiator_groups", map[string]any{"name": "hosts", "members": []map[string]string{{"path": "/initiators/" + node2}}}, nil)
			storage := map[string]any{"name": "storage-1", "volumes": []map[string]any{{"name": "volume-1", "size": 5, "replica_count": 1}}}
			for key, value := range body {
				storage[key] = value
			}
			l.api(t, http.MethodPost, "/app_instances", map[string]any{"name": "static", "storage_instances": []any{storage}}, nil)
			req := publishRequest("static", node1)
			req.VolumeCapability = c
			_, err := l.publishAs(t.Context(), req)
			wantCode(t, name, err, codes.FailedPrecondition, "static", name)
			wantCode(t, "unpublish with "+name, l.unpublish(t.Context(), "static", node1), codes.FailedPrecondition, name)
		}
	}
}

// An iSCSI name is the same in capitals: a node is no stranger to a volume that
// admits it so, is let in as it writes itself, and leaves in every spelling.
func TestANodeIsTheSameInCapitals(t *testing.T) {
	l := start(t, func(cfg *sim.Config) { cfg.SessionsStick = true })
	id := l.create(t, "pvc-1")
	capitals := strings.TrimSuffix(node1, "aaaaaaaaaaaa") + "AAAAAAAAAAAA"
	l.api(t, http.MethodPost, "/initiators", map[string]any{"id": capitals, "name": "by hand"}, nil)
	l.api(t, http.MethodPut, "/app_instances/"+id+"/storage_instances/storage-1/acl_policy/initiators",
		map[string]any{"path": "/initiators/" + capitals, "op": "add"}, nil)
	target := l.target(t, id)
	l.array.LogIn(t, target, capitals)
	for range 2 {
		if _, err := l.publish(t.Context(), id, node1); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(l.acl(t, id), []string{capitals, node1}); diff != "" {
			t.Errorf("ACL (-got +want):\n%s", diff)
		}
	}
	_, err := l.publish(t.Context(), id, node2)
	wantCode(t, "publish elsewhere", err, codes.FailedPrecondition, "is published to "+capitals+", and")
	time.AfterFunc(50*time.Millisecond, func() { l.array.LogOut(target, capitals) })
	if err := l.unpublish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	if v := l.volume(t, id); len(v.Initiators)+len(v.ActiveInitiators) != 0 {
		t.Errorf("left: %v, %v", v.Initiators, v.ActiveInitiators)
	}
}

// Two controllers that share no lock admit two nodes at once: both may lose, and
// both may come back, but never do two nodes have the volume and an OK.
func TestTwoReplicasNeverAdmitTwoNodes(t *testing.T) {
	l := start(t, func(cfg *sim.Config) { cfg.Latency = time.Millisecond })
	replicas := []*lab{l, serve(l.array, l.dir)}
	nodes := []string{node1, node2}
	for round := range 20 {
		id := l.create(t, fmt.Sprintf("pvc-%d", round))
		errs := make([]error, len(replicas))
		var wg sync.WaitGroup
		for i := range replicas {
			wg.Go(func() { _, errs[i] = replicas[i].publish(t.Context(), id, nodes[i]) })
		}
		wg.Wait()
		var want []string
		for i, err := range errs {
			if err == nil {
				want = append(want, nodes[i])
				continue
			}
			wantCode(t, "the loser", err, codes.FailedPrecondition)
		}
		if len(want) > 1 {
			t.Fatalf("round %d: both nodes have an OK", round)
		}
		if acl := l.acl(t, id); !slices.Equal(acl, want) {
			t.Errorf("round %d: ACL %v, want %v", round, acl, want)
		}
	}
}

// FM 4, 38: the node that came second is not left admitted although its caller has gone, or
// nobody could have the volume until it is unpublished there.
func TestTheLoserIsExpelledAlthoughItsCallerHasGone(t *testing.T) {
	l := start(t)
	id, warm := l.create(t, "pvc-1"), l.create(t, "pvc-2")
	if _, err := l.publish(t.Context(), warm, node2); err != nil { // makes the initiator known
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := 0
	other := l.through(t, func(r *http.Request) {
		if r.Method != http.MethodPut || !strings.HasSuffix(r.URL.Path, "/acl_policy/initiators") {
			return
		}
		switch changes++; changes {
		case 1: // the admission: another controller is faster
			if _, err := l.publish(t.Context(), id, node1); err != nil {
				t.Error(err)
			}
		case 2: // and its end
			cancel()
		}
	})
	_, err := other.publish(ctx, id, node2)
	wantCode(t, "the loser", err, codes.FailedPrecondition, node1)
	if changes != 2 || strings.Contains(fmt.Sprint(err), "taken back") {
		t.Errorf("after %d changes of the ACL: %v", changes, err)
	}
	if diff := cmp.Diff(l.acl(t, id), []string{node1}); diff != "" {
		t.Errorf("ACL (-got +want):\n%s", diff)
	}
}

func TestSharedBlockVolumesAdmitSeveralNodes(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1", func(req *csi.CreateVolumeRequest) { req.VolumeCapabilities = []*csi.VolumeCapability{shared()} })
	for _, node := range []string{node1, node2} {
		req := publishRequest(id, node)
		req.VolumeCapability = shared()
		if _, err := l.publishAs(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(l.acl(t, id), []string{node1, node2}); diff != "" {
		t.Errorf("ACL (-got +want):\n%s", diff)
	}
	if err := l.unpublish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l.acl(t, id), []string{node2}); diff != "" {
		t.Errorf("ACL (-got +want):\n%s", diff)
	}
}

func TestRoundRobinSpreadsVolumesOverThePortals(t *testing.T) {
	l := start(t)
	seen := make(map[netip.AddrPort]int)
	for i := range 16 {
		res, err := l.CreateVolume(t.Context(), createRequest(fmt.Sprintf("pvc-%d", i), parameters("round_robin", "true")))
		if err != nil {
			t.Fatal(err)
		}
		req := publishRequest(res.GetVolume().GetVolumeId(), node1)
		req.VolumeContext = res.GetVolume().GetVolumeContext()
		var first publishctx.Context
		for range 2 {
			got, err := l.publishAs(t.Context(), req)
			if err != nil || len(got.Target.Portals) != 1 {
				t.Fatalf("got %+v, %v, want one portal", got, err)
			}
			if first.Target.IQN != "" && got.Target.Portals[0] != first.Target.Portals[0] {
				t.Errorf("portal %s, before %s", got.Target.Portals[0], first.Target.Portals[0])
			}
			first = got
		}
		seen[first.Target.Portals[0]]++
	}
	if len(seen) != 2 {
		t.Errorf("volumes by portal: %v, want both used", seen)
	}
}

func TestPublishTellsWhatTheNodeMustKnow(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	l.api(t, http.MethodPost, "/app_instances", map[string]any{"name": "a-clone", "clone_src": map[string]string{"path": "/app_instances/" + id}}, nil)
	got, err := l.publish(t.Context(), "a-clone", node1)
	if err != nil || !got.FromSource || got.ReadOnly {
		t.Errorf("a clone: got %+v, %v, want FromSource", got, err)
	}
	req := publishRequest(id, node1)
	req.VolumeCapability.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	got, err = l.publishAs(t.Context(), req)
	if err != nil || got.FromSource || !got.ReadOnly {
		t.Errorf("a reader: got %+v, %v, want ReadOnly", got, err)
	}
}

// FM 1, 11: to a node that never had the volume, these are all that tells one which lost
// what it held from a new one.
func TestPublishTellsTheEvidenceOfData(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	if err := l.array.Array.SetUsed("/root", id, 1<<20); err != nil {
		t.Fatal(err)
	}
	got, err := l.publish(t.Context(), id, node1)
	if err != nil || got.UsedBytes != 1<<20 || got.FromSource {
		t.Errorf("a volume in use: got %+v, %v, want 1 MiB in use", got, err)
	}
	// Its source was deleted, and the array shows none any more.
	l.api(t, http.MethodPost, "/app_instances", map[string]any{"name": "a-clone", "descr": "PVC a -- from-0123456789abcdef",
		"storage_instances": []map[string]any{{"name": "storage-1", "volumes": []map[string]any{{"name": "volume-1", "size": 1, "replica_count": 1}}}}}, nil)
	if v := l.volume(t, "a-clone"); !v.Source.IsZero() {
		t.Fatalf("the array shows the source %+v", v.Source)
	}
	got, err = l.publish(t.Context(), "a-clone", node1)
	if err != nil || !got.FromSource {
		t.Errorf("a clone without its source: got %+v, %v, want FromSource", got, err)
	}
}

// FM 24: what a class says of its file systems is in the volume's context, and from
// there in what the node is told.
func TestTheFileSystemsClassReachesTheNode(t *testing.T) {
	l := start(t)
	res, err := l.CreateVolume(t.Context(), createRequest("pvc-1", parameters("mkfsOptions", "-m reflink=0", "oldestKernel", "4.18", "fsck", "check")))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"mkfsOptions": "-m reflink=0", "oldestKernel": "4.18", "fsck": "check"}
	if diff := cmp.Diff(res.GetVolume().GetVolumeContext(), want); diff != "" {
		t.Errorf("volume context (-got +want):\n%s", diff)
	}
	req := publishRequest(res.GetVolume().GetVolumeId(), node1)
	req.VolumeContext = res.GetVolume().GetVolumeContext()
	got, err := l.publishAs(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	got.Filesystem.Write(said)
	if diff := cmp.Diff(said, want); diff != "" {
		t.Errorf("publish context (-got +want):\n%s", diff)
	}
}

func TestFileSystemsThatCannotBeMadeAreRefusedBeforeTheVolume(t *testing.T) {
	l := start(t)
	for _, c := range []struct {
		params map[string]string
		fs     string
		flags  []string
		words  string
	}{
		{map[string]string{"mkfsOptions": "-f"}, "xfs", nil, "overwrite"},
		{map[string]string{"mkfsOptions": "-m reflink=0"}, "ext4", nil, "does not look like"},
		{map[string]string{"mkfsOptions": "-E stride=16"}, "", nil, `"-E" is not known`},
		{map[string]string{"mkfsOptions": "-i nrext64=1"}, "xfs", nil, "needs Linux 5.19"},
		{map[string]string{"oldestKernel": "new"}, "xfs", nil, "is not a version"},
		{map[string]string{"fsck": "-y"}, "ext4", nil, "never, check, preen"},
		{nil, "xfs", []string{"logdev=/dev/sda"}, "the driver decides what is mounted"},
	} {
		req := createRequest("pvc-bad", func(r *csi.CreateVolumeRequest) { r.Parameters = c.params })
		req.VolumeCapabilities[0].AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: c.fs, MountFlags: c.flags}}
		_, err := l.CreateVolume(t.Context(), req)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%v, %s %v: got %v, want InvalidArgument that says %q", c.params, c.fs, c.flags, err, c.words)
		}
	}
	if n := len(l.objects(t)); n != 0 {
		t.Errorf("%d volumes were made", n)
	}
}

func TestBadPublishRequests(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	with := func(change func(*csi.ControllerPublishVolumeRequest)) *csi.ControllerPublishVolumeRequest {
		req := publishRequest(id, node1)
		change(req)
		return req
	}
	type request = *csi.ControllerPublishVolumeRequest
	for _, c := range []struct {
		name string
		req  request
		code codes.Code
		says string
	}{
		{"no node", with(func(r request) { r.NodeId = "" }), codes.InvalidArgument, "node_id is missing"},
		{"long node", with(func(r request) { r.NodeId = "iqn.1993-08.org.debian:" + strings.Repeat("x", 256) }), codes.InvalidArgument, "256"},
		{"control", with(func(r request) { r.NodeId = node1 + "\n" }), codes.InvalidArgument, "control"},
		{"a host name", with(func(r request) { r.NodeId = "worker-1" }), codes.NotFound, "worker-1"},
		{"a path", with(func(r request) { r.NodeId = "iqn.1993-08.org.debian:01/../../x" }), codes.NotFound, "does not exist"},
		{"a bad date", with(func(r request) { r.NodeId = "iqn.1993-13.org.debian:01" }), codes.NotFound, "does not exist"},
		{"no capability", with(func(r request) { r.VolumeCapability = nil }), codes.InvalidArgument, "volume_capability"},
		{"several nodes with xfs", with(func(r request) {
			r.VolumeCapability.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
		}), codes.InvalidArgument, "raw block only"},
		{"bad context", with(func(r request) { r.VolumeContext = map[string]string{"round_robin": "maybe"} }), codes.InvalidArgument, "round_robin"},
		{"no such volume", with(func(r request) { r.VolumeId = "CSI-absent" }), codes.NotFound, "CSI-absent"},
	} {
		_, err := l.publishAs(t.Context(), c.req)
		wantCode(t, c.name, err, c.code, c.says)
	}
	if acl := l.acl(t, id); len(acl) != 0 {
		t.Errorf("ACL %v, want nobody", acl)
	}
}

// What the array takes for a name this driver takes too, and no other: a node that
// was published to can be unpublished.
func TestEveryNameThatTheArrayTakesIsANode(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	for node, code := range map[string]codes.Code{
		"iqn.2026-01.org.example:node_1": codes.OK, "iqn.1993-08.a:01": codes.OK, "eui.02004567A425678D": codes.OK,
		"iqn.1993-08.a:1": codes.NotFound, "naa.52004567BA64678D": codes.NotFound,
	} {
		_, err := l.publish(t.Context(), id, node)
		wantCode(t, "publish to "+node, err, code)
		if err := l.unpublish(t.Context(), id, node); err != nil {
			t.Errorf("unpublish of %s: %v", node, err)
		}
		if acl := l.acl(t, id); len(acl) != 0 {
			t.Fatalf("ACL %v, want nobody", acl)
		}
	}
}

// FM 22: whatever has gone already is unpublished.
func TestUnpublishAfterTheNodeOrVolumeIsGone(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	l.api(t, http.MethodDelete, "/initiators/"+node1, nil, nil)
	for what, ids := range map[string][2]string{
		"a node whose initiator was deleted": {id, node1},
		"a node never seen":                  {id, node2},
		"a node that cannot exist":           {id, "worker-1"},
		"a volume that is gone":              {"CSI-absent", node1},
	} {
		if err := l.unpublish(t.Context(), ids[0], ids[1]); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if acl := l.acl(t, id); len(acl) != 0 {
		t.Errorf("ACL %v, want nobody", acl)
	}
}

func TestUnpublishOfNoNodeIsOfAllNodes(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1", func(req *csi.CreateVolumeRequest) { req.VolumeCapabilities = []*csi.VolumeCapability{shared()} })
	for _, node := range []string{node1, node2} {
		req := publishRequest(id, node)
		req.VolumeCapability = shared()
		if _, err := l.publishAs(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		l.array.LogIn(t, l.target(t, id), node)
	}
	if err := l.unpublish(t.Context(), id, ""); err != nil {
		t.Fatal(err)
	}
	v, err := l.client(t).Volume(t.Context(), id)
	if err != nil || len(v.Initiators)+len(v.ActiveInitiators) != 0 {
		t.Errorf("got %+v, %v, want nobody admitted or logged in", v, err)
	}
}

func TestUnpublishEndsTheSession(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	l.array.LogIn(t, l.target(t, id), node1)
	if err := l.unpublish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	v, err := l.client(t).Volume(t.Context(), id)
	if err != nil || len(v.Initiators)+len(v.ActiveInitiators) != 0 {
		t.Errorf("got %+v, %v, want nobody admitted or logged in", v, err)
	}
}

// FM 4: a session that outlives the ACL is a writer. OK comes only once it is
// gone.
func TestUnpublishIsNoOKWhileTheSessionLives(t *testing.T) {
	l := start(t, func(cfg *sim.Config) { cfg.SessionsStick = true })
	id := l.create(t, "pvc-1")
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	target := l.target(t, id)
	l.array.LogIn(t, target, node1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := l.unpublish(ctx, id, node1); err == nil {
		t.Fatal("got OK although the node is still logged in")
	}
	_, err := l.publish(t.Context(), id, node2)
	wantCode(t, "publish elsewhere", err, codes.FailedPrecondition, node1)
	l.array.LogOut(target, node1)
	if err := l.unpublish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	if _, err := l.publish(t.Context(), id, node2); err != nil {
		t.Error(err)
	}
}

// FM 4: an array that says "not found" to the removal, and shows the node all the
// same, has not fenced it.
func TestUnpublishIsNoOKWhileTheACLHasTheNode(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	l.array.Fail(simtest.Put("/app_instances/*/storage_instances/*/acl_policy/initiators"), sim.Fault{Status: http.StatusNotFound, Times: -1})
	for _, node := range []string{node1, ""} { // one, or all
		wantCode(t, "unpublish "+node, l.unpublish(t.Context(), id, node), codes.FailedPrecondition, id, node1)
	}
	if diff := cmp.Diff(l.acl(t, id), []string{node1}); diff != "" {
		t.Errorf("ACL (-got +want):\n%s", diff)
	}
	l.array.Array.ClearFaults()
	if err := l.unpublish(t.Context(), id, node1); err != nil {
		t.Error(err)
	}
}

func TestUnpublishNeedsTheArray(t *testing.T) {
	array := simtest.Start(t)
	l := serve(array, array.BackendDir(t, "default"))
	id := l.create(t, "pvc-1")
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	for name, fault := range map[string]sim.Fault{
		"resets": {Reset: true, Times: -1}, "fails": {Status: 500, Times: -1}, "is busy": {Status: 503, Times: -1},
		"speaks HTML": {HTML: true, Times: -1}, "knows nothing": {Status: 404, HTML: true, Times: -1},
	} {
		array.Fail(simtest.Any("/**"), fault)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if err := l.unpublish(ctx, id, node1); err == nil {
			t.Errorf("the array %s: got OK", name)
		}
		cancel()
		array.Array.ClearFaults()
	}
	if diff := cmp.Diff(l.acl(t, id), []string{node1}); diff != "" {
		t.Errorf("ACL (-got +want):\n%s", diff)
	}
}

// FM 9, 38: many callers publish and unpublish; what they were told is what the
// array then admits.
func TestTheACLIsWhatCallersWereTold(t *testing.T) {
	l := start(t)
	replicas := []*lab{l, serve(l.array, l.dir)}
	ids := make([]string, 4)
	for i := range ids {
		ids[i] = l.create(t, fmt.Sprintf("pvc-%d", i), func(req *csi.CreateVolumeRequest) { req.VolumeCapabilities = []*csi.VolumeCapability{shared()} })
	}
	const callers = 100
	told := make([]map[string]bool, callers) // volume id to "is published", by caller
	var wg sync.WaitGroup
	for i := range callers {
		told[i] = make(map[string]bool)
		node := fmt.Sprintf("iqn.2026-01.org.example:node-%03d", i)
		wg.Go(func() {
			for range 6 {
				id, on := ids[rand.N(len(ids))], rand.N(2) == 0
				if err := settle(t.Context(), replicas[i%2], id, node, on); err != nil {
					t.Errorf("%s on %s: %v", id, node, err)
					return
				}
				told[i][id] = on
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		want := []string{}
		for i := range callers {
			if told[i][id] {
				want = append(want, fmt.Sprintf("iqn.2026-01.org.example:node-%03d", i))
			}
		}
		if diff := cmp.Diff(l.acl(t, id), want); diff != "" {
			t.Errorf("ACL of %s (-got +want):\n%s", id, diff)
		}
	}
}

// FM 38: fifty nodes that ask for one volume at once get it at once, where each that hears
// Aborted would come back later and later.
func TestManyNodesOfOneVolumeWaitForEachOther(t *testing.T) {
	l := start(t)
	l = serve(l.array, l.dir, waiting(time.Minute))
	id := l.create(t, "pvc-1")
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			req := publishRequest(id, fmt.Sprintf("iqn.2026-01.org.example:node-%03d", i))
			req.VolumeCapability = shared()
			if _, err := l.publishAs(t.Context(), req); err != nil {
				t.Errorf("node %d: %v", i, err)
			}
		})
	}
	all.Wait()
	if n := len(l.acl(t, id)); n != 50 {
		t.Errorf("%d nodes are admitted, want 50", n)
	}
}

// A change of the ACL that is under way when its caller leaves is carried out all the
// same. Until that is known nobody hears of the volume that a node is gone from it.
func TestNoUnpublishIsOKBeforeAnAbandonedPublishIsOver(t *testing.T) {
	made := start(t)
	id, other := made.create(t, "pvc-1"), made.create(t, "pvc-2")
	if _, err := made.publish(t.Context(), other, node1); err != nil { // makes the initiator known
		t.Fatal(err)
	}
	l, until, release := made.gated(t, http.MethodPut, waiting(20*time.Millisecond))
	ctx, leave := context.WithCancel(t.Context())
	done := until(func() error { _, err := l.publish(ctx, id, node1); return err })
	leave()
	for range 3 {
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		wantCode(t, "unpublish beside the add", l.unpublish(soon, id, node1), codes.Aborted, id)
		cancel()
	}
	release()
	wantCode(t, "publish", <-done, codes.Canceled, id)
	if diff := cmp.Diff(made.acl(t, id), []string{node1}); diff != "" {
		t.Errorf("ACL after the add (-got +want):\n%s", diff)
	}
	if err := l.unpublish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(made.acl(t, id), []string{}); diff != "" {
		t.Errorf("ACL after the unpublish (-got +want):\n%s", diff)
	}
}

// The other way about: no publish is OK while a removal or a forced offline may still come.
func TestNoPublishIsOKBeforeAnAbandonedUnpublishIsOver(t *testing.T) {
	for name, session := range map[string]bool{"remove": false, "offline": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			made := start(t, func(cfg *sim.Config) { cfg.SessionsStick = session })
			id := made.create(t, "pvc-1")
			if _, err := made.publish(t.Context(), id, node1); err != nil {
				t.Fatal(err)
			}
			if session { // which outlives its entry in the ACL until the volume goes offline
				made.array.LogIn(t, made.target(t, id), node1)
				made.api(t, http.MethodPut, "/app_instances/"+id+"/storage_instances/storage-1/acl_policy/initiators",
					map[string]string{"path": "/initiators/" + node1, "op": "remove"}, nil)
			}
			l, until, release := made.gated(t, http.MethodPut, waiting(20*time.Millisecond))
			ctx, leave := context.WithCancel(t.Context())
			done := until(func() error { return l.unpublish(ctx, id, node1) })
			leave()
			for range 3 {
				soon, cancel := context.WithTimeout(t.Context(), time.Second)
				_, err := l.publish(soon, id, node1)
				wantCode(t, "publish beside it", err, codes.Aborted, id)
				cancel()
			}
			release()
			wantCode(t, "unpublish", <-done, codes.Canceled, id)
			if _, err := l.publish(t.Context(), id, node1); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(made.acl(t, id), []string{node1}); diff != "" {
				t.Errorf("ACL (-got +want):\n%s", diff)
			}
			var o object
			if made.api(t, http.MethodGet, "/app_instances/"+id, nil, &o); o.AdminState != "online" {
				t.Errorf("the volume is %s", o.AdminState)
			}
		})
	}
}

// FM 38: who waits for his turn goes when his caller does.
func TestAPublishThatWaitsForItsTurnHonoursItsCaller(t *testing.T) {
	made := start(t)
	id := made.create(t, "pvc-1")
	l, until, release := made.gated(t, http.MethodGet, waiting(time.Hour))
	done := until(func() error { return l.delete(t.Context(), id) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := l.publish(ctx, id, node1)
	wantCode(t, "publish", err, codes.DeadlineExceeded, id)
	release()
	if err := <-done; err != nil {
		t.Errorf("delete: %v", err)
	}
}

// settle publishes or unpublishes as a CO does: Aborted means come back.
func settle(ctx context.Context, l *lab, id, node string, on bool) error {
	for {
		var err error
		if on {
			req := publishRequest(id, node)
			req.VolumeCapability = shared()
			_, err = l.publishAs(ctx, req)
		} else {
			err = l.unpublish(ctx, id, node)
		}
		if status.Code(err) != codes.Aborted {
			return err
		}
		time.Sleep(time.Duration(1+rand.N(5)) * time.Millisecond)
	}
}
