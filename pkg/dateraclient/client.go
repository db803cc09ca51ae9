package dateraclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Config says which array to talk to, and how.
type Config struct {
	// Endpoint is the array's management address, http or https, without a
	// path. The port defaults to the array's: 7717 for http, 7718 for https.
	Endpoint *url.URL

	// Tenant is a path such as /root/prod. A bare name is a tenant below
	// /root; empty is /root itself.
	Tenant string

	// Credentials is asked at every login, so that a rotated Secret just works. What
	// the array refuses is not tried again for a while, until it is something else.
	Credentials func() (user, password string, err error)

	// HTTP sends the requests; nil is HTTPClient(nil, false). A copy of it is
	// used whose connection pool is fit for Concurrency.
	HTTP *http.Client

	// Proxy is the HTTP proxy to go through; nil is none, whatever the
	// environment says. It needs an HTTP whose Transport is an *http.Transport.
	Proxy *url.URL

	// Concurrency is the number of requests under way at any moment, at most;
	// 0 is 10.
	Concurrency int

	// Agent names this client to the array (Datera-Driver header); empty is
	// datera-csi.
	Agent string

	// Clock tells when refused credentials may be tried again; nil is time.Now.
	Clock func() time.Time
}

// DefaultConcurrency is how many requests are under way at most when Config does
// not say.
const DefaultConcurrency = 10

// Client talks to one tenant of one array. It is safe for concurrent use; all
// callers share one login and one bound on the requests under way.
type Client struct {
	endpoint    string // scheme://host:port, no slash
	tenant      string
	agent       string
	credentials func() (user, password string, err error)
	http        *http.Client
	slots       chan struct{}

	clock func() time.Time

	mu      sync.Mutex
	current *session
	flight  *flight
	refusal refusal
}

// New makes a client. It does not talk to the array; the first call logs in.
func New(cfg Config) (*Client, error) {
	endpoint, err := baseURL(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	tenant, err := tenantPath(cfg.Tenant)
	if err != nil {
		return nil, err
	}
	if cfg.Credentials == nil {
		return nil, errors.New("the array's client needs credentials")
	}
	if cfg.Concurrency < 0 {
		return nil, fmt.Errorf("concurrency is %d, must be positive", cfg.Concurrency)
	}
	if cfg.Concurrency == 0 {
		cfg.Concurrency = DefaultConcurrency
	}
	if cfg.Agent == "" {
		cfg.Agent = "datera-csi"
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.HTTP == nil {
		if cfg.HTTP, err = HTTPClient(nil, false); err != nil {
			return nil, err
		}
	}
	return &Client{
		endpoint:    endpoint,
		tenant:      tenant,
		agent:       cfg.Agent,
		credentials: cfg.Credentials,
		http:        fitted(cfg.HTTP, cfg.Concurrency, cfg.Proxy),
		slots:       make(chan struct{}, cfg.Concurrency),
		clock:       cfg.Clock,
	}, nil
}

// Close drops the connections that are kept alive. Calls under way go on.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Timeouts of one request. Between them lies what an array under load may take
// to answer; a lost answer is looked up, never guessed. Callers mostly leave earlier;
// what is awaited for longer than they do has all of it.
const (
	dialTimeout   = 10 * time.Second
	answerTimeout = patience
	idleTimeout   = 90 * time.Second
)

// HTTPClient makes the client for Config.HTTP: TLS 1.2 or later, the array's
// certificate verified against caPEM, or against the system's roots when caPEM
// is empty. insecure accepts any certificate, and with it any impostor. It goes
// through no proxy: see Config.Proxy.
func HTTPClient(caPEM []byte, insecure bool) (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(caPEM) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(caPEM) {
			return nil, errors.New("ca.crt holds no certificate in PEM form")
		}
	}
	if insecure { // the administrator's explicit choice, off by default
		conf.InsecureSkipVerify = true
	}
	return &http.Client{Transport: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:       conf,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: answerTimeout,
		IdleConnTimeout:       idleTimeout,
		MaxIdleConnsPerHost:   DefaultConcurrency,
	}}, nil
}

// fitted is a copy of h that keeps as many connections as requests may be under
// way, that goes through proxy or none, and that follows no redirect: it would
// carry the token to a stranger.
func fitted(h *http.Client, concurrency int, proxy *url.URL) *http.Client {
	out := *h
	out.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	transport := h.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	if t, ok := transport.(*http.Transport); ok {
		t = t.Clone()
		t.Proxy = http.ProxyURL(proxy)
		t.MaxIdleConnsPerHost = max(t.MaxIdleConnsPerHost, concurrency)
		if t.MaxIdleConns > 0 {
			t.MaxIdleConns = max(t.MaxIdleConns, concurrency)
		}
		out.Transport = t
	}
	return &out
}

// baseURL is the beginning of every request's URL.
func baseURL(u *url.URL) (string, error) {
	if u == nil {
		return "", errors.New("the array's client needs an endpoint")
	}
	port, ok := map[string]string{"http": "7717", "https": "7718"}[u.Scheme]
	switch {
	case !ok:
		return "", fmt.Errorf("endpoint %q must begin with https:// or http://", u.Redacted())
	case u.Hostname() == "":
		return "", fmt.Errorf("endpoint %q names no host", u.Redacted())
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return "", fmt.Errorf("endpoint %q must be only scheme, host and port", u.Redacted())
	case u.Port() != "":
		port = u.Port()
	}
	return u.Scheme + "://" + net.JoinHostPort(u.Hostname(), port), nil
}

// tenantPath makes the path of a tenant as the array wants it.
func tenantPath(s string) (string, error) {
	p := strings.Trim(s, "/")
	if p != "root" && !strings.HasPrefix(p, "root/") {
		p = strings.TrimSuffix("root/"+p, "/")
	}
	if !regexp.MustCompile(`^root(/[A-Za-z0-9_.-]{1,64})*$`).MatchString(p) || p == "root/all" {
		return "", fmt.Errorf("tenant %q is not a tenant's name or a path such as /root/prod", s)
	}
	return "/" + p, nil
}
