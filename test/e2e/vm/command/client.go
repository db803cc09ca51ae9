package command

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// Client asks the far side. It may be used by many goroutines.
type Client struct {
	http   *http.Client
	conn   net.Conn // nil when the transport dials by itself
	prefix string   // of every path
}

// NewClient speaks over conn, which it owns from now on.
func NewClient(conn net.Conn) *Client {
	only := newSingle(conn)
	transport := &http.Transport{
		Protocols:          protocols(),
		HTTP2:              windows(),
		DisableCompression: true,
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return only.take(ctx.Done()) },
	}
	return &Client{http: &http.Client{Transport: transport}, conn: only.conn}
}

// NewProxiedClient speaks to a Handler that a proxy serves under a path prefix, at the address that dial
// reaches, by as many connections as it likes.
func NewProxiedClient(prefix string, dial func(ctx context.Context) (net.Conn, error)) *Client {
	transport := &http.Transport{
		Protocols:          protocols(),
		HTTP2:              windows(),
		DisableCompression: true,
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}
	return &Client{http: &http.Client{Transport: transport}, prefix: prefix}
}

// Proxy serves the far side's Handler to others, who speak to it with NewProxiedClient.
func (c *Client) Proxy() http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "guest" },
		Transport:     c.http.Transport,
		FlushInterval: -1, // at once
	}
}

// Close breaks the channel: everything under way fails with ErrLost.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// Streams are a program's standard streams. A nil writer drops, a nil reader is empty.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// do sends one request and turns a refusal into an error.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, header http.Header, body io.Reader) (*http.Response, error) {
	target := url.URL{Scheme: "http", Host: "guest", Path: c.prefix + path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, err
	}
	for key, values := range header {
		req.Header[key] = values
	}
	res, err := c.http.Do(req)
	if failed := new(url.Error); errors.As(err, &failed) {
		err = failed.Err // its URL says nothing that the caller does not know
	}
	if err != nil {
		return nil, lost(ctx, err)
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close() //nolint:errcheck // only read
	words, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return nil, lost(ctx, err)
	}
	refusal := errors.New(strings.TrimSpace(string(words)))
	if res.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("%w: %w", os.ErrNotExist, refusal)
	}
	return nil, refusal
}

// lost tells a caller that gave up from a channel that broke.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, ErrLost) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}

// Ping returns when the far side answers.
func (c *Client) Ping(ctx context.Context) error {
	res, err := c.do(ctx, http.MethodGet, pathPing, nil, nil, nil)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// Run runs a program and waits for its end. It returns the exit code (128 + n for signal n); an error means
// that there is none: the program could not be started, ctx ended (the program is killed), or the guest died.
func (c *Client) Run(ctx context.Context, p Program, s Streams) (int, error) {
	program, err := json.Marshal(p)
	if err != nil {
		return 0, fmt.Errorf("encode program: %w", err)
	}
	header := http.Header{headerProgram: {base64.StdEncoding.EncodeToString(program)}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the copying of input that the program did not read
	res, err := c.do(ctx, http.MethodPost, pathRun, nil, header, s.In)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close() //nolint:errcheck // only read
	e, err := readFrames(res.Body, orDiscard(s.Out), orDiscard(s.Err))
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err != nil {
		return 0, err
	}
	if e.Err != "" {
		return 0, errors.New(e.Err)
	}
	return e.Code, nil
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// Start starts a program that goes on by itself, and returns its process id.
func (c *Client) Start(ctx context.Context, d Detached) (int, error) {
	body, err := json.Marshal(d)
	if err != nil {
		return 0, fmt.Errorf("encode program: %w", err)
	}
	res, err := c.do(ctx, http.MethodPost, pathStart, nil, nil, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	defer res.Body.Close() //nolint:errcheck // only read
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, lost(ctx, err)
	}
	return strconv.Atoi(string(answer))
}

// Put writes a file on the far side: whole and with its mode, or not at all. Missing folders are made.
func (c *Client) Put(ctx context.Context, content io.Reader, path string, mode os.FileMode) error {
	query := url.Values{"path": {path}, "mode": {strconv.FormatUint(uint64(mode.Perm()), 8)}}
	res, err := c.do(ctx, http.MethodPut, pathFile, query, nil, content)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// Get opens a file of the far side. The caller closes it. A read that ends with io.EOF has seen it all.
func (c *Client) Get(ctx context.Context, path string) (io.ReadCloser, error) {
	res, err := c.do(ctx, http.MethodGet, pathFile, url.Values{"path": {path}}, nil, nil)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// Dial connects to a socket of the far side, as net.Dial does there. The connection outlives ctx.
func (c *Client) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel) // ctx bounds the dialing only
	up, upWriter := io.Pipe()
	query := url.Values{"network": {network}, "address": {address}}
	res, err := c.do(streamCtx, http.MethodPost, pathDial, query, nil, up) //nolint:bodyclose // closed by the copying below
	if !stop() && err == nil {
		_ = res.Body.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel()
		_ = up.Close()
		return nil, fmt.Errorf("dial %s %s in the guest: %w", network, address, err)
	}
	near, far := net.Pipe() // gives the stream deadlines and a Close that ends both directions
	go func() {
		_, _ = io.Copy(upWriter, far)
		_ = upWriter.Close()
		cancel()
	}()
	go func() {
		_, _ = io.Copy(far, res.Body)
		_ = far.Close()
		_ = res.Body.Close()
	}()
	return near, nil
}
