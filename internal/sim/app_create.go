package sim

import "slices"

// createApp makes an app instance from its inline parts, from a template or as
// a clone. Nothing is in the state before all of it is known to be right.
func createApp(r *request) (any, error) {
	t, b, s := r.own(), r.body, r.array.state
	name := b.str("name")
	if r.findApp(name) != nil {
		return nil, errConflict("app_instance", name)
	}
	if err := allow(s.count.apps, r.array.cfg.Limits.AppInstances, "app instances"); err != nil {
		return nil, err
	}
	a := &appInstance{
		Seq: s.next(), Tenant: r.tenant, Name: name, ID: newUUID(),
		UUID:              b.or("uuid", zeroUUID),
		Descr:             b.str("descr"),
		AccessControlMode: b.str("access_control_mode"),
		CreateMode:        b.str("create_mode"),
		RepairPriority:    b.or("repair_priority", "default"),
		StoragePools:      b.strs("storage_pool"),
		Policies:          b.list("snapshot_policies"),
	}
	if err := r.checkPools(a.StoragePools); err != nil {
		return nil, err
	}
	if err := r.fillApp(a); err != nil {
		return nil, err
	}
	if a.CreateMode == "" {
		a.CreateMode = "normal"
	}
	if err := r.giveUUID(a); err != nil {
		return nil, err
	}
	if err := r.checkLimits(a); err != nil {
		return nil, err
	}
	s.insertApp(t, a)
	r.undo(func() {
		if !a.gone {
			r.dropApp(a, 0)
		}
	})
	r.saveApp(a)
	for _, si := range a.Storage {
		r.bringUp(si)
	}
	return later(func() any { return r.renderApp(a) }), nil
}

// fillApp gives a its storage instances from the one source the body names.
func (r *request) fillApp(a *appInstance) error {
	sources := slices.DeleteFunc([]string{"app_template", "clone_src", "clone_volume_src", "clone_snapshot_src"},
		func(key string) bool { return !r.body.has(key) })
	inline := r.body.list("storage_instances")
	switch {
	case len(sources) > 1:
		return errRefused("%s and %s exclude each other", sources[0], sources[1])
	case len(sources) == 1 && len(inline) > 0:
		return errRefused("%s and storage_instances exclude each other", sources[0])
	case r.body.has("template_override") && !r.body.has("app_template"):
		return errRefused("template_override needs an app_template")
	case len(sources) == 0:
		return r.fillInline(a, inline)
	case sources[0] == "app_template":
		return r.fillFromTemplate(a)
	}
	return r.fillFromClone(a, sources[0])
}

func (r *request) fillInline(a *appInstance, parts []body) error {
	for _, b := range parts {
		if _, err := r.addStorage(a, b); err != nil {
			return err
		}
	}
	for _, v := range a.volumes() {
		r.makeFile(v)
	}
	return nil
}

// giveUUID hands a client's uuid on to the volume, if there is just one.
func (r *request) giveUUID(a *appInstance) error {
	if a.UUID == zeroUUID {
		return nil
	}
	volumes := a.volumes()
	if len(volumes) != 1 {
		return nil
	}
	if _, taken := r.array.state.volumes[a.UUID]; taken {
		return errConflict("volume with uuid", a.UUID)
	}
	volumes[0].UUID = a.UUID
	return nil
}

func (a *appInstance) volumes() []*volume {
	var all []*volume
	for _, si := range a.Storage {
		all = append(all, si.Volumes...)
	}
	return all
}

// checkLimits holds a new app instance against the product's limits.
func (r *request) checkLimits(a *appInstance) error {
	have, limits := r.array.state.count, r.array.cfg.Limits
	if limits.StorageInstances >= 0 && have.storage+len(a.Storage) > limits.StorageInstances {
		return errLimit("storage instances", limits.StorageInstances)
	}
	if limits.StoragePerApp >= 0 && len(a.Storage) > limits.StoragePerApp {
		return errLimit("storage instances of an app instance", limits.StoragePerApp)
	}
	if limits.Volumes >= 0 && have.volumes+len(a.volumes()) > limits.Volumes {
		return errLimit("volumes", limits.Volumes)
	}
	return nil
}
