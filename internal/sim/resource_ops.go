package sim

import "slices"

func listDocs(chain []*resource) func(*request) (any, error) {
	res := chain[len(chain)-1]
	return func(r *request) (any, error) {
		if len(chain) == 1 {
			show := func(d *doc) object { return r.renderDoc(res, "/"+res.path+"/"+d.Key, d, d.Values) }
			return page(r, r.seenDocs(res), show, func(d *doc) string { return d.Key })
		}
		p, err := r.parent(chain)
		if err != nil {
			return nil, err
		}
		show := func(b body) object {
			return r.renderDoc(res, p.base+"/"+res.path+"/"+b.str(res.key), nil, b)
		}
		return page(r, p.body.list(res.path), show, func(b body) string { return b.str(res.key) })
	}
}

// seenDocs are the members a tenant sees: its own and those of its parents that
// it has not covered by its own.
func (r *request) seenDocs(res *resource) []*doc {
	if !res.inherit {
		return r.array.state.lookDocs(rootTenant, res.path).rows
	}
	var all []*doc
	seen := map[string]bool{}
	for _, tenant := range r.scopes() {
		for _, d := range r.array.state.lookDocs(tenant, res.path).rows {
			if !seen[d.Key] {
				seen[d.Key] = true
				all = append(all, d)
			}
		}
	}
	return all
}

func getDoc(chain []*resource) func(*request) (any, error) {
	res := chain[len(chain)-1]
	return func(r *request) (any, error) {
		p, err := r.place(chain)
		if err != nil {
			return nil, err
		}
		return r.renderPlace(res, p), nil
	}
}

func (r *request) renderPlace(res *resource, p place) object {
	d := p.doc
	if d != nil && len(split(p.base)) > 2 {
		d = nil
	}
	return r.renderDoc(res, p.base, d, p.body)
}

func createDoc(chain []*resource) func(*request) (any, error) {
	res := chain[len(chain)-1]
	if len(chain) == 1 {
		return func(r *request) (any, error) { return r.createTop(res) }
	}
	return func(r *request) (any, error) {
		p, err := r.parent(chain)
		if err != nil {
			return nil, err
		}
		if err := r.mayChange(chain[0], p.doc); err != nil {
			return nil, err
		}
		b := res.complete(r.body)
		key := b.str(res.key)
		if findIn(p.body.list(res.path), res.key, key) != nil {
			return nil, errConflict(res.kind, key)
		}
		if err := res.checked(r, nil, b); err != nil {
			return nil, err
		}
		p.body[res.path] = append(slices.Clone(p.body.list(res.path)), b)
		r.docChanged(chain[0], p.doc)
		return r.renderDoc(res, p.base+"/"+res.path+"/"+key, nil, b), nil
	}
}

func (r *request) createTop(res *resource) (any, error) {
	tenant := rootTenant
	if res.inherit {
		tenant = r.tenant
	}
	b := res.complete(r.body)
	if res.newKey {
		b[res.key] = newUUID()
	}
	d := &doc{Seq: r.array.state.next(), Key: b.str(res.key), Tenant: tenant, Values: b}
	docs := r.array.state.docs(tenant, res.path)
	if _, taken := docs.get(d.Key); taken {
		return nil, errConflict(res.kind, d.Key)
	}
	if err := res.checked(r, nil, b); err != nil {
		return nil, err
	}
	docs.add(d)
	r.docChanged(res, d)
	return r.renderDoc(res, "/"+res.path+"/"+d.Key, d, b), nil
}

// createSingle makes the one object that its parent may have.
func createSingle(chain []*resource) func(*request) (any, error) {
	res := chain[len(chain)-1]
	return func(r *request) (any, error) {
		p, err := r.parent(chain)
		if err != nil {
			return nil, err
		}
		if p.body.has(res.path) {
			return nil, errConflict(res.kind, "of "+p.base)
		}
		b := res.complete(r.body)
		if err := res.checked(r, nil, b); err != nil {
			return nil, err
		}
		p.body[res.path] = b
		r.docChanged(chain[0], p.doc)
		return r.renderDoc(res, p.base+"/"+res.path, nil, b), nil
	}
}

// changing finds what a request names, and that this tenant may change it.
func changing(chain []*resource, do func(*request, place) (any, error)) func(*request) (any, error) {
	return func(r *request) (any, error) {
		p, err := r.place(chain)
		if err != nil {
			return nil, err
		}
		if err := r.mayChange(chain[0], p.doc); err != nil {
			return nil, err
		}
		return do(r, p)
	}
}

func updateDoc(chain []*resource) func(*request) (any, error) {
	res := chain[len(chain)-1]
	return changing(chain, func(r *request, p place) (any, error) {
		changes := r.body
		for _, b := range res.below {
			if parts := changes.list(b.path); parts != nil {
				for i := range parts {
					parts[i] = b.complete(parts[i])
				}
			}
		}
		after := merged(p.body, changes)
		if err := res.checked(r, p.doc, after); err != nil {
			return nil, err
		}
		for k, v := range after {
			p.body[k] = v
		}
		r.docChanged(chain[0], p.doc)
		return r.renderPlace(res, p), nil
	})
}

func deleteDoc(chain []*resource) func(*request) (any, error) {
	res := chain[len(chain)-1]
	return changing(chain, func(r *request, p place) (any, error) {
		if len(chain) == 1 && res.drop != nil {
			if err := res.drop(r, p.doc); err != nil {
				return nil, err
			}
		}
		shown := r.renderPlace(res, p)
		switch parent, err := r.parent(chain); {
		case err != nil:
			return nil, err
		case len(chain) == 1:
			r.array.state.docs(p.doc.Tenant, res.path).remove(p.doc)
		case res.single:
			delete(parent.body, res.path)
		default:
			key := p.body.str(res.key)
			parent.body[res.path] = slices.DeleteFunc(slices.Clone(parent.body.list(res.path)),
				func(b body) bool { return b.str(res.key) == key })
		}
		r.docChanged(chain[0], p.doc)
		return shown, nil
	})
}

// mayChange refuses to change what belongs to a parent tenant.
func (r *request) mayChange(res *resource, d *doc) error {
	if res.inherit && d.Tenant != r.tenant {
		return errPermission("%s %s belongs to tenant %s", res.kind, d.Key, d.Tenant)
	}
	return nil
}

func (r *request) docChanged(top *resource, d *doc) {
	r.save()
	if top.follow != nil {
		top.follow(r, d)
	}
}

// complete fills in what a request has left out, at every level.
func (res *resource) complete(b body) body {
	b = merged(res.preset, b)
	for k, v := range res.preset {
		if o, ok := v.(body); ok && len(b.obj(k)) == len(o) {
			b[k] = merged(o, b.obj(k)) // never share what can be changed
		}
	}
	for i := range res.below {
		child := &res.below[i]
		if parts := b.list(child.path); parts != nil {
			whole := make([]body, len(parts))
			for n := range parts {
				whole[n] = child.complete(parts[n])
			}
			b[child.path] = whole
		}
	}
	return b
}

// checked runs the checks of a resource and of those below it.
func (res *resource) checked(r *request, d *doc, b body) error {
	for i := range res.below {
		child := &res.below[i]
		seen := map[string]bool{}
		for _, part := range b.list(child.path) {
			if key := part.str(child.key); seen[key] {
				return errConflict(child.kind, key)
			}
			seen[part.str(child.key)] = true
			if err := child.checked(r, nil, part); err != nil {
				return err
			}
		}
	}
	if res.check == nil {
		return nil
	}
	return res.check(r, d, b)
}
