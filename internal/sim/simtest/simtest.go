// Package simtest starts a simulated array for a test, over real HTTP.
package simtest

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/internal/sim"
)

// Server is a running array. It stops with its test.
type Server struct {
	URL      string // without a path, e.g. http://127.0.0.1:40000
	CA       []byte // PEM, of a server that speaks TLS
	User     string
	Password string
	Array    *sim.Array
}

// Start runs an array that speaks plain HTTP.
func Start(tb testing.TB, opts ...func(*sim.Config)) *Server {
	tb.Helper()
	s, handler := build(tb, opts)
	server := httptest.NewServer(handler)
	tb.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

// StartTLS runs an array that speaks HTTPS with a certificate that CA verifies.
func StartTLS(tb testing.TB, opts ...func(*sim.Config)) *Server {
	tb.Helper()
	s, handler := build(tb, opts)
	server := httptest.NewTLSServer(handler)
	tb.Cleanup(server.Close)
	s.URL = server.URL
	s.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return s
}

func build(tb testing.TB, opts []func(*sim.Config)) (*Server, http.Handler) {
	tb.Helper()
	cfg := sim.Config{Record: true, Users: []sim.User{{Name: "admin", Password: "password"}}}
	for _, opt := range opts {
		opt(&cfg)
	}
	array, err := sim.New(cfg)
	if err != nil {
		tb.Fatalf("start a simulated array: %v", err)
	}
	tb.Cleanup(func() { _ = array.Close() }) // a test may have closed it already
	return &Server{User: cfg.Users[0].Name, Password: cfg.Users[0].Password, Array: array}, array
}

// Fail plans a fault for the next requests that match.
func (s *Server) Fail(m sim.Match, f sim.Fault) { s.Array.Fail(m, f) }

// Requests are the requests since the start or the last ResetRequests. They
// include logins and questions for versions and for the system.
func (s *Server) Requests() []sim.Request { return s.Array.Requests() }

// ResetRequests forgets the requests seen so far.
func (s *Server) ResetRequests() { s.Array.ResetRequests() }

// LogIn opens an iSCSI session of an initiator with a target.
func (s *Server) LogIn(tb testing.TB, target, initiator string) {
	tb.Helper()
	if err := s.Array.LogIn(target, initiator); err != nil {
		tb.Fatal(err)
	}
}

// LogOut ends a session; an absent one is no error.
func (s *Server) LogOut(target, initiator string) { s.Array.LogOut(target, initiator) }

// BackendDir writes a directory of backends with one of that name, pointing to
// this array, and returns the directory that holds it.
func (s *Server) BackendDir(tb testing.TB, name string) string {
	tb.Helper()
	parent := tb.TempDir()
	dir := filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	files := map[string]string{"endpoint": s.URL, "tenant": "/root", "username": s.User, "password": s.Password}
	if s.CA != nil {
		files["ca.crt"] = string(s.CA)
	}
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return parent
}

// Get matches GET requests of a path; "*" in it matches one segment, a trailing
// "**" all that follow.
func Get(path string) sim.Match { return sim.Match{Method: http.MethodGet, Path: path} }

// Post matches POST requests as Get does.
func Post(path string) sim.Match { return sim.Match{Method: http.MethodPost, Path: path} }

// Put matches PUT requests as Get does.
func Put(path string) sim.Match { return sim.Match{Method: http.MethodPut, Path: path} }

// Delete matches DELETE requests as Get does.
func Delete(path string) sim.Match { return sim.Match{Method: http.MethodDelete, Path: path} }

// Any matches requests of every method as Get does.
func Any(path string) sim.Match { return sim.Match{Path: path} }

// API asks the array as an administrator in a tenant would, with no network between, and
// returns its answer; one that is no success ends the test. body is JSON text, or what is
// made JSON of; nil is none.
func (s *Server) API(tb testing.TB, tenant, method, path string, body any) map[string]any {
	tb.Helper()
	return s.ask(tb, s.token(tb), tenant, method, path, body)
}

// Fill makes volumes CSI-pvc-000000, CSI-pvc-000001 and so on.
func (s *Server) Fill(tb testing.TB, count int) {
	tb.Helper()
	token := s.token(tb)
	for i := range count {
		s.ask(tb, token, "/root", http.MethodPost, "/app_instances", fmt.Sprintf(`{"name":"CSI-pvc-%06d","create_mode":"kubernetes",
			"storage_instances":[{"name":"storage-1","volumes":[{"name":"volume-1","size":1,"replica_count":1}]}]}`, i))
	}
}

func (s *Server) token(tb testing.TB) string {
	tb.Helper()
	login := s.ask(tb, "", "/root", http.MethodPut, "/login", map[string]string{"name": s.User, "password": s.Password})
	return login["key"].(string)
}

func (s *Server) ask(tb testing.TB, token, tenant, method, path string, body any) map[string]any {
	tb.Helper()
	text, isText := body.(string)
	if !isText && body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			tb.Fatal(err)
		}
		text = string(raw)
	}
	r := httptest.NewRequestWithContext(tb.Context(), method, "/v2.3"+path, strings.NewReader(text))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Tenant", tenant)
	if token != "" {
		r.Header.Set("Auth-Token", token)
	}
	w := httptest.NewRecorder()
	s.Array.ServeHTTP(w, r)
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusOK {
		tb.Fatalf("%s %s: %d %s, %v", method, path, w.Code, w.Body, err)
	}
	return answer
}
