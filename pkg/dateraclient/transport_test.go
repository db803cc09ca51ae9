package dateraclient_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

const (
	initializing = `{"name":"InternalError","http":500,"message":"REST server is still initializing"}`
	fault        = `{"name":"InternalError","http":500,"message":"a disk is on fire"}`
	oneVolume    = `{"data":{"name":"CSI-a","id":"1","admin_state":"online","storage_instances":[{"name":"storage-1",
		"volumes":[{"name":"volume-1","size":1}]}]}}`
	snapshotMade = `{"data":{"path":"/app_instances/1/storage_instances/storage-1/volumes/volume-1/snapshots/1.2","utc_ts":"1.2","uuid":"u","op_state":"available"}}`
)

// unlucky is a volume to send requests about; nothing needs to be true of it.
func unlucky() *dateraclient.Volume {
	return &dateraclient.Volume{Name: "CSI-a", ID: "1", StorageInstance: "storage-1", Child: "volume-1"}
}

// A read is repeated whenever that can help, and never when it cannot.
func TestReadsAreRepeated(t *testing.T) {
	good := body(200, oneVolume)
	for name, tc := range map[string]struct {
		answers []http.HandlerFunc
		tries   int
		kind    error
	}{
		"503 without body":        {[]http.HandlerFunc{body(503, ""), body(503, ""), good}, 3, nil},
		"503 from a proxy":        {[]http.HandlerFunc{body(503, "<html>"), good}, 2, nil},
		"502":                     {[]http.HandlerFunc{body(502, "<html>"), good}, 2, nil},
		"504":                     {[]http.HandlerFunc{body(504, ""), good}, 2, nil},
		"429":                     {[]http.HandlerFunc{body(429, ""), good}, 2, nil},
		"still initializing":      {[]http.HandlerFunc{body(500, initializing), good}, 2, nil},
		"reset":                   {[]http.HandlerFunc{cut, cut, cut, good}, 4, nil},
		"empty, then good":        {[]http.HandlerFunc{body(200, ""), good}, 2, nil},
		"half, then good":         {[]http.HandlerFunc{body(200, oneVolume[:80]), good}, 2, nil},
		"half for ever":           {[]http.HandlerFunc{body(200, oneVolume[:80])}, 3, dateraclient.ErrNotDatera},
		"empty for ever":          {[]http.HandlerFunc{body(200, "")}, 3, dateraclient.ErrNotDatera},
		"HTML":                    {[]http.HandlerFunc{body(200, "<html>It works!</html>"), good}, 1, dateraclient.ErrNotDatera},
		"no data":                 {[]http.HandlerFunc{body(200, `{"tenant":"/root"}`), good}, 1, dateraclient.ErrNotDatera},
		"data of another type":    {[]http.HandlerFunc{body(200, `{"data":[1]}`), good}, 1, dateraclient.ErrNotDatera},
		"500":                     {[]http.HandlerFunc{body(500, fault), good}, 1, dateraclient.ErrFault},
		"500 HTML":                {[]http.HandlerFunc{body(500, "<html>"), good}, 1, dateraclient.ErrNotDatera},
		"404 of a stranger":       {[]http.HandlerFunc{body(404, "<html>"), good}, 1, dateraclient.ErrNotDatera},
		"404 of another API":      {[]http.HandlerFunc{body(404, `{"detail":"Not Found"}`), good}, 1, dateraclient.ErrNotDatera},
		"redirect":                {[]http.HandlerFunc{redirect, good}, 1, dateraclient.ErrNotDatera},
		"no such volume":          {[]http.HandlerFunc{body(404, `{"name":"NotFoundError","http":404}`), good}, 1, dateraclient.ErrNotFound},
		"answer without length":   {[]http.HandlerFunc{lie, good}, 2, nil},
		"not HTTP, then the same": {[]http.HandlerFunc{babble}, 3, dateraclient.ErrNotDatera},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := newFake(t)
			f.rest = answers(tc.answers...)
			_, err := client(t, s.URL).Volume(t.Context(), "CSI-a")
			if !errors.Is(err, tc.kind) {
				t.Errorf("got %v, want %v", err, tc.kind)
			}
			if n := f.count("GET /v2.3/app_instances/CSI-a"); n != tc.tries {
				t.Errorf("%d tries, want %d", n, tc.tries)
			}
		})
	}
}

