// Package kube asks the Kubernetes API what the guard of a node must know: is
// the node leaving, which volumes does it use, is the driver registered there; and
// for the controller which nodes have one initiator name. It is four requests over
// net/http and no more, because client-go would be most of the binary and of what
// has to be reviewed.
package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var (
	// ErrNotFound says that the API has no such object.
	ErrNotFound = errors.New("no such object")
	// ErrConflict says that the object has changed since it was read.
	ErrConflict = errors.New("the object has changed since it was read")
)

const (
	requestTimeout = 10 * time.Second
	maxObject      = 4 << 20   // a Node with all its images is some 50 KiB
	maxAnswer      = 256 << 20 // a CSINode is some 2 KiB, and a list is read one by one
)

// Client speaks to the API as the service account of this pod.
type Client struct {
	server *url.URL
	token  string // its file; the kubelet renews it, so it is read for each request
	ca     string // likewise, for each connection
	http   *http.Client
}

// New returns a client of the API server at an https address, with the files token
// and ca.crt that Kubernetes mounts for a service account.
func New(server, serviceAccount string) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("API server %q: want https://HOST:PORT", server)
	}
	c := &Client{server: u, token: filepath.Join(serviceAccount, "token"), ca: filepath.Join(serviceAccount, "ca.crt")}
	if _, err := c.roots(); err != nil {
		return nil, err
	}
	c.http = &http.Client{
		Timeout: requestTimeout,
		// No proxy, whatever the environment says: the token goes to the API server only.
		Transport:     &http.Transport{DialTLSContext: c.dial},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// roots are the authorities that the API server's certificate may be of.
func (c *Client) roots() (*x509.CertPool, error) {
	pem, err := os.ReadFile(c.ca)
	if err != nil {
		return nil, fmt.Errorf("read the CA of the API server: %w: is the service account mounted into this container?", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", c.ca)
	}
	return roots, nil
}

// dial connects to the API server, whose CA may have been rotated since.
func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	roots, err := c.roots()
	if err != nil {
		return nil, err
	}
	d := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: requestTimeout}, // of the handshake, too, which the end of a request does not end
		Config:    &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
	return d.DialContext(ctx, network, address)
}

// InCluster is where the API is for a pod, by the two variables that Kubernetes
// sets in every container.
func InCluster(host, port string) string {
	if host == "" || port == "" {
		return ""
	}
	return "https://" + net.JoinHostPort(host, port)
}

// call makes one request and decodes its answer into answer.
func (c *Client) call(ctx context.Context, method, path string, body, answer any) error {
	return c.exchange(ctx, method, path, body, func(r io.Reader) error {
		content, err := io.ReadAll(io.LimitReader(r, maxObject))
		if err != nil {
			return err
		}
		return json.Unmarshal(content, answer)
	})
}

// exchange makes one request and has its answer read.
func (c *Client) exchange(ctx context.Context, method, path string, body any, read func(io.Reader) error) error {
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err // it names the method, the address and what went wrong
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		content, _ := io.ReadAll(io.LimitReader(resp.Body, maxObject)) // the status says enough
		return fmt.Errorf("%s %s: %w", method, path, refusal(resp.StatusCode, content))
	}
	if err = read(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return nil
}

func (c *Client) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	content, kind := []byte(nil), ""
	if body != nil {
		var err error
		if content, err = json.Marshal(body); err != nil {
			return nil, err
		}
		kind = "application/merge-patch+json"
	}
	path, query, _ := strings.Cut(path, "?")
	address := c.server.JoinPath(path)
	address.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, method, address.String(), bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(c.token)
	if err != nil {
		return nil, fmt.Errorf("read the service account's token: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Accept", "application/json")
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	return req, nil
}

// refusal is what a status other than 200 means, with the API's own words.
func refusal(code int, content []byte) error {
	var status struct{ Message string }
	_ = json.Unmarshal(content, &status) // a page of a proxy has no message; then the code must do
	words := fmt.Sprintf("%d %s", code, http.StatusText(code))
	if status.Message != "" {
		words += ": " + status.Message
	}
	switch code {
	case http.StatusNotFound:
		return fmt.Errorf("%w: %s", ErrNotFound, words)
	case http.StatusConflict:
		return fmt.Errorf("%w: %s", ErrConflict, words)
	}
	return errors.New(words)
}
