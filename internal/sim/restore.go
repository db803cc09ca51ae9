package sim

// planRestore takes all volumes of an app instance back to one of its own
// snapshots. Like every restore it needs the app instance to be offline.
func (r *request) planRestore(a *appInstance, p *plan) error {
	ts := r.body.or("restore_point", r.body.str("remote_restore_point"))
	if ts == "" {
		return nil
	}
	s, err := r.restorable(a.Snapshots, ts, a.volumes())
	if err != nil {
		return err
	}
	if !a.Offline {
		return errRefused("app_instance %s is online: set its admin_state to offline before it is restored", a.Name)
	}
	p.add(func() {
		for _, v := range a.volumes() {
			if _, had := s.Sizes[v.UUID]; had {
				r.restoreFile(v, s, func() {})
			}
		}
		r.onFiles(func() error { return nil }, func(ok bool) {
			if ok {
				a.RestorePoint = ts
			}
		})
	})
	return nil
}

func (r *request) planVolumeRestore(v *volume, ts string, p *plan) error {
	if ts == "" {
		return nil
	}
	s, err := r.restorable(v.Snapshots, ts, []*volume{v})
	if err != nil {
		return err
	}
	if !v.si.off() {
		return errRefused("volume %s is online: set the admin_state of app_instance %s to offline before it is restored", v.Name, v.si.app.Name)
	}
	p.add(func() {
		r.restoreFile(v, s, func() { v.RestoredTo = ts })
	})
	return nil
}

// restorable finds a snapshot whose data can take the place of that of volumes now.
func (r *request) restorable(list []*snapshot, ts string, volumes []*volume) (*snapshot, error) {
	s := findSnapshot(list, ts)
	if s == nil {
		return nil, errNotFound("snapshot", ts)
	}
	if !s.available(r.now) {
		return nil, errRefused("snapshot %s is not available yet", ts)
	}
	for _, v := range volumes {
		if v.filling || v.growing > 0 {
			return nil, errRefused("volume %s can not be restored while its data is copied or it grows", v.Name)
		}
	}
	return s, nil
}
