package iscsi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Runner runs one of the host's tools and returns what it wrote to its standard
// output, or asks the tool's daemon directly where that answers the same, as multipathd
// does on its socket. There is never a shell between. An error is an *ExitError when the
// tool ran and failed; it wraps ctx's error when ctx ended first. No error holds
// the arguments, because an argument may be something that logs must not show.
type Runner interface {
	Run(ctx context.Context, argv ...string) (stdout []byte, err error)
}

// ExitError says that a tool ran and failed. It unwraps to nothing: what a code
// means is for the caller of that tool to know.
type ExitError struct {
	Tool   string
	Code   int    // exit status; see NoSuchTool; 128+n when signal n ended it
	Stderr string // its end, in one line
}

// NoSuchTool says that the tool did not even start: there is none, or none that can be
// executed. POSIX.1-2017 (Shell Command Language, 2.8.2) gives these two codes, and
// nsenter does as it says.
func (e *ExitError) NoSuchTool() bool {
	return e.Code == exitNoSuchTool || e.Code == exitNotExecutable
}

func (e *ExitError) Error() string {
	s := fmt.Sprintf("%s: exit %d", e.Tool, e.Code)
	if e.Stderr != "" {
		s += ": " + e.Stderr
	}
	return s
}

// ErrStuck is wrapped by a Runner's error when the tool was told to die and did
// not: it sits in the kernel, waiting for a device. It has been abandoned, not
// waited for, and may still finish its work later.
var ErrStuck = errors.New("the tool does not die, it waits for a device")

// ErrOutput is wrapped by a Runner's error when the tool ended well and its output
// did not end with it. What the tool was to do is done.
var ErrOutput = errors.New("ended well, but its output did not end with it")

const (
	exitNotExecutable = 126
	exitNoSuchTool    = 127
	exitSignalled     = 128

	// Output beyond this is dropped. The tools run here say a few lines; one that
	// floods must not eat the plugin's memory.
	maxOutput = 1 << 20
	maxStderr = 4 << 10

	// How long after its death sentence a tool may take to die. SIGKILL acts at
	// once unless the process is in uninterruptible sleep.
	killGrace = 2 * time.Second

	// How long after the end of a tool the rest of its output may take: a moment,
	// unless something that it started lives on, or this host has no time to read.
	outputGrace = 10 * time.Second
)

type host struct {
	prefix     []string // what is run before each tool
	network    string   // the tools' network namespace; "" is this process's own
	multipathd string   // the daemon's socket
}

// Direct runs tools as children of this process: for a bare host or a VM.
func Direct() Runner { return host{multipathd: multipathdSocket} }

// HostNetwork is the network namespace of PID 1, for a container that shares the
// host's PID namespace.
const HostNetwork = "/proc/1/ns/net"

// Nsenter runs tools in the mount and network namespaces of PID 1: for a
// container that shares the host's PID namespace. The host's iscsid must answer
// the host's own iscsiadm, and both live in those two namespaces (FM 26).
func Nsenter() Runner {
	return host{
		prefix:     []string{"nsenter", "--mount=/proc/1/ns/mnt", "--net=" + HostNetwork, "--"},
		network:    HostNetwork,
		multipathd: multipathdSocket,
	}
}

// NsenterDaemon runs tools in the namespaces of iscsid, where that lives in a
// container of its own on the host, as on Talos Linux: there PID 1 has neither
// iscsiadm nor the node database (FM 26). proc is the host's /proc. The daemon is
// looked for at each run, because it may have been restarted.
func NsenterDaemon(proc string) Runner { return daemon{proc: proc} }

type daemon struct{ proc string }

func (d daemon) Run(ctx context.Context, argv ...string) ([]byte, error) {
	pid, err := d.pid()
	if err != nil {
		return nil, err
	}
	ns := filepath.Join(d.proc, pid, "ns")
	return host{prefix: []string{"nsenter", "--mount=" + ns + "/mnt", "--net=" + ns + "/net", "--"}}.Run(ctx, argv...)
}

