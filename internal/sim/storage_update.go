package sim

import (
	"strings"
	"time"
)

func updateStorage(r *request) (any, error) {
	si, err := r.storage()
	if err != nil {
		return nil, err
	}
	var p plan
	if err := r.planStorage(si, r.body, &p); err != nil {
		return nil, err
	}
	p.run()
	r.saveApp(si.app)
	return later(func() any { return r.renderStorage(si) }), nil
}

func (r *request) planStorage(si *storageInstance, b body, p *plan) error {
	for _, step := range []func(*storageInstance, body, *plan) error{
		r.planStorageState, r.planPool, r.planAuth, r.planACL, r.planStorageVolumes,
	} {
		if err := step(si, b, p); err != nil {
			return err
		}
	}
	return r.planMode(si, b.str("access_control_mode"), p)
}

func (r *request) planStorageState(si *storageInstance, b body, p *plan) error {
	switch b.str("admin_state") {
	case online:
		if si.app.Offline && r.body.str("admin_state") != online {
			return errRefused("app_instance %s is offline", si.app.Name)
		}
		p.add(func() { si.Offline = false; r.bringUp(si) })
	case offline:
		if err := r.mayGoOffline(si); err != nil {
			return err
		}
		p.add(func() { si.Offline = true; r.bringDown(si) })
	}
	return nil
}

// mayGoOffline refuses to cut off initiators that are logged in, unless forced.
func (r *request) mayGoOffline(si *storageInstance) error {
	if si.off() || r.forced() {
		return nil
	}
	active := r.active(si)
	if r.failure != nil {
		return r.failure
	}
	if len(active) > 0 {
		return errRefused("storage_instance %s has active initiators %s: force to override this warning", si.Name, strings.Join(active, ", "))
	}
	return nil
}

// planMode changes access control; deny_all never becomes allow_all.
func (r *request) planMode(si *storageInstance, mode string, p *plan) error {
	if mode == "" || mode == si.AccessControlMode {
		return nil
	}
	if mode == modeAllowAll {
		return errRefused("access_control_mode of storage_instance %s can not be changed from deny_all to allow_all", si.Name)
	}
	p.add(func() {
		si.AccessControlMode = mode
		r.evict(si)
		r.export(si)
	})
	return nil
}

func (r *request) planPool(si *storageInstance, b body, p *plan) error {
	path := b.str("ip_pool")
	if path == "" || path == si.IPPool {
		return nil
	}
	if !r.poolExists(path) {
		return errNotFound("access_network_ip_pool", path)
	}
	if r.array.cfg.StrictOffline && !si.off() && !r.forced() && r.array.state.targets[si.IQN] == si {
		return errRefused("ip_pool of storage_instance %s can be changed only while it is offline", si.Name)
	}
	p.add(func() { si.IPPool = path; r.export(si) })
	return nil
}

func (r *request) planStorageVolumes(si *storageInstance, b body, p *plan) error {
	for _, vb := range b.list("volumes") {
		if v := si.volume(vb.str("name")); v != nil {
			if err := r.planVolume(v, vb, p); err != nil {
				return err
			}
			continue
		}
		v, err := r.newVolume(si, vb)
		if err != nil {
			return err
		}
		p.add(func() { r.attachVolume(si, v) })
	}
	return nil
}

// bringUp makes a storage instance available, now or after the configured
// delay. It is safe to repeat.
func (r *request) bringUp(si *storageInstance) {
	if si.off() {
		return
	}
	if si.available.IsZero() {
		si.available = r.now.Add(r.array.cfg.ExportDelay)
	}
	r.export(si)
}

// bringDown takes a storage instance off the network.
func (r *request) bringDown(si *storageInstance) {
	si.available = time.Time{}
	r.endSessions(si)
	r.export(si)
}

func (r *request) storagePath(si *storageInstance) string {
	return r.appPath(si.app) + "/storage_instances/" + si.Name
}

// opState follows admin state, delays and the data plane.
func (r *request) opState(si *storageInstance) string {
	switch {
	case si.knobs.OpState != "":
		return si.knobs.OpState
	case si.off(), r.now.Before(si.available), r.array.cfg.Exporter != nil && !si.exported:
		return "unavailable"
	}
	return "available"
}

func (r *request) renderStorage(si *storageInstance) object {
	base := r.storagePath(si)
	volumes := make(contained, 0, len(si.Volumes))
	for _, v := range si.Volumes {
		volumes = append(volumes, r.renderVolume(v))
	}
	o := make(object, 0, 20)
	o.set("health", si.knobs.health())
	o.set("path", base)
	o.set("name", si.Name)
	o.set("admin_state", adminState(si.off()))
	o.set("op_state", r.opState(si))
	o.set("volumes", volumes)
	o.set("access_control_mode", si.AccessControlMode)
	o.set("acl_policy", r.renderACL(base, si))
	o.set("ip_pool", resolved{si.IPPool, rootTenant})
	o.set("access", object{{"path", base + "/access"}, {"ips", r.accessIPs(si)}, {"iqn", si.IQN}})
	o.set("auth", renderAuth(base, si.Auth))
	o.set("active_initiators", r.active(si))
	o.set("active_storage_nodes", r.array.nodeRefs(si.Node, 1))
	o.set("uuid", si.UUID)
	o.set("deployment_state", "deployed")
	o.setIf(r.version >= v22, "service_configuration", si.Service)
	o.setIf(r.version == v2, "creation_type", "user")
	o.setIf(len(si.knobs.Causes) > 0, "causes", si.knobs.Causes)
	return o
}
