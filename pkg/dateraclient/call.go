package dateraclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
)

// maxAnswer bounds what is read of one answer. A page of app instances with all
// the snapshots an array allows stays far below it.
const maxAnswer = 64 << 20

// request is one REST request.
type request struct {
	method string
	path   string // below the API version
	query  url.Values
	body   any // nil sends none
	// secrets are parts of body that no error may show.
	secrets []string
	// hidden keeps the answer out of errors: it is a secret itself.
	hidden bool
	// once forbids to send it again when the answer was lost: a POST, and a PUT
	// with an op, would not do the same thing twice.
	once bool
	// awaited keeps it from being given up with its caller: until it is known what has
	// become of it, whoever holds the volume must go on to hold it.
	awaited bool
	// notice, if set, hears of every attempt that fails.
	notice func(*Error)
}

func get(path string) request { return request{method: http.MethodGet, path: path} }
func put(path string, body any) request {
	return request{method: http.MethodPut, path: path, body: body}
}
func post(path string, body any) request {
	return request{method: http.MethodPost, path: path, body: body, once: true}
}
func del(path string) request { return request{method: http.MethodDelete, path: path} }

// call sends r and decodes the object that the array answers with.
func call[T any](ctx context.Context, c *Client, r request) (T, error) {
	var out T
	err := c.do(ctx, r, func(raw []byte) error {
		var e envelope[T]
		if err := json.Unmarshal(raw, &e); err != nil {
			return err
		}
		if e.Data == nil {
			return errors.New("it has no data")
		}
		out = *e.Data
		return nil
	})
	return out, err
}

// run sends r and demands no more of the answer than success and JSON; the state
// it leads to is read back by other means.
func run(ctx context.Context, c *Client, r request) error {
	return c.do(ctx, r, func(raw []byte) error { return json.Unmarshal(raw, &struct{}{}) })
}

// do sends r with the shared login, and once more after a new login if the array
// does not know the token any more.
func (c *Client) do(ctx context.Context, r request, decode func([]byte) error) error {
	ctx, cancel := patiently(ctx)
	defer cancel()
	s, err := c.login(ctx, nil)
	if err != nil {
		return fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	err = c.send(ctx, s, r, decode)
	if !errors.Is(err, ErrAuth) {
		return err
	}
	if s, err = c.login(ctx, s); err != nil {
		return fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	return c.send(ctx, s, r, decode)
}

// send tries until r is answered, refused for good, or lost with no right to
// repeat it, or until ctx leaves no time for another attempt.
func (c *Client) send(ctx context.Context, s *session, r request, decode func([]byte) error) error {
	wait := backoff{retryFirst, retryMost}
	for nonsense := 0; ; {
		err := c.attempt(ctx, s, r, decode)
		var e *Error
		if !errors.As(err, &e) {
			return err
		}
		if r.notice != nil {
			r.notice(e)
		}
		if !r.replay(e, nonsense) || !wait.wait(ctx) {
			return conclude(r, e)
		}
		if e.fate == garbled || e.fate == smudged {
			nonsense++
		}
	}
}

// conclude says of a request that must not be repeated that its answer was lost,
// which is more than that the array is unavailable.
func conclude(r request, e *Error) error {
	if !r.once || (e.fate != lost && e.fate != garbled) {
		return e
	}
	out := *e
	out.kind = ErrAnswerLost
	if !errors.Is(e.kind, ErrUnavailable) {
		out.Message = e.kind.Error() + ": " + e.Message
	}
	return &out
}

// attempt sends r one time. It holds one of the client's slots meanwhile.
func (c *Client) attempt(ctx context.Context, s *session, r request, decode func([]byte) error) error {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return ended(ctx, r, false)
	}
	if ctx.Err() != nil { // there was a slot, too
		return ended(ctx, r, false)
	}
	if r.awaited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(context.WithoutCancel(ctx), patience, errImpatient)
		defer cancel()
	}
	trail := new(trail)
	req, err := c.httpRequest(trail.follow(ctx), s, r)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	switch {
	case err == nil:
		return finish(ctx, s, r, res, decode)
	case ctx.Err() != nil:
		return ended(ctx, r, trail.left())
	default:
		return transportError(r, err, trail.left())
	}
}

