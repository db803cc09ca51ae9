package sim

// plan is a list of changes that are made only when every check has passed.
type plan []func()

func (p *plan) add(change func()) { *p = append(*p, change) }

func (p plan) run() {
	for _, change := range p {
		change()
	}
}

func updateApp(r *request) (any, error) {
	a, err := r.app()
	if err != nil {
		return nil, err
	}
	if !a.dying.IsZero() {
		return nil, errRefused("app_instance %s is being deleted", a.Name)
	}
	var p plan
	for _, step := range []func(*appInstance, *plan) error{
		r.planRename, r.planAppMode, r.planAppState, r.planRestore, r.planAppParts, r.planAppPlain,
	} {
		if err := step(a, &p); err != nil {
			return nil, err
		}
	}
	p.run()
	r.saveApp(a)
	return later(func() any { return r.renderApp(a) }), nil
}

func (r *request) planRename(a *appInstance, p *plan) error {
	name := r.body.str("name")
	if name == "" || name == a.Name {
		return nil
	}
	if r.findApp(name) != nil {
		return errConflict("app_instance", name)
	}
	p.add(func() {
		names := r.own().apps.byName
		delete(names, a.Name)
		a.Name = name
		names[name] = a
	})
	return nil
}

// planAppMode changes access control; it can only become stricter.
func (r *request) planAppMode(a *appInstance, p *plan) error {
	mode := r.body.str("access_control_mode")
	if mode == "" {
		return nil
	}
	for _, si := range a.Storage {
		if err := r.planMode(si, mode, p); err != nil {
			return err
		}
	}
	p.add(func() { a.AccessControlMode = mode })
	return nil
}

func (r *request) planAppState(a *appInstance, p *plan) error {
	switch r.body.str("admin_state") {
	case online:
		p.add(func() {
			a.Offline = false
			for _, si := range a.Storage {
				si.Offline = false
				r.bringUp(si)
			}
		})
	case offline:
		for _, si := range a.Storage {
			if err := r.mayGoOffline(si); err != nil {
				return err
			}
		}
		p.add(func() {
			a.Offline = true
			for _, si := range a.Storage {
				si.Offline = true
				r.bringDown(si)
			}
		})
	}
	return nil
}

// planAppParts changes storage instances that the body names and adds those
// that are new.
func (r *request) planAppParts(a *appInstance, p *plan) error {
	for _, b := range r.body.list("storage_instances") {
		if err := a.settled(r.now); err != nil {
			return err
		}
		si := a.storage(b.str("name"))
		if si == nil {
			added, err := r.newStorage(a, b)
			if err != nil {
				return err
			}
			p.add(func() { r.attachStorage(added) })
			continue
		}
		if err := r.planStorage(si, b, p); err != nil {
			return err
		}
	}
	return nil
}

func (r *request) planAppPlain(a *appInstance, p *plan) error {
	b := r.body
	if err := r.checkPools(b.strs("storage_pool")); err != nil {
		return err
	}
	p.add(func() {
		if b.has("descr") {
			a.Descr = b.str("descr")
		}
		if b.has("snapshot_policies") {
			a.Policies = b.list("snapshot_policies")
		}
		if b.has("repair_priority") {
			a.RepairPriority = b.str("repair_priority")
		}
		if b.has("storage_pool") {
			a.StoragePools = b.strs("storage_pool")
		}
	})
	return nil
}
