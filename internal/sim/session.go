package sim

import (
	"crypto/subtle"
	"net/http"
	"strings"
	"sync"
	"time"
)

// session is a key that was handed out.
type session struct {
	user string
	used time.Time
}

// keyring knows the keys of all sessions. Any number may exist for one user:
// some clients log in before every single call.
type keyring struct {
	mu     sync.Mutex
	keys   map[string]*session
	logins int
}

func (k *keyring) open(user string, now time.Time, lifetime time.Duration) string {
	key := newKey()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil {
		k.keys = map[string]*session{}
	}
	if k.logins++; k.logins%1024 == 0 {
		for old, s := range k.keys {
			if now.Sub(s.used) > lifetime {
				delete(k.keys, old)
			}
		}
	}
	k.keys[key] = &session{user, now}
	return key
}

// user is who a key belongs to; using a key keeps it alive.
func (k *keyring) user(key string, now time.Time, lifetime time.Duration) (string, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.keys[key]
	if s == nil {
		return "", false
	}
	if now.Sub(s.used) > lifetime {
		delete(k.keys, key)
		return "", false
	}
	s.used = now
	return s.user, true
}

func (k *keyring) close(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.keys, key)
}

// ExpireSessions forgets every key, as a restart of the array's REST server
// does.
func (a *Array) ExpireSessions() {
	a.keys.mu.Lock()
	defer a.keys.mu.Unlock()
	a.keys.keys = nil
}

func (a *Array) sessionRoutes() []route {
	return []route{
		{path: "/login", ops: map[string]op{"PUT": {do: login, public: true, bare: true, descr: "open a session",
			in: []field{text("name").must(), text("password").must(), text("remote_server")}}}},
		{path: "/logout", ops: map[string]op{"PUT": {do: logout, anyone: true, descr: "end the session"}}},
		{path: "/userinfo", ops: map[string]op{"GET": {do: userinfo, descr: "who the key belongs to"}}},
	}
}

func login(r *request) (any, error) {
	u, ok := r.array.state.account(r.body.str("name"))
	if !ok || u.disabled() || subtle.ConstantTimeCompare([]byte(u.Values.str("password")), []byte(r.body.str("password"))) == 0 {
		return nil, errAuth()
	}
	key := r.array.keys.open(u.Key, r.now, r.array.cfg.TokenLifetime)
	return object{{"key", key}, {"version", r.version.String()}, {"request_time", r.array.now().Sub(r.started).Milliseconds()}}, nil
}

func logout(r *request) (any, error) {
	r.array.keys.close(r.http.Header.Get("Auth-Token"))
	return object{}, nil
}

func userinfo(r *request) (any, error) {
	res := accountResources()[0]
	return r.renderDoc(&res, "/users/"+r.user.Key, r.user.doc, r.user.Values), nil
}

// authorise finds out who asks and in which tenant.
func (a *Array) authorise(r *request) error {
	r.tenant = rootTenant
	if r.op.public {
		return nil
	}
	key := r.http.Header.Get("Auth-Token")
	if key == "" {
		return errAuth()
	}
	name, ok := a.keys.user(key, a.now(), a.cfg.TokenLifetime)
	if !ok {
		return errSession()
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if r.user, ok = a.state.account(name); !ok || r.user.disabled() {
		return errSession()
	}
	if r.http.Method != http.MethodGet && !a.state.writes(r.user) && !r.op.anyone {
		return errPermission("user %s may only read", name)
	}
	return a.chooseTenant(r)
}

// chooseTenant reads the tenant header. An unknown tenant is a matter of
// permission: to a client "not found" means that its object is gone.
func (a *Array) chooseTenant(r *request) error {
	header := strings.TrimSpace(r.http.Header.Get("tenant"))
	switch header {
	case "":
		r.tenant = r.user.home()
	case "all":
		r.tenant, r.all = r.user.home(), true
	default:
		r.tenant = strings.TrimSuffix(header, "/")
	}
	if !r.user.may(r.tenant) {
		return errPermission("user %s may not act in tenant %s", r.user.Key, r.tenant)
	}
	if _, ok := a.state.tenants.get(r.tenant); !ok {
		return errPermission("there is no tenant %s", r.tenant)
	}
	return nil
}
