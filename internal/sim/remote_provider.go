package sim

import (
	"slices"
	"strings"
	"time"
)

const providersPath = "remote_providers"

func providerGate() gate { return gate{from: v22, since: product32} }

func providerResource() resource {
	return resource{
		path: providersPath, kind: "remote_provider", key: "uuid", newKey: true, inherit: true, gate: providerGate(),
		fields: []field{
			choice("remote_type", "AWS S3", "Google Cloud", "S3 Object Store").must(),
			text("label"), text("host"), integer("port", 0, 65535),
			text("access_key"), text("secret_key").hidden(), text("account_id"), text("project_name"),
			text("private_key").hidden(), reference("ip_pool").loosely(), flag("use_ssl"), text("region"), text("gateway"),
		},
		preset: body{"port": int64(0)},
		drop:   dropProvider, finish: finishProvider,
	}
}

func (a *Array) providerRoutes() []route {
	base := "/" + providersPath + "/:" + providersPath
	return []route{
		{path: base + "/refresh", gate: providerGate(), ops: map[string]op{"PUT": {do: refreshProvider, descr: "look at a remote provider again"}}},
		{path: base + "/operations", gate: providerGate(), ops: map[string]op{"GET": {do: listOperations, list: true, descr: "list the operations of a remote provider"}}},
		{path: base + "/operations/:operation", gate: providerGate(), ops: map[string]op{
			"GET": {do: getOperation, descr: "read an operation"},
			"PUT": {do: endOperation, in: []field{choice("action", "clear", "abort").must()}, descr: "clear or abort an operation"}}},
		{path: base + "/snapshots", gate: providerGate(), ops: map[string]op{"GET": {do: listRemoteSnapshots, list: true, descr: "list the snapshots at a remote provider"}}},
		{path: base + "/snapshots/:ts", gate: providerGate(), ops: map[string]op{
			"GET": {do: getRemoteSnapshot, descr: "read a snapshot at a remote provider"},
			"PUT": {do: restoreRemote, descr: "make an app instance from a snapshot at a remote provider", in: []field{
				text("name").like(reNameUUID, "a name of 3 to 64 characters, or a UUID").must(), text("target_tenant")}}}},
	}
}

func (r *request) provider() (*doc, error) {
	d := r.findDoc(providersPath, r.param(providersPath))
	if d == nil {
		return nil, errNotFound("remote_provider", r.param(providersPath))
	}
	return d, nil
}

// remote is a snapshot of which a provider holds a copy.
type remote struct {
	snap  *snapshot
	base  string
	owner *appInstance
	vol   *volume
}

func (r *request) remotes(provider string) []remote {
	var all []remote
	for _, a := range r.visible(r.own().apps.rows) {
		for _, s := range a.Snapshots {
			if s.Provider == provider {
				all = append(all, remote{s, r.appPath(a), a, nil})
			}
		}
		for _, v := range a.volumes() {
			for _, s := range v.Snapshots {
				if s.Provider == provider {
					all = append(all, remote{s, r.volumePath(v), a, v})
				}
			}
		}
	}
	return all
}

func finishProvider(r *request, d *doc, o *object) {
	o.set("uuid", d.Key)
	o.set("status", "available")
	o.set("last_seen_timestamp", or(d.Values.str("seen"), r.array.started.UTC().Format(time.RFC3339)))
	operations, snapshots := contained{}, contained{}
	for _, x := range r.remotes(d.Key) {
		operations = append(operations, r.renderOperation(d.Key, x))
		snapshots = append(snapshots, r.renderSnapshot(x.base, x.snap))
	}
	o.set("operations", operations)
	o.set("snapshots", snapshots)
}

// renderOperation shows the copying of a snapshot to its provider. It takes as
// long as the snapshot needs to be available; cleared ones are not shown.
func (r *request) renderOperation(provider string, x remote) object {
	state, percent := "done", 100
	if !x.snap.available(r.now) {
		state, percent = "running", 50
	}
	return object{{"path", "/" + providersPath + "/" + provider + "/operations/" + x.snap.UUID}, {"uuid", x.snap.UUID},
		{"remote_provider_uuid", provider}, {"app_instance_uuid", x.owner.ID}, {"op_state", state}, {"op_type", "snapshot"},
		{"percent_done", percent}, {"total_tasks_done", percent / 50}, {"total_tasks_issued", 2},
		{"references", object{{"snapshot_app_instance_path", r.appPath(x.owner)}}}}
}

