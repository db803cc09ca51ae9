package controller_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

func fromSnapshot(id string) func(*csi.CreateVolumeRequest) {
	return func(req *csi.CreateVolumeRequest) {
		req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
	}
}

func fromVolume(id string) func(*csi.CreateVolumeRequest) {
	return func(req *csi.CreateVolumeRequest) {
		req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
	}
}

func secrets(mutual bool) func(*csi.CreateVolumeRequest) {
	return func(req *csi.CreateVolumeRequest) {
		req.Secrets = map[string]string{"node.session.auth.username": "initiator", "node.session.auth.password": "canary-passwd"}
		if mutual {
			req.Secrets["node.session.auth.username_in"] = "target"
			req.Secrets["node.session.auth.password_in"] = "canary-passwd-2"
		}
	}
}

func (l *lab) volume(tb testing.TB, id string) *dateraclient.Volume {
	tb.Helper()
	v, err := l.client(tb).Volume(tb.Context(), id)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func TestCloneTakesOneRequestAndOneMoreWhenLarger(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	snapshot := l.snap(t, "snapshot-1", id).GetSnapshotId()
	l.requests()
	l.create(t, "pvc-2", fromVolume(id))
	l.wantRequests(t, "clone", 1)
	l.create(t, "pvc-3", fromSnapshot(snapshot))
	l.wantRequests(t, "restore", 1)
	l.create(t, "pvc-4", fromSnapshot(snapshot), bytesAsked(20*gib, 0))
	l.wantRequests(t, "larger restore", 2)
	l.create(t, "pvc-5", fromVolume(id), bytesAsked(20*gib, 0))
	l.wantRequests(t, "larger clone", 2)
}

// A clone is all that its class says, though the array copies none of it.
func TestCloneIsAsItsClassSays(t *testing.T) {
	for _, strict := range []bool{false, true} {
		l := start(t, func(cfg *sim.Config) { cfg.StrictOffline, cfg.CloneDelay = strict, 50*time.Millisecond })
		l.api(t, http.MethodPost, "/access_network_ip_pools", map[string]any{"name": "blue"}, nil)
		id := l.create(t, "pvc-1", parameters("replica_count", "2"))
		snapshot := l.snap(t, "snapshot-1", id).GetSnapshotId()
		class := parameters("ip_pool", "blue", "placement_policy", "all-flash", "total_iops_max", "5000", "iops_per_gb", "100", "read_bandwidth_max", "77",
			"csi.storage.k8s.io/pvc/name", "data", "csi.storage.k8s.io/pvc/namespace", "shop", "csi.storage.k8s.io/pv/name", "pvc-2")
		if strict {
			class = parameters("ip_pool", "blue", "placement_policy", "all-flash", "total_iops_max", "5000", "iops_per_gb", "100", "read_bandwidth_max", "77",
				"csi.storage.k8s.io/pvc/name", "data", "csi.storage.k8s.io/pvc/namespace", "shop", "csi.storage.k8s.io/pv/name", "pvc-2", "replica_count", "2")
		}
		for name, source := range map[string]func(*csi.CreateVolumeRequest){"volume": fromVolume(id), "snapshot": fromSnapshot(snapshot)} {
			req := createRequest("of-"+name, class, source, secrets(true), bytesAsked(20*gib, 0))
			first, err := l.CreateVolume(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if got := first.GetVolume().GetContentSource().String(); got != req.GetVolumeContentSource().String() {
				t.Errorf("%s: the content source is %s", name, got)
			}
			v := l.volume(t, first.GetVolume().GetVolumeId())
			if v.Size != 20 || v.IPPool != "blue" || v.PlacementPolicy != "all-flash" || v.CHAP != "mchap" || !v.Online || v.CreateMode != "kubernetes" ||
				v.QoS != (dateraclient.QoS{TotalIOPS: 2000, ReadBandwidth: 77}) || !strings.HasPrefix(v.Description, "PVC data namespace shop PV pvc-2 -- from-") {
				t.Errorf("%s: got %+v", name, v)
			}
			again, err := l.CreateVolume(t.Context(), req)
			if err != nil || again.String() != first.String() {
				t.Errorf("%s: again: %v, %v, want %v", name, again, err, first)
			}
		}
	}
}

// FM 11: a clone is never an empty volume, and never one of something else.
func TestAnotherSourceIsAnotherVolume(t *testing.T) {
	l := start(t)
	one, two := l.create(t, "pvc-1"), l.create(t, "pvc-2")
	snapshot := l.snap(t, "snapshot-1", one).GetSnapshotId()
	sources := map[string]func(*csi.CreateVolumeRequest){
		"none": func(*csi.CreateVolumeRequest) {}, "volume": fromVolume(one), "other volume": fromVolume(two), "snapshot": fromSnapshot(snapshot),
		"other snapshot": fromSnapshot(l.snap(t, "snapshot-2", one).GetSnapshotId()),
	}
	for made, source := range sources {
		name := "made-from-" + strings.ReplaceAll(made, " ", "-")
		l.create(t, name, source)
		for asked, other := range sources {
			_, err := l.CreateVolume(t.Context(), createRequest(name, other))
			if asked == made {
				if err != nil {
					t.Errorf("again from %s: %v", made, err)
				}
				continue
			}
			wantCode(t, asked+" after "+made, err, codes.AlreadyExists, "source")
		}
	}
}

// The vendor's driver notes no source: the array's own word counts.
func TestClonesOfTheVendorsDriver(t *testing.T) {
	l := start(t)
	one, two := l.create(t, "pvc-1"), l.create(t, "pvc-2")
	snapshot := l.snap(t, "snapshot-1", one).GetSnapshotId()
	source := l.volume(t, one)
	l.api(t, http.MethodPost, "/app_instances", map[string]any{
		"name": "CSI-pvc-3", "create_mode": "kubernetes", "clone_snapshot_src": map[string]any{"path": source.Snapshots[0].Path},
	}, nil)
	l.create(t, "pvc-3", fromSnapshot(snapshot))
	_, err := l.CreateVolume(t.Context(), createRequest("pvc-3", fromVolume(two)))
	wantCode(t, "another volume", err, codes.AlreadyExists, "source")
	_, err = l.CreateVolume(t.Context(), createRequest("pvc-3"))
	wantCode(t, "no source", err, codes.AlreadyExists, "source")
}

func TestSourcesThatAreNotThere(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	for name, c := range map[string]struct {
		source func(*csi.CreateVolumeRequest)
		code   codes.Code
		says   string
	}{
		"volume":           {fromVolume("CSI-absent"), codes.NotFound, "CSI-absent"},
		"snapshot":         {fromSnapshot(id + ":1.5"), codes.NotFound, "1.5"},
		"its volume":       {fromSnapshot("CSI-absent:1.5"), codes.NotFound, "CSI-absent"},
		"foreign snapshot": {fromSnapshot("non-existing-snapshot-id"), codes.NotFound, "non-existing-snapshot-id"},
		"no volume":        {fromVolume(""), codes.InvalidArgument, "volume_content_source"},
		"no snapshot":      {fromSnapshot(""), codes.InvalidArgument, "volume_content_source"},
		"neither":          {func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = &csi.VolumeContentSource{} }, codes.InvalidArgument, "neither"},
		"backend":          {fromVolume("nowhere/CSI-a"), codes.InvalidArgument, "nowhere"},
		"vendor's path":    {fromSnapshot("/app_instances/a/snapshots/1.5"), codes.InvalidArgument, "first releases"},
	} {
		_, err := l.CreateVolume(t.Context(), createRequest("pvc-2", c.source))
		wantCode(t, name, err, c.code, c.says)
		_, err = l.CreateVolume(t.Context(), createRequest("pvc-2", c.source, func(r *csi.CreateVolumeRequest) { r.CapacityRange = nil }))
		wantCode(t, name+", any size", err, c.code, c.says)
	}
	if n := len(l.objects(t)); n != 1 {
		t.Errorf("%d app instances, want only the first", n)
	}
}

func TestCloneIsAsLargeAsItsSource(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1", bytesAsked(10*gib, 0))
	snapshot := l.snap(t, "snapshot-1", id).GetSnapshotId()
	for i, c := range []struct {
		change func(*csi.CreateVolumeRequest)
		want   int64
	}{
		{func(r *csi.CreateVolumeRequest) { r.CapacityRange = nil }, 10}, {bytesAsked(10*gib, 10*gib), 10}, {bytesAsked(5*gib, 15*gib), 10},
		{bytesAsked(0, 12*gib), 12}, {bytesAsked(10*gib+1, 0), 11}, {bytesAsked(30*gib, 40*gib), 30},
	} {
		for name, source := range map[string]func(*csi.CreateVolumeRequest){"v": fromVolume(id), "s": fromSnapshot(snapshot)} {
			req := createRequest(fmt.Sprint("pvc-", name, i), source, c.change, func(r *csi.CreateVolumeRequest) {
				r.Parameters = map[string]string{"iops_per_gb": "10"}
			})
			for range 2 {
				res, err := l.CreateVolume(t.Context(), req)
				if err != nil || res.GetVolume().GetCapacityBytes() != c.want*gib {
					t.Errorf("%s%d: got %v, %v, want %d GiB", name, i, res, err, c.want)
				}
			}
			if v := l.volume(t, "CSI-"+req.GetName()); v.QoS.TotalIOPS != int(c.want)*10 {
				t.Errorf("%s%d: %d IOPS, want 10 for each of %d GiB", name, i, v.QoS.TotalIOPS, c.want)
			}
		}
	}
	before := len(l.objects(t))
	for name, c := range map[string]func(*csi.CreateVolumeRequest){"smaller": bytesAsked(9*gib, 0), "limit too": bytesAsked(5*gib, 9*gib)} {
		for range 2 {
			_, err := l.CreateVolume(t.Context(), createRequest("pvc-small", fromSnapshot(snapshot), c))
			wantCode(t, name, err, codes.OutOfRange, "10 GiB")
		}
	}
	if after := len(l.objects(t)); after != before {
		t.Errorf("%d app instances were left", after-before)
	}
}

// FM 11, FM 34: what was made from something is never formatted, and a node learns
// the whole size of it.
func TestNodesAreToldThatAVolumeHasContent(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	clone := l.create(t, "pvc-2", fromVolume(id), bytesAsked(20*gib, 0))
	promise, err := l.publish(t.Context(), clone, node1)
	if err != nil || !promise.FromSource || promise.Target.Bytes != 20*gib {
		t.Errorf("clone: got %+v, %v, want 20 GiB that are never formatted", promise, err)
	}
	promise, err = l.publish(t.Context(), id, node1)
	if err != nil || promise.FromSource {
		t.Errorf("source: got %+v, %v, want one that began empty", promise, err)
	}
}

// A clone that was made but for its size, limits or secrets is finished by the next
// call, however the one before it ended (FM 33).
func TestCloneIsFinishedByTheNextCall(t *testing.T) {
	const storage = "/app_instances/*/storage_instances/*"
	for name, match := range map[string]sim.Match{
		"the clone": simtest.Post("/app_instances"), "CHAP": simtest.Put(storage + "/auth"), "offline": simtest.Put("/app_instances/*"), "pool": simtest.Put(storage),
		"limits": simtest.Post(storage + "/volumes/*/performance_policy"), "size": simtest.Put(storage + "/volumes/*"),
	} {
		for kind, fault := range map[string]sim.Fault{
			"lost": {LoseAnswer: true, Times: 2}, "half": {Truncate: true, Times: 2}, "failed": {Status: 500}, "locked out": {Status: 401, Times: 2}, "slow": {Delay: time.Second},
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				l := start(t)
				l.api(t, http.MethodPost, "/access_network_ip_pools", map[string]any{"name": "blue"}, nil)
				id := l.create(t, "pvc-1")
				l.array.Fail(match, fault)
				req := createRequest("pvc-2", fromVolume(id), secrets(false), bytesAsked(20*gib, 0), parameters("ip_pool", "blue", "read_iops_max", "70"))
				for try := 0; ; try++ {
					ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
					_, err := l.CreateVolume(ctx, req)
					cancel()
					if err == nil {
						break
					}
					if n := len(l.objects(t)); final(err) && n > 1 || try > 4 {
						t.Fatalf("try %d: %v, and there are %d app instances", try, err, n)
					}
					l.array.Array.ClearFaults()
				}
				v := l.volume(t, "CSI-pvc-2")
				if v.Size != 20 || v.QoS.ReadIOPS != 70 || v.CHAP != "chap" || v.IPPool != "blue" || !v.Online || v.Source.IsZero() || len(l.objects(t)) != 2 {
					t.Errorf("got %+v", v)
				}
			})
		}
	}
}

