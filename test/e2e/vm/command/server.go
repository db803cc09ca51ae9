package command

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// drainQuiet is how long output may be silent after its program ended before it counts as whole:
// a daemon left in the background can hold the pipe open for ever.
const drainQuiet = 200 * time.Millisecond

// drainLimit bounds the wait for a background program that never falls silent.
const drainLimit = 5 * time.Second

// Serve answers requests that come over conn until it closes or ctx ends.
func Serve(ctx context.Context, conn net.Conn) error {
	server := &http.Server{
		Handler:           Handler(),
		Protocols:         protocols(),
		HTTP2:             windows(),
		ReadHeaderTimeout: 0, // the peer is the harness, and its host may be busy
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err := server.Serve(newSingle(conn))
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Handler answers the requests of a Client.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathPing, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("POST "+pathRun, serveRun)
	mux.HandleFunc("POST "+pathStart, serveStart)
	mux.HandleFunc("PUT "+pathFile, servePut)
	mux.HandleFunc("GET "+pathFile, serveGet)
	mux.HandleFunc("POST "+pathDial, serveDial)
	return mux
}

func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if errors.Is(err, os.ErrNotExist) {
		status = http.StatusNotFound
	}
	http.Error(w, err.Error(), status)
}

func command(p Program) (*exec.Cmd, error) {
	if len(p.Argv) == 0 {
		return nil, errors.New("no program named")
	}
	cmd := exec.Command(p.Argv[0], p.Argv[1:]...) // the process group is killed when the request ends
	cmd.Env = append(os.Environ(), p.Env...)
	if cmd.Dir = p.Dir; cmd.Dir == "" {
		cmd.Dir = "/"
	}
	return cmd, nil
}

// serveRun runs a program with the request's body as its input. Its process group is killed when the
// caller goes away.
func serveRun(w http.ResponseWriter, r *http.Request) {
	var p Program
	encoded, err := base64.StdEncoding.DecodeString(r.Header.Get(headerProgram))
	if err == nil {
		err = json.Unmarshal(encoded, &p)
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("decode program: %v", err), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusOK)
	out := &frames{w: w, flush: http.NewResponseController(w).Flush}
	if err := out.exit(run(r.Context(), p, r.Body, out)); err != nil {
		panic(http.ErrAbortHandler) // the caller must not take half an answer for a whole one
	}
}

func run(ctx context.Context, p Program, stdin io.Reader, out *frames) exit {
	cmd, err := command(p)
	if err != nil {
		return exit{Code: 127, Err: err.Error()}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	input, err := cmd.StdinPipe()
	if err != nil {
		return exit{Code: 127, Err: err.Error()}
	}
	stdout, err := newOutput(&cmd.Stdout)
	if err != nil {
		return exit{Code: 127, Err: err.Error()}
	}
	stderr, err := newOutput(&cmd.Stderr)
	if err != nil {
		stdout.abandon()
		return exit{Code: 127, Err: err.Error()}
	}
	if err := cmd.Start(); err != nil {
		stdout.abandon()
		stderr.abandon()
		return exit{Code: 127, Err: err.Error()}
	}
	go func() {
		_, _ = io.Copy(input, stdin) // a program need not read its input
		_ = input.Close()
	}()
	var copied sync.WaitGroup
	copied.Go(func() { stdout.copy(out, frameStdout) })
	copied.Go(func() { stderr.copy(out, frameStderr) })

	group := -cmd.Process.Pid
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(group, syscall.SIGKILL) })
	waitErr := cmd.Wait()
	stop()
	stdout.ended()
	stderr.ended()
	copied.Wait()
	return exitOf(waitErr)
}

func exitOf(err error) exit {
	if err == nil {
		return exit{}
	}
	var failed *exec.ExitError
	if !errors.As(err, &failed) {
		return exit{Code: 127, Err: err.Error()}
	}
	if status, ok := failed.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exit{Code: 128 + int(status.Signal())}
	}
	return exit{Code: failed.ExitCode()}
}

// output is one of a program's output pipes. It belongs to us and not to exec.Cmd, so that a child left
// in the background neither delays the program's exit nor dies of a closed pipe.
type output struct {
	read, write *os.File
	end         chan struct{} // closed when the program has ended
}

