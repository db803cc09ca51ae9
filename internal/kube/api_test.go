package kube_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/internal/kube"
)

const (
	driver = "dsp.csi.daterainc.io"
	volume = "kubernetes.io/csi/" + driver + "^CSI-pvc-1"
)

// api is the part of a Kubernetes API that this package uses: it demands the token, and
// refuses a patch of a version that is not the current one.
type api struct {
	mu      sync.Mutex
	node    map[string]any // nil: there is none
	drivers []string       // nil: no CSINode
	list    string         // of all CSINodes
	version int
	down    bool
	reads   int
	onRead  func(*api) // called with the lock held, after each read of the node
	patches []string
}

func (a *api) set(change func(*api)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	change(a)
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.down:
		refuse(w, http.StatusServiceUnavailable, "etcd is away")
	case r.Header.Get("Authorization") != "Bearer secret-token":
		refuse(w, http.StatusUnauthorized, "Unauthorized")
	case r.URL.Path == "/api/v1/nodes/n1" && a.node != nil && r.Method == http.MethodGet:
		a.answer(w)
		a.reads++
		if a.onRead != nil {
			a.onRead(a)
		}
	case r.URL.Path == "/api/v1/nodes/n1" && a.node != nil && r.Method == http.MethodPatch:
		a.patch(w, r)
	case r.URL.Path == "/apis/storage.k8s.io/v1/csinodes/n1" && a.drivers != nil:
		var drivers []any
		for _, name := range a.drivers {
			drivers = append(drivers, map[string]any{"name": name, "nodeID": "iqn"})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"spec": map[string]any{"drivers": drivers}})
	case r.URL.Path == "/apis/storage.k8s.io/v1/csinodes" && r.URL.RawQuery == "resourceVersion=0":
		_, _ = w.Write([]byte(a.list))
	default:
		refuse(w, http.StatusNotFound, fmt.Sprintf("%q not found", r.URL.Path))
	}
}

func (a *api) answer(w http.ResponseWriter) {
	node := maps.Clone(a.node)
	node["metadata"] = merged(a.node["metadata"], map[string]any{"name": "n1", "resourceVersion": strconv.Itoa(a.version)})
	_ = json.NewEncoder(w).Encode(node)
}

func (a *api) patch(w http.ResponseWriter, r *http.Request) {
	var patch struct {
		Metadata struct{ ResourceVersion string }
		Spec     map[string]any
	}
	if r.Header.Get("Content-Type") != "application/merge-patch+json" || json.NewDecoder(r.Body).Decode(&patch) != nil {
		refuse(w, http.StatusUnsupportedMediaType, "not a merge patch")
		return
	}
	if patch.Metadata.ResourceVersion != strconv.Itoa(a.version) {
		refuse(w, http.StatusConflict, "the object has been modified")
		return
	}
	a.version++
	a.node["spec"] = merged(a.node["spec"], patch.Spec)
	text, _ := json.Marshal(patch.Spec) //nolint:errchkjson // it came as JSON
	a.patches = append(a.patches, string(text))
	a.answer(w)
}

func merged(base any, over map[string]any) map[string]any {
	all := map[string]any{}
	if m, ok := base.(map[string]any); ok {
		maps.Copy(all, m)
	}
	maps.Copy(all, over)
	return all
}

func refuse(w http.ResponseWriter, code int, message string) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "message": message})
}

// serve serves a and returns a client of it.
func serve(t *testing.T, a *api) *kube.Client {
	t.Helper()
	server := httptest.NewTLSServer(a)
	t.Cleanup(server.Close)
	client, err := kube.New(server.URL, serviceAccount(t, server))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// start serves a and returns a guard that asks it.
func start(t *testing.T, a *api) kube.Guard {
	t.Helper()
	return kube.Guard{API: serve(t, a), Node: "n1", Driver: driver, Taints: []string{"going/away"}, Every: time.Millisecond}
}

// serviceAccount makes the directory that Kubernetes mounts.
func serviceAccount(t *testing.T, server *httptest.Server) string {
	t.Helper()
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for name, content := range map[string][]byte{"ca.crt": ca, "token": []byte("secret-token\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// node makes a Node of JSON.
func node(t *testing.T, text string) map[string]any {
	t.Helper()
	var n map[string]any
	if err := json.Unmarshal([]byte(text), &n); err != nil {
		t.Fatal(err)
	}
	return n
}
