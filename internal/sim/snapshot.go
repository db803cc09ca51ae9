package sim

import (
	"regexp"
	"slices"
	"time"
)

// snapshot is the state of a volume, or of all volumes of an app instance, at
// one moment.
type snapshot struct {
	UTCTS    string // seconds.nanoseconds, the key
	UUID     string
	Made     time.Time
	Ready    time.Time        // op_state is available from then on
	Type     string           // local, remote, local_and_remote
	Policy   string           // name of the snapshot policy that took it
	Provider string           // uuid of a remote provider
	SizeGiB  int64            // of the volume at the moment; group snapshots: 0
	Sizes    map[string]int64 // group snapshots: size by volume uuid
	copying  bool             // the data is still being copied
}

var reTimestamp = regexp.MustCompile(`^\d+\.\d+$`)

func snapshotTypes() []string { return []string{"local", "remote", "local_and_remote"} }

func restorePointField() field { return restorePointNamed("restore_point") }

func restorePointNamed(name string) field {
	return text(name).like(reTimestamp, "seconds.nanoseconds").orNull()
}

func snapshotFields() []field {
	return []field{
		uuidField("uuid"),
		text("remote_provider_uuid").from22().since(product32),
		choice("type", snapshotTypes()...).from22().since(product32),
	}
}

func (a *Array) snapshotRoutes() []route {
	var routes []route
	for base, owner := range map[string]func(*request) (snapshotOwner, error){
		"/app_instances/:app": snapshotsOfApp, volumePath + "/:vol": snapshotsOfVolume,
	} {
		at := base + "/snapshots"
		routes = append(routes,
			route{path: at, ops: map[string]op{
				"GET":  {do: listSnapshots(owner), list: true, descr: "list snapshots"},
				"POST": {do: createSnapshot(owner), in: snapshotFields(), descr: "take a snapshot"}}},
			route{path: at + "/:ts", ops: map[string]op{
				"GET": {do: getSnapshot(owner), descr: "read a snapshot"},
				"PUT": {do: updateSnapshot(owner), descr: "drop the local copy of a snapshot", in: []field{
					flag("delete_local").since(product33), text("remote_provider_uuid").since(product33)}},
				"DELETE": {do: deleteSnapshot(owner), descr: "delete a snapshot",
					in: []field{flag("force"), text("remote_provider_uuid")}}}})
	}
	return routes
}

// snapshotOwner is what has snapshots: a volume, or an app instance for those
// of all its volumes.
type snapshotOwner struct {
	list    *[]*snapshot
	base    string
	app     *appInstance
	volumes []*volume
	group   bool
}

func snapshotsOfApp(r *request) (snapshotOwner, error) {
	a, err := r.app()
	if err != nil {
		return snapshotOwner{}, err
	}
	return snapshotOwner{&a.Snapshots, r.appPath(a), a, a.volumes(), true}, nil
}

func snapshotsOfVolume(r *request) (snapshotOwner, error) {
	v, err := r.volume()
	if err != nil {
		return snapshotOwner{}, err
	}
	return snapshotOwner{&v.Snapshots, r.volumePath(v), v.si.app, []*volume{v}, false}, nil
}

func findSnapshot(list []*snapshot, ts string) *snapshot {
	for _, s := range list {
		if s.UTCTS == ts {
			return s
		}
	}
	return nil
}

func (o snapshotOwner) find(ts string) (*snapshot, error) {
	if s := findSnapshot(*o.list, ts); s != nil {
		return s, nil
	}
	return nil, errNotFound("snapshot", ts)
}

func listSnapshots(owner func(*request) (snapshotOwner, error)) func(*request) (any, error) {
	return func(r *request) (any, error) {
		o, err := owner(r)
		if err != nil {
			return nil, err
		}
		show := func(s *snapshot) object { return r.renderSnapshot(o.base, s) }
		return page(r, *o.list, show, func(s *snapshot) string { return s.UTCTS })
	}
}

// oneSnapshot finds the snapshot that a request names, for those that need one.
func oneSnapshot(owner func(*request) (snapshotOwner, error), do func(*request, snapshotOwner, *snapshot) (any, error)) func(*request) (any, error) {
	return func(r *request) (any, error) {
		o, err := owner(r)
		if err != nil {
			return nil, err
		}
		s, err := o.find(r.param("ts"))
		if err != nil {
			return nil, err
		}
		return do(r, o, s)
	}
}

func getSnapshot(owner func(*request) (snapshotOwner, error)) func(*request) (any, error) {
	return oneSnapshot(owner, func(r *request, o snapshotOwner, s *snapshot) (any, error) {
		return r.renderSnapshot(o.base, s), nil
	})
}

func createSnapshot(owner func(*request) (snapshotOwner, error)) func(*request) (any, error) {
	return func(r *request) (any, error) {
		o, err := owner(r)
		if err != nil {
			return nil, err
		}
		if err := r.mayTakeSnapshot(o); err != nil {
			return nil, err
		}
		s := r.takeSnapshot(o, r.body)
		return later(func() any { return r.renderSnapshot(o.base, s) }), nil
	}
}

