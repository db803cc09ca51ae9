package sim

import (
	"slices"
	"strings"
	"sync"
	"time"
)

func ioMetrics() []string {
	return []string{"reads", "writes", "bytes_read", "bytes_written", "iops_read", "iops_write", "thpt_read", "thpt_write",
		"lat_avg_read", "lat_avg_write", "lat_50_read", "lat_50_write", "lat_90_read", "lat_90_write", "lat_100_read", "lat_100_write"}
}

func hwMetrics() []string { return []string{"cpu_usage"} }

const metricPoints = 20 // of a reply that asks for no range

// gauges are the figures that a test, or a data plane that measures, has set.
type gauges struct {
	mu     sync.Mutex
	values map[string]float64 // by metric and path
}

// SetMetric makes a metric of an entity show a value from now on. The array
// measures nothing by itself: what was never set is 0.
func (a *Array) SetMetric(metric, path string, value float64) {
	a.gauges.mu.Lock()
	defer a.gauges.mu.Unlock()
	if a.gauges.values == nil {
		a.gauges.values = map[string]float64{}
	}
	a.gauges.values[metric+" "+path] = value
}

func (g *gauges) get(metric, path string) float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.values[metric+" "+path]
}

func (a *Array) metricRoutes() []route {
	query := append([]field{text("path"), text("uuid"), integer("ival", 1, 86400)}, rangeFields()...)
	var routes []route
	for _, family := range []struct {
		name    string
		metrics []string
	}{{"io", ioMetrics()}, {"hw", hwMetrics()}} {
		base := "/metrics/" + family.name + "/:metric"
		routes = append(routes,
			route{path: base, ops: map[string]op{"GET": {do: getMetric(family.name, family.metrics, false), query: query,
				url: []field{choice("metric", family.metrics...)}, descr: "read a metric over a time"}}},
			route{path: base + "/latest", ops: map[string]op{"GET": {do: getMetric(family.name, family.metrics, true), query: query,
				url: []field{choice("metric", family.metrics...)}, descr: "read the latest value of a metric"}}})
	}
	return routes
}

func getMetric(family string, metrics []string, latest bool) func(*request) (any, error) {
	return func(r *request) (any, error) {
		metric := r.param("metric")
		if !slices.Contains(metrics, metric) {
			return nil, errValidation("metric: \"" + metric + "\" is not one of " + strings.Join(metrics, ", "))
		}
		entities, err := r.entities(family)
		if err != nil {
			return nil, err
		}
		times, err := r.metricTimes()
		if err != nil {
			return nil, err
		}
		out := contained{}
		for _, path := range entities {
			value := r.array.gauges.get(metric, path)
			o := object{{"entity_path", path}, {"tenant", r.tenant}}
			if latest {
				out = append(out, append(o, member{"point", point(r.now, value)}))
				continue
			}
			points := contained{}
			for _, at := range times {
				points = append(points, point(at, value))
			}
			out = append(out, append(o, member{"points", points}))
		}
		return out, nil
	}
}

func point(at time.Time, value float64) object {
	return object{{"time", at.UnixMilli()}, {"value", value}}
}

// entities are what a metric is asked of: one thing, or all of a collection.
func (r *request) entities(family string) ([]string, error) {
	path := or(r.query.Get("path"), map[string]string{"io": "/system", "hw": "/storage_nodes"}[family])
	switch {
	case path == "/system" && family == "io":
		return []string{path}, nil
	case path == "/storage_nodes" && family == "hw":
		var all []string
		for _, id := range r.array.state.system.NodeUUIDs {
			all = append(all, path+"/"+id)
		}
		return all, nil
	case family == "hw":
		if r.array.nodeIndex(strings.TrimPrefix(path, "/storage_nodes/")) < 0 {
			return nil, errNotFound("storage_node", path)
		}
		return []string{path}, nil
	case path == "/app_instances" || path == "/storage_instances" || path == "/volumes":
		return r.collection(path), nil
	}
	if _, err := r.resolve(path); err != nil {
		return nil, err
	}
	return []string{path}, nil
}

func (r *request) collection(path string) []string {
	all := []string{}
	for _, a := range r.visible(r.own().apps.rows) {
		if path == "/app_instances" {
			all = append(all, r.appPath(a))
			continue
		}
		for _, si := range a.Storage {
			if path == "/storage_instances" {
				all = append(all, r.storagePath(si))
				continue
			}
			for _, v := range si.Volumes {
				all = append(all, r.volumePath(v))
			}
		}
	}
	return all
}

// metricTimes are the moments of a reply: every interval of the range, or the
// latest ones.
func (r *request) metricTimes() ([]time.Time, error) {
	from, to, err := r.timeRange()
	if err != nil {
		return nil, err
	}
	interval := time.Duration(max(r.queryInt("ival"), 15)) * time.Second
	if from.IsZero() {
		from = to.Add(-(metricPoints - 1) * interval)
	}
	var times []time.Time
	for at := from; !at.After(to) && len(times) < maxPage; at = at.Add(interval) {
		times = append(times, at)
	}
	return times, nil
}