// A clone that is complete but not as asked is refused as it is: CHAP shows that it
// is another class's.
func TestCloneOfAnotherClassIsNotChanged(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	l.create(t, "pvc-2", fromVolume(id), secrets(false))
	before := l.volume(t, "CSI-pvc-2")
	for name, change := range map[string]func(*csi.CreateVolumeRequest){"none": func(*csi.CreateVolumeRequest) {}, "mutual": secrets(true)} {
		_, err := l.CreateVolume(t.Context(), createRequest("pvc-2", fromVolume(id), parameters("read_iops_max", "70"), change))
		wantCode(t, name, err, codes.AlreadyExists, "CHAP")
	}
	if after := l.volume(t, "CSI-pvc-2"); !reflect.DeepEqual(after, before) {
		t.Errorf("it was changed from %+v to %+v", before, after)
	}
}

func TestRefusedClonesLeaveNothing(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	for _, pairs := range [][]string{{"ip_pool", "nowhere"}, {"placement_policy", "gold-leaf"}, {"replica_count", "5"}} {
		for range 2 {
			_, err := l.CreateVolume(t.Context(), createRequest("pvc-2", fromVolume(id), parameters(pairs...)))
			wantCode(t, pairs[0], err, codes.InvalidArgument, pairs[1])
			if n := len(l.objects(t)); n != 1 {
				t.Fatalf("%s: %d app instances, want only the source", pairs[0], n)
			}
		}
	}
}

