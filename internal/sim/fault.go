package sim

import (
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Match selects requests: by HTTP method ("" is any) and by path without the
// version prefix, in which "*" stands for one segment and a trailing "**" for
// all that follow.
type Match struct {
	Method string
	Path   string
}

func (m Match) fits(method, path string) bool {
	if m.Method != "" && m.Method != method {
		return false
	}
	pattern, segments := split(m.Path), split(path)
	for i, p := range pattern {
		if p == "**" {
			return true
		}
		if i >= len(segments) || (p != "*" && p != segments[i] && p != unescape(segments[i])) {
			return false
		}
	}
	return len(pattern) == len(segments)
}

// Fault is what goes wrong with a request. Status, Body, HTML, Empty and Reset
// keep the array from doing the work; Truncate and LoseAnswer spoil the answer
// after the work is done.
type Fault struct {
	Times       int           // how many requests it hits; 0 means 1, or with For all until then; negative means all
	For         time.Duration // if not 0 it ends this long after its first hit, whatever Times says
	Delay       time.Duration // before anything else; a change is made after it also when its client has left
	Status      int           // answer this status, with Body or with what the array says there
	Body        string
	HTML        bool // answer an HTML page, as a proxy in front of the array would
	Empty       bool // answer no body at all
	Truncate    bool // answer the first half of the JSON
	Reset       bool // reset the connection before the request is looked at
	LoseAnswer  bool // do the work, then reset the connection
	ExpireToken bool // end all sessions first, so that the request meets an unknown key
}

// StillInitializing is the answer of an array whose REST server has just
// started; clients are expected to retry it.
func StillInitializing() Fault {
	return Fault{Status: http.StatusInternalServerError,
		Body: `{"name":"InternalError","code":9,"http":500,"message":"REST server is still initializing","errors":[]}`}
}

type plannedFault struct {
	match Match
	fault Fault
	left  int
	until time.Time
}

// faultQueue holds the faults to come, in the order in which they were planned.
type faultQueue struct {
	mu      sync.Mutex
	planned []*plannedFault
	down    time.Time // every request gets 503 until then
}

func (q *faultQueue) plan(m Match, f Fault) {
	q.mu.Lock()
	defer q.mu.Unlock()
	left := f.Times
	if left == 0 && f.For == 0 {
		left = 1
	}
	if left == 0 {
		left = -1
	}
	q.planned = append(q.planned, &plannedFault{match: m, fault: f, left: left})
}

func (q *faultQueue) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.planned, q.down = nil, time.Time{}
}

// take finds the fault of a request and counts it.
func (q *faultQueue) take(method, path string, now time.Time) (Fault, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now.Before(q.down) {
		return Fault{Status: http.StatusServiceUnavailable}, true
	}
	for i, p := range q.planned {
		if !p.match.fits(method, path) || p.ended(now) {
			continue
		}
		if p.until.IsZero() && p.fault.For > 0 {
			p.until = now.Add(p.fault.For)
		}
		if p.left > 0 {
			p.left--
		}
		if p.left == 0 {
			q.planned = append(q.planned[:i:i], q.planned[i+1:]...)
		}
		return p.fault, true
	}
	return Fault{}, false
}

func (p *plannedFault) ended(now time.Time) bool {
	return !p.until.IsZero() && now.After(p.until)
}

// before applies what happens instead of the work; it says whether the request
// is answered.
func (f Fault) before(w http.ResponseWriter, req *http.Request, a *Array, entry *logEntry) bool {
	if f.ExpireToken {
		a.ExpireSessions()
	}
	switch {
	case f.Reset:
		reset(w)
	case f.HTML:
		w.Header().Set("Content-Type", "text/html")
		entry.done(f.status())
		w.WriteHeader(f.status())
		_, _ = w.Write([]byte("<html><head><title>Gateway</title></head><body><h1>It works!</h1></body></html>\n"))
	case f.Empty:
		entry.done(f.status())
		w.WriteHeader(f.status())
	case f.Status != 0 || f.Body != "":
		entry.done(f.status())
		write(w, answer{f.status(), f.words(req, a)})
	default:
		return false
	}
	return true
}

// after spoils an answer; it says whether the request is answered.
func (f Fault) after(w http.ResponseWriter, ans answer, entry *logEntry) bool {
	switch {
	case f.LoseAnswer:
		reset(w)
	case f.Truncate:
		entry.done(ans.status)
		write(w, answer{ans.status, ans.body[:len(ans.body)/2]})
	default:
		return false
	}
	return true
}

func (f Fault) status() int {
	if f.Status == 0 {
		return http.StatusOK
	}
	return f.Status
}

// words are the body of a fault that names only a status.
func (f Fault) words(req *http.Request, a *Array) []byte {
	if f.Body != "" {
		return []byte(f.Body)
	}
	if f.Status == http.StatusServiceUnavailable {
		return []byte(`{"message":"the service is not available, try again"}`)
	}
	e := &apiError{name: "InternalError", code: codeInternal, http: f.Status, message: strings.ToLower(http.StatusText(f.Status))}
	for _, known := range []*apiError{errAuth(), errPermission("permission denied"), errNotFound("object", "asked for"),
		errConflict("object", "asked for"), errRefused("the request is refused"), errValidation("the request is not valid")} {
		if known.http == f.Status {
			e = known
		}
	}
	prefix, path := splitVersion(req.URL.EscapedPath())
	v, _ := parseVersion(prefix)
	return a.fail(&request{array: a, http: req, version: v, path: path, tenant: rootTenant}, e).body
}

// reset ends the connection the hard way, as a dying array does.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2: the server resets the stream
	}
	raw := conn
	if secure, ok := conn.(*tls.Conn); ok {
		raw = secure.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // RST instead of FIN; failing that the client sees an EOF, which is as good
	}
	_ = raw.Close()
}
