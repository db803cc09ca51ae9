package sim

import "strings"

// source is what a path within an app instance points to.
type source struct {
	app  *appInstance
	si   *storageInstance
	vol  *volume
	snap *snapshot
}

// resolve follows the path of an app instance or of something in it. The app
// instance may be named by id or by name.
func (r *request) resolve(path string) (source, error) {
	var s source
	steps := split(path)
	if len(steps)%2 != 0 || len(steps) == 0 || steps[0] != "app_instances" {
		return s, errRefused("%s is not a path within an app instance", path)
	}
	if s.app = r.findApp(steps[1]); s.app == nil {
		return s, errNotFound("app_instance", steps[1])
	}
	for i := 2; i < len(steps); i += 2 {
		if !s.step(steps[i], steps[i+1]) {
			return s, errNotFound(strings.TrimSuffix(steps[i], "s"), path)
		}
	}
	return s, nil
}

func (s *source) step(kind, key string) bool {
	switch {
	case kind == "storage_instances" && s.si == nil:
		s.si = s.app.storage(key)
		return s.si != nil
	case kind == "volumes" && s.si != nil && s.vol == nil:
		s.vol = s.si.volume(key)
		return s.vol != nil
	case kind == "snapshots" && s.vol != nil:
		s.snap = findSnapshot(s.vol.Snapshots, key)
	case kind == "snapshots" && s.si == nil:
		s.snap = findSnapshot(s.app.Snapshots, key)
	}
	return s.snap != nil
}

// fillFromClone gives a the storage instances and volumes of its source, with
// their data and nothing else: no ACL, no CHAP, no limits, no policies.
func (r *request) fillFromClone(a *appInstance, key string) error {
	src, err := r.resolve(r.body.str(key))
	if err != nil {
		return err
	}
	if err := r.checkSource(key, src); err != nil {
		return err
	}
	a.CloneSrc = r.sourcePath(src)
	if a.CreateMode == "" {
		a.CreateMode = src.app.CreateMode
	}
	if delay := r.array.cfg.CloneDelay; delay > 0 {
		a.CloningUntil = r.now.Add(delay)
	}
	for _, from := range src.app.Storage {
		if src.si == nil || src.si == from {
			if si := r.cloneStorage(a, from, src); len(si.Volumes) > 0 || src.vol == nil {
				a.Storage = append(a.Storage, si)
			}
		}
	}
	return nil
}

func (r *request) checkSource(key string, src source) error {
	fits := map[string]bool{
		"clone_src":          src.si == nil && src.snap == nil,
		"clone_volume_src":   src.vol != nil && src.snap == nil,
		"clone_snapshot_src": src.snap != nil,
	}
	if !fits[key] {
		return errRefused("%s is not what %s takes", r.body.str(key), key)
	}
	if src.snap != nil && !src.snap.available(r.now) {
		return errRefused("snapshot %s is not available yet", src.snap.UTCTS)
	}
	if src.snap != nil && src.snap.Type == "remote" && !r.atProvider {
		return errRefused("snapshot %s has no local copy", src.snap.UTCTS)
	}
	if src.app.settled(r.now) != nil || src.app.filling() {
		return errRefused("app_instance %s is not ready to be cloned", src.app.Name)
	}
	return nil
}

// sourcePath words a source by ids, however the request worded it.
func (r *request) sourcePath(src source) string {
	path := r.appPath(src.app)
	if src.vol != nil {
		path = r.volumePath(src.vol)
	}
	if src.snap != nil {
		path += "/snapshots/" + src.snap.UTCTS
	}
	return path
}

func (r *request) cloneStorage(a *appInstance, from *storageInstance, src source) *storageInstance {
	si := r.blankStorage(a, from.Name)
	si.Service = from.Service
	for _, v := range from.Volumes {
		if src.vol != nil && src.vol != v {
			continue
		}
		size := v.SizeGiB
		if src.snap != nil {
			size = src.snap.SizeGiB
			if src.vol == nil {
				had, ok := src.snap.Sizes[v.UUID]
				if !ok {
					continue // made after the snapshot
				}
				size = had
			}
		}
		clone := &volume{Name: v.Name, UUID: newUUID(), SizeGiB: size, Replicas: v.Replicas, Placement: v.Placement,
			Policy: v.Policy, Pools: v.Pools, UsedBytes: v.UsedBytes, Node: int(r.array.state.next()), si: si}
		si.Volumes = append(si.Volumes, clone)
		r.copyVolume(v, src.snap, clone)
	}
	return si
}
