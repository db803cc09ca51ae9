package dateraclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// session is what one login teaches: it is never changed, a new login makes a
// new one.
type session struct {
	version string // v2.3; "" asks outside of any version
	token   string
	product product
}

func (s *session) prefix() string {
	if s.version == "" {
		return ""
	}
	return "/" + s.version
}

// flight is a login under way. Its fields other than waiters are written before
// done is closed and read after.
type flight struct {
	done    chan struct{}
	session *session
	err     error

	waiters int // guarded by Client.mu
	cancel  context.CancelFunc
	trouble atomic.Pointer[Error] // why it takes so long, if that is known
}

// watched is a request of the login whose failures those who wait can learn of.
func (f *flight) watched(r request) request {
	r.notice = func(e *Error) { f.trouble.Store(e) }
	return r
}

// login gives the shared session, or logs in when there is none or when stale is
// the shared one. Callers that come meanwhile wait for the same login. It belongs
// to none of them: it goes on while anybody waits, and ends with the last.
func (c *Client) login(ctx context.Context, stale *session) (*session, error) {
	c.mu.Lock()
	if c.current == stale {
		c.current = nil
	}
	if s := c.current; s != nil {
		c.mu.Unlock()
		return s, nil
	}
	if c.flight == nil {
		c.flight = c.takeOff(ctx)
	}
	f := c.flight
	f.waiters++
	c.mu.Unlock()

	soon := time.NewTimer(untilSoon(ctx))
	defer soon.Stop()
	select {
	case <-f.done:
		return f.session, f.err
	case <-soon.C:
	case <-ctx.Done():
	}
	// Shortly before its end a caller is told what the login has met so far,
	// which is worth more than a deadline.
	if trouble := f.trouble.Load(); trouble != nil && ctx.Err() == nil {
		c.leave(f)
		return nil, fmt.Errorf("log in: %w", trouble)
	}
	select {
	case <-f.done:
		return f.session, f.err
	case <-ctx.Done():
		c.leave(f)
		return nil, fmt.Errorf("log in: %w", context.Cause(ctx))
	}
}

// untilSoon is the time until ctx is about to end.
func untilSoon(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return patience
	}
	left := time.Until(deadline)
	return left - min(left/10, time.Second)
}

// takeOff starts a login; c.mu is held.
func (c *Client) takeOff(ctx context.Context) *flight {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), patience, errImpatient)
	f := &flight{done: make(chan struct{}), cancel: cancel}
	go func() {
		defer cancel()
		f.session, f.err = c.connect(ctx, f)
		c.mu.Lock()
		if c.flight == f {
			c.flight = nil
			if f.err == nil {
				c.current = f.session
			}
		}
		c.mu.Unlock()
		close(f.done)
	}()
	return f
}

// leave is called by who waits no longer. The last one ends the login.
func (c *Client) leave(f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.waiters--
	if f.waiters > 0 {
		return
	}
	f.cancel()
	if c.flight == f {
		c.flight = nil
	}
}

// apiVersions are those this client speaks, best first.
func apiVersions() []string { return []string{"v2.3", "v2.2"} }

// connect asks what the array speaks, logs in and asks what the array is. It asks
// nothing while the credentials are those that the array has just refused.
func (c *Client) connect(ctx context.Context, f *flight) (*session, error) {
	user, password, err := c.credentials()
	if err != nil {
		return nil, &Error{kind: ErrAuth, Message: "read the credentials", cause: err}
	}
	if err = c.refused(user, password); err != nil {
		return nil, err
	}
	versions, err := c.negotiate(ctx, f)
	if err != nil {
		return nil, err
	}
	var s *session
	for _, version := range versions {
		if s, err = c.authenticate(ctx, f, version, user, password); !unspoken(err) {
			break
		}
	}
	if unspoken(err) {
		// Its words only: that the way to log in was not found must not look as
		// if what was asked for had not been.
		return nil, &Error{kind: ErrNotDatera, Message: fmt.Sprintf(
			"it offers none of the API versions %s: %v", strings.Join(apiVersions(), ", "), err)}
	}
	c.learn(user, password, err)
	if err != nil {
		return nil, err
	}
	if s.product, err = c.askProduct(ctx, f, s); err != nil {
		return nil, err
	}
	return s, nil
}

