package sim

func (r *request) volumePath(v *volume) string {
	return r.storagePath(v.si) + "/volumes/" + v.Name
}

func (r *request) renderVolume(v *volume) object {
	base := r.volumePath(v)
	o := make(object, 0, 26)
	o.set("path", base)
	o.set("name", v.Name)
	o.set("replica_count", v.Replicas)
	o.set("uuid", v.UUID)
	o.set("size", v.SizeGiB)
	used := r.array.usedBytes(v)
	o.set("capacity_in_use", float64(used)/(1<<30))
	o.set("snapshot_policies", renderPolicies(base, v.Policies))
	o.set("snapshots", r.renderSnapshots(base, v.Snapshots))
	o.set("placement_mode", v.Placement)
	o.set("op_state", or(v.knobs.OpState, "available"))
	o.set("active_storage_nodes", r.array.nodeRefs(v.Node, v.Replicas))
	o.set("health", v.knobs.health())
	o.set("deployment_state", "deployed")
	if v.Performance != nil {
		o.set("performance_policy", renderPerformance(base, v.Performance))
	}
	o.setIf(v.RestoredTo != "", "restore_point", v.RestoredTo)
	o.setIf(len(v.knobs.Causes) > 0, "causes", v.knobs.Causes)
	o.setIf(v.knobs.Availability != "", "availability_state", v.knobs.Availability)
	o.setIf(v.knobs.Recovery != "", "recovery_state", v.knobs.Recovery)
	o.setIf(v.knobs.Storage != "", "storage_state", v.knobs.Storage)
	switch {
	case v.filling:
		o.set("op_status", "internal_operation_in_progress")
	case v.BusyWith != "" && r.now.Before(v.BusyUntil):
		o.set("op_status", v.BusyWith)
	case r.version >= v22:
		o.set("op_status", "none")
	}
	if r.version >= v22 {
		o.set("storage_pool", refs(v.Pools))
	}
	if r.is33() && r.version >= v22 {
		o.set("placement_policy", resolved{v.Policy, rootTenant})
		o.set("effective_size", used)
		o.set("exclusive_size", used)
		o.set("logical_size", v.SizeGiB<<30)
		o.set("physical_size", used*v.Replicas)
	}
	return o
}
