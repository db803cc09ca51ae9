package iscsi_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

func TestRunTellsOutputExitCodeAndLastWords(t *testing.T) {
	out, err := iscsi.Direct().Run(t.Context(), "sh", "-c", "echo out; echo ' why ' >&2; exit 21")
	if got, want := string(out), "out\n"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
	var exit *iscsi.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("err = %v, want an *ExitError", err)
	}
	if want := (iscsi.ExitError{Tool: "sh", Code: 21, Stderr: "why"}); *exit != want {
		t.Errorf("err = %+v, want %+v", *exit, want)
	}
}

func TestRunErrorsHoldNoArguments(t *testing.T) {
	const canary = "canary-in-argv"
	for says, argv := range map[string][]string{
		"exit 3":            {"sh", "-c", "exit 3", canary},
		"no such tool":      {"no-such-tool-anywhere", canary},
		"permission denied": {"/dev/null", canary},
		"killed":            {"sh", "-c", "sleep 60", canary},
	} {
		ctx := t.Context()
		if says == "killed" {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
		}
		_, err := iscsi.Direct().Run(ctx, argv...)
		if err == nil || strings.Contains(err.Error(), canary) || !strings.Contains(err.Error(), says) {
			t.Errorf("err = %v, want one that says %q, and no argument", err, says)
		}
	}
}

func TestRunSaysToolIsMissing(t *testing.T) {
	_, err := iscsi.Direct().Run(t.Context(), "no-such-tool-anywhere")
	var exit *iscsi.ExitError
	if !errors.As(err, &exit) || exit.Code != 127 {
		t.Errorf("err = %v, want exit 127", err)
	}
}

func TestRunDeadlineKillsTheWholeGroup(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := iscsi.Direct().Run(ctx, "sh", "-c", "sleep 60 & echo $! >"+pidFile+"; wait")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("err = %v, want deadline exceeded", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v, want an end soon after the deadline", took)
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if gone(pid) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("the grandchild %d outlived the deadline", pid)
}

// On a host that is short of processor time, or with a tool that leaves a daemon behind,
// the output does not end with the tool. That is the host's state, and passes.
func TestRunOutputThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	_, err := iscsi.Direct().Run(t.Context(), "sh", "-c", "setsid sleep 20 & exit 0")
	if !errors.Is(err, iscsi.ErrOutput) || !strings.Contains(err.Error(), "processor time") {
		t.Errorf("err = %v, want ErrOutput with the reason", err)
	}
}

// gone also takes a zombie for gone: nobody reaps orphans in some containers.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(b), ") Z ")
}

func TestRunBoundsTheOutput(t *testing.T) {
	out, err := iscsi.Direct().Run(t.Context(), "sh", "-c", "yes | head -c 3000000; head -c 9000 /dev/zero | tr '\\0' x >&2; echo last >&2; exit 1")
	if got, want := len(out), 1<<20; got != want {
		t.Errorf("%d bytes of stdout kept, want %d", got, want)
	}
	var exit *iscsi.ExitError
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if len(exit.Stderr) > 4096 || !strings.HasSuffix(exit.Stderr, "last") {
		t.Errorf("stderr: %d bytes ending in %q, want at most 4096 and the last words", len(exit.Stderr), exit.Stderr[len(exit.Stderr)-10:])
	}
}

func TestRunAfterTheDeadlineStartsNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	mark := filepath.Join(t.TempDir(), "mark")
	if _, err := iscsi.Direct().Run(ctx, "touch", mark); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want canceled", err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the tool ran")
	}
}

// FM 26: the host's iscsid answers the host's own iscsiadm, in PID 1's namespaces.
func TestRunIntoPID1(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to enter namespaces")
	}
	if _, err := os.Readlink("/proc/1/ns/mnt"); err != nil {
		t.Skip("PID 1 cannot be looked at here:", err)
	}
	out, err := iscsi.Nsenter().Run(t.Context(), "readlink", "/proc/self/ns/mnt")
	if err != nil {
		var exit *iscsi.ExitError
		if errors.As(err, &exit) && strings.Contains(exit.Stderr, "Operation not permitted") {
			t.Skip("namespaces cannot be entered here:", err)
		}
		t.Fatal(err)
	}
	want, err := os.Readlink("/proc/1/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != want {
		t.Errorf("ran in %s, want %s", got, want)
	}
}

// FM 26: an iscsid in a container of its own is found by the network namespace that
// it shares with the host, whatever others run.
func TestTheDaemonIsTheOneInTheHostsNetwork(t *testing.T) {
	proc := t.TempDir()
	process := func(pid, comm, net string) {
		dir := filepath.Join(proc, pid, "ns")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, pid, "comm"), []byte(comm+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(net, filepath.Join(dir, "net")); err != nil {
			t.Fatal(err)
		}
	}
	daemon := iscsi.NsenterDaemon(proc)
	if _, err := daemon.Run(t.Context(), "true"); !errors.Is(err, iscsi.ErrNotReady) || !strings.Contains(err.Error(), "PID namespace") {
		t.Errorf("without a host: %v", err)
	}
	process("1", "machined", "net:[1]")
	process("20", "iscsid", "net:[2]") // somebody's pod
	process("30", "iscsid-wrapper", "net:[1]")
	if _, err := daemon.Run(t.Context(), "true"); !errors.Is(err, iscsi.ErrNotReady) || !strings.Contains(err.Error(), "no iscsid runs") {
		t.Errorf("without a daemon: %v", err)
	}
	process("40", "iscsid", "net:[1]")
	// It is entered, and that fails here, as these are no namespaces; nsenter says which.
	_, err := daemon.Run(t.Context(), "true")
	if err == nil || !strings.Contains(err.Error(), proc+"/40/ns") {
		t.Errorf("with one: %v", err)
	}
}
