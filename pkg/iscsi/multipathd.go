package iscsi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// multipathd answers on a socket what its command-line client asks for, and the
// client does nothing but that. So it is asked without one: a process that links
// all of libmultipath costs more than most of the answers.
//
// The socket is an abstract one, hence of one network namespace, the host's.
const multipathdSocket = "\x00/org/kernel/linux/storage/multipathd"

const (
	// What multipathd says to a command that changes something is a word or a line;
	// its configuration was seen to be 23 KiB.
	maxReply = 1 << 20

	wordBytes = 8 // of the length before each message: a size_t
)

// errNoSocket says that nobody who can be trusted answers on the socket.
var errNoSocket = errors.New("no multipathd listens")

// askMultipathd gives the daemon a command and returns its answer, as the client
// prints it. Its errors are the client's too: an *ExitError when the daemon
// refused or went away, ctx's when that ended first.
func (h host) askMultipathd(ctx context.Context, words []string) ([]byte, error) {
	const tool = "multipathd"
	if slices.ContainsFunc(words, func(w string) bool { return w == "" || strings.ContainsAny(w, " \t\n\"'\x00") }) {
		return nil, errNoSocket // the client knows how its release quotes
	}
	conn, err := h.dialMultipathd()
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // all that was to be written has been answered
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	reply, err := exchange(conn, strings.Join(words, " "))
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("ask %s: %w", tool, ctx.Err())
	case err != nil:
		return nil, &ExitError{Tool: tool, Code: 1, Stderr: err.Error()}
	}
	if why, failed := strings.CutPrefix(reply, "fail\n"); failed {
		if why == "" {
			why = reply
		}
		return []byte(why), &ExitError{Tool: tool, Code: 1, Stderr: oneLine(why)}
	}
	return []byte(reply), nil
}

// exchange sends one command and reads the answer. Both are strings that end with
// a zero byte, after their length.
func exchange(conn io.ReadWriter, command string) (string, error) {
	message := binary.NativeEndian.AppendUint64(nil, uint64(len(command)+1))
	message = append(append(message, command...), 0)
	if _, err := conn.Write(message); err != nil {
		return "", fmt.Errorf("send the command: %w", err)
	}
	head := make([]byte, wordBytes)
	if _, err := io.ReadFull(conn, head); err != nil {
		return "", fmt.Errorf("wait for the answer: %w", err)
	}
	length := binary.NativeEndian.Uint64(head)
	if length == 0 || length > maxReply {
		return "", fmt.Errorf("an answer of %d bytes makes no sense", length)
	}
	reply := make([]byte, length)
	if _, err := io.ReadFull(conn, reply); err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	text, _, _ := strings.Cut(string(reply), "\x00")
	return text, nil
}

// dialMultipathd connects to the daemon, which must be root's: any process can
// take the name of an abstract socket that nobody listens on.
func (h host) dialMultipathd() (net.Conn, error) {
	fd, err := h.unixSocket()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSocket, err)
	}
	f := os.NewFile(uintptr(fd), "multipathd")
	defer f.Close() //nolint:errcheck // FileConn has a copy
	if err = unix.Connect(fd, &unix.SockaddrUnix{Name: h.multipathd}); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSocket, err)
	}
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || peer.Uid != 0 {
		return nil, fmt.Errorf("%w: its socket is not root's", errNoSocket)
	}
	return net.FileConn(f)
}

// unixSocket makes a socket in the network namespace of the host's tools, which
// it keeps for good.
func (h host) unixSocket() (int, error) {
	return inNetwork(h.network, func() (int, error) {
		return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	})
}
