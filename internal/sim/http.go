package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	apiVersionsPath = "/api_versions"
	maxBody         = 8 << 20
)

// answer is what goes back to a client.
type answer struct {
	status int
	body   []byte
}

// ServeHTTP answers one request of the REST API. It is safe for concurrent use.
func (a *Array) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	prefix, path := splitVersion(req.URL.EscapedPath())
	entry := a.log.begin(req.Method, path, prefix, req.URL.RawQuery)
	fault, faulty := a.faults.take(req.Method, path, a.now())
	sent := req.Context()
	if req.Method != http.MethodGet {
		sent = context.WithoutCancel(sent) // what a client has sent is carried out, also when the client has left
	}
	if !wait(sent, a.cfg.Latency+fault.Delay) {
		return
	}
	if faulty && fault.before(w, req, a, entry) {
		return
	}
	ans := a.answer(req, prefix, path)
	if faulty && fault.after(w, ans, entry) {
		return
	}
	entry.done(ans.status)
	write(w, ans)
}

func write(w http.ResponseWriter, ans answer) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(ans.body)))
	w.WriteHeader(ans.status)
	_, _ = w.Write(ans.body) // the client is gone when this fails; nobody to tell
}

// splitVersion cuts "/v2.2/app_instances" into "v2.2" and "/app_instances".
func splitVersion(escaped string) (prefix, path string) {
	first, rest, _ := strings.Cut(strings.TrimPrefix(escaped, "/"), "/")
	if _, ok := parseVersion(first); ok {
		return first, "/" + strings.TrimSuffix(rest, "/")
	}
	return "", escaped
}

func (a *Array) answer(req *http.Request, prefix, path string) answer {
	r := &request{array: a, http: req, id: a.requests.Add(1), started: a.now(), path: path}
	if unescaped, err := url.PathUnescape(path); err == nil {
		r.path = unescaped
	}
	if prefix == "" && path == apiVersionsPath {
		return a.encode(r, object{{"api_versions", a.cfg.APIVersions}})
	}
	result, err := a.serve(req.Context(), r, prefix, path)
	if err != nil {
		return a.fail(r, err)
	}
	if r.op.bare || r.version == v2 {
		return a.encode(r, result)
	}
	return a.encode(r, a.envelope(r, result))
}

// envelope wraps the answers of v2.1 and later.
func (a *Array) envelope(r *request, data any) object {
	env := object{
		{"tenant", r.tenant},
		{"path", r.path},
		{"version", r.version.String()},
		{"data", data},
	}
	env.setIf(r.meta != nil, "metadata", r.meta)
	env.set("request_time", a.now().Sub(r.started).Milliseconds())
	return env
}

func (a *Array) encode(r *request, v any) answer {
	return answer{http.StatusOK, encoder{v2: r.version == v2}.append(make([]byte, 0, 2048), v)}
}

func (a *Array) fail(r *request, err error) answer {
	e := new(apiError)
	if !errors.As(err, &e) {
		e = errInternal(err)
		a.report(fmt.Errorf("%s %s: %w", r.http.Method, r.path, err))
	}
	return answer{e.http, encoder{}.append(nil, e.render(r, a.now()))}
}

func (a *Array) report(err error) {
	if a.cfg.Report != nil {
		a.cfg.Report(err)
	}
}

// serve takes a request through route, key, tenant and schema to its operation.
func (a *Array) serve(ctx context.Context, r *request, prefix, path string) (any, error) {
	v, ok := parseVersion(prefix)
	if !ok || !a.serves(prefix) {
		return nil, errRoute(r.path)
	}
	r.version = v
	if path == "/" {
		e := errRoute(r.path)
		e.http = http.StatusBadRequest // the legacy version probe expects this
		return nil, e
	}
	r.route, r.params = a.router.find(path)
	if r.route == nil || !r.route.gate.open(v, a.product) {
		return nil, errRoute(r.path)
	}
	if r.op, ok = r.route.ops[r.http.Method]; !ok {
		return nil, errMethod(r.http.Method, r.path)
	}
	if err := a.authorise(r); err != nil {
		return nil, err
	}
	if err := r.read(); err != nil {
		return nil, err
	}
	return a.perform(ctx, r)
}

// read checks the query and the body against the operation's fields.
func (r *request) read() error {
	var err error
	if r.query, err = url.ParseQuery(r.http.URL.RawQuery); err != nil {
		return errValidation("query: " + err.Error())
	}
	c := checker{version: r.version, product: r.array.product}
	r.checkQuery(&c)
	if r.op.raw != nil {
		if err = c.error(); err != nil {
			return err
		}
		return r.op.raw(r)
	}
	if r.op.free {
		if err = c.error(); err != nil {
			return err
		}
		return r.decodeFree()
	}
	in, form, err := r.decode()
	if err != nil {
		return err
	}
	c.form = form
	if r.http.Method == http.MethodGet {
		return c.error() // some clients attach a body to every GET
	}
	r.body = c.object("", r.op.in, in)
	return c.error()
}

func (c *checker) error() error {
	if len(c.faults) == 0 {
		return nil
	}
	return errValidation(c.faults...)
}

func (r *request) checkQuery(c *checker) {
	reads := r.http.Method == http.MethodGet
	if len(r.query) == 0 && !reads {
		return
	}
	known := slices.Clone(r.op.query)
	if r.op.list {
		known = append(known, listParams()...)
	}
	if !reads {
		// Options of a DELETE come in the body, in the query, or in both.
		known = append(known, r.op.in...)
		for i := range known {
			known[i].required = false
		}
	}
	in := make(map[string]any, len(r.query))
	for key := range r.query {
		in[key] = r.query.Get(key)
	}
	form := *c
	form.form = true
	form.object("", known, in)
	c.faults = append(c.faults, form.faults...)
}

// decode reads the body: JSON, or a form whose values are all texts.
func (r *request) decode() (in map[string]any, form bool, err error) {
	raw, err := io.ReadAll(http.MaxBytesReader(nil, r.http.Body, maxBody))
	if err != nil {
		return nil, false, errRefused("read the request body: %v", err)
	}
	media, _, _ := mime.ParseMediaType(r.http.Header.Get("Content-Type"))
	if media == "application/x-www-form-urlencoded" && !looksLikeJSON(raw) {
		return decodeForm(raw)
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, false, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	err = d.Decode(&in)
	if err == nil && d.More() {
		err = errors.New("more than one JSON value")
	}
	if err != nil && r.http.Method != http.MethodGet {
		return nil, false, errRefused("the request body is not a JSON object: %v", err)
	}
	return in, false, nil
}

func looksLikeJSON(raw []byte) bool {
	trimmed := bytes.TrimSpace(raw)
	return len(trimmed) > 0 && trimmed[0] == '{'
}

func decodeForm(raw []byte) (map[string]any, bool, error) {
	form, err := url.ParseQuery(string(raw))
	if err != nil {
		return nil, true, errRefused("the request body is not a form: %v", err)
	}
	in := make(map[string]any, len(form))
	for key := range form {
		in[key] = form.Get(key)
	}
	return in, true, nil
}
