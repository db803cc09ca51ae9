package command_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/datera-csi/datera-csi/test/e2e/vm/command"
)

// pair gives a client whose far side is this process, over a socket pair as the harness uses with QEMU.
func pair(t *testing.T) (*command.Client, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		if conns[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- command.Serve(ctx, conns[1]) }()
	client := command.NewClient(conns[0])
	t.Cleanup(func() {
		client.Close()
		cancel()
		select {
		case <-served:
		case <-time.After(5 * time.Second):
			t.Error("the server did not end with its connection")
		}
	})
	if err := client.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	return client, conns[1]
}

func shell(script string) command.Program {
	return command.Program{Argv: []string{"/bin/sh", "-c", script}}
}

func TestExitCodeAndOutputArriveAsTheyAre(t *testing.T) {
	client, _ := pair(t)
	cases := []struct {
		name     string
		program  command.Program
		in       string
		code     int
		out, err string
	}{
		{name: "zero", program: shell("echo hello"), out: "hello\n"},
		{name: "seven", program: shell("echo out; echo err >&2; exit 7"), code: 7, out: "out\n", err: "err\n"},
		{name: "killed by a signal", program: shell("kill -9 $$"), code: 137},
		{name: "standard input", program: shell("tr a-z A-Z"), in: "loud", out: "LOUD"},
		{name: "input left unread", program: shell("exit 3"), in: strings.Repeat("x", 1<<20), code: 3},
		{name: "arguments are not split", program: command.Program{Argv: []string{"printf", "%s|", "a b", "", "ü\n\x7f"}}, out: "a b||ü\n\x7f|"},
		{name: "environment and directory", program: command.Program{Argv: []string{"sh", "-c", "echo $NAME in $PWD"}, Env: []string{"NAME=guest"}, Dir: "/usr"}, out: "guest in /usr\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code, err := client.Run(t.Context(), c.program, command.Streams{In: strings.NewReader(c.in), Out: &stdout, Err: &stderr})
			if err != nil {
				t.Fatal(err)
			}
			if code != c.code || stdout.String() != c.out || stderr.String() != c.err {
				t.Errorf("got code %d, stdout %q, stderr %q; want %d, %q, %q", code, &stdout, &stderr, c.code, c.out, c.err)
			}
		})
	}
}

func TestOutputThatTheCallerCannotTakeIsNoLostChannel(t *testing.T) {
	client, _ := pair(t)
	full := errors.New("disk full")
	_, err := client.Run(t.Context(), shell("echo hello"), command.Streams{Out: brokenWriter{full}})
	if !errors.Is(err, full) || errors.Is(err, command.ErrLost) {
		t.Errorf("got %v, want the writer's error only", err)
	}
	if code, err := client.Run(t.Context(), shell("exit 4"), command.Streams{}); code != 4 || err != nil {
		t.Errorf("the next command: %d, %v", code, err)
	}
}

func TestFirstCommandsAtOnceShareTheOneConnection(t *testing.T) {
	for range 50 {
		client, _ := pair(t)
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				if err := client.Ping(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
}

type brokenWriter struct{ err error }

func (b brokenWriter) Write([]byte) (int, error) { return 0, b.err }

func TestProgramThatCannotStartIsAnError(t *testing.T) {
	client, _ := pair(t)
	for _, argv := range [][]string{nil, {"/no/such/program"}} {
		if code, err := client.Run(t.Context(), command.Program{Argv: argv}, command.Streams{}); err == nil {
			t.Errorf("Run(%q) = %d, want an error", argv, code)
		}
	}
}

func TestBackgroundChildNeitherDelaysNorDies(t *testing.T) {
	client, _ := pair(t)
	mark := filepath.Join(t.TempDir(), "mark")
	began := time.Now()
	var out bytes.Buffer
	script := "(sleep 1; echo late; echo late; : >" + mark + ") & echo early"
	if code, err := client.Run(t.Context(), shell(script), command.Streams{Out: &out}); err != nil || code != 0 {
		t.Fatal(code, err)
	}
	if took := time.Since(began); took > 900*time.Millisecond {
		t.Errorf("answered after %v, although the program had ended", took)
	}
	if out.String() != "early\n" {
		t.Errorf("output %q, want the program's own", &out)
	}
	await(t, "the child's last step", func() bool { _, err := os.Stat(mark); return err == nil })
}

func TestDetachedProgramOutlivesItsRequest(t *testing.T) {
	client, _ := pair(t)
	log := filepath.Join(t.TempDir(), "log")
	pid, err := client.Start(t.Context(), command.Detached{Program: shell("echo begun; exec sleep 60"), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "its output in the log", func() bool { b, _ := os.ReadFile(log); return string(b) == "begun\n" })
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Errorf("process %d is gone: %v", pid, err)
	}
}

func TestEndOfContextKillsTheWholeGroup(t *testing.T) {
	client, _ := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	pids, writer := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := client.Run(ctx, shell("sleep 60 & echo $!; wait"), command.Streams{Out: writer})
		done <- err
	}()
	line := make([]byte, 32)
	n, err := pids.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run after cancel: %v", err)
	}
	await(t, "the child's death", func() bool {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(child) + "/stat")
		return err != nil || strings.Contains(string(status), ") Z ")
	})
	if code, err := client.Run(t.Context(), shell("exit 4"), command.Streams{}); code != 4 || err != nil {
		t.Errorf("the channel after a cancelled command: %d, %v", code, err)
	}
}

