package sim

import "strings"

func tenantFields() []field {
	return []field{
		descrField(),
		flag("force").from22(),
		text("initiator_list_src").from22(),
		texts("mgmt_ips").from22(),
		free("quota").from22(),
	}
}

func (a *Array) tenantRoutes() []route {
	name := text("name").like(reNameUUID, "a name of 3 to 64 characters, or a UUID").must()
	return []route{
		{path: "/tenants", ops: map[string]op{
			"GET": {do: listTenants, list: true, descr: "list the tenants"},
			"POST": {do: createTenant, in: append([]field{name, text("parent_path")}, tenantFields()...),
				descr: "create a tenant"}}},
		{path: "/tenants/*path", ops: map[string]op{
			"GET":    {do: getTenant, descr: "read a tenant and those below it"},
			"PUT":    {do: updateTenant, in: tenantFields(), descr: "change a tenant"},
			"DELETE": {do: deleteTenant, in: []field{flag("force")}, descr: "delete a tenant"}}},
	}
}

// tenantPath brings the forms in which clients name a tenant to one: /root/x.
func tenantPath(s string) string {
	s = "/" + strings.Trim(s, "/")
	if rest, ok := strings.CutPrefix(s, "/tenants/"); ok {
		s = "/" + rest
	}
	return s
}

// tenantAt finds a tenant that the request's user may see.
func (r *request) tenantAt(path string) (*tenant, error) {
	path = tenantPath(path)
	t, ok := r.array.state.tenants.get(path)
	if !ok {
		return nil, errNotFound("tenant", path)
	}
	if !r.user.may(path) {
		return nil, errPermission("user %s may not see tenant %s", r.user.Key, path)
	}
	return t, nil
}

func listTenants(r *request) (any, error) {
	var all []*tenant
	for _, t := range r.array.state.tenants.rows {
		if r.user.may(t.Path) {
			all = append(all, t)
		}
	}
	return page(r, all, r.renderTenant, func(t *tenant) string { return t.Name })
}

func createTenant(r *request) (any, error) {
	s, b := r.array.state, r.body
	parent, err := r.tenantAt(b.or("parent_path", rootTenant))
	if err != nil {
		return nil, err
	}
	path := parent.Path + "/" + b.str("name")
	if _, taken := s.tenants.get(path); taken {
		return nil, errConflict("tenant", path)
	}
	if err := allow(len(s.tenants.rows), r.array.cfg.Limits.Tenants, "tenants"); err != nil {
		return nil, err
	}
	t := s.addTenant(path, b.str("name"), b.str("descr"))
	t.Settings = merged(b, nil)
	r.save()
	return r.renderTenant(t), nil
}

func getTenant(r *request) (any, error) {
	t, err := r.tenantAt(r.param("path"))
	if err != nil {
		return nil, err
	}
	return r.renderTenant(t), nil
}

func updateTenant(r *request) (any, error) {
	t, err := r.tenantAt(r.param("path"))
	if err != nil {
		return nil, err
	}
	if r.body.has("descr") {
		t.Descr = r.body.str("descr")
	}
	t.Settings = merged(t.Settings, r.body)
	r.save()
	return r.renderTenant(t), nil
}

// deleteTenant refuses while the tenant has app instances or tenants below it.
func deleteTenant(r *request) (any, error) {
	t, err := r.tenantAt(r.param("path"))
	if err != nil {
		return nil, err
	}
	s := r.array.state
	switch {
	case t.Path == rootTenant:
		return nil, errRefused("tenant %s can not be deleted", rootTenant)
	case len(t.apps.rows) > 0:
		return nil, errRefused("tenant %s has %d app instances", t.Path, len(t.apps.rows))
	case len(r.below(t)) > 0:
		return nil, errRefused("tenant %s has tenants below it", t.Path)
	}
	shown := r.renderTenant(t)
	s.count.initiators -= len(t.initiators.rows)
	s.tenants.remove(t)
	for k := range s.documents {
		if k.tenant == t.Path {
			delete(s.documents, k)
		}
	}
	r.save()
	return shown, nil
}

// below are the tenants directly below t.
func (r *request) below(t *tenant) []*tenant {
	var list []*tenant
	for _, x := range r.array.state.tenants.rows {
		if rest, ok := strings.CutPrefix(x.Path, t.Path+"/"); ok && !strings.Contains(rest, "/") {
			list = append(list, x)
		}
	}
	return list
}

func (r *request) renderTenant(t *tenant) object {
	parent := ""
	if i := strings.LastIndexByte(t.Path, '/'); i > 0 {
		parent = t.Path[:i]
	}
	o := object{{"path", "/tenants" + t.Path}, {"name", t.Name}, {"descr", t.Descr}, {"parent_path", parent}}
	if r.version < v22 {
		subtenants := contained{}
		for _, x := range r.below(t) {
			subtenants = append(subtenants, r.renderTenant(x))
		}
		o.set("subtenants", subtenants)
		return o
	}
	paths := []string{}
	for _, x := range r.below(t) {
		paths = append(paths, "/tenants"+x.Path)
	}
	o.set("subtenants", paths)
	o.set("initiator_list_src", t.Settings.or("initiator_list_src", "own"))
	o.set("mgmt_ips", append([]string{}, t.Settings.strs("mgmt_ips")...))
	if quota, ok := t.Settings["quota"]; ok {
		o.set("quota", quota)
	}
	return o
}