func (r *request) mayTakeSnapshot(o snapshotOwner) error {
	if err := o.app.settled(r.now); err != nil {
		return err
	}
	if id := r.body.str("uuid"); id != "" {
		if slices.ContainsFunc(*o.list, func(s *snapshot) bool { return s.UUID == id }) {
			e := errRefused("a snapshot with uuid %s already exists", id)
			e.code = codeDuplicateSnapshot
			return e
		}
	}
	if provider := r.body.str("remote_provider_uuid"); provider != "" && r.findDoc(providersPath, provider) == nil {
		return errNotFound("remote_provider", provider)
	}
	if kind := r.body.or("type", "local"); kind != "local" && r.body.str("remote_provider_uuid") == "" {
		return errRefused("a snapshot of type %s needs a remote_provider_uuid", kind)
	}
	if o.app.filling() {
		return errRefused("app_instance %s is not ready for a snapshot", o.app.Name)
	}
	limits := r.array.cfg.Limits
	if err := allow(r.array.state.count.snapshots, limits.Snapshots, "snapshots"); err != nil {
		return err
	}
	return allow(len(*o.list), limits.SnapshotsPerVolume, "snapshots of a volume")
}

func (r *request) takeSnapshot(o snapshotOwner, b body) *snapshot {
	s := &snapshot{
		UTCTS: r.array.state.timestamp(r.now), UUID: b.str("uuid"), Made: r.now, Ready: r.now.Add(r.array.cfg.SnapshotDelay),
		Type: b.or("type", "local"), Provider: b.str("remote_provider_uuid"),
	}
	if s.UUID == "" {
		s.UUID = newUUID()
	}
	if o.group {
		s.Sizes = map[string]int64{}
	}
	for _, v := range o.volumes {
		s.SizeGiB = v.SizeGiB
		if o.group {
			s.SizeGiB, s.Sizes[v.UUID] = 0, v.SizeGiB
		}
	}
	*o.list = append(slices.Clone(*o.list), s)
	r.array.state.count.snapshots++
	r.undo(func() {
		if r.holds(o, s) {
			r.removeSnapshot(o, s)
		}
	})
	r.copySnapshot(o, s)
	r.saveApp(o.app)
	return s
}

func updateSnapshot(owner func(*request) (snapshotOwner, error)) func(*request) (any, error) {
	return oneSnapshot(owner, func(r *request, o snapshotOwner, s *snapshot) (any, error) {
		if r.body.flag("delete_local") {
			if s.Provider == "" {
				return nil, errRefused("snapshot %s has only its local copy", s.UTCTS)
			}
			s.Type = "remote"
		}
		r.saveApp(o.app)
		return r.renderSnapshot(o.base, s), nil
	})
}

func deleteSnapshot(owner func(*request) (snapshotOwner, error)) func(*request) (any, error) {
	return oneSnapshot(owner, func(r *request, o snapshotOwner, s *snapshot) (any, error) {
		r.removeSnapshot(o, s)
		return r.renderSnapshot(o.base, s), nil
	})
}

func (r *request) removeSnapshot(o snapshotOwner, s *snapshot) {
	*o.list = slices.DeleteFunc(slices.Clone(*o.list), func(x *snapshot) bool { return x == s })
	r.array.state.count.snapshots--
	for _, v := range o.volumes {
		r.dropFile(r.array.snapshotFile(v, s))
	}
	r.saveApp(o.app)
}

// holds says whether a snapshot, and what it is of, are there and stay.
func (r *request) holds(o snapshotOwner, s *snapshot) bool {
	return slices.Contains(*o.list, s) && !o.app.gone && (o.group || r.array.state.has(o.volumes[0]))
}

func (s *snapshot) available(now time.Time) bool { return !s.copying && !now.Before(s.Ready) }

func (r *request) renderSnapshots(base string, list []*snapshot) contained {
	out := make(contained, 0, len(list))
	for _, s := range list {
		out = append(out, r.renderSnapshot(base, s))
	}
	return out
}

func (r *request) renderSnapshot(base string, s *snapshot) object {
	state := "available"
	if !s.available(r.now) {
		state = "creating"
	}
	o := object{{"path", base + "/snapshots/" + s.UTCTS}}
	if r.version == v2 {
		return append(o, object{{"op_state", state}, {"uuid", s.UUID}, {"timestamp", s.UTCTS}}...)
	}
	o.set("utc_ts", s.UTCTS)
	o.set("timestamp", s.Made.Local().Format("2006-01-02T15:04:05.000000-07:00"))
	o.set("uuid", s.UUID)
	o.set("op_state", state)
	if r.version < v22 || !r.array.product.atLeast(product32.product()) {
		return o
	}
	providers := contained{}
	if s.Provider != "" {
		providers = append(providers, object{{"path", "/" + providersPath + "/" + s.Provider}, {"uuid", s.Provider}})
	}
	o.set("type", s.Type)
	o.set("local", s.Type != "remote")
	o.set("remote_providers", providers)
	o.set("ts_version", "2")
	size := s.SizeGiB
	for _, part := range s.Sizes {
		size += part
	}
	o.set("logical_size", size<<30)
	return o
}
