package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// binary is the plugin, built once with the flags of the Makefile.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "datera-csi")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "datera-csi")
	out, err := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X main.version=v1.2.3 -X main.commit=0123abc", "-o", binary, ".").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "build the plugin: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// run runs the plugin to its end.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// specVersion is the version of the CSI specification in go.mod.
func specVersion(t *testing.T) string {
	t.Helper()
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^\s*github.com/container-storage-interface/spec (\S+)`).FindSubmatch(mod)
	if m == nil {
		t.Fatal("go.mod does not require the CSI specification")
	}
	return string(m[1])
}

func TestVersionPrintsWhatTheLinkerSet(t *testing.T) {
	stdout, stderr, code := run(t, "version")
	want := fmt.Sprintf("datera-csi  v1.2.3\ncommit      0123abc\nCSI spec    %s\nGo          %s\nplatform    %s/%s\n",
		specVersion(t), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if d := cmp.Diff(stdout, want); d != "" || code != 0 || stderr != "" {
		t.Errorf("exit %d, stderr %q, stdout: got (-), want (+):\n%s", code, stderr, d)
	}
}

func TestVersionAsJSON(t *testing.T) {
	stdout, _, code := run(t, "version", "--output=json")
	var got map[string]string
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 {
		t.Fatalf("exit %d, %v:\n%s", code, err, stdout)
	}
	want := map[string]string{
		"version": "v1.2.3", "commit": "0123abc", "csiSpec": specVersion(t),
		"go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Error(d)
	}
}

func TestBadFlagsExitNonZeroAndAreNamed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	root := hostRoot(t, "iqn.1993-08.org.debian:01:abc")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no command":                 {nil, "controller, node, all, probe, guard, initiators or version"},
		"unknown command":            {[]string{"contoller"}, `unknown command "contoller"`},
		"unknown flag":               {[]string{"controller", "--backend-dir=/x"}, "--backend-dir"},
		"stray argument":             {[]string{"controller", "all"}, "all"},
		"bad output":                 {[]string{"version", "--output=yaml"}, "--output"},
		"bad level":                  {[]string{"version", "-v=loud"}, "-v"},
		"tcp endpoint":               {[]string{"controller", "--endpoint=tcp://:1", "--backends-dir=" + dir}, "--endpoint"},
		"endpoint is a file":         {[]string{"controller", "--endpoint=" + file, "--backends-dir=" + dir}, "--endpoint"},
		"bad driver name":            {[]string{"controller", "--driver-name=a/b", "--backends-dir=" + dir}, "--driver-name"},
		"no backends directory":      {[]string{"controller", "--backends-dir=" + dir + "/none"}, "--backends-dir"},
		"backends are a file":        {[]string{"controller", "--backends-dir=" + file}, "--backends-dir"},
		"no request allowed":         {[]string{"controller", "--array-concurrency=0", "--backends-dir=" + dir}, "--array-concurrency"},
		"concurrency is no number":   {[]string{"controller", "--array-concurrency=many"}, "--array-concurrency"},
		"unknown fs-tools":           {[]string{"node", "--host-root=" + root, "--fs-tools=mine"}, "--fs-tools"},
		"unknown host-exec":          {[]string{"node", "--host-root=" + root, "--host-exec=ssh"}, "--host-exec"},
		"unknown multipath mode":     {[]string{"node", "--host-root=" + root, "--multipath=yes"}, "--multipath"},
		"negative volumes":           {[]string{"node", "--host-root=" + root, "--max-volumes-per-node=-1"}, "--max-volumes-per-node"},
		"negative stages":            {[]string{"node", "--host-root=" + root, "--parallel-stages=-1"}, "--parallel-stages"},
		"no session":                 {[]string{"node", "--host-root=" + root, "--max-sessions=0"}, "--max-sessions"},
		"relative record directory":  {[]string{"node", "--host-root=" + root, "--record-dir=records"}, "--record-dir"},
		"record directory is a file": {[]string{"node", "--host-root=" + root, "--record-dir=" + file}, "--record-dir"},
		"no format time":             {[]string{"node", "--host-root=" + root, "--format-timeout=0s"}, "--format-timeout"},
		"no place":                   {[]string{"node", "--host-root=" + root, "--topology=zone"}, "--topology"},
		"no label":                   {[]string{"node", "--host-root=" + root, "--topology=zone=a b"}, "--topology"},
		"relative host root":         {[]string{"node", "--host-root=root"}, "--host-root"},
		"host without initiator":     {[]string{"node", "--host-root=" + dir, "--record-dir=" + dir}, "initiatorname.iscsi"},
		"probe of no socket":         {[]string{"probe", "--endpoint=tcp://:1"}, "--endpoint"},
		"guard of no node":           {[]string{"guard"}, "--node-name"},
		"guard outside of a cluster": {[]string{"guard", "--node-name=n1"}, "--api-server"},
		"guard without patience":     {[]string{"guard", "--node-name=n1", "--timeout=0s"}, "--timeout"},
		"two bad flags, both named":  {[]string{"all", "--array-concurrency=0", "--multipath=yes", "--backends-dir=" + dir}, "--array-concurrency: 0: at least one request must be allowed\n--multipath"},
	} {
		t.Run(name, func(t *testing.T) {
			_, stderr, code := run(t, c.args...)
			if code == 0 || !strings.Contains(stderr, c.want) {
				t.Errorf("exit %d, stderr:\n%swant it to say %q", code, stderr, c.want)
			}
			if strings.Contains(stderr, "panic") {
				t.Error("the plugin panicked")
			}
		})
	}
}

func TestHelpExplainsWithExamples(t *testing.T) {
	for _, command := range []string{"controller", "node", "all", "probe", "guard", "version"} {
		stdout, _, code := run(t, command, "--help")
		if code != 0 || !strings.Contains(stdout, "Examples:\n") || !strings.Contains(stdout, "datera-csi "+command) {
			t.Errorf("%s --help: exit %d, no example of the command:\n%s", command, code, stdout)
		}
	}
}

// hostRoot makes a host's root directory with what the node reads below it.
func hostRoot(t *testing.T, initiator string) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "etc", "iscsi")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "initiatorname.iscsi"), []byte("InitiatorName="+initiator+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

// backendsDir makes a directory with one backend, whose array nobody reaches.
func backendsDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	backend := filepath.Join(dir, "default")
	if err := os.Mkdir(backend, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"endpoint": "https://192.0.2.1:7718", "tenant": "/root", "username": "admin", "password": "canary-password"} {
		if err := os.WriteFile(filepath.Join(backend, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

type plugin struct {
	cmd  *exec.Cmd
	conn *grpc.ClientConn
	sock string
	log  *bytes.Buffer
	read chan struct{} // closed when the log has been read to its end
}

// start starts the plugin and waits until it serves.
func start(t *testing.T, args ...string) *plugin {
	t.Helper()
	p := &plugin{sock: filepath.Join(t.TempDir(), "csi.sock"), log: &bytes.Buffer{}, read: make(chan struct{})}
	p.cmd = exec.Command(binary, append(args, "--endpoint=unix://"+p.sock)...)
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DRIVER_NAME=from.environment", "ENDPOINT=/nowhere"}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); <-p.read; _ = p.cmd.Wait() })
	serving := make(chan struct{})
	go func() {
		defer close(p.read)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintln(p.log, lines.Text())
			if strings.Contains(lines.Text(), `"Serving"`) {
				close(serving)
			}
		}
	}()
	select {
	case <-serving:
	case <-p.read:
		t.Fatalf("the plugin ended before it served:\n%s", p.log)
	case <-time.After(20 * time.Second):
		t.Fatal("the plugin does not serve after 20 s")
	}
	if p.conn, err = grpc.NewClient("unix:"+p.sock, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.conn.Close() })
	return p
}

// end sends the signal and waits for the end.
func (p *plugin) end(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.read:
	case <-time.After(30 * time.Second):
		t.Fatal("the plugin does not end")
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("the plugin ended with %v:\n%s", err, p.log)
	}
}

func controllerArgs(t *testing.T) []string {
	t.Helper()
	return []string{"controller", "--backends-dir=" + backendsDir(t)}
}

func nodeArgs(t *testing.T) []string {
	t.Helper()
	return []string{"node", "--host-exec=direct", "--host-root=" + hostRoot(t, "iqn.1993-08.org.debian:01:abc"), "--record-dir=" + t.TempDir()}
}

func allArgs(t *testing.T) []string {
	t.Helper()
	return append(append([]string{"all"}, controllerArgs(t)[1:]...), nodeArgs(t)[1:]...)
}

func TestEachCommandServesItsServices(t *testing.T) {
	for _, c := range []struct {
		args             []string
		controller, node bool
	}{
		{controllerArgs(t), true, false},
		{nodeArgs(t), false, true},
		{allArgs(t), true, true},
	} {
		t.Run(c.args[0], func(t *testing.T) {
			p := start(t, c.args...)
			identity := csi.NewIdentityClient(p.conn)
			info, err := identity.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
			if err != nil || info.GetName() != "dsp.csi.daterainc.io" || info.GetVendorVersion() != "v1.2.3" {
				t.Errorf("GetPluginInfo = %v, %v", info, err)
			}
			caps, err := identity.GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{})
			if err != nil {
				t.Fatal(err)
			}
			advertised := false
			for _, pc := range caps.GetCapabilities() {
				advertised = advertised || pc.GetService().GetType() == csi.PluginCapability_Service_CONTROLLER_SERVICE
			}
			_, err = csi.NewControllerClient(p.conn).ControllerGetCapabilities(t.Context(), &csi.ControllerGetCapabilitiesRequest{})
			if served := err == nil; served != c.controller || advertised != c.controller {
				t.Errorf("controller served %v, advertised %v, want %v (%v)", served, advertised, c.controller, err)
			}
			_, err = csi.NewNodeClient(p.conn).NodeGetCapabilities(t.Context(), &csi.NodeGetCapabilitiesRequest{})
			if served := err == nil; served != c.node {
				t.Errorf("node served %v, want %v (%v)", served, c.node, err)
			}
		})
	}
}

// nodeInUseArgs is a node with a volume: it is registered though it is not fit.
func nodeInUseArgs(t *testing.T) []string {
	t.Helper()
	records := t.TempDir()
	const record = `{"version": 1, "volume": "CSI-a", "stagingPath": "/staging", "mode": "block", "target": {"iqn": "iqn.2013-05.com.daterainc:a"}}`
	if err := os.WriteFile(filepath.Join(records, "a.json"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	return append(nodeArgs(t), "--record-dir="+records, "--reconcile=off")
}

func TestAHostWithoutIscsidIsNotRegistered(t *testing.T) {
	args := nodeArgs(t)
	_, err := csi.NewNodeClient(start(t, args...).conn).NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "iscsid: ") {
		t.Errorf("NodeGetInfo: %v, want FailedPrecondition that names iscsid", err)
	}
	stdout, _, code := run(t, append(args, "--check", "--output=json")...)
	var found []struct{ Severity, Check, What, Remedy string }
	if err := json.Unmarshal([]byte(stdout), &found); err != nil || code == 0 {
		t.Fatalf("--check: exit %d, %v:\n%s", code, err, stdout)
	}
	for _, f := range found {
		if f.Check == "iscsid" && f.Severity == "unfit" && f.Remedy != "" {
			return
		}
	}
	t.Errorf("--check does not say that iscsid lacks: %+v", found)
}

func TestNodeIdIsTheInitiatorName(t *testing.T) {
	p := start(t, nodeInUseArgs(t)...)
	info, err := csi.NewNodeClient(p.conn).NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if err != nil || info.GetNodeId() != "iqn.1993-08.org.debian:01:abc" {
		t.Errorf("NodeGetInfo = %v, %v", info, err)
	}
}

func TestPlacesAreToldByTheNodeAndByTheController(t *testing.T) {
	places := func(p *plugin) bool {
		caps, err := csi.NewIdentityClient(p.conn).GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(caps.GetCapabilities(), func(c *csi.PluginCapability) bool {
			return c.GetService().GetType() == csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS
		})
	}
	node := start(t, append(nodeInUseArgs(t), "--topology=zone=east,rack=7", "--topology=host=")...)
	info, err := csi.NewNodeClient(node.conn).NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	want := map[string]string{"zone": "east", "rack": "7"}
	if got := info.GetAccessibleTopology().GetSegments(); err != nil || !maps.Equal(got, want) {
		t.Errorf("segments %v, %v; want %v", got, err, want)
	}
	if !places(node) {
		t.Error("a node that tells its place does not advertise that places matter")
	}
	if places(start(t, append(nodeArgs(t), "--topology=zone=")...)) {
		t.Error("a node without a place advertises that places matter")
	}
	args := controllerArgs(t)
	controller := start(t, args...)
	if places(controller) {
		t.Error("places are advertised although no backend has a topology")
	}
	dir := strings.TrimPrefix(args[len(args)-1], "--backends-dir=")
	if err := os.WriteFile(filepath.Join(dir, "default", "topology"), []byte("zone=east\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !places(controller) {
		t.Error("places are not advertised although a backend has a topology")
	}
}

// FM 32: an array that nobody reaches does not make the controller unready.
func TestControllerIsReadyWithoutItsArray(t *testing.T) {
	p := start(t, controllerArgs(t)...)
	resp, err := csi.NewIdentityClient(p.conn).Probe(t.Context(), &csi.ProbeRequest{})
	if err != nil || !resp.GetReady().GetValue() {
		t.Errorf("Probe = %v, %v, want ready", resp, err)
	}
}

func TestControllerWithoutBackendsIsNotReadyAndSaysWhy(t *testing.T) {
	p := start(t, "controller", "--backends-dir="+t.TempDir())
	resp, err := csi.NewIdentityClient(p.conn).Probe(t.Context(), &csi.ProbeRequest{})
	if err != nil || resp.GetReady().GetValue() {
		t.Errorf("Probe = %v, %v, want not ready", resp, err)
	}
	p.end(t, syscall.SIGTERM)
	if !strings.Contains(p.log.String(), "holds no backend") {
		t.Errorf("the log does not say what is missing:\n%s", p.log)
	}
}

// freeAddress is a TCP address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestProbesAreAnsweredOverHTTP: live is whoever answers on the socket, ready is who says so.
func TestProbesAreAnsweredOverHTTP(t *testing.T) {
	for name, c := range map[string]struct {
		args  []string
		ready int
	}{
		"ready":     {controllerArgs(t), http.StatusOK},
		"not ready": {[]string{"controller", "--backends-dir=" + t.TempDir()}, http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			address := freeAddress(t)
			start(t, append(c.args, "--health-address="+address)...)
			for path, want := range map[string]int{"/livez": http.StatusOK, "/readyz": c.ready, "/": http.StatusNotFound} {
				resp, err := http.Get("http://" + address + path)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != want {
					t.Errorf("GET %s = %s, want %d", path, resp.Status, want)
				}
			}
		})
	}
}

func TestATakenHealthAddressIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sock := filepath.Join(t.TempDir(), "csi.sock")
	_, stderr, code := run(t, append(controllerArgs(t), "--endpoint=unix://"+sock, "--health-address="+l.Addr().String())...)
	if code == 0 || !strings.Contains(stderr, "--health-address: ") || !strings.Contains(stderr, "give another address") {
		t.Errorf("exit %d:\n%s", code, stderr)
	}
}

func TestSIGTERMEndsThePluginAndItsSocket(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		p := start(t, controllerArgs(t)...)
		p.end(t, sig)
		if _, err := os.Stat(p.sock); !os.IsNotExist(err) {
			t.Errorf("%v: the socket is still there: %v", sig, err)
		}
	}
}

func TestASecondPluginDoesNotTakeTheSocket(t *testing.T) {
	p := start(t, controllerArgs(t)...)
	_, stderr, code := run(t, append(controllerArgs(t), "--endpoint=unix://"+p.sock)...)
	if code == 0 || !strings.Contains(stderr, "somebody listens on "+p.sock) {
		t.Errorf("exit %d:\n%s", code, stderr)
	}
	if _, err := csi.NewIdentityClient(p.conn).Probe(t.Context(), &csi.ProbeRequest{}); err != nil {
		t.Errorf("the first plugin: %v", err)
	}
}

// Resident memory of an idle plugin, in MiB, at most.
const (
	maxControllerRSS = 40
	maxNodeRSS       = 30
)

func TestIdleMemory(t *testing.T) {
	for _, c := range []struct {
		args []string
		max  float64
	}{
		{controllerArgs(t), maxControllerRSS},
		{nodeArgs(t), maxNodeRSS},
	} {
		t.Run(c.args[0], func(t *testing.T) {
			p := start(t, c.args...)
			identity := csi.NewIdentityClient(p.conn)
			for range 100 { // idle means probed, not untouched
				if _, err := identity.Probe(t.Context(), &csi.ProbeRequest{}); err != nil {
					t.Fatal(err)
				}
			}
			got := residentMiB(t, p.cmd.Process.Pid)
			t.Logf("%s: %.1f MiB resident", c.args[0], got)
			if got > c.max {
				t.Errorf("%s: %.1f MiB resident, want at most %.0f", c.args[0], got, c.max)
			}
		})
	}
}

func residentMiB(t *testing.T, pid int) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("resident memory is read from /proc: %v", err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no VmRSS in:\n%s", status)
	}
	kib, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return float64(kib) / 1024
}
