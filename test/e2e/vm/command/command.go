// Package command is the channel between the harness and a guest: it runs programs, moves files and
// opens sockets on the far side of one byte stream.
//
// The stream (a virtio-serial port in a guest, a socket pair in tests) carries HTTP/2 without TLS. So
// many commands share it without blocking one another, each is ended by its caller's context, and a
// stream that breaks is seen as a failure and never as an empty result.
package command

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// Paths of the far side's requests.
const (
	pathPing  = "/ping"
	pathRun   = "/run"
	pathStart = "/start"
	pathFile  = "/file"
	pathDial  = "/dial"

	headerProgram = "X-Program" // base64 of the JSON of the program that a /run asks for; its body is standard input
)

// ErrLost says that the channel broke before the answer was whole: the guest died or was powered off.
var ErrLost = errors.New("channel to the guest lost")

// Program is what to run on the far side.
type Program struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"` // added to the agent's own, KEY=value
	Dir  string   `json:"dir,omitempty"` // working directory; empty means /
}

// Detached is a program that outlives the request that starts it.
type Detached struct {
	Program
	Log string `json:"log,omitempty"` // file that its output is appended to; empty means /dev/null
}

// exit ends the output of a program. An output that ends without it was cut off.
type exit struct {
	Code int    `json:"code"`            // 128 + signal number for a program that a signal ended
	Err  string `json:"error,omitempty"` // why the program could not be started
}

// Kinds of a frame in the answer to /run.
const (
	frameStdout byte = 1
	frameStderr byte = 2
	frameExit   byte = 3
)

const maxFrame = 64 << 10 // bytes of payload

// frames writes the answer to a /run: kind, big-endian length, payload.
type frames struct {
	mu    sync.Mutex
	w     io.Writer
	flush func() error
}

func (f *frames) write(kind byte, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := make([]byte, 5, 5+len(payload))
	head[0] = kind
	binary.BigEndian.PutUint32(head[1:], uint32(len(payload)))
	if _, err := f.w.Write(append(head, payload...)); err != nil {
		return err
	}
	return f.flush()
}

func (f *frames) exit(e exit) error {
	payload, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return f.write(frameExit, payload)
}

// readFrames copies output to stdout and stderr until the exit frame, which it returns.
// A stream that ends earlier is ErrLost.
func readFrames(r io.Reader, stdout, stderr io.Writer) (exit, error) {
	var head [5]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return exit{}, fmt.Errorf("%w: output has no end: %w", ErrLost, err)
		}
		size := binary.BigEndian.Uint32(head[1:])
		if size > maxFrame {
			return exit{}, fmt.Errorf("frame of %d bytes exceeds %d", size, maxFrame)
		}
		payload := make([]byte, size)
		if _, err := io.ReadFull(r, payload); err != nil {
			return exit{}, fmt.Errorf("%w: output has no end: %w", ErrLost, err)
		}
		var err error
		switch head[0] {
		case frameStdout:
			_, err = stdout.Write(payload)
		case frameStderr:
			_, err = stderr.Write(payload)
		case frameExit:
			var e exit
			if err = json.Unmarshal(payload, &e); err == nil {
				return e, nil
			}
		default:
			err = fmt.Errorf("frame of unknown kind %d", head[0])
		}
		if err != nil {
			return exit{}, fmt.Errorf("read output: %w", err)
		}
	}
}

// protocols says that both sides speak HTTP/2 from the first byte.
func protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// windows keeps one stalled stream (a reader that does not read) from starving the others.
func windows() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          10000,
		StrictMaxConcurrentRequests:   true,
		MaxReceiveBufferPerConnection: 256 << 20,
		MaxReceiveBufferPerStream:     1 << 20,
	}
}

// single hands out its one connection, once, to who listens or to who dials.
type single struct {
	once   sync.Once
	conn   net.Conn
	closed chan struct{}
	first  chan net.Conn
}

func newSingle(conn net.Conn) *single {
	s := &single{closed: make(chan struct{}), first: make(chan net.Conn, 1)}
	s.conn = &watched{Conn: conn, closed: func() { s.once.Do(func() { close(s.closed) }) }}
	s.first <- s.conn
	return s
}

// take returns the connection to who comes first. Others wait until it is closed, which is their error, or until
// they give up: the client's transport dials again for a request that comes just before it knows that the first
// connection can carry more, and gives it the first one meanwhile.
func (s *single) take(giveUp <-chan struct{}) (net.Conn, error) {
	select {
	case conn := <-s.first:
		return conn, nil
	default:
	}
	select {
	case <-s.closed:
	case <-giveUp:
	}
	return nil, net.ErrClosed
}

func (s *single) Accept() (net.Conn, error) { return s.take(nil) }

func (s *single) Close() error   { return s.conn.Close() }
func (s *single) Addr() net.Addr { return s.conn.LocalAddr() }

// watched reports its closing.
type watched struct {
	net.Conn
	closed func()
}

func (w *watched) Close() error {
	defer w.closed()
	return w.Conn.Close()
}
