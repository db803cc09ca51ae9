package sim

import "time"

// systemState is what the array knows about itself.
type systemState struct {
	UUID         string
	NodeUUIDs    []string
	NodeSettings map[string]body // what clients have set, by uuid
	Changed      body            // members that clients have set
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

// capacities are those of the hybrid and of the all-flash nodes. Volumes are
// counted by what they ask for, nodes by what they are.
func (a *Array) capacities() (hybrid, flash capacity) {
	for i := range a.cfg.Nodes {
		if a.allFlash(i) {
			flash.total += a.nodeCapacity(i)
		} else {
			hybrid.total += a.nodeCapacity(i)
		}
	}
	for _, v := range a.state.volumes {
		c := &hybrid
		if v.Placement == "all_flash" && a.cfg.AllFlashNodes > 0 {
			c = &flash
		}
		c.used += a.usedBytes(v) * v.Replicas
		c.provisioned += v.SizeGiB << 30 * v.Replicas
	}
	return hybrid, flash
}

func (r *request) renderSystem() object {
	a := r.array
	hybrid, flash := a.capacities()
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
		{"total_capacity", hybrid.total + flash.total},
		{"available_capacity", hybrid.available() + flash.available()},
		{"total_provisioned_capacity", hybrid.provisioned + flash.provisioned},
		{"hybrid_total_capacity", hybrid.total},
		{"hybrid_available_capacity", hybrid.available()},
		{"hybrid_provisioned_capacity", hybrid.provisioned},
		{"all_flash_total_capacity", flash.total},
		{"all_flash_available_capacity", flash.available()},
		{"all_flash_provisioned_capacity", flash.provisioned},
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