// trail tells how far a request came. Its marks stay when the transport tries a
// second connection by itself.
type trail struct{ looked, wrote atomic.Bool }

func (t *trail) follow(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:      func(string) { t.looked.Store(true) },
		WroteHeaders: func() { t.wrote.Store(true) },
	})
}

// left tells whether any of the request may have left this host. A transport that
// leaves no marks is not believed to have sent nothing.
func (t *trail) left() bool { return !t.looked.Load() || t.wrote.Load() }

// httpRequest makes the request that goes over the wire.
func (c *Client) httpRequest(ctx context.Context, s *session, r request) (*http.Request, error) {
	target := c.endpoint + s.prefix() + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		raw, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("encode %s %s: %w", r.method, r.path, err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("make %s %s: %w", r.method, r.path, err)
	}
	req.Header.Set("Datera-Driver", c.agent)
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if s.token != "" { // a login knows neither
		req.Header.Set("Auth-Token", s.token)
		req.Header.Set("Tenant", c.tenant)
	}
	return req, nil
}

// finish reads the answer to its end, so that its connection can be used again.
func finish(ctx context.Context, s *session, r request, res *http.Response, decode func([]byte) error) error {
	defer res.Body.Close() //nolint:errcheck // it is only read
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	secrets := append([]string{s.token}, r.secrets...)
	quote := func() string {
		if r.hidden {
			return "(hidden)"
		}
		return excerpt(raw, secrets)
	}
	fail := func(kind error, f fate, message string, cause error) error {
		return &Error{
			Op: r.method, Path: r.path, HTTP: res.StatusCode,
			kind: kind, fate: f, Message: blank(message, secrets), cause: cause,
		}
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return ended(ctx, r, true)
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return fail(ErrNotDatera, nonsenseFate(r), "it redirects to "+res.Header.Get("Location"), nil)
	case res.StatusCode < 200 || res.StatusCode >= 300:
		return answerError(r, res.StatusCode, raw, secrets)
	case err != nil:
		return fail(ErrUnavailable, lost, "", err)
	case len(raw) > maxAnswer:
		return fail(ErrNotDatera, nonsenseFate(r), fmt.Sprintf("its answer is longer than %d MiB", maxAnswer>>20), nil)
	}
	err = decode(raw)
	switch _, syntax := errors.AsType[*json.SyntaxError](err); {
	case err == nil:
		return nil
	case isCut(err, raw):
		return fail(ErrNotDatera, garbled, "it answered half of "+quote(), nil)
	case syntax:
		return fail(ErrNotDatera, nonsenseFate(r), "it answered "+quote(), nil)
	default:
		return fail(ErrNotDatera, nonsenseFate(r), err.Error()+" in "+quote(), nil)
	}
}

// nonsenseFate is the fate of a request that was answered with success and
// something that no array says: asking again helps nobody, but whether the
// request was carried out is not known.
func nonsenseFate(r request) fate {
	if r.once {
		return garbled
	}
	return final
}

// isCut tells, from the error of decoding it, an answer that was cut short from
// one in another language.
func isCut(err error, raw []byte) bool {
	_, syntax := errors.AsType[*json.SyntaxError](err)
	raw = bytes.TrimSpace(raw)
	return syntax && (len(raw) == 0 || raw[0] == '{')
}

// ended says why ctx ended: the caller's own end is its business and is final,
// the end of our patience is a failure of the array.
func ended(ctx context.Context, r request, wrote bool) error {
	cause := context.Cause(ctx)
	if !errors.Is(cause, errImpatient) {
		return fmt.Errorf("%s %s: %w", r.method, r.path, cause)
	}
	f := refused
	if wrote {
		f = lost
	}
	return &Error{Op: r.method, Path: r.path, kind: ErrUnavailable, fate: f, cause: cause}
}
