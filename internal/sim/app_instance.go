package sim

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// appInstance is what clients create: storage instances with their volumes.
type appInstance struct {
	Seq               uint64
	Tenant            string
	Name              string
	ID                string // server-made; the key in paths
	UUID              string // client-made, or zeros
	Descr             string
	AccessControlMode string
	CreateMode        string
	Offline           bool
	Template          string // name of the app template it was made from
	TemplateTenant    string
	CloneSrc          string
	RepairPriority    string
	StoragePools      []string
	RestorePoint      string
	Metadata          map[string]any
	UserData          map[string]any
	Storage           []*storageInstance
	Snapshots         []*snapshot
	Policies          []body
	CloningUntil      time.Time

	knobs Health
	dying time.Time // deleted, and visible until then
	gone  bool      // deleted

	saving  sync.Mutex
	saved   bool        // it has a file; guarded by saving
	unsaved atomic.Bool // its file could not be written
}

func (a *appInstance) key() string      { return a.ID }
func (a *appInstance) sequence() uint64 { return a.Seq }

const (
	modeAllowAll = "allow_all"
	modeDenyAll  = "deny_all"
	online       = "online"
	offline      = "offline"
)

func createModes() []string {
	return []string{"normal", "openstack", "internal", "docker", "cloudstack", "kubernetes", "mesos",
		"vmware_vro", "vmware_vcenter", "docker_swarm"}
}

func accessModeField() field { return choice("access_control_mode", modeAllowAll, modeDenyAll) }
func adminStateField() field { return choice("admin_state", online, offline) }
func repairField() field {
	return choice("repair_priority", "default", "low", "medium", "high").from22()
}

func appCreateFields() []field {
	return []field{
		text("name").like(reNameUUID, "a name of 3 to 64 characters, or a UUID").must(),
		descrField(),
		accessModeField(),
		choice("create_mode", createModes()...),
		uuidField("uuid"),
		reference("app_template"),
		templateOverrideField(),
		reference("clone_src"),
		reference("clone_volume_src"),
		reference("clone_snapshot_src"),
		list("storage_instances", storageCreateFields()...),
		list("snapshot_policies", policyFields()...),
		repairField(),
		references("storage_pool").from22(),
	}
}

func appUpdateFields() []field {
	return []field{
		text("name").like(reNameUUID, "a name of 3 to 64 characters, or a UUID"),
		descrField(),
		adminStateField(),
		accessModeField(),
		flag("provisioned").loosely(),
		flag("force"),
		restorePointField(),
		list("storage_instances", storageInlineFields()...),
		list("snapshot_policies", policyFields()...),
		repairField(),
		references("storage_pool").from22(),
		reference("remote_provider").from22().since(product32).loosely(),
		restorePointNamed("remote_restore_point").from22().since(product32),
	}
}

func (a *Array) appRoutes() []route {
	force := []field{flag("force")}
	return []route{
		{path: "/app_instances", ops: map[string]op{
			"GET":  {do: listApps, list: true, descr: "list app instances"},
			"POST": {do: createApp, in: appCreateFields(), descr: "create an app instance with all that it contains"}}},
		{path: "/app_instances/:app", ops: map[string]op{
			"GET":    {do: getApp, descr: "read an app instance"},
			"PUT":    {do: updateApp, in: appUpdateFields(), descr: "change an app instance"},
			"DELETE": {do: deleteApp, in: force, descr: "delete an app instance with all that it contains"}}},
	}
}

// app finds the app instance that the path names by id or by name.
func (r *request) app() (*appInstance, error) {
	id := r.param("app")
	if a := r.findApp(id); a != nil {
		return a, nil
	}
	return nil, errNotFound("app_instance", id)
}

func (r *request) findApp(id string) *appInstance {
	t := r.own()
	a, ok := t.apps.get(id)
	if !ok {
		a = t.apps.byName[id]
	}
	if a == nil || a.goneAt(r.now) {
		return nil
	}
	return a
}

// settled refuses what would change an app instance that begins or ends. It can
// still be taken offline, renamed and deleted as a whole.
func (a *appInstance) settled(now time.Time) error {
	switch {
	case a.gone:
		return errRefused("app_instance %s is being deleted", a.Name)
	case a.cloning(now):
		return errRefused("app_instance %s is being cloned", a.Name)
	}
	return nil
}

func (a *appInstance) cloning(now time.Time) bool {
	return now.Before(a.CloningUntil) || a.CloneSrc != "" && a.unmade()
}

// unmade says whether a volume has no file yet. Until then the app instance is on
// disk, if at all, as it was before.
func (a *appInstance) unmade() bool {
	return slices.ContainsFunc(a.volumes(), func(v *volume) bool { return v.unmade })
}

func (a *appInstance) goneAt(now time.Time) bool { return !a.dying.IsZero() && !now.Before(a.dying) }

func getApp(r *request) (any, error) {
	a, err := r.app()
	if err != nil {
		return nil, err
	}
	return r.renderApp(a), nil
}

