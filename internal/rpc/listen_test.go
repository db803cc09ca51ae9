package rpc_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/datera-csi/datera-csi/internal/rpc"
)

func TestListenUnderstandsEveryFormOfEndpoint(t *testing.T) {
	t.Chdir(t.TempDir())
	dir := t.TempDir()
	for _, endpoint := range []string{
		"unix://" + dir + "/a.sock",
		"unix:" + dir + "/b.sock",
		"unix:c.sock",
		dir + "/d.sock",
		"unix://" + dir + "/made/e.sock",
	} {
		l, err := rpc.Listen(t.Context(), endpoint)
		if err != nil {
			t.Errorf("Listen(%q): %v", endpoint, err)
			continue
		}
		path := l.Addr().String()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := info.Mode(), os.ModeSocket|0o660; got != want {
			t.Errorf("Listen(%q): mode %v, want %v", endpoint, got, want)
		}
		if err = l.Close(); err != nil {
			t.Error(err)
		}
		if _, err = os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("Listen(%q): socket is still there after Close: %v", endpoint, err)
		}
	}
}

func TestListenRefusesBadEndpoints(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ endpoint, want string }{
		"empty":             {"", "not a unix domain socket"},
		"tcp":               {"tcp://0.0.0.0:10000", "offer every caller root"},
		"relative":          {"csi.sock", "not a unix domain socket"},
		"two slashes":       {"unix://csi/csi.sock", "three slashes"},
		"no path":           {"unix:///", "names no socket"},
		"no path at all":    {"unix:", "names no socket"},
		"directory":         {"unix://" + dir + "/", "names no socket"},
		"existing dir":      {"unix://" + dir, "is not a socket"},
		"file":              {"unix://" + file, "is not a socket"},
		"zero byte":         {"unix:///tmp/a\x00b", "zero byte"},
		"too long":          {"unix:///" + strings.Repeat("x", 107), "108 bytes, the kernel takes at most 107"},
		"parent is missing": {"unix://" + dir + "/no/such/csi.sock", "its parent does not exist"},
		"parent is a file":  {"unix://" + file + "/dir/csi.sock", "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := rpc.Listen(t.Context(), c.endpoint)
			if err == nil {
				l.Close()
				t.Fatalf("Listen(%q) succeeded", c.endpoint)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("Listen(%q) = %q, want it to say %q", c.endpoint, err, c.want)
			}
		})
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "precious" {
		t.Errorf("a file in the way was changed: %q, %v", got, err)
	}
}

func TestListenAcceptsTheLongestPathTheKernelTakes(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "rpc") // short, whatever TMPDIR is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := dir + "/" + strings.Repeat("x", 107-len(dir)-1)
	l, err := rpc.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestListenReplacesTheSocketOfADeadProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "csi.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()

	l, err := rpc.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("nobody listens on the new socket: %v", err)
	}
	conn.Close()
}

func TestListenLeavesALiveSocketAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "csi.sock")
	alive, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()

	if _, err = rpc.Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "somebody listens on "+path) {
		t.Errorf("Listen = %v, want a refusal that names %s", err, path)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first listener lost its socket: %v", err)
	}
	conn.Close()
}

func TestOnlyOneOfManyListenersGetsTheSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "csi.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()

	var mu sync.Mutex
	var got []net.Listener
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if l, err := rpc.Listen(t.Context(), path); err == nil {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, l)
			}
		})
	}
	wg.Wait()
	if len(got) != 1 {
		t.Errorf("%d listeners think the socket is theirs, want 1", len(got))
	}
	for _, l := range got {
		l.Close()
	}
}
