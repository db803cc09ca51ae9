package sim

import (
	"slices"
	"strings"
)

const (
	usersPath      = "users"
	rolesPath      = "roles"
	privilegesPath = "privileges"
)

// account is a user of the REST API.
type account struct{ *doc }

func (u account) disabled() bool {
	on, set := u.Values["enabled"].(bool)
	return set && !on
}

// tenants are the tenants the user is bound to; none means all.
func (u account) tenants() []string {
	var list []string
	for _, path := range u.Values.strs("tenants") {
		list = append(list, strings.TrimPrefix(path, "/tenants"))
	}
	return list
}

// home is the tenant in which the user acts.
func (u account) home() string {
	if bound := u.tenants(); len(bound) > 0 {
		return bound[0]
	}
	return rootTenant
}

// may says whether the user may act in a tenant: in its own ones and those
// below them.
func (u account) may(tenant string) bool {
	bound := u.tenants()
	return len(bound) == 0 || slices.ContainsFunc(bound, func(t string) bool {
		return tenant == t || strings.HasPrefix(tenant, t+"/")
	})
}

// writes says whether one of the user's roles has more than the privilege to
// read.
func (s *state) writes(u account) bool {
	for _, path := range u.Values.strs("roles") {
		role, ok := s.lookDocs(rootTenant, rolesPath).get(strings.TrimPrefix(path, "/"+rolesPath+"/"))
		if ok && slices.Contains(role.Values.strs("privileges"), "/"+privilegesPath+"/write") {
			return true
		}
	}
	return false
}

func (s *state) account(name string) (account, bool) {
	d, ok := s.lookDocs(rootTenant, usersPath).get(name)
	return account{d}, ok
}

func (s *state) addDefaultAccounts() {
	s.addDoc(privilegesPath, "read", body{"privilege_id": "read"})
	s.addDoc(privilegesPath, "write", body{"privilege_id": "write"})
	s.addDoc(rolesPath, "admin", body{"role_id": "admin", "privileges": []string{"/privileges/read", "/privileges/write"}})
	s.addDoc(rolesPath, "viewer", body{"role_id": "viewer", "privileges": []string{"/privileges/read"}})
}

// setUsers makes sure that the configured users can log in as configured,
// whatever a saved state says.
func (s *state) setUsers(users []User) {
	for _, u := range users {
		if old, ok := s.account(u.Name); ok {
			old.Values["password"], old.Values["enabled"] = u.Password, true
			continue
		}
		tenants := []string{}
		if u.Tenant != "" && u.Tenant != rootTenant {
			tenants = append(tenants, "/tenants"+u.Tenant)
		}
		s.addDoc(usersPath, u.Name, body{"user_id": u.Name, "full_name": u.Name, "password": u.Password,
			"enabled": true, "roles": []string{"/roles/" + or(u.Role, "admin")}, "tenants": tenants})
	}
}

func accountResources() []resource {
	return []resource{
		{path: usersPath, kind: "user", key: "user_id", check: checkUser, drop: dropUser,
			preset: body{"enabled": true, "email": ""},
			fields: []field{
				text("user_id").like(reUser, "letters, digits and _; 3 to 32 characters").must(),
				text("full_name").like(reDescr, "a letter or _, then letters, digits, blanks, _ - . ; 3 to 128 characters").must(),
				text("password").like(reLogin, "a letter or _, then letters, digits, _ - . ; 3 to 128 characters").must().hidden(),
				text("email").orNull(),
				flag("enabled"),
				references("roles"),
				references("tenants"),
				text("version").loosely(),
			}},
		{path: rolesPath, kind: "role", key: "role_id",
			fields: []field{text("role_id").like(reName, "a name of 3 to 64 characters").must(), references("privileges")}},
		{path: privilegesPath, kind: "privilege", key: "privilege_id", without: []string{"POST", "PUT", "DELETE"},
			fields: []field{text("privilege_id").must()}},
	}
}

func (a *Array) accountRoutes() []route {
	return []route{{path: "/users/:users/roles", ops: map[string]op{
		"GET": {do: listUserRoles, list: true, descr: "list the roles of a user"},
		"PUT": {do: changeUserRole, in: memberFields(), descr: "add one role to a user or remove it"}}}}
}

func checkUser(r *request, d *doc, b body) error {
	s := r.array.state
	if d == nil {
		if err := allow(len(s.lookDocs(rootTenant, usersPath).rows), r.array.cfg.Limits.Users, "users"); err != nil {
			return err
		}
	}
	for _, path := range b.strs("roles") {
		if name, ok := strings.CutPrefix(path, "/roles/"); !ok || r.findDoc(rolesPath, name) == nil {
			return errNotFound("role", path)
		}
	}
	for i, path := range b.strs("tenants") {
		tenant := tenantPath(path)
		if _, ok := s.tenants.get(tenant); !ok {
			return errNotFound("tenant", path)
		}
		b.strs("tenants")[i] = "/tenants" + tenant
	}
	return nil
}

func dropUser(r *request, d *doc) error {
	if d == r.user.doc {
		return errRefused("user %s can not delete itself", d.Key)
	}
	return nil
}

func listUserRoles(r *request) (any, error) {
	d := r.findDoc(usersPath, r.param(usersPath))
	if d == nil {
		return nil, errNotFound("user", r.param(usersPath))
	}
	var roles []*doc
	for _, path := range d.Values.strs("roles") {
		if role := r.findDoc(rolesPath, strings.TrimPrefix(path, "/roles/")); role != nil {
			roles = append(roles, role)
		}
	}
	res := accountResources()[1]
	show := func(d *doc) object { return r.renderDoc(&res, "/roles/"+d.Key, d, d.Values) }
	return page(r, roles, show, func(d *doc) string { return d.Key })
}

func changeUserRole(r *request) (any, error) {
	d := r.findDoc(usersPath, r.param(usersPath))
	if d == nil {
		return nil, errNotFound("user", r.param(usersPath))
	}
	name, ok := strings.CutPrefix(r.body.str("path"), "/roles/")
	if !ok || r.findDoc(rolesPath, name) == nil {
		return nil, errNotFound("role", r.body.str("path"))
	}
	roles, err := changed(d.Values.strs("roles"), r.body, "user "+d.Key)
	if err != nil {
		return nil, err
	}
	d.Values["roles"] = roles
	r.save()
	res := accountResources()[0]
	return r.renderDoc(&res, "/users/"+d.Key, d, d.Values), nil
}
