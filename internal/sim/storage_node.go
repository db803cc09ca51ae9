package sim

import (
	"fmt"
	"slices"
	"time"
)

func (a *Array) nodeRoutes() []route {
	parts := []string{"nics", "hdds", "boot_drives", "flash_devices", "subsystem_states"}
	routes := []route{
		{path: "/storage_nodes", ops: map[string]op{"GET": {do: listNodes, list: true, descr: "list the storage nodes"}}},
		{path: "/storage_nodes/:node", ops: map[string]op{
			"GET": {do: getNode, descr: "read a storage node"},
			"PUT": {do: updateNode, descr: "change a storage node", in: []field{
				choice("admin_state", online, offline, "decommission"), reference("media_policy").loosely().from22().since(product33)}}}},
	}
	for _, part := range parts {
		routes = append(routes, route{path: "/storage_nodes/:node/" + part, ops: map[string]op{
			"GET": {do: listNodeParts(part), list: true, descr: "list the " + part + " of a storage node"}}})
	}
	return routes
}

func (a *Array) nodeIndex(id string) int { return slices.Index(a.state.system.NodeUUIDs, id) }

// nodeRefs are count nodes, beginning with the first-th and going round.
func (a *Array) nodeRefs(first int, count int64) []ref {
	nodes := a.state.system.NodeUUIDs
	count = min(count, int64(len(nodes)))
	out := make([]ref, count)
	for i := range out {
		out[i] = ref("/storage_nodes/" + nodes[(first+i)%len(nodes)])
	}
	return out
}

func listNodes(r *request) (any, error) {
	use := r.array.nodeUse()
	indices := make([]int, r.array.cfg.Nodes)
	for i := range indices {
		indices[i] = i
	}
	show := func(i int) object { return r.renderNode(i, use[i]) }
	return page(r, indices, show, nodeName)
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i+1) }

func getNode(r *request) (any, error) {
	i := r.array.nodeIndex(r.param("node"))
	if i < 0 {
		return nil, errNotFound("storage_node", r.param("node"))
	}
	return r.renderNode(i, r.array.nodeUse()[i]), nil
}

func updateNode(r *request) (any, error) {
	i := r.array.nodeIndex(r.param("node"))
	if i < 0 {
		return nil, errNotFound("storage_node", r.param("node"))
	}
	s := &r.array.state.system
	if s.NodeSettings == nil {
		s.NodeSettings = map[string]body{}
	}
	s.NodeSettings[r.param("node")] = merged(s.NodeSettings[r.param("node")], r.body)
	r.save()
	return r.renderNode(i, r.array.nodeUse()[i]), nil
}

// nodeUse is what is used of each node, with the replicas it holds.
func (a *Array) nodeUse() []int64 {
	use := make([]int64, a.cfg.Nodes)
	for _, v := range a.state.volumes {
		bytes := a.usedBytes(v)
		for i := range min(int(v.Replicas), len(use)) {
			use[(v.Node+i)%len(use)] += bytes
		}
	}
	return use
}

// nodeCapacity splits the array's capacity so that nothing is lost.
func (a *Array) nodeCapacity(i int) int64 {
	share := a.cfg.Capacity / int64(a.cfg.Nodes)
	if i == 0 {
		share += a.cfg.Capacity % int64(a.cfg.Nodes)
	}
	return share
}

// allFlash says of which kind a node is: the last ones are the all-flash nodes.
func (a *Array) allFlash(i int) bool { return i >= a.cfg.Nodes-a.cfg.AllFlashNodes }

func (r *request) renderNode(i int, used int64) object {
	a := r.array
	id := a.state.system.NodeUUIDs[i]
	base := "/storage_nodes/" + id
	settings := a.state.system.NodeSettings[id]
	admin := settings.or("admin_state", online)
	state := map[string]string{online: online, offline: offline, "decommission": "decommissioned"}[admin]
	kind := "hybrid"
	if a.allFlash(i) {
		kind = "all_flash"
	}
	o := object{{"path", base}, {"uuid", id}, {"name", nodeName(i)},
		{"admin_state", admin}, {"op_state", state}, {"health", "ok"}, {"causes", []string{}},
		{"sw_health", "ok"}, {"hw_health", "ok"}, {"sw_state", "ok"}, {"hw_state", "ok"},
		{"type", kind}, {"model", "simulated"}, {"vendor", "DATERA"}, {"serial_no", fmt.Sprintf("SIM%05d", i+1)},
		{"total_capacity", a.nodeCapacity(i)}, {"total_raw_capacity", a.nodeCapacity(i)},
		{"available_capacity", max(0, a.nodeCapacity(i)-used)},
		{"mgmt_ip_1", fmt.Sprintf("172.27.0.%d", i+11)}, {"mgmt_ip_2", ""},
		{"internal_ip_1", fmt.Sprintf("172.26.0.%d", i+11)}, {"internal_ip_2", ""},
		{"sw_version", a.cfg.SWVersion}, {"build_version", a.cfg.SWVersion + "-sim"}, {"os_version", "1.0"}, {"bios_version", "1.0"},
		{"disconnected", state != online}, {"compression_enabled", false}, {"compression_ratio", "1.0"},
	}
	if r.version < v22 {
		o.set("last_reboot_timestamp", a.started.Unix())
	} else {
		o.set("last_reboot_timestamp", a.started.UTC().Format(time.RFC3339))
	}
	if policy := settings.str("media_policy"); policy != "" {
		o.set("media_policy", ref(policy))
	}
	for _, part := range []string{"nics", "hdds", "boot_drives", "flash_devices", "nvm_flash_devices", "psus"} {
		o.set(part, a.nodeParts(i, base, part))
	}
	o.set("subsystem_states", a.nodeParts(i, base, "subsystem_states"))
	return o
}

func listNodeParts(part string) func(*request) (any, error) {
	return func(r *request) (any, error) {
		i := r.array.nodeIndex(r.param("node"))
		if i < 0 {
			return nil, errNotFound("storage_node", r.param("node"))
		}
		show := func(o object) object { return o }
		list := r.array.nodeParts(i, "/storage_nodes/"+r.param("node"), part)
		return page(r, list, show, func(o object) string { v, _ := o.get("name"); s, _ := v.(string); return s })
	}
}

// nodeParts are the devices of a node: a plausible machine of its kind.
func (a *Array) nodeParts(i int, base, part string) contained {
	names := map[string][]string{
		"nics":             {"eth0", "eth1"},
		"boot_drives":      {"boot-1"},
		"flash_devices":    {"flash-1", "flash-2"},
		"hdds":             {"hdd-1", "hdd-2", "hdd-3", "hdd-4"},
		"psus":             {"psu-1", "psu-2"},
		"subsystem_states": {"network", "storage"},
	}[part]
	if part == "hdds" && a.allFlash(i) {
		names = nil
	}
	list := contained{}
	for _, name := range names {
		list = append(list, object{{"path", base + "/" + part + "/" + name}, {"name", name}, {"id", name}, {"health", "ok"}, {"op_state", "ok"}})
	}
	return list
}
