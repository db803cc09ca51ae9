package sim

// performanceFields are the limits of a volume: operations a second, KiB/s.
func performanceFields() []field {
	fields := make([]field, 0, 6)
	for _, name := range iopsLimits() {
		fields = append(fields, integer(name, 0, 10_000_000))
	}
	for _, name := range bandwidthLimits() {
		fields = append(fields, integer(name, 0, 10_240_000))
	}
	return fields
}

func iopsLimits() []string { return []string{"total_iops_max", "read_iops_max", "write_iops_max"} }

func bandwidthLimits() []string {
	return []string{"total_bandwidth_max", "read_bandwidth_max", "write_bandwidth_max"}
}

func (a *Array) performanceRoutes() []route {
	return []route{{path: volumePath + "/:vol/performance_policy", ops: map[string]op{
		"GET":    {do: getPerformance, descr: "read the limits of a volume"},
		"POST":   {do: createPerformance, in: performanceFields(), descr: "set limits on a volume that has none"},
		"PUT":    {do: updatePerformance, in: performanceFields(), descr: "change the limits of a volume"},
		"DELETE": {do: deletePerformance, descr: "take the limits off a volume"}}}}
}

// limited finds the volume and insists on its having limits.
func (r *request) limited() (*volume, error) {
	v, err := r.volume()
	if err != nil {
		return nil, err
	}
	if v.Performance == nil {
		return nil, errNotFound("performance_policy of volume", v.Name)
	}
	return v, nil
}

func getPerformance(r *request) (any, error) {
	v, err := r.limited()
	if err != nil {
		return nil, err
	}
	return renderPerformance(r.volumePath(v), v.Performance), nil
}

func createPerformance(r *request) (any, error) {
	v, err := r.volume()
	if err != nil {
		return nil, err
	}
	if v.Performance != nil {
		return nil, errConflict("performance_policy of volume", v.Name)
	}
	v.Performance = r.body
	r.saveApp(v.si.app)
	return renderPerformance(r.volumePath(v), v.Performance), nil
}

func updatePerformance(r *request) (any, error) {
	v, err := r.limited()
	if err != nil {
		return nil, err
	}
	v.Performance = merged(v.Performance, r.body)
	r.saveApp(v.si.app)
	return renderPerformance(r.volumePath(v), v.Performance), nil
}

func deletePerformance(r *request) (any, error) {
	v, err := r.limited()
	if err != nil {
		return nil, err
	}
	shown := renderPerformance(r.volumePath(v), v.Performance)
	v.Performance = nil
	r.saveApp(v.si.app)
	return shown, nil
}

func renderPerformance(base string, limits body) object {
	o := object{{"path", base + "/performance_policy"}}
	for _, name := range append(iopsLimits(), bandwidthLimits()...) {
		o.set(name, limits.int(name))
	}
	return o
}
