package sim

// renderDoc shows a member of a resource: its path, its fields in the order of
// their description, and those below it in full.
func (r *request) renderDoc(res *resource, base string, d *doc, b body) object {
	o := make(object, 0, len(res.fields)+4)
	if d != nil && res.inherit && r.version != v2 {
		o.set("tenant", d.Tenant)
	}
	o.set("path", base)
	for i := range res.fields {
		f := &res.fields[i]
		if !f.gate.open(r.version, r.array.product) || f.name == "force" || r.isBelow(res, f.name) {
			continue
		}
		if f.secret {
			continue
		}
		r.renderField(&o, f, b)
	}
	for i := range res.below {
		child := &res.below[i]
		if child.gate.open(r.version, r.array.product) {
			r.renderBelow(&o, child, base, b)
		}
	}
	if res.finish != nil {
		res.finish(r, d, &o)
	}
	return o
}

func (r *request) isBelow(res *resource, name string) bool {
	for i := range res.below {
		if res.below[i].path == name {
			return true
		}
	}
	return false
}

func (r *request) renderBelow(o *object, child *resource, base string, b body) {
	at := base + "/" + child.path
	if child.single {
		if one := b.obj(child.path); one != nil {
			o.set(child.path, r.renderDoc(child, at, nil, one))
		}
		return
	}
	parts := contained{}
	for _, part := range b.list(child.path) {
		parts = append(parts, r.renderDoc(child, at+"/"+part.str(child.key), nil, part))
	}
	o.set(child.path, parts)
}

// renderField shows one member. What has no value is left out, except that
// lists are empty and texts of a reference are too.
func (r *request) renderField(o *object, f *field, b body) {
	switch f.kind {
	case kindRefs:
		o.set(f.name, refs(b.strs(f.name)))
	case kindTexts:
		o.set(f.name, append([]string{}, b.strs(f.name)...))
	case kindRef:
		if !b.has(f.name) {
			return
		}
		if f.whole {
			o.set(f.name, r.pool(b.str(f.name)))
			return
		}
		o.set(f.name, ref(b.str(f.name)))
	case kindText:
		o.set(f.name, b.str(f.name))
	default:
		if v, ok := b[f.name]; ok {
			o.set(f.name, v)
		}
	}
}

// pool is a reference to an IP pool: v2.1 writes its path, later versions where
// it was found as well.
func (r *request) pool(path string) any {
	if r.version < v22 {
		return path
	}
	return resolved{path, rootTenant}
}
