package sim

import "time"

// systemState is what the array knows about itself.
type systemState struct {
	UUID      string
	NodeUUIDs []string
	Changed   body // members that clients have set
}

func (a *Array) systemRoutes() []route {
	return []route{
		{path: "/system", ops: map[string]op{
			"GET": {do: getSystem, descr: "read the system"}}},
	}
}

func getSystem(r *request) (any, error) { return r.renderSystem(), nil }

// capacity is the array's arithmetic: everything counts with its replicas.
type capacity struct{ total, used, provisioned int64 }

func (c capacity) available() int64 { return max(0, c.total-c.used) }

func (a *Array) capacity() capacity {
	return capacity{
		total:       a.cfg.Capacity,
		used:        a.usedTotal(),
		provisioned: a.state.count.provisionedGiB << 30,
	}
}

func (r *request) renderSystem() object {
	a := r.array
	c := a.capacity()
	uptime := r.now.Sub(a.started)
	return object{
		{"path", "/system"},
		{"name", a.cfg.Name},
		{"uuid", a.state.system.UUID},
		{"sw_version", a.cfg.SWVersion},
		{"build_version", a.cfg.SWVersion + "-sim"},
		{"health", "ok"},
		{"causes", []string{}},
		{"op_state", "running"},
		{"total_capacity", c.total},
		{"available_capacity", c.available()},
		{"total_provisioned_capacity", c.provisioned},
		{"hybrid_total_capacity", c.total},
		{"hybrid_available_capacity", c.available()},
		{"hybrid_provisioned_capacity", c.provisioned},
		{"all_flash_total_capacity", int64(0)},
		{"all_flash_available_capacity", int64(0)},
		{"all_flash_provisioned_capacity", int64(0)},
		{"compression_enabled", false},
		{"compression_ratio", "1.0"},
		{"last_reboot_timestamp", a.started.UTC().Format(time.RFC3339)},
		{"uptime", uptime.Milliseconds()},
		{"timezone", "UTC"},
		{"l3_enabled", false},
		{"callhome_enabled", false},
		{"dns", object{{"path", "/system/dns"}, {"domain", ""}, {"search_domains", []string{}}, {"servers", []string{}}}},
		{"ntp_servers", []string{}},
		{"network_devices", []string{}},
	}
}

func (a *Array) nodeRefs(first int, count int64) []ref {
	nodes := a.state.system.NodeUUIDs
	count = min(count, int64(len(nodes)))
	out := make([]ref, count)
	for i := range out {
		out[i] = ref("/storage_nodes/" + nodes[(first+i)%len(nodes)])
	}
	return out
}
