package main_test

import (
	"context"
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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// FM 10: the one process sees two nodes with one id, the other refuses volumes to them
// until they have two.
func TestNodesWithOneInitiatorNameAreRefusedFromOneProcessToTheOther(t *testing.T) {
	const name = "iqn.1993-08.org.debian:01:aaaaaaaaaaaa"
	var mended atomic.Bool
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/apis/storage.k8s.io/v1/csinodes" {
			http.NotFound(w, r)
			return
		}
		second := strings.ToUpper(name)
		if mended.Load() {
			second = "iqn.1993-08.org.debian:01:bbbbbbbbbbbb"
		}
		_, _ = w.Write([]byte(`{"items":[{"metadata":{"name":"n1"},"spec":{"drivers":[{"name":"dsp.csi.daterainc.io","nodeID":"` + name + `"}]}},
			{"metadata":{"name":"n2"},"spec":{"drivers":[{"name":"dsp.csi.daterainc.io","nodeID":"` + second + `"}]}}]}`))
	}))
	defer api.Close()
	file := filepath.Join(t.TempDir(), "shared.json")
	look := exec.Command(binary, "initiators", "--file="+file, "--interval=10ms", "--api-server="+api.URL, "--service-account-dir="+serviceAccount(t, api))
	if err := look.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = look.Process.Kill() }()
	p := start(t, append(controllerArgs(t), "--shared-initiators-file="+file)...)
	publish := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := csi.NewControllerClient(p.conn).ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{VolumeId: "CSI-none", NodeId: name,
			VolumeCapability: &csi.VolumeCapability{
				AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
				AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
			}})
		return err
	}
	untilExists(t, file)
	if err := publish(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "n1, n2") {
		t.Errorf("publish = %v, want a refusal that names the nodes", err)
	}
	mended.Store(true)
	code := codes.FailedPrecondition
	for end := time.Now().Add(10 * time.Second); code == codes.FailedPrecondition && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		code = status.Code(publish())
	}
	if code != codes.DeadlineExceeded && code != codes.Unavailable {
		t.Errorf("publish = %s, want that the array is asked, of which there is none", code)
	}
	if err := look.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := look.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func untilExists(t *testing.T, file string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not come", file)
		}
	}
}

func TestFlagsOfInitiators(t *testing.T) {
	for want, args := range map[string][]string{
		"--file: say which":               {},
		"--interval: 31m0s: must be":      {"--file=x", "--interval=31m"},
		"--interval: 0s: must be above 0": {"--file=x", "--interval=0"},
		"--driver-name":                   {"--file=x", "--driver-name=-"},
		"is the service account mounted":  {"--file=x", "--api-server=https://127.0.0.1:1", "--service-account-dir=" + t.TempDir()},
	} {
		if _, stderr, code := run(t, append([]string{"initiators"}, args...)...); code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%q: exit %d, stderr %q, want %q", args, code, stderr, want)
		}
	}
}