// FM 33: a clone that was cut off before it was found not to be as asked would be
// finished by nobody, and forgotten by nobody either. So what its class names is
// looked for before there is one.
func TestAClassThatCannotBeMakesNoClone(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	l.array.Fail(simtest.Put("/app_instances/**"), sim.Fault{Delay: time.Second, Times: -1}) // what comes after the clone
	for _, pairs := range [][]string{{"ip_pool", "nowhere"}, {"placement_policy", "gold-leaf"}} {
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			_, err := l.CreateVolume(ctx, createRequest("pvc-2", fromVolume(id), parameters(pairs...)))
			cancel()
			wantCode(t, pairs[0], err, codes.InvalidArgument, pairs[1])
			if n := len(l.objects(t)); n != 1 {
				t.Fatalf("%s: %d app instances, want only the source", pairs[0], n)
			}
		}
	}
}

// Whoever may not look may have it made all the same; who cannot look comes again.
func TestACloneInAPoolThatIsNotShown(t *testing.T) {
	for status, want := range map[int]codes.Code{400: codes.OK, 403: codes.OK, 500: codes.Unavailable} {
		l := start(t)
		l.api(t, http.MethodPost, "/access_network_ip_pools", map[string]any{"name": "blue"}, nil)
		id := l.create(t, "pvc-1")
		l.array.Fail(simtest.Get("/access_network_ip_pools/*"), sim.Fault{Status: status})
		req := createRequest("pvc-2", fromVolume(id), parameters("ip_pool", "blue", "placement_policy", "all-flash"))
		_, err := l.CreateVolume(t.Context(), req)
		wantCode(t, fmt.Sprint(status), err, want)
		if _, err = l.CreateVolume(t.Context(), req); err != nil {
			t.Errorf("%d, again: %v", status, err)
		}
	}
}

