package sanity_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/rpc"
	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/controller"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
	"github.com/datera-csi/datera-csi/pkg/identity"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
	"github.com/datera-csi/datera-csi/pkg/node/nodetest"
)

var (
	endpoint     = flag.String("endpoint", "", "test the plugin that serves controller and node here, instead of one in this process")
	arrayURL     = flag.String("array", "", "an array, e.g. https://10.0.0.5:7718; default: the simulator")
	arrayTenant  = flag.String("array-tenant", "/root", "tenant on the array")
	arrayUser    = flag.String("array-user", "admin", "user of the array")
	passwordFile = flag.String("array-password-file", "", "file with the user's password")
	caFile       = flag.String("array-ca", "", "file with the array's CA in PEM form; default: the system's roots")
)

// lab is an array, the one host that uses it, and the plugin between them.
type lab struct {
	address  string // where the plugin serves
	backends string // the controller's --backends-dir
	client   *dateraclient.Client
	host     *nodetest.Host
	attacher node.Attacher
	records  string
	log      *journal
}

// startPlugin serves the plugin until the test ends, and then asserts that the
// array and the host are as they were.
func startPlugin(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	volumes, mounts := l.volumes(t), l.mounts(t)
	t.Cleanup(func() {
		l.checkClean(t, volumes, mounts)
		l.checkLog(t)
	})

	config := l.host.Config()
	config.Attacher, config.RecordDir, config.MaxVolumes, config.Clock = l.attacher, l.records, 128, time.Now
	nodeServer, err := node.New(config)
	if err != nil {
		t.Fatal(err)
	}
	backends := controller.OpenBackends(controller.BackendsConfig{Dir: l.backends, Agent: "datera-csi-sanity"})
	server := rpc.New(rpc.Config{Log: l.log.logger(), Grace: 10 * time.Second, Abort: time.Second})
	csi.RegisterIdentityServer(server, identity.New(identity.Config{
		Name: "dsp.csi.daterainc.io", Version: "sanity", Controller: true,
		Ready: func(context.Context) error { return backends.Ready() },
	}))
	csi.RegisterControllerServer(server, controller.New(controller.Config{Backends: backends}))
	csi.RegisterNodeServer(server, nodeServer)

	l.address = "unix://" + filepath.Join(t.TempDir(), "csi.sock")
	listener, err := rpc.Listen(t.Context(), l.address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the plugin ended with: %v", err)
		}
	})
	return l
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	host, err := nodetest.NewHost(dir)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{host: host, attacher: host, records: filepath.Join(dir, "records"), log: &journal{}}
	if *arrayURL != "" {
		l.backends = hardware(t)
		host.ArrayBytes = l.bytes
	} else {
		fabric := newFabric()
		array := simtest.StartTLS(t, func(c *sim.Config) { c.Exporter, c.DataDir = fabric, t.TempDir() })
		l.backends = array.BackendDir(t, "default")
		l.attacher = &initiator{Host: host, fabric: fabric, name: host.Config().NodeID}
		host.ArrayBytes = fabric.bytes
	}
	l.client = connect(t, filepath.Join(l.backends, "default"))
	return l
}

// hardware writes the backend that the flags describe.
func hardware(t *testing.T) string {
	t.Helper()
	parent := t.TempDir()
	dir := filepath.Join(parent, "default")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if *passwordFile == "" {
		t.Fatal("-array needs -array-password-file")
	}
	files := map[string]string{"endpoint": *arrayURL, "tenant": *arrayTenant, "username": *arrayUser, "password": read(t, *passwordFile)}
	if *caFile != "" {
		files["ca.crt"] = read(t, *caFile)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return parent
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// connect makes a client of its own, to look at the array past the plugin.
func connect(t *testing.T, backend string) *dateraclient.Client {
	t.Helper()
	address, err := url.Parse(read(t, filepath.Join(backend, "endpoint")))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(backend, "ca.crt"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	web, err := dateraclient.HTTPClient(ca, false)
	if err != nil {
		t.Fatal(err)
	}
	user, password := read(t, filepath.Join(backend, "username")), read(t, filepath.Join(backend, "password"))
	client, err := dateraclient.New(dateraclient.Config{
		Endpoint: address, Tenant: read(t, filepath.Join(backend, "tenant")), HTTP: web,
		Credentials: func() (string, string, error) { return user, password, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func (l *lab) mounts(t *testing.T) []node.Mount {
	t.Helper()
	mounts, err := l.host.Mounts().List()
	if err != nil {
		t.Fatal(err)
	}
	return mounts
}

// volumes are the names of what is on the array.
func (l *lab) volumes(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	for v, err := range l.client.Volumes(context.Background(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		names[v.Name] = true
	}
	return names
}

// bytes asks the array how large the LUN of a target is.
func (l *lab) bytes(target iscsi.Target) (int64, error) {
	for v, err := range l.client.Volumes(context.Background(), 0) {
		if err != nil {
			return 0, err
		}
		if v.IQN == target.IQN {
			return v.Size.Bytes(), nil
		}
	}
	return 0, fmt.Errorf("the array has no target %s", target.IQN)
}

// checkClean asserts that csi-test, which cleans up through the plugin, left
// nothing: no volume on the array, no mount, no device and no record on the host.
func (l *lab) checkClean(t *testing.T, volumes map[string]bool, mounts []node.Mount) {
	t.Helper()
	after := l.volumes(t)
	maps.DeleteFunc(after, func(name string, _ bool) bool { return volumes[name] })
	if len(after) > 0 {
		t.Errorf("volumes left on the array: %v", slices.Sorted(maps.Keys(after)))
	}
	if d := cmp.Diff(l.mounts(t), mounts); d != "" {
		t.Errorf("mounts of the host after (-) and before (+):\n%s", d)
	}
	records, err := filepath.Glob(filepath.Join(l.records, "*.json")) // what is known of file systems stays
	if err != nil || len(records) > 0 {
		t.Errorf("records left on the host: %v (%v)", records, err)
	}
	attached := 0
	for _, call := range l.host.Calls() {
		switch {
		case strings.HasPrefix(call, "attach "):
			attached++
		case strings.HasPrefix(call, "detach "):
			attached--
		}
	}
	if attached != 0 {
		t.Errorf("%d devices left on the host", attached)
	}
}

// checkLog asserts that no secret is in the log, which has every request and
// answer, or in a command that the host ran (FM 40), and that no call panicked.
// When the test has failed it tells which calls did.
func (l *lab) checkLog(t *testing.T) {
	t.Helper()
	for line := range strings.Lines(l.log.String() + strings.Join(l.host.Calls(), "\n")) {
		if strings.Contains(line, canary) || strings.Contains(line, canaryIn) {
			t.Errorf("a secret is told: %s", line)
		}
		if strings.Contains(line, `"Panic"`) {
			t.Errorf("a call panicked: %s", line)
		}
		if t.Failed() && strings.Contains(line, "Call failed") && !strings.Contains(line, `code="Aborted"`) {
			t.Log(strings.TrimSpace(line))
		}
	}
}
