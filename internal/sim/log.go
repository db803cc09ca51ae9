package sim

import "sync"

// Request is one request as the array saw it.
type Request struct {
	Method  string
	Path    string // without the version prefix and the query
	Query   string
	Version string // "v2.2"; "" for paths outside any version
	Status  int    // 0: not answered yet, or the answer was lost
}

// requestLog remembers requests for tests when it is switched on.
type requestLog struct {
	on   bool
	mu   sync.Mutex
	list []*Request
}

type logEntry struct {
	log *requestLog
	at  *Request
}

func (l *requestLog) begin(method, path, version, query string) *logEntry {
	if !l.on {
		return nil
	}
	entry := &Request{Method: method, Path: unescape(path), Query: query, Version: version}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, entry)
	return &logEntry{l, entry}
}

func (e *logEntry) done(status int) {
	if e == nil {
		return
	}
	e.log.mu.Lock()
	defer e.log.mu.Unlock()
	e.at.Status = status
}

// Requests are the requests since the start or the last ResetRequests, in the
// order they came, when Config.Record is set.
func (a *Array) Requests() []Request {
	a.log.mu.Lock()
	defer a.log.mu.Unlock()
	list := make([]Request, len(a.log.list))
	for i, r := range a.log.list {
		list[i] = *r
	}
	return list
}

// ResetRequests forgets the requests seen so far.
func (a *Array) ResetRequests() {
	a.log.mu.Lock()
	defer a.log.mu.Unlock()
	a.log.list = nil
}