func redirect(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, "/v2.3/elsewhere", http.StatusFound)
}

// lie promises more than it sends.
func lie(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "5000")
	reply(w, 200, oneVolume)
}

func babble(w http.ResponseWriter, _ *http.Request) {
	conn, _, _ := http.NewResponseController(w).Hijack()
	_, _ = conn.Write([]byte("SSH-2.0-OpenSSH_9.9\r\n"))
	_ = conn.Close()
}

// A snapshot is made by POST: it must never be made twice by the client.
func TestPostsAreRepeatedOnlyWhenSurelyNotReceived(t *testing.T) {
	good := body(200, snapshotMade)
	volume := map[bool]http.HandlerFunc{
		false: body(200, oneVolume),
		true:  body(200, strings.Replace(oneVolume, `"name":"volume-1"`, `"name":"volume-1","snapshots":[`+strings.TrimSuffix(strings.TrimPrefix(snapshotMade, `{"data":`), "}")+`]`, 1)),
	}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		posts  int
		kind   error
	}{
		"503":                {body(503, ""), 2, nil},
		"still initializing": {body(500, initializing), 2, nil},
		"reset":              {cut, 1, dateraclient.ErrAnswerLost},
		"502":                {body(502, ""), 1, dateraclient.ErrAnswerLost},
		"empty":              {body(200, ""), 1, dateraclient.ErrAnswerLost},
		"half":               {body(200, snapshotMade[:30]), 1, dateraclient.ErrAnswerLost},
		"HTML":               {body(200, "<html>"), 1, dateraclient.ErrAnswerLost},
		"500":                {body(500, fault), 1, dateraclient.ErrAnswerLost},
		"422":                {body(422, `{"name":"ValidationFailedError"}`), 1, dateraclient.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := newFake(t)
			posts := answers(tc.answer, good)
			f.rest = func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					posts(w, r)
					return
				}
				volume[tc.kind == nil](w, r)
			}
			_, _, err := client(t, s.URL).CreateSnapshot(t.Context(), "CSI-a", dateraclient.SnapshotSpec{UUID: "u"})
			if !errors.Is(err, tc.kind) {
				t.Errorf("got %v, want %v", err, tc.kind)
			}
			if errors.Is(tc.kind, dateraclient.ErrAnswerLost) && !errors.Is(err, dateraclient.ErrUnavailable) {
				t.Errorf("%v must be an ErrUnavailable: a final code would claim that nothing was made", err)
			}
			if n := f.count("POST /v2.3/app_instances/CSI-a/storage_instances/storage-1/volumes/volume-1/snapshots"); n != tc.posts {
				t.Errorf("%d POSTs, want %d", n, tc.posts)
			}
		})
	}
}