func TestCloneOfATemplatesVolumeLikeTheTemplate(t *testing.T) {
	l := start(t)
	gold := template("gold", 5)
	gold["storage_templates"].([]map[string]any)[0]["volume_templates"].([]map[string]any)[0]["performance_policy"] = map[string]any{"total_iops_max": 900}
	l.api(t, http.MethodPost, "/app_templates", gold, nil)
	class := parameters("template", "gold", "read_iops_max", "30")
	id := l.create(t, "pvc-1", class)
	snapshot := l.snap(t, "snapshot-1", id).GetSnapshotId()
	for range 2 {
		l.create(t, "pvc-2", class, fromSnapshot(snapshot), bytesAsked(12*gib, 0))
	}
	v := l.volume(t, "CSI-pvc-2")
	if v.Size != 12 || v.Replicas != 2 || v.QoS != (dateraclient.QoS{TotalIOPS: 900, ReadIOPS: 30}) || v.Child != "vol" {
		t.Errorf("got %+v", v)
	}
}

// A volume lies where its source does.
func TestCloneStaysOnTheBackendOfItsSource(t *testing.T) {
	array := simtest.Start(t)
	dir := array.BackendDir(t, "east")
	if err := os.CopyFS(filepath.Join(dir, "default"), os.DirFS(filepath.Join(dir, "east"))); err != nil {
		t.Fatal(err)
	}
	l := serve(array, dir)
	id := l.create(t, "pvc-1", parameters("backend", "east"))
	if got := l.create(t, "pvc-2", fromVolume(id)); got != "east/CSI-pvc-2" {
		t.Errorf("got %s, want it on east", got)
	}
	_, err := l.CreateVolume(t.Context(), createRequest("pvc-3", fromVolume(id), parameters("backend", "default")))
	wantCode(t, "another backend", err, codes.InvalidArgument, "east", "default")
}