func listApps(r *request) (any, error) {
	apps := r.own().apps.rows
	if r.all {
		apps = nil
		for _, t := range r.array.state.tenants.rows {
			if r.user.may(t.Path) {
				apps = append(apps, t.apps.rows...)
			}
		}
	}
	return page(r, r.visible(apps), r.renderApp, func(a *appInstance) string { return a.Name })
}

// visible leaves out what has been deleted; usually that is nothing.
func (r *request) visible(apps []*appInstance) []*appInstance {
	if len(r.array.state.dying) == 0 {
		return apps
	}
	seen := make([]*appInstance, 0, len(apps))
	for _, a := range apps {
		if !a.goneAt(r.now) {
			seen = append(seen, a)
		}
	}
	return seen
}

func (r *request) appPath(a *appInstance) string {
	if r.version == v2 {
		return "/app_instances/" + a.Name
	}
	return "/app_instances/" + a.ID
}

func (r *request) renderApp(a *appInstance) object {
	base := r.appPath(a)
	o := make(object, 0, 22)
	o.setIf(r.version != v2, "tenant", a.Tenant)
	o.set("path", base)
	o.set("name", a.Name)
	o.set("id", a.ID)
	o.set("health", a.knobs.health())
	o.set("app_template", r.renderTemplateRef(a))
	o.set("descr", a.Descr)
	o.set("admin_state", adminState(a.Offline))
	storage := make(contained, 0, len(a.Storage))
	for _, s := range a.Storage {
		storage = append(storage, r.renderStorage(s))
	}
	o.set("storage_instances", storage)
	o.set("create_mode", a.CreateMode)
	o.set("uuid", a.UUID)
	o.set("snapshots", r.renderSnapshots(base, a.Snapshots))
	o.set("snapshot_policies", renderPolicies(base, a.Policies))
	o.set("deployment_state", "deployed")
	o.setIf(a.cloning(r.now) && !a.gone, "op_state", "cloning")
	o.setIf(a.gone, "op_state", "deleting")
	o.setIf(a.AccessControlMode != "", "access_control_mode", a.AccessControlMode)
	if a.CloneSrc != "" {
		o.set("clone_src", ref(a.CloneSrc))
	} else if r.version == v2 {
		o.set("clone_src", object{})
	}
	o.setIf(a.RestorePoint != "", "restore_point", a.RestorePoint)
	o.setIf(len(a.knobs.Causes) > 0, "causes", a.knobs.Causes)
	if r.version >= v22 {
		o.set("repair_priority", a.RepairPriority)
		o.set("storage_pool", refs(a.StoragePools))
	}
	return o
}

func adminState(off bool) string {
	if off {
		return offline
	}
	return online
}

func refs(paths []string) []ref {
	out := make([]ref, len(paths))
	for i, p := range paths {
		out[i] = ref(p)
	}
	return out
}

func deleteApp(r *request) (any, error) {
	a, err := r.app()
	if err != nil {
		return nil, err
	}
	if !a.Offline && !r.forced() {
		return nil, errRefused("app_instance %s is online: set its admin_state to offline first, or force", a.Name)
	}
	if !a.dying.IsZero() {
		return r.renderApp(a), nil // its end has begun
	}
	shown := r.renderApp(a)
	if r.failure != nil {
		return nil, r.failure
	}
	r.dropApp(a, r.array.cfg.DeleteDelay)
	if !a.dying.IsZero() {
		return r.renderApp(a), nil
	}
	return shown, nil
}

// dropApp takes an app instance out of the state, at once or after a delay.
func (r *request) dropApp(a *appInstance, delay time.Duration) {
	s := r.array.state
	a.Offline, a.gone = true, true
	for _, si := range a.Storage {
		si.gone = true
		for _, v := range si.Volumes {
			r.dropFilesOf(v)
		}
		r.endSessions(si)
		r.export(si)
	}
	r.changed.gone = append(r.changed.gone, a)
	if delay > 0 {
		a.dying = r.now.Add(delay)
		s.dying = append(s.dying, a)
		return
	}
	s.removeApp(a)
}

// purge removes what was deleted and whose delay is over.
func (s *state) purge(now time.Time) {
	for len(s.dying) > 0 && s.dying[0].goneAt(now) {
		s.removeApp(s.dying[0])
		s.dying = s.dying[1:]
	}
}

func (s *state) removeApp(a *appInstance) {
	if t, ok := s.tenants.get(a.Tenant); ok {
		t.apps.remove(a)
		delete(t.apps.byName, a.Name)
	}
	s.count.apps--
	s.count.snapshots -= len(a.Snapshots)
	for _, si := range a.Storage {
		s.forgetStorage(si)
	}
}

// insertApp puts a complete app instance into the state.
func (s *state) insertApp(t *tenant, a *appInstance) {
	t.apps.add(a)
	if t.apps.byName == nil {
		t.apps.byName = map[string]*appInstance{}
	}
	t.apps.byName[a.Name] = a
	s.count.apps++
	s.count.snapshots += len(a.Snapshots)
	for _, si := range a.Storage {
		s.knowStorage(si)
	}
}