func TestArrayThatComesBackIsWaitedFor(t *testing.T) {
	f, s := newFake(t)
	f.rest = body(200, oneVolume)
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := probe.Addr().String()
	_ = probe.Close()
	c := client(t, "http://"+address)
	time.AfterFunc(300*time.Millisecond, func() {
		late, listenErr := net.Listen("tcp", address)
		if listenErr != nil {
			return // somebody took the port; the test then fails by its deadline
		}
		back := &http.Server{Handler: s.Config.Handler, ReadHeaderTimeout: time.Minute}
		t.Cleanup(func() { _ = back.Close() })
		_ = back.Serve(late)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err = c.Volume(ctx, "CSI-a"); err != nil {
		t.Error(err)
	}
}

func TestDeadlineLeavesTheLastFailureToRead(t *testing.T) {
	f, s := newFake(t)
	f.rest = body(503, `{"message":"electing a leader"}`)
	c := client(t, s.URL)
	if _, err := c.System(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	_, err := c.Volume(ctx, "CSI-a")
	if !errors.Is(err, dateraclient.ErrUnavailable) || !strings.Contains(err.Error(), "electing a leader") {
		t.Errorf("got %v, want ErrUnavailable in the array's words", err)
	}
	if ctx.Err() != nil {
		t.Error("it was waited to the very end, for an attempt that there was no time for")
	}
}

func TestCancelEndsARequestUnderWay(t *testing.T) {
	f, s := newFake(t)
	begun := make(chan struct{})
	f.rest = func(_ http.ResponseWriter, r *http.Request) { close(begun); <-r.Context().Done() }
	c := client(t, s.URL)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if _, err := c.Volume(ctx, "CSI-a"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
}

func TestRequestsUnderWayAreBounded(t *testing.T) {
	f, s := newFake(t)
	var now, most atomic.Int64
	f.rest = func(w http.ResponseWriter, _ *http.Request) {
		n := now.Add(1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		time.Sleep(2 * time.Millisecond)
		now.Add(-1)
		reply(w, 200, oneVolume)
	}
	c := client(t, s.URL, func(cfg *dateraclient.Config) { cfg.Concurrency = 4 })
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if _, err := c.Volume(t.Context(), "CSI-a"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if m := most.Load(); m != 4 {
		t.Errorf("at most %d requests at a time, want 4", m)
	}
}

func TestConnectionsAreKept(t *testing.T) {
	f := &fake{tb: t, versions: `{"api_versions":["v2.3"]}`, product: "3.3.4.0", counts: map[string]int{}, rest: body(200, oneVolume)}
	s := httptest.NewUnstartedServer(f)
	var opened atomic.Int64
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	c := client(t, s.URL, func(cfg *dateraclient.Config) { cfg.Concurrency = 20 })
	for range 20 {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { _, _ = c.Volume(t.Context(), "CSI-a") })
		}
		all.Wait()
	}
	if n := opened.Load(); n > 21 { // the login's may not be free yet when the others begin
		t.Errorf("%d connections for 400 requests, 20 at a time", n)
	}
}

func TestWaitingForATurnEndsWithTheCaller(t *testing.T) {
	f, s := newFake(t)
	begun, finish := make(chan struct{}), make(chan struct{})
	f.rest = func(w http.ResponseWriter, _ *http.Request) { close(begun); <-finish; reply(w, 200, oneVolume) }
	c := client(t, s.URL, func(cfg *dateraclient.Config) { cfg.Concurrency = 1 })
	first := make(chan error, 1)
	go func() { _, err := c.Volume(t.Context(), "CSI-a"); first <- err }()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := c.Volume(ctx, "CSI-a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want deadline exceeded", err)
	}
	close(finish)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

func TestUnreachableArray(t *testing.T) {
	for name, tc := range map[string]struct {
		endpoint string
		kind     error
	}{
		"no such host": {"http://array.invalid:7717", dateraclient.ErrUnreachable},
		"refused":      {"http://127.0.0.1:1", dateraclient.ErrUnavailable},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := client(t, tc.endpoint).System(ctx); !errors.Is(err, tc.kind) {
			t.Errorf("%s: got %v, want %v", name, err, tc.kind)
		}
	}
}

// secure is a fake that speaks TLS, and its CA.
func secure(t *testing.T) (*httptest.Server, []byte, *atomic.Int64) {
	t.Helper()
	f, _ := newFake(t)
	s := httptest.NewUnstartedServer(f)
	dials := new(atomic.Int64)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			dials.Add(1)
		}
	}
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), dials
}

func TestCertificateIsVerified(t *testing.T) {
	s, ca, dials := secure(t)
	_, err := client(t, s.URL).System(t.Context())
	if !errors.Is(err, dateraclient.ErrUntrusted) || !errors.Is(err, dateraclient.ErrUnreachable) {
		t.Errorf("got %v, want ErrUntrusted", err)
	}
	if err == nil || !strings.Contains(err.Error(), "ca.crt") {
		t.Errorf("%v does not say what to do", err)
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections, want 1: a stranger is not asked again", n)
	}
	for name, with := range map[string]func() (*http.Client, error){
		"CA":       func() (*http.Client, error) { return dateraclient.HTTPClient(ca, false) },
		"insecure": func() (*http.Client, error) { return dateraclient.HTTPClient(nil, true) },
	} {
		h, err := with()
		if err != nil {
			t.Fatal(err)
		}
		if _, err = client(t, s.URL, func(cfg *dateraclient.Config) { cfg.HTTP = h }).System(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCertificateOfAnotherHostIsRefused(t *testing.T) {
	s, ca, _ := secure(t)
	h, err := dateraclient.HTTPClient(ca, false)
	if err != nil {
		t.Fatal(err)
	}
	// The test certificate is for 127.0.0.1 and example.com.
	elsewhere := strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	_, err = client(t, elsewhere, func(cfg *dateraclient.Config) { cfg.HTTP = h }).System(t.Context())
	if !errors.Is(err, dateraclient.ErrUntrusted) || strings.Contains(err.Error(), "ca.crt") || !strings.Contains(err.Error(), "endpoint") {
		t.Errorf("got %v, want ErrUntrusted, and that the endpoint is to be another", err)
	}
}

// An authority that is trusted does not mend a certificate whose time is over.
func TestExpiredCertificateIsSaidToBe(t *testing.T) {
	s, ca, _ := secure(t)
	h, err := dateraclient.HTTPClient(ca, false)
	if err != nil {
		t.Fatal(err)
	}
	transport, ok := h.Transport.(*http.Transport)
	if !ok {
		t.Fatalf("transport %T", h.Transport)
	}
	transport.TLSClientConfig.Time = func() time.Time { return s.Certificate().NotAfter.Add(time.Hour) }
	_, err = client(t, s.URL, func(cfg *dateraclient.Config) { cfg.HTTP = h }).System(t.Context())
	if !errors.Is(err, dateraclient.ErrUntrusted) || strings.Contains(err.Error(), "ca.crt") || !strings.Contains(err.Error(), "renew it") {
		t.Errorf("got %v, want ErrUntrusted, and that the certificate is to be renewed", err)
	}
}

func TestBadCAFileIsAnError(t *testing.T) {
	if _, err := dateraclient.HTTPClient([]byte("not PEM"), false); err == nil || !strings.Contains(err.Error(), "ca.crt") {
		t.Errorf("got %v, want an error that names ca.crt", err)
	}
}

func TestSchemeMixedUp(t *testing.T) {
	_, plain := newFake(t)
	tls, _, _ := secure(t)
	for endpoint, word := range map[string]string{
		strings.Replace(plain.URL, "http:", "https:", 1): "TLS",
		strings.Replace(tls.URL, "https:", "http:", 1):   "HTTPS",
	} {
		_, err := client(t, endpoint).System(t.Context())
		if !errors.Is(err, dateraclient.ErrNotDatera) || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: got %v, want ErrNotDatera about %s", endpoint, err, word)
		}
	}
}

func TestHeaders(t *testing.T) {
	for tenant, want := range map[string]string{
		"": "/root", "/root": "/root", "root": "/root", "prod": "/root/prod", "/root/prod": "/root/prod",
		"root/a/b": "/root/a/b", "/prod/": "/root/prod",
	} {
		f, s := newFake(t)
		var mu sync.Mutex
		var got http.Header
		f.rest = func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			got = r.Header
			reply(w, 200, oneVolume)
		}
		c := client(t, s.URL, func(cfg *dateraclient.Config) { cfg.Tenant, cfg.Agent = tenant, "datera-csi-1.2" })
		if _, err := c.Volume(t.Context(), "CSI-a"); err != nil {
			t.Fatal(err)
		}
		if got.Get("Tenant") != want || got.Get("Datera-Driver") != "datera-csi-1.2" || got.Get("Auth-Token") == "" {
			t.Errorf("tenant %q: headers %v, want tenant %s", tenant, got, want)
		}
	}
}

func TestLoginIsWithoutTenant(t *testing.T) {
	f, s := newFake(t)
	f.login = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Tenant") != "" || r.Header.Get("Auth-Token") != "" {
			t.Errorf("login with headers %v", r.Header)
		}
		f.logIn(w, r)
	}
	if _, err := client(t, s.URL).System(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBadConfigIsRefused(t *testing.T) {
	credentials := func() (string, string, error) { return "", "", nil }
	for name, cfg := range map[string]dateraclient.Config{
		"no endpoint":       {Credentials: credentials},
		"no credentials":    {Endpoint: parse(t, "https://array")},
		"ftp":               {Endpoint: parse(t, "ftp://array"), Credentials: credentials},
		"no host":           {Endpoint: parse(t, "https://"), Credentials: credentials},
		"path":              {Endpoint: parse(t, "https://array/v2.3"), Credentials: credentials},
		"password in URL":   {Endpoint: parse(t, "https://a:"+password+"@array"), Credentials: credentials},
		"tenant with space": {Endpoint: parse(t, "https://array"), Credentials: credentials, Tenant: "a b"},
		"tenant with dots":  {Endpoint: parse(t, "https://array"), Credentials: credentials, Tenant: "/root//x"},
		"all tenants":       {Endpoint: parse(t, "https://array"), Credentials: credentials, Tenant: "all"},
		"header injection":  {Endpoint: parse(t, "https://array"), Credentials: credentials, Tenant: "a\r\nX: y"},
		"concurrency":       {Endpoint: parse(t, "https://array"), Credentials: credentials, Concurrency: -1},
	} {
		_, err := dateraclient.New(cfg)
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), password) {
			t.Errorf("%s: %v shows the password", name, err)
		}
	}
}