// pid is the iscsid in the host's network namespace: the kernel speaks to no other.
// It forks once, and either process will do.
func (d daemon) pid() (string, error) {
	own, err := os.Readlink(filepath.Join(d.proc, "1/ns/net"))
	if err != nil {
		return "", unready{fmt.Errorf("look for the host's network namespace: %w", err), "does the container share the host's PID namespace?"}
	}
	names, err := filepath.Glob(filepath.Join(d.proc, "[0-9]*/comm"))
	if err != nil {
		return "", err
	}
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err != nil || string(comm) != "iscsid\n" {
			continue // it ended meanwhile, or is another one
		}
		dir := filepath.Dir(name)
		if ns, err := os.Readlink(filepath.Join(dir, "ns/net")); err == nil && ns == own {
			return filepath.Base(dir), nil
		}
	}
	return "", unready{errors.New("no iscsid runs in the host's network namespace"), "on Talos it comes with the extension iscsi-tools"}
}

func (h host) Run(ctx context.Context, argv ...string) ([]byte, error) {
	if len(argv) == 0 {
		return nil, errors.New("run a tool: no argv")
	}
	tool := argv[0]
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("run %s: %w", tool, err)
	}
	if tool == "multipathd" && len(argv) > 1 {
		if out, err := h.askMultipathd(ctx, argv[1:]); !errors.Is(err, errNoSocket) {
			return out, err
		}
	}
	argv = append(h.prefix[:len(h.prefix):len(h.prefix)], argv...)
	stdout, stderr := &output{max: maxOutput}, &output{max: maxStderr, tail: true}
	// Not CommandContext: its Wait waits for the child even when the child cannot
	// die, and that is the one thing that must not happen here.
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // see above; ctx is honoured by wait
	cmd.Stdout, cmd.Stderr = stdout, stderr
	// A group of its own, so that what the tool started dies with it. WaitDelay
	// closes the pipes if a grandchild that left the group keeps them open.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = outputGrace
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, &ExitError{Tool: argv[0], Code: exitNoSuchTool, Stderr: "no such tool"}
		}
		return nil, fmt.Errorf("start %s: %w", tool, startError(err))
	}
	err := wait(ctx, cmd)
	if err == nil {
		return stdout.bytes(), nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return stdout.bytes(), &ExitError{Tool: tool, Code: exitCode(exit), Stderr: oneLine(string(stderr.bytes()))}
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil, fmt.Errorf("%s %w after %v: this host is short of processor time, or what the tool started lives on", tool, ErrOutput, outputGrace)
	}
	return nil, fmt.Errorf("run %s: %w", tool, err)
}

// wait returns when the child has ended, or soon after ctx has.
func wait(ctx context.Context, cmd *exec.Cmd) error {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	killErr := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	grace := time.NewTimer(killGrace)
	defer grace.Stop()
	select {
	case err := <-ended:
		if err == nil {
			return nil // it was done when the deadline came
		}
		return fmt.Errorf("killed: %w", ctx.Err())
	case <-grace.C:
		return together(fmt.Errorf("abandoned: %w: %w", ErrStuck, ctx.Err()), killErr)
	}
}

func exitCode(e *exec.ExitError) int {
	if status, ok := e.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitSignalled + int(status.Signal())
	}
	return e.ExitCode()
}

// startError drops the wrapper that repeats the path and keeps the cause.
func startError(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// output collects up to max bytes, the first or the last of them. It may still
// be written to after the tool was abandoned, hence the lock.
type output struct {
	mu   sync.Mutex
	max  int
	tail bool
	buf  []byte
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf = append(o.buf, p...)
	if over := len(o.buf) - o.max; over > 0 && o.tail {
		o.buf = append(o.buf[:0], o.buf[over:]...)
	} else if over > 0 {
		o.buf = o.buf[:o.max]
	}
	return len(p), nil
}

func (o *output) bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]byte(nil), o.buf...)
}