// A final code is given only when the array has shown that there is nothing: the
// first call timed out, and has made the volume all the same (FM 33).
func TestNoFinalCodeWhileAVolumeMayBeThere(t *testing.T) {
	l := start(t)
	l.create(t, "warm-up")
	l.array.Fail(simtest.Post("/app_instances"), sim.Fault{LoseAnswer: true})
	l.array.Fail(simtest.Get("/app_instances/CSI-pvc-1"), sim.Fault{Status: 403})
	if _, err := l.CreateVolume(t.Context(), createRequest("pvc-1")); err == nil || final(err) {
		t.Fatalf("got %v, want an error that is not final", err)
	}
	password := filepath.Join(l.dir, "default", "password")
	if err := os.WriteFile(password, []byte("wrong-password"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.array.Array.ExpireSessions()
	_, err := l.CreateVolume(t.Context(), createRequest("pvc-1"))
	wantCode(t, "credentials that are wrong now", err, codes.Unavailable, "username and password")
	if err = os.WriteFile(password, []byte(l.array.Password), 0o600); err != nil {
		t.Fatal(err)
	}
	backend := filepath.Join(l.dir, "default")
	if err = os.Rename(backend, backend+"-gone"); err != nil {
		t.Fatal(err)
	}
	_, err = l.CreateVolume(t.Context(), createRequest("pvc-1"))
	wantCode(t, "a backend that is gone now", err, codes.Unavailable, "default")
	if err = os.Rename(backend+"-gone", backend); err != nil {
		t.Fatal(err)
	}
	l.array.Fail(simtest.Post("/app_instances"), sim.Fault{Status: 403})
	l.create(t, "pvc-1") // it may not make any, and finds this one
	if n := len(l.objects(t)); n != 2 {
		t.Errorf("%d app instances, want 2", n)
	}
	l.array.Fail(simtest.Post("/app_instances"), sim.Fault{Status: 403})
	_, err = l.CreateVolume(t.Context(), createRequest("pvc-2"))
	wantCode(t, "surely nothing", err, codes.PermissionDenied)
}
