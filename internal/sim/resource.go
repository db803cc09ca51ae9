package sim

import "slices"

// resource describes a collection whose members the array only keeps: their
// fields say all about them. The routes of such a resource and of those below
// it are made from this description.
type resource struct {
	path    string // of the collection below its parent: "storage_templates"
	kind    string // in messages: "storage_template"
	key     string // the member that names one
	newKey  bool   // the array makes the key, a UUID
	gate    gate
	fields  []field
	preset  body     // members that a new one has unless told otherwise
	single  bool     // not a collection: one object below its parent
	without []string // HTTP methods it does not have
	inherit bool     // belongs to a tenant; tenants below see it
	below   []resource

	check  func(r *request, d *doc, b body) error // before b becomes a member; d is nil for a new one
	drop   func(r *request, d *doc) error         // before a member goes
	finish func(r *request, d *doc, o *object)    // adds to what is shown of a member
	follow func(r *request, d *doc)               // after a member has changed
}

// doc is one member of a resource, with those below it inside its values.
type doc struct {
	Seq    uint64
	Key    string
	Tenant string
	Values body
}

func (d *doc) key() string      { return d.Key }
func (d *doc) sequence() uint64 { return d.Seq }

// docs is the table of a resource in a tenant; those that do not belong to
// tenants are the root's.
func (s *state) docs(tenant, path string) *table[*doc] {
	k := docKey{tenant, path}
	t := s.documents[k]
	if t == nil {
		t = &table[*doc]{}
		s.documents[k] = t
	}
	return t
}

// lookDocs is docs for readers: it never changes the state.
func (s *state) lookDocs(tenant, path string) *table[*doc] {
	if t := s.documents[docKey{tenant, path}]; t != nil {
		return t
	}
	return &table[*doc]{}
}

type docKey struct{ tenant, path string }

// addDoc puts a document into the state that nobody has asked for by a request.
func (s *state) addDoc(path, key string, values body) {
	s.docs(rootTenant, path).add(&doc{Seq: s.next(), Key: key, Tenant: rootTenant, Values: values})
}

// findDoc looks in the request's tenant and above.
func (r *request) findDoc(path, key string) *doc {
	for _, tenant := range r.scopes() {
		if d, ok := r.array.state.lookDocs(tenant, path).get(key); ok {
			return d
		}
	}
	return nil
}

// creation and change are the fields of a POST and of a PUT.
func (res *resource) creation() []field { return res.fields }

func (res *resource) change() []field {
	fields := slices.DeleteFunc(slices.Clone(res.fields), func(f field) bool {
		return f.createOnly || (f.name == res.key && !res.single)
	})
	for i := range fields {
		fields[i].required = false
	}
	return fields
}

// asField is the resource as part of its parent's body.
func (res *resource) asField() field {
	f := list(res.path, res.creation()...)
	if res.single {
		f = group(res.path, res.creation()...)
	}
	f.gate = res.gate
	return f
}

// place is where a request points in a tree of resources: the document, the
// object within it and the path to that.
type place struct {
	doc  *doc
	body body
	base string
}

// resourceRoutes makes the routes of a top resource and of all below it.
func resourceRoutes(resources ...resource) []route {
	var routes []route
	for i := range resources {
		resources[i].addBelow()
		routes = append(routes, chainRoutes("", []*resource{&resources[i]})...)
	}
	return routes
}

// addBelow makes those below a resource part of its bodies, from the leaves up.
func (res *resource) addBelow() {
	for i := range res.below {
		res.below[i].addBelow()
		res.fields = append(res.fields, res.below[i].asField())
	}
}

func chainRoutes(parent string, chain []*resource) []route {
	res := chain[len(chain)-1]
	at := parent + "/" + res.path
	routes := []route{}
	item := at
	if !res.single {
		item = at + "/:" + res.path
		routes = append(routes, route{path: at, gate: res.gate, ops: map[string]op{
			"GET":  {do: listDocs(chain), list: true, descr: "list every " + res.kind},
			"POST": {do: createDoc(chain), in: res.creation(), descr: "create " + res.kind}}})
	}
	ops := map[string]op{
		"GET":    {do: getDoc(chain), descr: "read " + res.kind},
		"PUT":    {do: updateDoc(chain), in: res.change(), descr: "change " + res.kind},
		"DELETE": {do: deleteDoc(chain), in: []field{flag("force")}, descr: "delete " + res.kind},
	}
	if res.single {
		ops["POST"] = op{do: createSingle(chain), in: res.creation(), descr: "create " + res.kind}
	}
	routes = append(routes, route{path: item, gate: res.gate, ops: ops})
	for _, rt := range routes {
		for _, method := range res.without {
			delete(rt.ops, method)
		}
	}
	for i := range res.below {
		routes = append(routes, chainRoutes(item, append(slices.Clone(chain), &res.below[i]))...)
	}
	return routes
}

// findIn is the member of a list whose key member says so.
func findIn(list []body, key, value string) body {
	for _, b := range list {
		if b.str(key) == value {
			return b
		}
	}
	return nil
}

// parent walks to the object that contains the last resource of the chain.
func (r *request) parent(chain []*resource) (place, error) {
	if len(chain) == 1 {
		return place{}, nil
	}
	return r.place(chain[:len(chain)-1])
}

// place walks down the chain along the parameters of the request.
func (r *request) place(chain []*resource) (place, error) {
	var p place
	for i, res := range chain {
		p.base += "/" + res.path
		key := r.param(res.path)
		switch {
		case i == 0:
			if p.doc = r.findDoc(res.path, key); p.doc != nil {
				p.body = p.doc.Values
			}
		case res.single:
			p.body = p.body.obj(res.path)
			if p.body == nil {
				return p, errNotFound(res.kind, "of "+p.base)
			}
			continue
		default:
			p.body = findIn(p.body.list(res.path), res.key, key)
		}
		if p.body == nil {
			return p, errNotFound(res.kind, key)
		}
		p.base += "/" + key
	}
	return p, nil
}
