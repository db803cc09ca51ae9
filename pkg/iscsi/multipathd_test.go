package iscsi_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// answering is a multipathd that hears commands and says what the test wants; its
// name is an abstract socket's.
func answering(t *testing.T, listen func(name string) (net.Listener, error), say func(command string) []byte) (name string) {
	t.Helper()
	name = fmt.Sprintf("\x00datera-csi-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	listener, err := listen("@" + name[1:])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				var length [8]byte
				if _, err := io.ReadFull(conn, length[:]); err != nil {
					return
				}
				command := make([]byte, binary.NativeEndian.Uint64(length[:]))
				if _, err := io.ReadFull(conn, command); err != nil {
					return
				}
				_, _ = conn.Write(say(strings.TrimSuffix(string(command), "\x00")))
				if strings.Contains(string(command), "silence") {
					_, _ = conn.Read(length[:]) // until the other side has had enough
				}
			}()
		}
	}()
	return name
}

func listenHere(name string) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(context.Background(), "unix", name)
}

// packet is an answer as the daemon sends it.
func packet(text string) []byte {
	return append(binary.NativeEndian.AppendUint64(nil, uint64(len(text)+1)), text+"\x00"...)
}

func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the daemon must be root's, so this test must be too")
	}
}

// noTools makes every attempt to start a process fail.
func noTools(t *testing.T) {
	t.Helper()
	t.Setenv("PATH", t.TempDir())
}

func TestMultipathdIsAskedWithoutAProcess(t *testing.T) {
	asRoot(t)
	noTools(t)
	var heard string
	name := answering(t, listenHere, func(command string) []byte { heard = command; return packet("ok\n") })
	out, err := iscsi.HostWith(name, "").Run(t.Context(), "multipathd", "del", "map", wwidA)
	if want := "del map " + wwidA; string(out) != "ok\n" || err != nil || heard != want {
		t.Errorf("asked %q, answer %q, %v; want ok to %q", heard, out, err, want)
	}
}

func TestMultipathdThatRefusesIsAFailedTool(t *testing.T) {
	asRoot(t)
	noTools(t)
	for answer, words := range map[string]string{
		string(packet("fail\n")):                          "fail",
		string(packet("fail\nmap or partition in use\n")): "map or partition in use",
		"":                                 "EOF",     // it died
		string(packet("ok\n")[:10]):        "EOF",     // half way
		string(make([]byte, 8)):            "0 bytes", // nonsense
		"\xff\xff\xff\xff\xff\xff\xff\x7f": "bytes",   // nonsense that would not fit into memory
	} {
		t.Run(words, func(t *testing.T) {
			name := answering(t, listenHere, func(string) []byte { return []byte(answer) })
			_, err := iscsi.HostWith(name, "").Run(t.Context(), "multipathd", "del", "map", "x")
			var exit *iscsi.ExitError
			if !errors.As(err, &exit) || exit.Tool != "multipathd" || exit.Code != 1 || !strings.Contains(exit.Stderr, words) {
				t.Errorf("err = %v, want exit 1 that says %q", err, words)
			}
		})
	}
}

func TestMultipathdThatIsSilentIsGivenUpInTime(t *testing.T) {
	asRoot(t)
	noTools(t)
	name := answering(t, listenHere, func(string) []byte { return nil })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := iscsi.HostWith(name, "").Run(ctx, "multipathd", "show", "silence")
	if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > 5*time.Second {
		t.Errorf("err = %v after %v, want the deadline's", err, took)
	}
}

// Without a daemon, and for words that need quoting, the client says what to do.
func TestMultipathdsClientIsRunWhereTheSocketIsOfNoUse(t *testing.T) {
	bin := t.TempDir()
	client := "#!/bin/sh\necho \"client: $*\"\n"
	if err := os.WriteFile(filepath.Join(bin, "multipathd"), []byte(client), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	daemon := answering(t, listenHere, func(string) []byte { return packet("daemon\n") })
	for want, ask := range map[string]struct {
		socket string
		words  []string
	}{
		"client: resume map a":   {"\x00no-such-socket", []string{"resume", "map", "a"}},
		"client: resume map a b": {daemon, []string{"resume", "map", "a b"}},
	} {
		out, err := iscsi.HostWith(ask.socket, "").Run(t.Context(), append([]string{"multipathd"}, ask.words...)...)
		if got := strings.TrimSpace(string(out)); got != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", ask.words, got, err, want)
		}
	}
}

// Whoever is first can take the name of an abstract socket.
func TestMultipathdThatIsNotRootsIsNotBelieved(t *testing.T) {
	asRoot(t)
	noTools(t)
	asNobody := func(name string) (l net.Listener, err error) {
		onLostThread(func() {
			const nobody = 65534
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
				err = errno
				return
			}
			l, err = listenHere(name)
		})
		return l, err
	}
	name := answering(t, asNobody, func(string) []byte { return packet("ok\n") })
	_, err := iscsi.HostWith(name, "").Run(t.Context(), "multipathd", "del", "map", "x")
	var exit *iscsi.ExitError
	if !errors.As(err, &exit) || exit.Code != 127 {
		t.Errorf("err = %v, want to have looked for the client", err)
	}
}

// A container has a network namespace of its own, and the daemon's socket is in
// the host's.
func TestMultipathdIsAskedInTheHostsNetwork(t *testing.T) {
	asRoot(t)
	noTools(t)
	mine := ownNetwork(t)
	var network string
	elsewhere := func(name string) (l net.Listener, err error) {
		network = inNewNetwork(t, func() { l, err = listenHere(name) })
		return l, err
	}
	name := answering(t, elsewhere, func(string) []byte { return packet("ok\n") })
	if _, err := iscsi.HostWith(name, "").Run(t.Context(), "multipathd", "show"); err == nil {
		t.Fatal("the daemon is seen from this namespace too, so the test proves nothing")
	}
	for range 20 {
		out, failed := iscsi.HostWith(name, network).Run(t.Context(), "multipathd", "del", "map", "x")
		if string(out) != "ok\n" || failed != nil {
			t.Fatalf("answer %q, %v", out, failed)
		}
	}
	expectAllThreadsIn(t, mine)
}
