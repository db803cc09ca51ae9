package controller_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/internal/publishctx"
	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/controller"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

const (
	gib   = int64(1) << 30
	node1 = "iqn.1993-08.org.debian:01:aaaaaaaaaaaa"
	node2 = "iqn.1993-08.org.debian:01:bbbbbbbbbbbb"
)

// lab is a controller in front of a simulated array, both real over HTTP.
type lab struct {
	*controller.Server
	array *simtest.Server
	dir   string // of the backends
}

func start(tb testing.TB, opts ...func(*sim.Config)) *lab {
	tb.Helper()
	array := simtest.Start(tb, opts...)
	return serve(array, array.BackendDir(tb, "default"))
}

func serve(array *simtest.Server, dir string, opts ...func(*controller.Config)) *lab {
	backends := controller.OpenBackends(controller.BackendsConfig{Dir: dir, Concurrency: 16, Agent: "controller-test"})
	cfg := controller.Config{Backends: backends}
	for _, o := range opts {
		o(&cfg)
	}
	return &lab{Server: controller.New(cfg), array: array, dir: dir}
}

// waiting makes a controller in which a publish waits so long for its turn.
func waiting(turnTime time.Duration) func(*controller.Config) {
	return func(c *controller.Config) { c.TurnTime = turnTime }
}

// gated is another controller before the same array. Its first request of this method for
// an app instance waits at a gate, and goes on to the array when release is called. until
// begins a call and returns when its request is there; the channel has the call's answer.
func (l *lab) gated(tb testing.TB, method string, opts ...func(*controller.Config)) (other *lab, until func(call func() error) <-chan error, release func()) {
	tb.Helper()
	there, open := make(chan struct{}), make(chan struct{})
	var first sync.Once
	other = l.through(tb, func(r *http.Request) {
		if r.Method == method && strings.Contains(r.URL.Path, "/app_instances/") {
			first.Do(func() { close(there); <-open })
		}
	}, opts...)
	release = sync.OnceFunc(func() { close(open) })
	tb.Cleanup(release)
	until = func(call func() error) <-chan error {
		tb.Helper()
		done := make(chan error, 1)
		go func() { done <- call() }()
		select {
		case <-there:
		case err := <-done:
			tb.Fatalf("no %s was sent: %v", method, err)
		}
		return done
	}
	return other, until, release
}

// through is another controller before the same array, each of whose requests is looked at
// before the array has it.
func (l *lab) through(tb testing.TB, look func(*http.Request), opts ...func(*controller.Config)) *lab {
	tb.Helper()
	way := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		look(r)
		l.array.Array.ServeHTTP(w, r)
	}))
	tb.Cleanup(way.Close)
	array := *l.array
	array.URL = way.URL
	return serve(&array, array.BackendDir(tb, "default"), opts...)
}

// requests are what the array was asked since the last call, without the login
// and what a client asks once.
func (l *lab) requests() []string {
	var list []string
	for _, r := range l.array.Requests() {
		if once := []string{"/login", "/api_versions", "/system"}; !slices.Contains(once, r.Path) {
			list = append(list, r.Method+" "+r.Path)
		}
	}
	l.array.ResetRequests()
	return list
}

// wantRequests asserts that the array was asked at most this many things.
func (l *lab) wantRequests(tb testing.TB, what string, most int) {
	tb.Helper()
	if got := l.requests(); len(got) > most {
		tb.Errorf("%s took %d requests, want at most %d:\n%s", what, len(got), most, strings.Join(got, "\n"))
	}
}