func TestManyCommandsShareTheChannel(t *testing.T) {
	client, _ := pair(t)
	stalled, stalledWriter := io.Pipe() // nobody reads it until the end
	defer stalled.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		_, _ = client.Run(ctx, shell("yes stalled"), command.Streams{Out: stalledWriter})
	}()
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			var out bytes.Buffer
			code, err := client.Run(t.Context(), shell("head -c 1000000 /dev/zero; exit "+strconv.Itoa(i)), command.Streams{Out: &out})
			if err != nil || code != i || out.Len() != 1000000 {
				t.Errorf("command %d: code %d, %d bytes, %v", i, code, out.Len(), err)
			}
		})
	}
	all.Wait()
}

func TestFileGoesThereAndBackUnchanged(t *testing.T) {
	client, _ := pair(t)
	want := make([]byte, 5<<20)
	_, _ = rand.Read(want)
	path := filepath.Join(t.TempDir(), "new/folder/file")
	if err := client.Put(t.Context(), bytes.NewReader(want), path, 0o750); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o750 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	file, err := client.Get(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got back %d bytes, %v", len(got), err)
	}
	if _, err := client.Get(t.Context(), path+"-missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestUploadThatBreaksLeavesNothing(t *testing.T) {
	client, _ := pair(t)
	dir := t.TempDir()
	entries := func() int { left, _ := os.ReadDir(dir); return len(left) }
	body := io.MultiReader(strings.NewReader("half"), breakWhen(func() { await(t, "the upload to begin", func() bool { return entries() > 0 }) }))
	if err := client.Put(t.Context(), body, filepath.Join(dir, "file"), 0o644); err == nil {
		t.Error("no error")
	}
	await(t, "the folder to be empty", func() bool { return entries() == 0 })
}

// breakWhen is a reader that fails after it has waited.
type breakWhen func()

func (b breakWhen) Read([]byte) (int, error) {
	b()
	return 0, errors.New("broken")
}

func TestDialReachesASocketOfTheFarSide(t *testing.T) {
	client, _ := pair(t)
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, acceptErr := listener.Accept()
			if acceptErr != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); conn.Close() }()
		}
	}()
	dialing, cancel := context.WithCancel(t.Context())
	conn, err := client.Dial(dialing, "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // bounds the dialing, not the connection
	for _, word := range []string{"first", "second"} {
		if _, err := io.WriteString(conn, word); err != nil {
			t.Fatal(err)
		}
		echo := make([]byte, len(word))
		if _, err := io.ReadFull(conn, echo); err != nil || string(echo) != word {
			t.Fatalf("echo %q, %v", echo, err)
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read past the deadline: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if _, err := client.Dial(t.Context(), "unix", path+"-missing"); err == nil {
		t.Error("dialed a socket that does not exist")
	}
}

func TestBrokenChannelIsLostAndNeverAnEmptyAnswer(t *testing.T) {
	client, far := pair(t)
	done := make(chan error, 1)
	started := make(chan struct{})
	reader, writer := io.Pipe()
	go func() {
		_, err := client.Run(t.Context(), shell("echo on; sleep 60"), command.Streams{Out: writer})
		done <- err
	}()
	go func() { _, _ = reader.Read(make([]byte, 8)); close(started) }()
	<-started
	far.Close()
	if err := <-done; !errors.Is(err, command.ErrLost) {
		t.Errorf("the command under way: %v, want ErrLost", err)
	}
	if err := client.Ping(t.Context()); !errors.Is(err, command.ErrLost) {
		t.Errorf("the next request: %v, want ErrLost", err)
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
