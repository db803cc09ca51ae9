package sim_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

// direct is an array without HTTP between, and a key.
func direct(tb testing.TB, opts ...func(*sim.Config)) (array *sim.Array, key string) {
	tb.Helper()
	cfg := sim.Config{Limits: sim.Limits{AppInstances: -1, StorageInstances: -1, Volumes: -1}}
	for _, opt := range opts {
		opt(&cfg)
	}
	array, err := sim.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	w := call(array, "", "PUT", "/v2.2/login", `{"name":"admin","password":"password"}`)
	_, rest, _ := strings.Cut(w.Body.String(), `"key":"`)
	return array, rest[:32]
}

func call(array *sim.Array, key, method, path, body string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Auth-Token", key)
	w := httptest.NewRecorder()
	array.ServeHTTP(w, req)
	return w
}

const createBody = `{"name":"CSI-pvc-%d","create_mode":"kubernetes","storage_instances":[{"name":"storage-1",
 "ip_pool":{"path":"/access_network_ip_pools/default"},"auth":{"type":"none"},
 "volumes":[{"name":"volume-1","size":16,"replica_count":3,"placement_policy":{"path":"/placement_policies/default"},"performance_policy":{}}]}]}`

func BenchmarkCreateBy100(b *testing.B) {
	for name, opt := range map[string]func(*sim.Config){
		"memory": func(*sim.Config) {},
		"disk":   func(cfg *sim.Config) { cfg.DataDir = b.TempDir() },
	} {
		b.Run(name, func(b *testing.B) {
			array, key := direct(b, opt)
			var n atomic.Int64
			b.SetParallelism(100)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if w := call(array, key, "POST", "/v2.2/app_instances", fmt.Sprintf(createBody, n.Add(1))); w.Code != http.StatusOK {
						b.Error(w.Body)
					}
				}
			})
			if err := array.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}

func BenchmarkListPageOf10000(b *testing.B) {
	array, key := direct(b)
	for i := range 10_000 {
		call(array, key, "POST", "/v2.2/app_instances", fmt.Sprintf(createBody, i))
	}
	for _, query := range []string{"limit=100&offset=9000", "limit=1000", "filter=name=CSI-pvc-77"} {
		b.Run(query, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if w := call(array, key, "GET", "/v2.2/app_instances?"+query, ""); w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
		})
	}
}

// TestManyAtOnce lets callers that know nothing of each other change one array;
// it is there for the race detector and for the sums at the end.
func TestManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	s := simtest.Start(t, inDir(dir), func(cfg *sim.Config) { cfg.Exporter = newPlane() })
	c := dial(t, s)
	const iqn = "iqn.1993-08.org.debian:01:aa11"
	c.data("POST", "/initiators", m{"id": iqn, "name": "host-a"})
	c.data("POST", "/app_instances", simple("shared", 1))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := fmt.Sprintf("demo-%d", i)
			base := "/app_instances/" + name
			for range 5 {
				for _, step := range []struct {
					method, path string
					body         any
				}{
					{"POST", "/app_instances", simple(name, 1)},
					{"PUT", base + "/storage_instances/storage-1/acl_policy/initiators", m{"path": "/initiators/" + iqn, "op": "add"}},
					{"PUT", "/app_instances/shared/metadata", m{name: "x"}},
					{"POST", base + "/storage_instances/storage-1/volumes/volume-1/snapshots", nil},
					{"GET", "/app_instances", nil},
					{"GET", "/system", nil},
					{"POST", "/initiators", m{"id": iqn + ":" + name, "name": name}},
					{"DELETE", "/initiators/" + iqn + ":" + name, nil},
					{"DELETE", base, m{"force": true}},
				} {
					if status, out, err := c.send(step.method, step.path, step.body); err != nil || status != http.StatusOK {
						t.Errorf("%s %s: %d %v %v", step.method, step.path, status, out, err)
					}
				}
			}
		})
	}
	wg.Wait()
	c = restart(t, s, dir)
	if got := len(c.list("/app_instances")); got != 1 {
		t.Errorf("%d app instances are left", got)
	}
	if got := len(c.data("GET", "/app_instances/shared/metadata", nil)); got != 8 {
		t.Errorf("%d of 8 keys survived", got)
	}
}
