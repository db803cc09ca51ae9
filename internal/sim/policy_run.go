package sim

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// intervals are what the words of a snapshot policy mean.
func intervals() map[string]time.Duration {
	const day = 24 * time.Hour
	return map[string]time.Duration{"1min": time.Minute, "2min": 2 * time.Minute, "15min": 15 * time.Minute, "1hour": time.Hour,
		"1day": day, "1week": 7 * day, "1month": 30 * day, "1year": 365 * day}
}

// RunPolicies takes the snapshots that snapshot policies make due by now, and
// deletes those that are beyond a policy's retention count. It does so once; a
// process calls it again and again.
func (a *Array) RunPolicies(ctx context.Context) error {
	var failed error
	for _, app := range a.withPolicies() {
		r := &request{array: a, http: &http.Request{}, started: a.now(), tenant: app.Tenant, body: body{}}
		a.mu.Lock()
		r.now = a.now()
		if !app.gone && !app.filling() {
			r.runPolicies(app)
		}
		a.mu.Unlock()
		failed = errors.Join(failed, a.settle(ctx, r))
	}
	return failed
}

func (a *Array) withPolicies() []*appInstance {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var apps []*appInstance
	for _, t := range a.state.tenants.rows {
		for _, app := range t.apps.rows {
			due := len(app.Policies) > 0
			for _, v := range app.volumes() {
				due = due || len(v.Policies) > 0
			}
			if due {
				apps = append(apps, app)
			}
		}
	}
	return apps
}

func (r *request) runPolicies(app *appInstance) {
	for _, p := range app.Policies {
		r.runPolicy(snapshotOwner{&app.Snapshots, r.appPath(app), app, app.volumes(), true}, p)
	}
	for _, v := range app.volumes() {
		for _, p := range v.Policies {
			r.runPolicy(snapshotOwner{&v.Snapshots, r.volumePath(v), app, []*volume{v}, false}, p)
		}
	}
}

func (r *request) runPolicy(o snapshotOwner, p body) {
	var kept []*snapshot
	latest := time.Time{}
	for _, s := range *o.list {
		if s.Policy == p.str("name") {
			kept = append(kept, s)
			latest = s.Made
		}
	}
	start, err := parseTime(p.str("start_time"))
	if p.str("start_time") != "" && err == nil && r.now.Before(start) {
		return
	}
	if r.now.Sub(latest) >= intervals()[p.str("interval")] {
		if r.mayTakeSnapshot(o) != nil {
			return // the limits of the product are reached; retention may help next time
		}
		s := r.takeSnapshot(o, p)
		s.Policy = p.str("name")
		kept = append(kept, s)
		r.array.events.add(event{uuid: newUUID(), kind: "system", at: r.now, user: "system", tenant: r.tenant,
			path: o.base + "/snapshots/" + s.UTCTS, message: "snapshot policy " + s.Policy + " took a snapshot", severity: "info"})
	}
	for len(kept) > int(p.int("retention_count")) {
		r.removeSnapshot(o, kept[0])
		kept = kept[1:]
	}
}
