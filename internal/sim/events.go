package sim

import (
	"regexp"
	"strconv"
	"sync"
	"time"
)

const keptEvents = 4096

// event is one thing that has happened on the array.
type event struct {
	uuid     string
	kind     string // user, system or debug
	at       time.Time
	user     string
	tenant   string
	path     string
	message  string
	severity string
}

// eventLog keeps the latest events.
type eventLog struct {
	mu   sync.Mutex
	ring []event
	next int
}

func (l *eventLog) add(e event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) < keptEvents {
		l.ring = append(l.ring, e)
		return
	}
	l.ring[l.next] = e
	l.next = (l.next + 1) % keptEvents
}

// all is every event kept, the oldest first.
func (l *eventLog) all() []event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append(append([]event{}, l.ring[l.next:]...), l.ring[:l.next]...)
}

// happened records that a request has changed something.
func (r *request) happened() {
	r.array.events.add(event{uuid: newUUID(), kind: "user", at: r.now, user: r.user.Key, tenant: r.tenant, path: r.path,
		message: r.op.descr, severity: "info"})
}

var reSince = regexp.MustCompile(`^(\d+(d|h|m|s))+$`)

func rangeFields() []field {
	return []field{
		text("since").like(reSince, "a duration such as 3m22s"),
		text("from"),
		text("to"),
	}
}

func (a *Array) eventRoutes() []route {
	routes := []route{{path: "/events/:uuid", ops: map[string]op{"GET": {do: getEvent, descr: "read an event"}}}}
	for _, kind := range []string{"system", "user", "debug"} {
		routes = append(routes, route{path: "/events/" + kind, ops: map[string]op{
			"GET": {do: listEvents(kind), list: true, query: rangeFields(), descr: "list " + kind + " events"}}})
	}
	for path, kind := range map[string]string{"/audit_logs": "user", "/event_logs": "system", "/fault_logs": "fault"} {
		routes = append(routes, route{path: path, ops: map[string]op{
			"GET": {do: listEvents(kind), list: true, query: rangeFields(), descr: "list " + kind + " logs"}}})
	}
	for _, path := range []string{"/monitoring/alerts", "/monitoring/policies"} {
		routes = append(routes, route{path: path, ops: map[string]op{
			"GET": {do: listEvents("alert"), list: true, query: rangeFields(), descr: "list what monitoring has to say"}}})
	}
	return routes
}

func listEvents(kind string) func(*request) (any, error) {
	return func(r *request) (any, error) {
		from, to, err := r.timeRange()
		if err != nil {
			return nil, err
		}
		var seen []event
		for _, e := range r.array.events.all() {
			if e.kind == kind && !e.at.Before(from) && !e.at.After(to) && r.user.may(e.tenant) {
				seen = append(seen, e)
			}
		}
		return page(r, seen, renderEvent, func(e event) string { return e.uuid })
	}
}

func getEvent(r *request) (any, error) {
	for _, e := range r.array.events.all() {
		if e.uuid == r.param("uuid") && r.user.may(e.tenant) {
			return renderEvent(e), nil
		}
	}
	return nil, errNotFound("event", r.param("uuid"))
}

func renderEvent(e event) object {
	at := e.at.UTC().Format(time.RFC3339Nano)
	return object{{"path", "/events/" + e.uuid}, {"uuid", e.uuid}, {"time", at}, {"last_seen_ts", at}, {"repeat_count", 1},
		{"severity", e.severity}, {"type", "operational"}, {"code", "SIM-" + e.kind}, {"message", e.message}, {"description", e.message},
		{"context", e.user}, {"debug", ""}, {"tenant", e.tenant}, {"object_path", e.path}}
}

// timeRange reads since, from and to; without them it is all of the time.
func (r *request) timeRange() (from, to time.Time, err error) {
	to = r.now
	if since := r.query.Get("since"); since != "" {
		from = r.now.Add(-parseSince(since))
	}
	for key, into := range map[string]*time.Time{"from": &from, "to": &to} {
		text := r.query.Get(key)
		if text == "" {
			continue
		}
		if *into, err = parseTime(text); err != nil {
			return from, to, errValidation(key + ": must be Unix seconds or a time as in ISO 8601")
		}
	}
	return from, to, nil
}

func parseTime(text string) (time.Time, error) {
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		return time.Unix(0, int64(seconds*1e9)), nil
	}
	return time.Parse(time.RFC3339, text)
}

// parseSince adds up "1d3m22s"; the schema has seen to its form.
func parseSince(text string) time.Duration {
	units := map[byte]time.Duration{'d': 24 * time.Hour, 'h': time.Hour, 'm': time.Minute, 's': time.Second}
	var total time.Duration
	number := int64(0)
	for i := range len(text) {
		if c := text[i]; c >= '0' && c <= '9' {
			number = number*10 + int64(c-'0')
			continue
		}
		total += time.Duration(number) * units[text[i]]
		number = 0
	}
	return total
}