func newOutput(to *io.Writer) (*output, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for output: %w", err)
	}
	*to = write
	return &output{read: read, write: write, end: make(chan struct{})}, nil
}

func (o *output) abandon() {
	_ = o.read.Close()
	_ = o.write.Close()
}

// ended starts the drain: what the program wrote is in the pipe already.
func (o *output) ended() {
	_ = o.write.Close()
	close(o.end)
	_ = o.read.SetReadDeadline(time.Now().Add(drainQuiet))
}

// copy sends output until the pipe closes, or falls silent after the program's end. What a background
// child writes later is read and dropped.
func (o *output) copy(out *frames, kind byte) {
	buf := make([]byte, maxFrame)
	var limit time.Time
	for {
		n, err := o.read.Read(buf)
		if n > 0 && out.write(kind, buf[:n]) != nil {
			break
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			_ = o.read.Close()
			return
		}
		select {
		case <-o.end:
			if limit.IsZero() {
				limit = time.Now().Add(drainLimit)
			}
			if time.Now().After(limit) {
				go o.drop()
				return
			}
			_ = o.read.SetReadDeadline(time.Now().Add(drainQuiet))
		default:
		}
	}
	go o.drop()
}

func (o *output) drop() {
	_ = o.read.SetReadDeadline(time.Time{})
	_, _ = io.Copy(io.Discard, o.read)
	_ = o.read.Close()
}

// serveStart starts a program in its own session and answers with its process id.
func serveStart(w http.ResponseWriter, r *http.Request) {
	var d Detached
	if err := json.NewDecoder(r.Body).Decode(&d); err != nil {
		http.Error(w, fmt.Sprintf("decode program: %v", err), http.StatusBadRequest)
		return
	}
	pid, err := start(d)
	if err != nil {
		refuse(w, err)
		return
	}
	_, _ = fmt.Fprint(w, pid)
}

func start(d Detached) (int, error) {
	cmd, err := command(d.Program)
	if err != nil {
		return 0, err
	}
	if d.Log != "" {
		log, err := os.OpenFile(d.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return 0, fmt.Errorf("open the log of %s: %w", d.Argv[0], err)
		}
		defer log.Close() //nolint:errcheck // the child has its own descriptor
		cmd.Stdout, cmd.Stderr = log, log
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() { _ = cmd.Wait() }() // reaps it; its log tells how it ended
	return cmd.Process.Pid, nil
}

// servePut writes a file under a temporary name and renames it, so that half a file is never run or read.
func servePut(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Query().Get("path")
	mode, err := strconv.ParseUint(r.URL.Query().Get("mode"), 8, 32)
	if err != nil || !filepath.IsAbs(path) {
		http.Error(w, fmt.Sprintf("path %q must be absolute and mode octal", path), http.StatusBadRequest)
		return
	}
	if err := put(path, os.FileMode(mode), r.Body); err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func put(path string, mode os.FileMode, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".put-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(tmp, content)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(tmp.Name()))
	}
	return nil
}

func serveGet(w http.ResponseWriter, r *http.Request) {
	file, err := os.Open(r.URL.Query().Get("path"))
	if err != nil {
		refuse(w, err)
		return
	}
	defer file.Close() //nolint:errcheck // only read
	if info, err := file.Stat(); err != nil || info.IsDir() {
		refuse(w, errors.Join(err, fmt.Errorf("%s is not a file", file.Name())))
		return
	}
	w.WriteHeader(http.StatusOK)
	if _, err := io.Copy(w, file); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// serveDial connects to a socket of this side and copies both ways.
func serveDial(w http.ResponseWriter, r *http.Request) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(r.Context(), r.URL.Query().Get("network"), r.URL.Query().Get("address"))
	if err != nil {
		refuse(w, err)
		return
	}
	stop := context.AfterFunc(r.Context(), func() { _ = conn.Close() })
	defer stop()
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	if err := flush(); err != nil {
		_ = conn.Close()
		return
	}
	go func() {
		_, _ = io.Copy(conn, r.Body)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	_, _ = io.Copy(flushing{w, flush}, conn)
	_ = conn.Close()
}

// flushing sends each write at once.
type flushing struct {
	io.Writer
	flush func() error
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err != nil {
		return n, err
	}
	return n, f.flush()
}
