package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/vm/command"
)

// ExitError says that a program ran in a guest and failed.
type ExitError struct {
	Guest  string
	Argv   []string
	Code   int // 128 + n for a program that signal n ended
	Stderr string
}

func (e *ExitError) Error() string {
	message := fmt.Sprintf("%s: %s: exit status %d", e.Guest, shorten(strings.Join(e.Argv, " "), 200), e.Code)
	if e.Stderr != "" {
		message += ": " + e.Stderr
	}
	return message
}

func shorten(s string, size int) string {
	if len(s) <= size {
		return s
	}
	return s[:size] + "…"
}

// Exec runs a program with streams and returns its exit code. An error means that there is none: it could
// not be started, ctx ended (the program and its children are killed), or the guest died.
func (g *Guest) Exec(ctx context.Context, p command.Program, s command.Streams) (int, error) {
	m, err := g.running()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	var head limited
	s.Out, s.Err = tee(s.Out, &head), tee(s.Err, &head)
	code, err := m.client.Run(ctx, p, s)
	g.log.add(began, p.Argv, code, err, head.String())
	if err != nil {
		return 0, fmt.Errorf("run %s in %s: %w", shorten(strings.Join(p.Argv, " "), 200), g.Name, g.explain(err))
	}
	return code, nil
}

// Run runs a program and returns what it wrote to standard output; an exit status other than 0 is *ExitError.
func (g *Guest) Run(ctx context.Context, argv ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	code, err := g.Exec(ctx, command.Program{Argv: argv}, command.Streams{Out: &stdout, Err: &stderr})
	if err == nil && code != 0 {
		words := strings.TrimSpace(stderr.String())
		err = &ExitError{Guest: g.Name, Argv: argv, Code: code, Stderr: words[max(0, len(words)-2000):]}
	}
	return stdout.Bytes(), err
}

// Shell runs a script with /bin/sh -e.
func (g *Guest) Shell(ctx context.Context, script string) ([]byte, error) {
	return g.Run(ctx, "/bin/sh", "-ec", script)
}

// Daemon starts a program that goes on by itself, with its output in /var/log/NAME.log of the guest, and
// returns its process id.
func (g *Guest) Daemon(ctx context.Context, name string, argv ...string) (int, error) {
	m, err := g.running()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	pid, err := m.client.Start(ctx, command.Detached{Program: command.Program{Argv: argv}, Log: "/var/log/" + name + ".log"})
	g.log.add(began, append([]string{"(daemon)"}, argv...), 0, err, "")
	if err != nil {
		return 0, fmt.Errorf("start %s in %s: %w", name, g.Name, g.explain(err))
	}
	return pid, nil
}

// Put writes a file of the guest: whole, or not at all. Missing folders are made.
func (g *Guest) Put(ctx context.Context, content io.Reader, path string, mode os.FileMode) error {
	m, err := g.running()
	if err != nil {
		return err
	}
	if err := m.client.Put(ctx, content, path, mode); err != nil {
		return fmt.Errorf("put %s into %s: %w", path, g.Name, g.explain(err))
	}
	return nil
}

// PutFile copies a file of the host with its mode.
func (g *Guest) PutFile(ctx context.Context, local, path string) error {
	file, err := os.Open(local)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read
	info, err := file.Stat()
	if err != nil {
		return err
	}
	return g.Put(ctx, file, path, info.Mode().Perm())
}

// Get reads a file of the guest; a missing one is os.ErrNotExist.
func (g *Guest) Get(ctx context.Context, path string) ([]byte, error) {
	m, err := g.running()
	if err != nil {
		return nil, err
	}
	file, err := m.client.Get(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("get %s from %s: %w", path, g.Name, g.explain(err))
	}
	defer file.Close() //nolint:errcheck // only read
	content, err := io.ReadAll(file)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	} else if err != nil {
		err = g.explain(fmt.Errorf("%w: %w", command.ErrLost, err))
	}
	if err != nil {
		return nil, fmt.Errorf("get %s from %s: %w", path, g.Name, err)
	}
	return content, nil
}

// DialUnix connects to a unix socket in the guest, through the command channel and so regardless of the
// guest's network. The connection outlives ctx. For gRPC:
//
//	grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return g.DialUnix(ctx, path) })
func (g *Guest) DialUnix(ctx context.Context, path string) (net.Conn, error) {
	return g.dial(ctx, "unix", path)
}

// DialTCP connects to an address as the guest sees it, such as 127.0.0.1:7717, through the command channel.
func (g *Guest) DialTCP(ctx context.Context, address string) (net.Conn, error) {
	return g.dial(ctx, "tcp", address)
}

// Proxy serves the guest's command channel to other processes, see command.NewProxiedClient.
func (g *Guest) Proxy() (http.Handler, error) {
	m, err := g.running()
	if err != nil {
		return nil, err
	}
	return m.client.Proxy(), nil
}

func (g *Guest) dial(ctx context.Context, network, address string) (net.Conn, error) {
	m, err := g.running()
	if err != nil {
		return nil, err
	}
	conn, err := m.client.Dial(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("in %s: %w", g.Name, g.explain(err))
	}
	return conn, nil
}

// transcript is the record of a guest's commands. It only serves the reader of a failure, so what goes
// wrong in writing it is not worth an error.
type transcript struct {
	mu   sync.Mutex
	path string
}

func (t *transcript) add(began time.Time, argv []string, code int, err error, output string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	file, openErr := os.OpenFile(t.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if openErr != nil {
		return
	}
	defer file.Close() //nolint:errcheck // as above
	result := fmt.Sprintf("exit %d", code)
	if err != nil {
		result = err.Error()
	}
	_, _ = fmt.Fprintf(file, "%s $ %s\n", began.Format("15:04:05.000"), strings.Join(argv, " "))
	if output != "" {
		_, _ = fmt.Fprintf(file, "%s\n", strings.TrimSuffix(output, "\n"))
	}
	_, _ = fmt.Fprintf(file, "# %s after %.3f s\n", result, time.Since(began).Seconds())
}

// limited keeps the first bytes written to it by several goroutines.
type limited struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const transcriptLimit = 8 << 10 // bytes of output per command

func (l *limited) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(p[:min(len(p), transcriptLimit-min(l.buf.Len(), transcriptLimit))])
	return len(p), nil
}

func (l *limited) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func tee(w io.Writer, also io.Writer) io.Writer {
	if w == nil {
		return also
	}
	return io.MultiWriter(w, also)
}

// collectLogs copies the host's logs of a guest, and asks the guest for its own if it still answers.
func (g *Guest) collectLogs(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"console.log", "commands.log", "qemu.log"} {
		content, err := os.ReadFile(filepath.Join(g.dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), content, 0o644)
		}
		if err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	m, err := g.running()
	if err != nil {
		return nil // a guest that is off has no more to tell
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for name, script := range map[string]string{
		"dmesg.log": "dmesg",
		"state.log": "ps axf; ip -s address; cat /proc/mounts; lsblk; iscsiadm -m session -P 1; multipath -ll; ls -lR /etc/iscsi/nodes",
		"var.log":   "tail -n 2000 /var/log/*.log",
	} {
		file, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		_, err = m.client.Run(ctx, command.Program{Argv: []string{"/bin/sh", "-c", script}}, command.Streams{Out: file, Err: file})
		if closeErr := file.Close(); closeErr != nil {
			return closeErr
		}
		if errors.Is(err, command.ErrLost) {
			return nil // a dead guest has no more to tell either
		}
		if err != nil {
			return fmt.Errorf("collect %s of %s: %w", name, g.Name, err)
		}
	}
	return nil
}
