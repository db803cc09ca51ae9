package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// buffer is a bytes.Buffer that two goroutines may use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start runs datera-sim until the test ends and answers its output once it says
// where its backends are.
func start(t *testing.T, args ...string) (out *buffer, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out = &buffer{}
	cmd := rootCommand()
	cmd.SetArgs(append([]string{"--http=127.0.0.1:0", "--https=127.0.0.1:0"}, args...))
	cmd.SetOut(out)
	cmd.SetErr(out)
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	var once sync.Once
	var result error
	stop = func() error {
		once.Do(func() { cancel(); result = <-done })
		return result
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(out.String(), "backends "); {
		if time.Now().After(deadline) {
			t.Fatalf("it did not start: %s", out)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return out, stop
}

// fails runs datera-sim with flags it must refuse.
func fails(t *testing.T, want string, args ...string) {
	t.Helper()
	cmd := rootCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&buffer{})
	cmd.SetErr(&buffer{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := cmd.ExecuteContext(ctx); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v: got %v, want an error that says %q", args, err, want)
	}
}

func TestBackendDirectoryIsReadyToUse(t *testing.T) {
	backends := t.TempDir()
	start(t, "--backends-dir="+backends, "--user=csi", "--password=open-sesame")
	read := func(name string) string {
		raw, err := os.ReadFile(filepath.Join(backends, "default", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(read("ca.crt"))) {
		t.Fatal("ca.crt holds no certificate")
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	login := `{"name":"` + read("username") + `","password":"` + read("password") + `"}`
	req, err := http.NewRequest(http.MethodPut, read("endpoint")+"/v2.3/login", strings.NewReader(login))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || read("tenant") != "/root" {
		t.Errorf("login answers %s", resp.Status)
	}
	for _, name := range backendFiles() {
		if info, err := os.Stat(filepath.Join(backends, "default", name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestCAIsKeptWithTheState(t *testing.T) {
	dir := t.TempDir()
	ca := func() string {
		_, stop := start(t, "--data-dir="+dir)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(filepath.Join(dir, "backends", "default", "ca.crt"))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	if first, second := ca(), ca(); first != second {
		t.Error("the CA changed at the second start")
	}
}

func TestPasswordNeverOnTheTerminal(t *testing.T) {
	out, stop := start(t, "--password=open-sesame", "--log-requests")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "open-sesame") {
		t.Errorf("it prints its password: %s", out)
	}
	if !strings.HasSuffix(out.String(), "stopped\n") {
		t.Errorf("it does not say that it stopped: %s", out)
	}
}

func TestTemporaryBackendsGoWithTheProcess(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	_, stop := start(t)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestBadStartsSayWhatToDo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	anyPort := []string{"--http=127.0.0.1:0", "--https=127.0.0.1:0"}
	fails(t, "choose another one", "--http="+l.Addr().String(), "--https=")
	fails(t, "choose one that can be written", append(anyPort, "--data-dir="+file)...)
	fails(t, "choose another one with --backends-dir", append(anyPort, "--backends-dir="+file)...)
	fails(t, "nothing would be served", "--http=", "--https=")
	fails(t, "needs --data-dir", "--lio")
	fails(t, "not an IP address", "--access-ip=nowhere")
	fails(t, "not a size", "--capacity=lots")
	fails(t, "not a URL", "--endpoint=192.0.2.1")
	fails(t, "four numbers", append(anyPort, "--sw-version=3.3")...)
	fails(t, "is not one of", append(anyPort, "--api-versions=v9")...)
	fails(t, "exclude each other", "--password=a", "--password-file="+file)
	fails(t, "is empty", "--password-file="+file)
}

func TestPortalsMustBeLocal(t *testing.T) {
	o := options{accessIPs: []string{"192.0.2.77"}}
	ips, err := o.portals()
	if err != nil {
		t.Fatal(err)
	}
	if err := checkLocal(ips); err == nil || !strings.Contains(err.Error(), "192.0.2.77 is not an address of this host") {
		t.Errorf("got %v", err)
	}
}

func TestHelpExplainsItself(t *testing.T) {
	var out bytes.Buffer
	cmd := rootCommand()
	cmd.SetArgs([]string{"--help"})
	cmd.SetOut(&out)
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Examples:", "--backends-dir", "--lio", "SIGTERM"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the help does not speak of %s", want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"1": 1, "4KiB": 4 << 10, "64TiB": 64 << 40, "1PiB": 1 << 50} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1", "1GB", "iB", "9999999PiB", "1.5GiB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: got %d", text, got)
		}
	}
}
