package main_test

import (
	"bufio"
	"context"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
)

// FM 32: a probe asks the plugin only, and tells a plugin that cannot work here from
// one that hangs.
func TestProbe(t *testing.T) {
	ready, unready := start(t, controllerArgs(t)...), start(t, "controller", "--backends-dir="+t.TempDir())
	for name, c := range map[string]struct {
		sock string
		live bool
		want string // in the error; "" is exit 0
	}{
		"ready":               {ready.sock, false, ""},
		"ready, live":         {ready.sock, true, ""},
		"not ready":           {unready.sock, false, "its log says what is missing"},
		"not ready, but live": {unready.sock, true, ""},
		"nobody serves":       {ready.sock + ".gone", true, "no answer at unix://" + ready.sock + ".gone"},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"probe", "--endpoint=unix://" + c.sock, "--timeout=10s"}
			if c.live {
				args = append(args, "--live")
			}
			_, stderr, code := run(t, args...)
			if (code == 0) != (c.want == "") || !strings.Contains(stderr, c.want) {
				t.Errorf("exit %d, stderr %q, want it to say %q", code, stderr, c.want)
			}
		})
	}
}

func TestProbeOfAPluginThatHangs(t *testing.T) {
	p := start(t, controllerArgs(t)...)
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := run(t, "probe", "--live", "--endpoint=unix://"+p.sock, "--timeout=300ms"); code == 0 || !strings.Contains(stderr, "no answer") {
		t.Errorf("exit %d, stderr %q", code, stderr)
	}
}

// busy is a plugin on a host that is too busy to tell whether it is fit.
type busy struct {
	csi.UnimplementedIdentityServer
}

func (busy) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: "busy.example.com"}, nil
}

func (busy) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// Kubernetes ends a plugin that is not live, amid its calls, so one that takes long to find out whether it is
// ready must be live.
func TestAPluginThatTakesLongToBeReadyIsLive(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "csi.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, busy{})
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	if _, stderr, code := run(t, "probe", "--live", "--endpoint=unix://"+sock, "--timeout=30s"); code != 0 {
		t.Errorf("live: exit %d, stderr %q", code, stderr)
	}
	if _, stderr, code := run(t, "probe", "--endpoint=unix://"+sock, "--timeout=300ms"); code == 0 || !strings.Contains(stderr, "no answer") {
		t.Errorf("ready: exit %d, stderr %q", code, stderr)
	}
}

// FM 37: the guard ends when the last volume has left the node that leaves.
func TestGuardEndsWithTheLastVolume(t *testing.T) {
	var gone atomic.Bool
	asked := make(chan struct{}, 100)
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/nodes/n1" {
			http.NotFound(w, r)
			return
		}
		status := `{"volumesInUse":["kubernetes.io/csi/dsp.csi.daterainc.io^CSI-pvc-1"]}`
		if gone.Load() {
			status = `{}`
		}
		_, _ = w.Write([]byte(`{"spec":{"unschedulable":true},"status":` + status + `}`))
		asked <- struct{}{}
	}))
	defer api.Close()
	cmd := exec.Command(binary, "guard", "--node-name=n1", "--api-server="+api.URL, "--service-account-dir="+serviceAccount(t, api), "--interval=10ms")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	lines := bufio.NewScanner(stderr)
	if !lines.Scan() || !strings.Contains(lines.Text(), "Standing guard") {
		t.Fatalf("the guard says %q", lines.Text())
	}
	select {
	case <-asked:
		t.Fatal("the API was asked before the end")
	case <-time.After(50 * time.Millisecond):
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-asked
	<-asked // and again: it waits
	gone.Store(true)
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the guard ended with %v", err)
	}
}

func TestGuardWithoutAServiceAccount(t *testing.T) {
	_, stderr, code := run(t, "guard", "--node-name=n1", "--api-server=https://127.0.0.1:1", "--service-account-dir="+t.TempDir())
	if code == 0 || !strings.Contains(stderr, "is the service account mounted") {
		t.Errorf("exit %d, stderr %q", code, stderr)
	}
}

func serviceAccount(t *testing.T, api *httptest.Server) string {
	t.Helper()
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	for name, content := range map[string][]byte{"ca.crt": ca, "token": []byte("t")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