func TestNamesThatCannotBeAreNotSent(t *testing.T) {
	f, s := newFake(t)
	c := client(t, s.URL)
	for _, name := range []string{"", ".", "..", "a/b", "../system", "a?b", "a%2fb", "a\x00b", "a b", "é", strings.Repeat("a", 129)} {
		if _, err := c.Volume(t.Context(), name); !errors.Is(err, dateraclient.ErrNotFound) {
			t.Errorf("Volume(%q): %v, want ErrNotFound", name, err)
		}
		if _, err := c.CreateVolume(t.Context(), dateraclient.VolumeSpec{Name: name, Size: 1}); !errors.Is(err, dateraclient.ErrInvalid) {
			t.Errorf("CreateVolume(%q): %v, want ErrInvalid", name, err)
		}
		if _, err := c.Grant(t.Context(), unlucky(), name); !errors.Is(err, dateraclient.ErrInvalid) {
			t.Errorf("Grant(%q): %v, want ErrInvalid", name, err)
		}
		if _, err := c.Snapshot(t.Context(), unlucky(), name); !errors.Is(err, dateraclient.ErrNotFound) {
			t.Errorf("Snapshot(%q): %v, want ErrNotFound", name, err)
		}
	}
	if len(f.counts) != 0 {
		t.Errorf("requests were sent: %v", f.counts)
	}
}

