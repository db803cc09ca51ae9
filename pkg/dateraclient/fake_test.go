package dateraclient_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// fake is an array that knows versions, logins and itself; what else it answers
// is up to the test. It exists for what a whole simulated array would be in the
// way of: bytes on the wire and the moments at which they come.
type fake struct {
	tb       testing.TB
	versions string // body of /api_versions
	product  string
	rest     http.HandlerFunc // everything but the three

	mu     sync.Mutex
	counts map[string]int // "METHOD /path" as received
	token  string         // the only one that is good
	logins int
	login  http.HandlerFunc // if set, instead of success
}

const (
	user     = "csi_user"
	password = "pass-word-canary"
)

// newFake answers {"data":{}} to everything until told otherwise.
func newFake(tb testing.TB) (*fake, *httptest.Server) {
	tb.Helper()
	f := &fake{
		tb: tb, versions: `{"api_versions":["v2","v2.1","v2.2","v2.3"]}`, product: "3.3.4.0",
		counts: map[string]int{}, rest: func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, `{"data":{}}`) },
	}
	s := httptest.NewServer(f)
	tb.Cleanup(s.Close)
	return f, s
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.counts[r.Method+" "+r.URL.Path]++
	login, rest, token := f.login, f.rest, f.token
	f.mu.Unlock()
	switch _, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); {
	case r.URL.Path == "/api_versions":
		status := 200
		if strings.Contains(f.versions, "Error") {
			status = 400
		}
		reply(w, status, f.versions)
	case path == "login" && login != nil:
		login(w, r)
	case path == "login":
		f.logIn(w, r)
	case r.Header.Get("Auth-Token") != token:
		reply(w, 401, `{"name":"InvalidSessionKeyError","code":7,"http":401,"message":"no such session"}`)
	case path == "system":
		reply(w, 200, fmt.Sprintf(`{"data":{"sw_version":%q}}`, f.product))
	default:
		rest(w, r)
	}
}

// logIn hands out a new token and forgets the old one.
func (f *fake) logIn(w http.ResponseWriter, r *http.Request) {
	var body map[string]string
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body["name"] != user || r.Method != http.MethodPut {
		f.tb.Errorf("login with %v, %v by %s", body, err, r.Method)
	}
	f.mu.Lock()
	f.logins++
	f.token = fmt.Sprintf("token-canary-%d", f.logins)
	token := f.token
	f.mu.Unlock()
	reply(w, 200, fmt.Sprintf(`{"key":%q,"version":"v2.3","request_time":1}`, token))
}

// expire makes the array forget the token.
func (f *fake) expire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.token = "nobody has this one"
}

func (f *fake) count(key string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[key]
}

func reply(w http.ResponseWriter, status int, body string) {
	w.WriteHeader(status)
	fmt.Fprint(w, body)
}

// answers gives one handler after the other; the last one stays.
func answers(handlers ...http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		h := handlers[0]
		if len(handlers) > 1 {
			handlers = handlers[1:]
		}
		mu.Unlock()
		h(w, r)
	}
}

func body(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { reply(w, status, text) }
}

// cut drops the connection without an answer, by RST.
func cut(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// client talks to a server at a URL.
func client(tb testing.TB, server string, opts ...func(*dateraclient.Config)) *dateraclient.Client {
	tb.Helper()
	endpoint, err := url.Parse(server)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := dateraclient.Config{
		Endpoint:    endpoint,
		Credentials: func() (string, string, error) { return user, password, nil },
	}
	for _, opt := range opts {
		opt(&cfg)
	}
	c, err := dateraclient.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

// TestMain fails when a goroutine of the client outlives all tests.
func TestMain(m *testing.M) {
	code := m.Run()
	deadline := time.Now().Add(5 * time.Second)
	for {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		leaked := ""
		for _, stack := range strings.Split(string(stacks), "\n\n")[1:] {
			if strings.Contains(stack, "pkg/dateraclient.") {
				leaked = stack
			}
		}
		if leaked == "" || code != 0 {
			os.Exit(code)
		}
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, "a goroutine has leaked:\n"+leaked)
			os.Exit(1)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