// api speaks to the array as an administrator would, past the driver.
func (l *lab) api(tb testing.TB, method, path string, body, into any) {
	tb.Helper()
	answer := l.array.API(tb, "/root", method, path, body)
	if into == nil {
		return
	}
	raw, err := json.Marshal(answer["data"])
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// object is as much of an app instance as these tests look at.
type object struct {
	Name             string `json:"name"`
	Descr            string `json:"descr"`
	CreateMode       string `json:"create_mode"`
	AdminState       string `json:"admin_state"`
	StorageInstances []struct {
		Access struct {
			IQN string `json:"iqn"`
		} `json:"access"`
		ACL struct {
			Initiators []struct {
				Path string `json:"path"`
			} `json:"initiators"`
		} `json:"acl_policy"`
		Auth struct {
			Type string `json:"type"`
			User string `json:"target_user_name"`
		} `json:"auth"`
		Active  []string `json:"active_initiators"`
		Volumes []struct {
			UUID string `json:"uuid"`
			Size int    `json:"size"`
		} `json:"volumes"`
	} `json:"storage_instances"`
}

// objects are all app instances of the array.
func (l *lab) objects(tb testing.TB) []object {
	tb.Helper()
	var list []object
	l.api(tb, http.MethodGet, "/app_instances", nil, &list)
	return list
}

// acl are the initiators that the array admits to a volume.
func (l *lab) acl(tb testing.TB, id string) []string {
	tb.Helper()
	var o object
	l.api(tb, http.MethodGet, "/app_instances/"+id, nil, &o)
	admitted := []string{}
	for _, i := range o.StorageInstances[0].ACL.Initiators {
		admitted = append(admitted, strings.TrimPrefix(i.Path, "/initiators/"))
	}
	slices.Sort(admitted)
	return admitted
}

// target is the IQN of a volume.
func (l *lab) target(tb testing.TB, id string) string {
	tb.Helper()
	var o object
	l.api(tb, http.MethodGet, "/app_instances/"+id, nil, &o)
	return o.StorageInstances[0].Access.IQN
}

// snapshot is one that the array's own policy has made.
func (l *lab) snapshot(tb testing.TB, id string) {
	tb.Helper()
	l.api(tb, http.MethodPost, "/app_instances/"+id+"/storage_instances/storage-1/volumes/volume-1/snapshots", map[string]any{}, nil)
}

// client is a second user of the array, for what other drivers do.
func (l *lab) client(tb testing.TB) *dateraclient.Client {
	tb.Helper()
	endpoint, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, l.array.URL, nil)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := dateraclient.New(dateraclient.Config{
		Endpoint:    endpoint.URL,
		Credentials: func() (string, string, error) { return l.array.User, l.array.Password, nil },
	})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func writer(fsType string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType}},
	}
}

func shared() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER},
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	}
}

func createRequest(name string, change ...func(*csi.CreateVolumeRequest)) *csi.CreateVolumeRequest {
	req := &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: 10 * gib},
		VolumeCapabilities: []*csi.VolumeCapability{writer("xfs")},
	}
	for _, c := range change {
		c(req)
	}
	return req
}

func parameters(pairs ...string) func(*csi.CreateVolumeRequest) {
	return func(req *csi.CreateVolumeRequest) {
		req.Parameters = make(map[string]string)
		for i := 0; i < len(pairs); i += 2 {
			req.Parameters[pairs[i]] = pairs[i+1]
		}
	}
}

func bytesAsked(required, limit int64) func(*csi.CreateVolumeRequest) {
	return func(req *csi.CreateVolumeRequest) {
		req.CapacityRange = &csi.CapacityRange{RequiredBytes: required, LimitBytes: limit}
	}
}

// create makes a volume that must come to be, and gives its id.
func (l *lab) create(tb testing.TB, name string, change ...func(*csi.CreateVolumeRequest)) string {
	tb.Helper()
	res, err := l.CreateVolume(tb.Context(), createRequest(name, change...))
	if err != nil {
		tb.Fatal(err)
	}
	return res.GetVolume().GetVolumeId()
}

func publishRequest(id, node string) *csi.ControllerPublishVolumeRequest {
	return &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: node, VolumeCapability: writer("xfs")}
}

// publish publishes a volume and decodes what the node would.
func (l *lab) publish(ctx context.Context, id, node string) (publishctx.Context, error) {
	return l.publishAs(ctx, publishRequest(id, node))
}

func (l *lab) publishAs(ctx context.Context, req *csi.ControllerPublishVolumeRequest) (publishctx.Context, error) {
	res, err := l.ControllerPublishVolume(ctx, req)
	if err != nil {
		return publishctx.Context{}, err
	}
	return publishctx.Decode(res.GetPublishContext())
}

func (l *lab) unpublish(ctx context.Context, id, node string) error {
	_, err := l.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: node})
	return err
}

func (l *lab) delete(ctx context.Context, id string) error {
	_, err := l.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}

// wantCode asserts the code of an error and what its message says.
func wantCode(tb testing.TB, what string, err error, code codes.Code, says ...string) {
	tb.Helper()
	if got := status.Code(err); got != code {
		tb.Errorf("%s: got %s (%v), want %s", what, got, err, code)
		return
	}
	for _, s := range says {
		if !strings.Contains(status.Convert(err).Message(), s) {
			tb.Errorf("%s: message %q does not say %q", what, status.Convert(err).Message(), s)
		}
	}
}

func TestCapabilitiesAreThoseThatAreWhole(t *testing.T) {
	res, err := start(t).ControllerGetCapabilities(t.Context(), &csi.ControllerGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []csi.ControllerServiceCapability_RPC_Type
	for _, c := range res.GetCapabilities() {
		got = append(got, c.GetRpc().GetType())
	}
	want := []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES,
		csi.ControllerServiceCapability_RPC_GET_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_MODIFY_VOLUME,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_GET_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
