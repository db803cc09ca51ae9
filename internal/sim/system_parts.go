package sim

import (
	"maps"
	"time"
)

// A part of the system is an object of its own below /system that clients may
// change. What they have set is kept in systemState.Parts by path.

func vipFields() []field {
	return []field{
		text("name"),
		list("network_paths",
			text("path"), text("name"), integer("netmask", 1, 32), integer("vlan", 0, 4094),
			text("ip").like(reIPv4, "an IPv4 address"), text("gateway").like(reIPv4, "an IPv4 address").orNull(), integer("mtu", 1500, 9198)),
	}
}

func systemUpdateFields() []field {
	return []field{
		flag("callhome_enabled"),
		flag("compression_enabled"),
		choice("access_interface_aggr_type", "single", "bonded"),
		choice("internal_interface_aggr_type", "single", "bonded"),
		choice("interface_aggregation_mode", "balance-rr", "active-backup", "balance-xor", "broadcast", "lacp", "balance-tlb", "balance-alb"),
		texts("network_devices"),
	}
}

type systemPart struct {
	path   string
	fields []field
	preset func(*Array) body
}

func systemParts() []systemPart {
	vip := func(name string, ip func(*Array) string) func(*Array) body {
		return func(a *Array) body {
			return body{"name": name, "network_paths": []body{{"path": "/system/network/" + name + "/network_paths/" + name,
				"name": name, "netmask": int64(24), "vlan": int64(0), "ip": ip(a), "gateway": "", "mtu": int64(1500)}}}
		}
	}
	access := func(a *Array) string { return a.cfg.AccessIPs[0].String() }
	return []systemPart{
		{"/system/dns", []field{text("domain"), texts("search_domains"), texts("servers")},
			func(*Array) body { return body{"domain": "", "search_domains": []string{}, "servers": []string{}} }},
		{"/system/http_proxy", []field{flag("enabled"), text("host"), integer("port", 0, 65535), text("user"), text("password").hidden()},
			func(*Array) body { return body{"enabled": false, "host": "", "port": int64(0), "user": ""} }},
		{"/system/ntp_servers", []field{texts("servers")}, func(*Array) body { return body{"servers": []string{}} }},
		{"/system/snmp_policy", []field{flag("enabled"), text("contact"), text("location"), text("community").hidden(), text("user")},
			func(*Array) body { return body{"enabled": false, "contact": "", "location": "", "user": ""} }},
		{"/system/network/mgmt_vip", vipFields(), vip("mgmt_vip", func(*Array) string { return "172.27.0.10" })},
		{"/system/network/access_vip", vipFields(), vip("access_vip", access)},
		{"/system/network/internal_network", vipFields(), vip("internal_network", func(*Array) string { return "172.26.0.10" })},
		{"/system/network/mapping", []field{texts("access_networks"), texts("internal_networks")},
			func(*Array) body { return body{"access_networks": []string{}, "internal_networks": []string{}} }},
		{"/witness_policy", []field{flag("enabled"), text("host"), integer("port", 0, 65535)},
			func(*Array) body { return body{"enabled": false, "host": "", "port": int64(0)} }},
	}
}

func (a *Array) systemRoutes() []route {
	routes := []route{
		{path: "/system", ops: map[string]op{
			"GET": {do: getSystem, descr: "read the system"},
			"PUT": {do: updateSystem, in: systemUpdateFields(), descr: "change the system"}}},
		{path: "/system/network", ops: map[string]op{"GET": {do: getNetwork, descr: "read the networks"}}},
		{path: "/time", ops: map[string]op{"GET": {do: getTime, descr: "read the clock"}}},
		{path: "/init/config", ops: map[string]op{"GET": {do: getInit, public: true, descr: "read what the system was set up with"}}},
		{path: "/upgrade", ops: map[string]op{"PUT": {do: startUpgrade, in: []field{text("build_id").must()}, descr: "upgrade the software"}}},
		{path: "/upgrade/available", ops: map[string]op{"GET": {do: listUpgrades, list: true, descr: "list the builds to upgrade to"}}},
	}
	for _, part := range systemParts() {
		g := gate{}
		if part.path == "/witness_policy" {
			g = gate{from: v22, since: product33}
		}
		routes = append(routes, route{path: part.path, gate: g, ops: map[string]op{
			"GET": {do: getPart(part), descr: "read " + part.path},
			"PUT": {do: updatePart(part), in: part.fields, descr: "change " + part.path}}})
	}
	return routes
}

func updateSystem(r *request) (any, error) {
	s := &r.array.state.system
	s.Changed = merged(s.Changed, r.body)
	r.save()
	return r.renderSystem(), nil
}

func (r *request) renderPart(part systemPart) object {
	b := merged(part.preset(r.array), r.array.state.system.Parts[part.path])
	o := object{{"path", part.path}}
	for i := range part.fields {
		f := &part.fields[i]
		if f.secret {
			continue
		}
		if v, ok := b[f.name]; ok {
			o.set(f.name, v)
		}
	}
	return o
}

func getPart(part systemPart) func(*request) (any, error) {
	return func(r *request) (any, error) { return r.renderPart(part), nil }
}

func updatePart(part systemPart) func(*request) (any, error) {
	return func(r *request) (any, error) {
		s := &r.array.state.system
		parts := maps.Clone(s.Parts)
		if parts == nil {
			parts = map[string]body{}
		}
		parts[part.path] = merged(parts[part.path], r.body)
		s.Parts = parts
		r.save()
		return r.renderPart(part), nil
	}
}

func getNetwork(r *request) (any, error) {
	o := object{{"path", "/system/network"}}
	for _, part := range systemParts() {
		const prefix = "/system/network/"
		if len(part.path) > len(prefix) && part.path[:len(prefix)] == prefix {
			o.set(part.path[len(prefix):], r.renderPart(part))
		}
	}
	o.set("access_networks", r.array.accessIPs())
	return o, nil
}

func getTime(r *request) (any, error) {
	return object{{"path", "/time"}, {"time", r.now.UTC().Format(time.RFC3339Nano)}, {"timezone", "UTC"}}, nil
}

func getInit(r *request) (any, error) {
	return object{{"path", "/init/config"}, {"name", r.array.cfg.Name}, {"sw_version", r.array.cfg.SWVersion},
		{"nodes", r.array.cfg.Nodes}, {"initialized", true}}, nil
}

// startUpgrade refuses: there is no other build of a simulator to go to.
func startUpgrade(r *request) (any, error) {
	return nil, errNotFound("build", r.body.str("build_id"))
}

func listUpgrades(r *request) (any, error) {
	show := func(o object) object { return o }
	return page(r, []object{}, show, func(object) string { return "" })
}