// What the array echoes must not carry secrets into errors (FM 40).
func TestSecretsAreNotInErrors(t *testing.T) {
	const secret = `chap"secret\canary`
	f, s := newFake(t)
	f.rest = func(w http.ResponseWriter, r *http.Request) {
		var sent bytes.Buffer
		_, _ = sent.ReadFrom(r.Body)
		reply(w, 422, `{"name":"ValidationFailedError","http":422,"message":"token `+r.Header.Get("Auth-Token")+` sent nonsense",
			"errors":["chap\"secret\\canary is too short",`+sent.String()+`]}`)
	}
	c := client(t, s.URL)
	spec := dateraclient.VolumeSpec{Name: "CSI-a", Size: 1, CHAP: &dateraclient.CHAP{User: "u", Password: secret, UserIn: "v", PasswordIn: "other-canary"}}
	_, err := c.CreateVolume(t.Context(), spec)
	if !errors.Is(err, dateraclient.ErrInvalid) {
		t.Fatalf("got %v, want ErrInvalid", err)
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("a secret is in the error: %v", err)
	}
	if !strings.Contains(err.Error(), "(hidden) is too short") {
		t.Errorf("the rest of the array's words is missing: %v", err)
	}
}

func TestTokenOfABrokenLoginIsNotInErrors(t *testing.T) {
	f, s := newFake(t)
	f.login = body(200, `{"key":"token-canary","version":`)
	_, err := client(t, s.URL).System(t.Context())
	if !errors.Is(err, dateraclient.ErrNotDatera) || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v, want ErrNotDatera without the token", err)
	}
}

