package sim_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

// caller is a client that knows nothing but HTTP and JSON.
type caller struct {
	t       testing.TB
	url     string
	version string
	tenant  string
	key     string
	http    *http.Client
}

// dial logs in to a simulated array.
func dial(tb testing.TB, s *simtest.Server) *caller {
	tb.Helper()
	c := &caller{t: tb, url: s.URL, version: "v2.2", http: &http.Client{}}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}}
	transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(s.CA)
	c.http.Transport = transport
	tb.Cleanup(c.http.CloseIdleConnections)
	c.login(s.User, s.Password)
	return c
}

func (c *caller) login(user, password string) {
	c.t.Helper()
	got := c.ok("PUT", "/login", map[string]any{"name": user, "password": password})
	c.key, _ = got["key"].(string)
}

// in is the same caller in another API version or tenant.
func (c *caller) in(version, tenant string) *caller {
	other := *c
	other.version, other.tenant = version, tenant
	return &other
}

// send answers status and body, whatever they are.
func (c *caller) send(method, path string, in any) (int, map[string]any, error) {
	c.t.Helper()
	var reader io.Reader
	switch in := in.(type) {
	case nil:
	case string:
		reader = bytes.NewReader([]byte(in))
	default:
		raw, err := json.Marshal(in)
		if err != nil {
			c.t.Fatal(err)
		}
		reader = bytes.NewReader(raw)
	}
	url := c.url + "/" + c.version + path
	if c.version == "" {
		url = c.url + path
	}
	req, err := http.NewRequest(method, url, reader)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if c.key != "" {
		req.Header.Set("Auth-Token", c.key)
	}
	if c.tenant != "" {
		req.Header.Set("tenant", c.tenant)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, nil, err
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		return resp.StatusCode, map[string]any{"raw": string(raw)}, nil
	}
	return resp.StatusCode, out, nil
}

// ok sends a request that must succeed and answers its whole body.
func (c *caller) ok(method, path string, in any) map[string]any {
	c.t.Helper()
	status, out, err := c.send(method, path, in)
	if err != nil || status != http.StatusOK {
		c.t.Fatalf("%s %s: %d %v %v", method, path, status, out, err)
	}
	return out
}

// data sends a request that must succeed and answers its data object.
func (c *caller) data(method, path string, in any) map[string]any {
	c.t.Helper()
	out, ok := c.ok(method, path, in)["data"].(map[string]any)
	if !ok {
		c.t.Fatalf("%s %s: data is not an object", method, path)
	}
	return out
}

// list sends a GET that must succeed and answers its data array.
func (c *caller) list(path string) []any {
	c.t.Helper()
	out, ok := c.ok("GET", path, nil)["data"].([]any)
	if !ok {
		c.t.Fatalf("GET %s: data is not an array", path)
	}
	return out
}

// refused sends a request that must fail with this status and error name, and
// answers the error.
func (c *caller) refused(status int, name, method, path string, in any) map[string]any {
	c.t.Helper()
	got, out, err := c.send(method, path, in)
	if err != nil || got != status || out["name"] != name {
		c.t.Fatalf("%s %s: got %d %v %v, want %d %s", method, path, got, out, err, status, name)
	}
	return out
}

// at walks into decoded JSON: names for objects, numbers for arrays.
func at(tb testing.TB, v any, path ...any) any {
	tb.Helper()
	for _, step := range path {
		switch step := step.(type) {
		case string:
			o, ok := v.(map[string]any)
			if !ok {
				tb.Fatalf("no object at %v of %v", step, path)
			}
			v = o[step]
		case int:
			l, ok := v.([]any)
			if !ok || step >= len(l) {
				tb.Fatalf("no item %d of %v in %v", step, path, v)
			}
			v = l[step]
		}
	}
	return v
}

type m = map[string]any

// simple is the usual app instance: one storage instance with one volume.
func simple(name string, size int) m {
	return m{"name": name, "storage_instances": []m{{"name": "storage-1",
		"volumes": []m{{"name": "volume-1", "size": size}}}}}
}