func refreshProvider(r *request) (any, error) {
	d, err := r.provider()
	if err != nil {
		return nil, err
	}
	d.Values["seen"] = r.now.UTC().Format(time.RFC3339)
	r.save()
	res := providerResource()
	return r.renderDoc(&res, "/"+providersPath+"/"+d.Key, d, d.Values), nil
}

func dropProvider(r *request, d *doc) error {
	if held := r.remotes(d.Key); len(held) > 0 && !r.forced() {
		return errRefused("remote_provider %s holds %d snapshots: force to override this warning", d.Key, len(held))
	}
	return nil
}

func listOperations(r *request) (any, error) {
	d, err := r.provider()
	if err != nil {
		return nil, err
	}
	show := func(x remote) object { return r.renderOperation(d.Key, x) }
	return page(r, r.remotes(d.Key), show, func(x remote) string { return x.snap.UUID })
}

func (r *request) remoteBy(fits func(remote) bool, kind, key string) (*doc, remote, error) {
	d, err := r.provider()
	if err != nil {
		return nil, remote{}, err
	}
	all := r.remotes(d.Key)
	i := slices.IndexFunc(all, fits)
	if i < 0 {
		return nil, remote{}, errNotFound(kind, key)
	}
	return d, all[i], nil
}

func (r *request) operationOf() (*doc, remote, error) {
	id := r.param("operation")
	return r.remoteBy(func(x remote) bool { return x.snap.UUID == id }, "operation", id)
}

func getOperation(r *request) (any, error) {
	d, x, err := r.operationOf()
	if err != nil {
		return nil, err
	}
	return r.renderOperation(d.Key, x), nil
}

// endOperation aborts what still runs; what is done can only be cleared.
func endOperation(r *request) (any, error) {
	d, x, err := r.operationOf()
	if err != nil {
		return nil, err
	}
	if done := x.snap.available(r.now); r.body.str("action") == "abort" && done {
		return nil, errRefused("operation %s is done", x.snap.UUID)
	}
	return r.renderOperation(d.Key, x), nil
}

func listRemoteSnapshots(r *request) (any, error) {
	d, err := r.provider()
	if err != nil {
		return nil, err
	}
	show := func(x remote) object { return r.renderSnapshot(x.base, x.snap) }
	return page(r, r.remotes(d.Key), show, func(x remote) string { return x.snap.UTCTS })
}

func (r *request) remoteSnapshot() (remote, error) {
	ts := r.param("ts")
	_, x, err := r.remoteBy(func(x remote) bool { return x.snap.UTCTS == ts }, "snapshot", ts)
	return x, err
}

func getRemoteSnapshot(r *request) (any, error) {
	x, err := r.remoteSnapshot()
	if err != nil {
		return nil, err
	}
	return r.renderSnapshot(x.base, x.snap), nil
}

// restoreRemote makes an app instance from a snapshot at a provider.
func restoreRemote(r *request) (any, error) {
	x, err := r.remoteSnapshot()
	if err != nil {
		return nil, err
	}
	if target := r.body.str("target_tenant"); target != "" {
		target = tenantPath(target)
		if _, ok := r.array.state.tenants.get(target); !ok || !r.user.may(target) {
			return nil, errPermission("there is no tenant %s for user %s", strings.TrimPrefix(target, "/tenants"), r.user.Key)
		}
		if target != r.tenant {
			return nil, errRefused("a snapshot of tenant %s can be restored only there", r.tenant)
		}
	}
	if !x.snap.available(r.now) {
		return nil, errRefused("snapshot %s is not available yet", x.snap.UTCTS)
	}
	r.atProvider = true
	r.body = body{"name": r.body.str("name"), "clone_snapshot_src": x.base + "/snapshots/" + x.snap.UTCTS}
	return createApp(r)
}