// negotiate gives the API versions to try. Arrays too old for the question
// answer it with an error of their own; there, logging in will tell.
func (c *Client) negotiate(ctx context.Context, f *flight) ([]string, error) {
	var offer struct {
		Versions *[]string `json:"api_versions"`
	}
	err := c.send(ctx, &session{}, f.watched(get("/api_versions")), func(raw []byte) error {
		if err := json.Unmarshal(raw, &offer); err != nil {
			return err
		}
		if offer.Versions == nil {
			return errors.New("it has no api_versions")
		}
		return nil
	})
	var e *Error
	if errors.As(err, &e) && strings.HasSuffix(e.Name, "Error") && e.fate == final {
		return apiVersions(), nil
	}
	if err != nil {
		return nil, err
	}
	for _, version := range apiVersions() {
		if slices.Contains(*offer.Versions, version) {
			return []string{version}, nil
		}
	}
	return nil, &Error{
		Op: http.MethodGet, Path: "/api_versions", kind: ErrNotDatera,
		Message: fmt.Sprintf("it offers the API versions [%s], we speak %s",
			strings.Join(*offer.Versions, ", "), strings.Join(apiVersions(), " and ")),
	}
}

// unspoken tells that a login failed because the array does not know the API
// version it was sent in, or not as we do.
func unspoken(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.fate == final &&
		(e.HTTP == http.StatusNotFound || e.HTTP == http.StatusBadRequest || e.HTTP == http.StatusMethodNotAllowed)
}

// authenticate logs in. A refused login is not repeated: it would only help to lock
// the account.
func (c *Client) authenticate(ctx context.Context, f *flight, version, user, password string) (*session, error) {
	r := put("/login", map[string]string{"name": user, "password": password})
	r.secrets, r.hidden = []string{password}, true
	var answer struct {
		Key string `json:"key"`
	}
	err := c.send(ctx, &session{version: version}, f.watched(r), func(raw []byte) error {
		if err := json.Unmarshal(raw, &answer); err != nil {
			return err
		}
		if answer.Key == "" {
			return errors.New("it has no key")
		}
		return nil
	})
	if errors.Is(err, ErrAuth) {
		return nil, fmt.Errorf("log in as %q, check username and password of the backend: %w", user, err)
	}
	if err != nil {
		return nil, fmt.Errorf("log in as %q: %w", user, err)
	}
	return &session{version: version, token: answer.Key}, nil
}

// askProduct asks for the product version. A user without the right to ask is
// believed to sit before the oldest product that has this API version.
func (c *Client) askProduct(ctx context.Context, f *flight, s *session) (product, error) {
	var answer envelope[systemWire]
	err := c.send(ctx, s, f.watched(get("/system")), func(raw []byte) error { return json.Unmarshal(raw, &answer) })
	if errors.Is(err, ErrPermission) || errors.Is(err, ErrNotFound) {
		return oldestWith(s.version), nil
	}
	if err != nil {
		return product{}, err
	}
	if answer.Data == nil {
		return oldestWith(s.version), nil
	}
	return parseProduct(string(answer.Data.SWVersion))
}

// product is a version of the array's software, four numbers.
type product [4]int

func parseProduct(s string) (product, error) {
	var p product
	for i, part := range strings.SplitN(s, ".", len(p)) {
		// A build may carry a suffix after its last number.
		n, err := strconv.Atoi(part[:len(part)-len(strings.TrimLeft(part, "0123456789"))])
		if err != nil {
			return product{}, &Error{kind: ErrNotDatera, Message: fmt.Sprintf("its sw_version is %q", s)}
		}
		p[i] = n
	}
	return p, nil
}

// oldestWith is the oldest product that serves an API version.
func oldestWith(version string) product {
	if version == "v2.3" {
		return product{3, 3}
	}
	return product{3, 0}
}

// hasPlacementPolicies: since 3.3.0.0 a placement policy says where a volume
// lies, before it was the placement mode.
func (p product) hasPlacementPolicies() bool { return slices.Compare(p[:], []int{3, 3, 0, 0}) >= 0 }
