package sim

import (
	"regexp"
	"slices"
)

var reTime = regexp.MustCompile(`^(\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?)?$`)

// policyFields are those of a snapshot policy.
func policyFields() []field {
	return []field{
		nameField(),
		choice("interval", "15min", "1hour", "1day", "1week", "1month", "1year", "1min", "2min").must(),
		integer("retention_count", 1, 256).loosely().must(),
		text("start_time").like(reTime, "a time as in ISO 8601").orNull(),
		text("remote_provider_uuid").from22().since(product32),
		choice("type", snapshotTypes()...).from22().since(product32),
	}
}

func policyResource() resource {
	return resource{path: "snapshot_policies", kind: "snapshot_policy", key: "name", fields: policyFields()}
}

func policyUpdateFields() []field {
	res := policyResource()
	return res.change()
}

// policyOwner is what has snapshot policies: an app instance or a volume.
type policyOwner struct {
	list *[]body
	base string
	app  *appInstance
}

func ownerApp(r *request) (policyOwner, error) {
	a, err := r.app()
	if err != nil {
		return policyOwner{}, err
	}
	return policyOwner{&a.Policies, r.appPath(a), a}, nil
}

func ownerVolume(r *request) (policyOwner, error) {
	v, err := r.volume()
	if err != nil {
		return policyOwner{}, err
	}
	return policyOwner{&v.Policies, r.volumePath(v), v.si.app}, nil
}

func (a *Array) policyRoutes() []route {
	var routes []route
	for base, owner := range map[string]func(*request) (policyOwner, error){
		"/app_instances/:app": ownerApp, volumePath + "/:vol": ownerVolume,
	} {
		at := base + "/snapshot_policies"
		routes = append(routes,
			route{path: at, ops: map[string]op{
				"GET":  {do: listPolicies(owner), list: true, descr: "list snapshot policies"},
				"POST": {do: createPolicy(owner), in: policyFields(), descr: "create a snapshot policy"}}},
			route{path: at + "/:policy", ops: map[string]op{
				"GET":    {do: getPolicy(owner), descr: "read a snapshot policy"},
				"PUT":    {do: updatePolicy(owner), in: policyUpdateFields(), descr: "change a snapshot policy"},
				"DELETE": {do: deletePolicy(owner), descr: "delete a snapshot policy"}}})
	}
	return routes
}

func listPolicies(owner func(*request) (policyOwner, error)) func(*request) (any, error) {
	return func(r *request) (any, error) {
		o, err := owner(r)
		if err != nil {
			return nil, err
		}
		show := func(b body) object { return renderPolicy(o.base, b) }
		return page(r, *o.list, show, func(b body) string { return b.str("name") })
	}
}

func createPolicy(owner func(*request) (policyOwner, error)) func(*request) (any, error) {
	return func(r *request) (any, error) {
		o, err := owner(r)
		if err != nil {
			return nil, err
		}
		if findIn(*o.list, "name", r.body.str("name")) != nil {
			return nil, errConflict("snapshot_policy", r.body.str("name"))
		}
		*o.list = append(slices.Clone(*o.list), r.body)
		r.saveApp(o.app)
		return renderPolicy(o.base, r.body), nil
	}
}

func (o policyOwner) find(name string) (int, error) {
	at := slices.IndexFunc(*o.list, func(b body) bool { return b.str("name") == name })
	if at < 0 {
		return at, errNotFound("snapshot_policy", name)
	}
	return at, nil
}

func getPolicy(owner func(*request) (policyOwner, error)) func(*request) (any, error) {
	return withPolicy(owner, func(_ *request, o policyOwner, at int) object {
		return renderPolicy(o.base, (*o.list)[at])
	})
}

func updatePolicy(owner func(*request) (policyOwner, error)) func(*request) (any, error) {
	return withPolicy(owner, func(r *request, o policyOwner, at int) object {
		*o.list = slices.Clone(*o.list)
		(*o.list)[at] = merged((*o.list)[at], r.body)
		r.saveApp(o.app)
		return renderPolicy(o.base, (*o.list)[at])
	})
}

func deletePolicy(owner func(*request) (policyOwner, error)) func(*request) (any, error) {
	return withPolicy(owner, func(r *request, o policyOwner, at int) object {
		shown := renderPolicy(o.base, (*o.list)[at])
		*o.list = slices.Delete(slices.Clone(*o.list), at, at+1)
		r.saveApp(o.app)
		return shown
	})
}

func withPolicy(owner func(*request) (policyOwner, error), do func(*request, policyOwner, int) object) func(*request) (any, error) {
	return func(r *request) (any, error) {
		o, err := owner(r)
		if err != nil {
			return nil, err
		}
		at, err := o.find(r.param("policy"))
		if err != nil {
			return nil, err
		}
		return do(r, o, at), nil
	}
}

func renderPolicies(base string, list []body) contained {
	out := make(contained, 0, len(list))
	for _, b := range list {
		out = append(out, renderPolicy(base, b))
	}
	return out
}

func renderPolicy(base string, b body) object {
	o := object{{"path", base + "/snapshot_policies/" + b.str("name")}}
	for _, key := range []string{"name", "interval", "retention_count", "start_time", "remote_provider_uuid", "type"} {
		if v, ok := b[key]; ok {
			o.set(key, v)
		}
	}
	return o
}
