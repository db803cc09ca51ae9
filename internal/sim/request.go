package sim

import (
	"net/http"
	"net/url"
	"strings"
	"time"
)

// request is one call of the API on its way through the array.
type request struct {
	array   *Array
	http    *http.Request
	id      uint64
	started time.Time

	version version
	path    string // without the version prefix
	route   *route
	op      op
	params  params
	query   url.Values
	body    body
	free    map[string]any // a body whose keys are free

	tenant string // effective tenant, e.g. /root/prod
	all    bool   // the tenant header said "all"
	user   account

	atProvider bool // a snapshot's copy at its remote provider will do

	now     time.Time
	changed changes
	meta    object // of the envelope
	failure error  // met while rendering
}

// changes is what a request has done that must outlive or leave the process.
type changes struct {
	apps    []*appInstance // to be written
	gone    []*appInstance // deleted
	rest    bool           // anything else of the state
	targets []*storageInstance
	jobs    []job    // on backing files, done before anything is durable
	undo    []func() // what takes the changes back, under the lock, when a job fails
	files   []string // to be removed when nothing refers to them any more
}

// job is work outside the lock, and what follows under it: done hears whether this
// job and those before it went well, and is called in any case.
type job struct {
	work func() error
	done func(ok bool)
}

func (r *request) param(name string) string { return r.params.get(name) }

// operation is the verb as the array words it in errors and in /api.
func (r *request) operation() string { return operationOf(r.http.Method) }

func operationOf(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodDelete:
		return "delete"
	}
	return "read"
}

// echo is the request's parameters as errors repeat them; texts only.
func (r *request) echo() object {
	echo := object{}
	for _, p := range r.params {
		echo.set(p.name, p.value)
	}
	for key := range r.query {
		echo.set(key, r.query.Get(key))
	}
	return echo
}

func (r *request) client() string {
	if name := r.http.Header.Get("Datera-Driver"); name != "" {
		return name
	}
	return r.http.UserAgent()
}

func (r *request) tenancyClass() string {
	if r.tenant == rootTenant || r.tenant == "" {
		return "root"
	}
	return "subtenant"
}

// forced says whether the request carries force, in its body or its query.
func (r *request) forced() bool {
	return r.body.flag("force") || r.query.Get("force") == "true"
}

// saveApp marks an app instance as changed.
func (r *request) saveApp(a *appInstance) { r.changed.apps = append(r.changed.apps, a) }

// save marks the rest of the state as changed.
func (r *request) save() { r.changed.rest = true }

// export marks a storage instance as one whose target must be brought in line.
func (r *request) export(s *storageInstance) { r.changed.targets = append(r.changed.targets, s) }

// undo takes something back if the work on backing files fails.
func (r *request) undo(f func()) { r.changed.undo = append(r.changed.undo, f) }

// is33 says whether the product knows placement policies.
func (r *request) is33() bool { return r.array.product.atLeast(product33.product()) }

// scopes are the tenants whose objects the request may refer to: its own, then
// its parents.
func (r *request) scopes() []string { return scopesOf(r.tenant) }

func scopesOf(tenant string) []string {
	scopes := []string{tenant}
	for tenant != rootTenant && tenant != "" {
		tenant = tenant[:strings.LastIndexByte(tenant, '/')]
		scopes = append(scopes, tenant)
	}
	return scopes
}

const rootTenant = "/root"
