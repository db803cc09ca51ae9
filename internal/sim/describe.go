package sim

import (
	"maps"
	"slices"
	"strings"
)

// describeRoutes is the self-description: clients that build themselves from
// it ask for it right after they have logged in.
func (a *Array) describeRoutes() []route {
	return []route{{path: "/api", ops: map[string]op{"GET": {do: describe, bare: true, descr: "describe all routes",
		query: []field{choice("group_by", "group", "route"), text("group_filter")}}}}}
}

func describe(r *request) (any, error) {
	o := object{}
	groups := map[string]object{}
	for _, rt := range r.array.table {
		if !rt.gate.open(r.version, r.array.product) {
			continue
		}
		group := split(rt.path)[0]
		if filter := r.query.Get("group_filter"); filter != "" && filter != group {
			continue
		}
		described := r.describeRoute(rt, group)
		if r.query.Get("group_by") == "group" {
			groups[group] = append(groups[group], member{rt.path, described})
			continue
		}
		o.set(rt.path, described)
	}
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		o.set(group, groups[group])
	}
	o.set("version", r.version.String())
	o.set("request_time", r.array.now().Sub(r.started).Milliseconds())
	return o, nil
}

func (r *request) describeRoute(rt *route, group string) object {
	o := object{}
	for _, method := range slices.Sorted(maps.Keys(rt.ops)) {
		operation := rt.ops[method]
		o.set(operationOf(method), object{
			{"descr", operation.descr},
			{"entity", strings.TrimSuffix(group, "s")},
			{"group", group},
			{"minVersion", max(rt.gate.from, v2).String()},
			{"op", operationOf(method)},
			{"path", rt.path},
			{"urlParamSchema", r.describeFields(urlFields(rt, operation))},
			{"bodyParamSchema", r.describeFields(bodyFields(method, operation))},
			{"returnParamSchema", object{{"type", "object"}}},
		})
	}
	return o
}

// urlFields are the parameters in a path.
func urlFields(rt *route, o op) []field {
	var fields []field
	for _, segment := range split(rt.path) {
		if segment[0] != ':' && segment[0] != '*' {
			continue
		}
		name := segment[1:]
		if i := slices.IndexFunc(o.url, func(f field) bool { return f.name == name }); i >= 0 {
			fields = append(fields, o.url[i].must())
			continue
		}
		fields = append(fields, text(name).must())
	}
	return fields
}

// bodyFields are what a request may say; reads say it in the query.
func bodyFields(method string, o op) []field {
	if method != "GET" {
		return o.in
	}
	fields := slices.Clone(o.query)
	if o.list {
		fields = append(fields, listParams()...)
	}
	return fields
}

// describeFields words fields in the manner of JSON Schema. A parameter's enum
// stands beside its type, where clients look for it.
func (r *request) describeFields(fields []field) object {
	o := object{}
	for i := range fields {
		f := &fields[i]
		if f.gate.open(r.version, r.array.product) {
			o.set(f.name, r.describeField(f))
		}
	}
	return o
}

func (r *request) describeField(f *field) object {
	types := map[kind]string{kindText: "string", kindInteger: "integer", kindFlag: "boolean", kindRef: "object", kindRefs: "array",
		kindTexts: "array", kindGroup: "object", kindList: "array", kindKeyed: "object", kindFree: "object"}
	o := object{{"type", types[f.kind]}}
	o.setIf(f.required, "required", true)
	o.setIf(len(f.enum) > 0, "enum", f.enum)
	if f.pattern != nil {
		o.set("pattern", f.pattern.String())
		o.set("fmthelp", f.help)
	}
	if f.kind == kindInteger {
		o.set("minimum", f.min)
		o.set("maximum", f.max)
	}
	o.setIf(f.kind == kindRef || f.kind == kindRefs, "simple_reference", true)
	if len(f.of) > 0 {
		o.set("containment", true)
		o.set("properties", r.describeFields(f.of))
	}
	return o
}
