package sim

import (
	"encoding/json"
	"net/http"
)

// store is a flat map that clients keep on an app instance or a storage
// instance. The array does not look into it.
type store struct {
	values *map[string]any
	app    *appInstance
}

func (a *Array) metadataRoutes() []route {
	stores := []struct {
		path  string
		gate  gate
		find  func(*request) (store, error)
		descr string
	}{
		{"/app_instances/:app/metadata", gate{}, appMetadata, "metadata of an app instance"},
		{storagePath + "/:si/metadata", gate{}, storageMetadata, "metadata of a storage instance"},
		{"/app_instances/:app/int_ecosystem_data", gate{from: v22, since: product33}, appMetadata, "metadata of an app instance"},
		{"/app_instances/:app/ecosystem_data", gate{from: v22, since: product335}, appMetadata, "metadata of an app instance"},
		{"/app_instances/:app/user_data", gate{from: v22, since: product335}, appUserData, "user data of an app instance"},
	}
	var routes []route
	for i, s := range stores {
		routes = append(routes, route{path: s.path, gate: s.gate, ops: map[string]op{
			"GET": {do: getStore(s.find), descr: "read " + s.descr},
			"PUT": {do: putStore(s.find, i > 1), free: true, descr: "add to " + s.descr}}})
	}
	return append(routes,
		route{path: "/app_instance_int_ecosystem_data", gate: gate{from: v22, since: product33}, ops: map[string]op{
			"GET": {do: listStores(func(a *appInstance) map[string]any { return a.Metadata }), list: true, descr: "list the metadata of all app instances"}}},
		route{path: "/app_instance_user_data", gate: gate{from: v22, since: product335}, ops: map[string]op{
			"GET": {do: listStores(func(a *appInstance) map[string]any { return a.UserData }), list: true, descr: "list the user data of all app instances"}}})
}

func appMetadata(r *request) (store, error) {
	a, err := r.app()
	if err != nil {
		return store{}, err
	}
	return store{&a.Metadata, a}, nil
}

func appUserData(r *request) (store, error) {
	a, err := r.app()
	if err != nil {
		return store{}, err
	}
	return store{&a.UserData, a}, nil
}

func storageMetadata(r *request) (store, error) {
	si, err := r.storage()
	if err != nil {
		return store{}, err
	}
	return store{&si.Metadata, si.app}, nil
}

func getStore(find func(*request) (store, error)) func(*request) (any, error) {
	return func(r *request) (any, error) {
		s, err := find(r)
		if err != nil {
			return nil, err
		}
		return metadata(*s.values), nil
	}
}

// metadata never is null.
func metadata(values map[string]any) map[string]any {
	if values == nil {
		return map[string]any{}
	}
	return values
}

// putStore merges the request into what is there; a key is emptied by "" and
// never goes. In wrapped ones the values are under "data".
func putStore(find func(*request) (store, error), wrapped bool) func(*request) (any, error) {
	return func(r *request) (any, error) {
		s, err := find(r)
		if err != nil {
			return nil, err
		}
		changes, err := r.decodeValues(wrapped)
		if err != nil {
			return nil, err
		}
		after := make(map[string]any, len(*s.values)+len(changes))
		for k, v := range *s.values {
			after[k] = v
		}
		for k, v := range changes {
			after[k] = v
		}
		if limit := r.array.cfg.Limits.MetadataLen; limit >= 0 && sizeOf(after) > limit {
			return nil, errRefused("metadata would have %d characters; %d are possible", sizeOf(after), limit)
		}
		*s.values = after // never changed in place: answers may still refer to the old one
		r.saveApp(s.app)
		return after, nil
	}
}

func sizeOf(values map[string]any) int {
	raw, err := json.Marshal(values)
	if err != nil {
		return 0
	}
	return len(raw)
}

// decodeValues reads the free keys of a metadata body. Values become texts
// unless the array is configured to keep their type.
func (r *request) decodeValues(wrapped bool) (map[string]any, error) {
	in := r.free
	if wrapped {
		inner, ok := in["data"].(map[string]any)
		if !ok || len(in) != 1 {
			return nil, errValidation("data: is required, must be an object and the only member")
		}
		in = inner
	}
	c := checker{version: r.version, product: r.array.product}
	c.values("", in)
	if err := c.error(); err != nil {
		return nil, err
	}
	out := make(map[string]any, len(in))
	for k, v := range in {
		out[k] = r.metadataValue(v)
	}
	return out, nil
}

func (r *request) metadataValue(v any) any {
	if r.array.cfg.TypedMetadata {
		return v
	}
	switch v := v.(type) {
	case json.Number:
		return v.String()
	case bool:
		if v {
			return "true"
		}
		return "false"
	}
	return v
}

func listStores(values func(*appInstance) map[string]any) func(*request) (any, error) {
	return func(r *request) (any, error) {
		show := func(a *appInstance) object {
			return object{{"path", r.appPath(a)}, {"name", a.Name}, {"data", metadata(values(a))}}
		}
		return page(r, r.visible(r.own().apps.rows), show, func(a *appInstance) string { return a.Name })
	}
}

// decodeFree reads a body whose keys are free.
func (r *request) decodeFree() error {
	if r.http.Method == http.MethodGet {
		return nil
	}
	in, _, err := r.decode()
	r.free = in
	return err
}
