package sim

import "time"

// systemState is what the array knows about itself.
type systemState struct {
	UUID         string
	Changed      body            // members that clients have set
	Parts        map[string]body // the same of the parts below /system, by path
	NodeUUIDs    []string
	NodeSettings map[string]body // what clients have set, by uuid
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
	o := object{
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
		{"compression_ratio", "1.0"},
		{"last_reboot_timestamp", a.started.UTC().Format(time.RFC3339)},
		{"uptime", uptime.Milliseconds()},
		{"timezone", "UTC"},
		{"l3_enabled", false},
		{"ntp_servers", append([]string{}, a.state.system.Parts["/system/ntp_servers"].strs("servers")...)},
	}
	set := merged(body{"compression_enabled": false, "callhome_enabled": false, "access_interface_aggr_type": "single",
		"internal_interface_aggr_type": "single", "interface_aggregation_mode": "active-backup", "network_devices": []string{}},
		a.state.system.Changed)
	for _, f := range systemUpdateFields() {
		o.set(f.name, set[f.name])
	}
	for _, part := range systemParts()[:2] { // dns and http_proxy
		o.set(part.path[len("/system/"):], r.renderPart(part))
	}
	return o
}