func TestErrorCarriesTheArraysWords(t *testing.T) {
	f, s := newFake(t)
	f.rest = body(400, `{"name":"InvalidRequestError","code":42,"http":400,"message":"no such thing","errors":["a","b",{"c":1}]}`)
	_, err := client(t, s.URL).Volume(t.Context(), "CSI-a")
	var e *dateraclient.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %T, want *Error", err)
	}
	if e.Name != "InvalidRequestError" || e.Code != 42 || e.HTTP != 400 || e.Message != "no such thing" ||
		strings.Join(e.Errors, " ") != `a b {"c":1}` || e.Op != "GET" || e.Path != "/app_instances/CSI-a" {
		t.Errorf("got %+v", e)
	}
	want := `GET /app_instances/CSI-a: the array refuses the request: no such thing: a; b; {"c":1} (InvalidRequestError 42, HTTP 400)`
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
}

func TestKindsOfErrors(t *testing.T) {
	for _, tc := range []struct {
		status int
		body   string
		kind   error
	}{
		{403, `{"name":"PermissionDeniedError"}`, dateraclient.ErrPermission},
		{400, `{"name":"PermissionDeniedError"}`, dateraclient.ErrPermission},
		{404, `{"name":"NotFoundError"}`, dateraclient.ErrNotFound},
		{404, `{"name":"InvalidRouteError","code":99}`, dateraclient.ErrInvalid},
		{409, `{"name":"ConflictError"}`, dateraclient.ErrConflict},
		{409, `{"name":"AnyOtherError"}`, dateraclient.ErrConflict},
		{400, `{"name":"InvalidRequestError","code":15}`, dateraclient.ErrConflict},
		{400, `{"name":"InvalidRequestError","code":"15"}`, dateraclient.ErrConflict},
		{400, `{"name":"InvalidRequestError","message":"the Limit of 4096 volumes is reached"}`, dateraclient.ErrNoSpace},
		{507, `{"name":"AnyOtherError"}`, dateraclient.ErrNoSpace},
		{422, `{"name":"ValidationFailedError"}`, dateraclient.ErrInvalid},
		{405, `{"name":"InvalidRequestError"}`, dateraclient.ErrInvalid},
		{418, `{"name":"TeapotError"}`, dateraclient.ErrInvalid},
		{500, `{"name":"DatabaseError"}`, dateraclient.ErrFault},
		{409, `{"error":"conflict"}`, dateraclient.ErrNotDatera},
		{403, `<html>`, dateraclient.ErrNotDatera},
		{404, ``, dateraclient.ErrNotDatera},
		{400, `Client sent an HTTP request to an HTTPS server.`, dateraclient.ErrNotDatera},
	} {
		f, s := newFake(t)
		f.rest = body(tc.status, tc.body)
		_, err := client(t, s.URL).Volume(t.Context(), "CSI-a")
		if !errors.Is(err, tc.kind) {
			t.Errorf("%d %s: got %v, want %v", tc.status, tc.body, err, tc.kind)
		}
	}
}

func TestHugeAnswerIsNotReadToTheEnd(t *testing.T) {
	f, s := newFake(t)
	f.rest = func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, `{"data":{"name":"`)
		chunk := bytes.Repeat([]byte("a"), 1<<20)
		for range 70 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	_, err := client(t, s.URL).Volume(t.Context(), "CSI-a")
	if !errors.Is(err, dateraclient.ErrNotDatera) {
		t.Errorf("got %.200v, want ErrNotDatera", err)
	}
}

func parse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestCHAPIsNotPrintable(t *testing.T) {
	c := &dateraclient.CHAP{User: "alice", Password: "canary", UserIn: "bob", PasswordIn: "canary"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, value := range []any{c, *c, dateraclient.VolumeSpec{CHAP: c}, &dateraclient.VolumeSpec{CHAP: c}} {
			if got := fmt.Sprintf(format, value); strings.Contains(got, "canary") {
				t.Errorf("%s of %T shows the password: %s", format, value, got)
			}
		}
	}
}
