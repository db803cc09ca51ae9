package sim

import "slices"

// initiator is a host that may be admitted to storage instances.
type initiator struct {
	Seq    uint64
	ID     string // IQN or EUI
	Name   string
	Tenant string
}

func (i *initiator) key() string      { return i.ID }
func (i *initiator) sequence() uint64 { return i.Seq }

func initiatorNameField() field {
	return text("name").like(reDescr, "a letter or _, then letters, digits, blanks, _ - . ; 3 to 128 characters").must()
}

func (a *Array) initiatorRoutes() []route {
	id := text("id").like(reInitiator, "an IQN (iqn.YYYY-MM.…) or EUI (eui. and 16 hexadecimal digits)").must()
	return []route{
		{path: "/initiators", ops: map[string]op{
			"GET": {do: listInitiators, list: true, descr: "list initiators"},
			"POST": {do: createInitiator, in: []field{id, initiatorNameField(), flag("force").from22()},
				descr: "make an initiator known"}}},
		{path: "/initiators/:iqn", ops: map[string]op{
			"GET":    {do: getInitiator, descr: "read an initiator"},
			"PUT":    {do: updateInitiator, in: []field{initiatorNameField()}, descr: "rename an initiator"},
			"DELETE": {do: deleteInitiator, in: []field{flag("force")}, descr: "forget an initiator"}}},
	}
}

func (s *state) initiatorIn(tenant, iqn string) *initiator {
	t, ok := s.tenants.get(tenant)
	if !ok {
		return nil
	}
	i, _ := t.initiators.get(iqn)
	return i
}

// findInitiator looks in the request's tenant, then in those above it: a
// subtenant sees the initiators of its parents.
func (r *request) findInitiator(iqn string) *initiator {
	for _, tenant := range r.scopes() {
		if i := r.array.state.initiatorIn(tenant, iqn); i != nil {
			return i
		}
	}
	return nil
}

func listInitiators(r *request) (any, error) {
	tenants := r.scopes()
	if r.all {
		tenants = nil
		for _, t := range r.array.state.tenants.rows {
			if r.user.may(t.Path) {
				tenants = append(tenants, t.Path)
			}
		}
	}
	var all []*initiator
	seen := map[string]bool{}
	for _, path := range tenants {
		t, ok := r.array.state.tenants.get(path)
		if !ok {
			continue
		}
		for _, i := range t.initiators.rows {
			if r.all || !seen[i.ID] {
				seen[i.ID] = true
				all = append(all, i)
			}
		}
	}
	return page(r, all, r.renderInitiator, func(i *initiator) string { return i.Name })
}

func getInitiator(r *request) (any, error) {
	i := r.findInitiator(r.param("iqn"))
	if i == nil {
		return nil, errNotFound("initiator", r.param("iqn"))
	}
	return r.renderInitiator(i), nil
}

// createInitiator asks for force where a subtenant would begin to have
// initiators of its own or would hide one of its parents'.
func createInitiator(r *request) (any, error) {
	t, iqn := r.own(), r.body.str("id")
	if _, taken := t.initiators.get(iqn); taken {
		return nil, errConflict("initiator", iqn)
	}
	hides := r.findInitiator(iqn) != nil
	if r.tenant != rootTenant && !r.forced() && (hides || len(t.initiators.rows) == 0) {
		return nil, errRefused("tenant %s uses the initiators of its parent: creating initiator %s gives it its own; "+
			"use force to override this warning", r.tenant, iqn)
	}
	if err := allow(r.array.state.count.initiators, r.array.cfg.Limits.Initiators, "initiators"); err != nil {
		return nil, err
	}
	i := &initiator{Seq: r.array.state.next(), ID: iqn, Name: r.body.str("name"), Tenant: r.tenant}
	t.initiators.add(i)
	r.array.state.count.initiators++
	r.save()
	return r.renderInitiator(i), nil
}

// ownInitiator finds an initiator that the request's tenant may change.
func (r *request) ownInitiator() (*initiator, error) {
	i := r.findInitiator(r.param("iqn"))
	switch {
	case i == nil:
		return nil, errNotFound("initiator", r.param("iqn"))
	case i.Tenant != r.tenant:
		return nil, errPermission("initiator %s belongs to tenant %s", i.ID, i.Tenant)
	}
	return i, nil
}

func updateInitiator(r *request) (any, error) {
	i, err := r.ownInitiator()
	if err != nil {
		return nil, err
	}
	i.Name = r.body.str("name")
	r.save()
	return r.renderInitiator(i), nil
}

// deleteInitiator also drops every ACL entry and group membership that refers
// to the initiator.
func deleteInitiator(r *request) (any, error) {
	i, err := r.ownInitiator()
	if err != nil {
		return nil, err
	}
	r.own().initiators.remove(i)
	r.array.state.count.initiators--
	r.save()
	entry := aclEntry{i.ID, i.Tenant}
	touched := r.leaveGroups(entry)
	for _, si := range r.array.state.targets {
		listed := slices.Contains(si.Initiators, entry)
		if listed {
			si.Initiators = slices.DeleteFunc(slices.Clone(si.Initiators), func(e aclEntry) bool { return e == entry })
			r.saveApp(si.app)
		}
		if listed || touched {
			r.evict(si)
			r.export(si)
		}
	}
	return r.renderInitiator(i), nil
}

func (r *request) renderInitiator(i *initiator) object {
	o := object{}
	o.setIf(r.version >= v22, "tenant", i.Tenant)
	o.set("path", "/initiators/"+i.ID)
	o.set("id", i.ID)
	o.set("name", i.Name)
	return o
}
