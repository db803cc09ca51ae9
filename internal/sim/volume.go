package sim

import (
	"slices"
	"time"
)

// volume is one LUN.
type volume struct {
	Name        string
	UUID        string // also the LUN's unit serial number
	SizeGiB     int64
	Replicas    int64
	Placement   string // placement_mode
	Policy      string // path of the placement_policy
	Pools       []string
	Performance body // nil: no limits set
	Policies    []body
	Snapshots   []*snapshot
	RestoredTo  string
	Node        int
	UsedBytes   int64     // in memory, what a test says is used
	BusyUntil   time.Time // op_status BusyWith until then
	BusyWith    string

	si      *storageInstance
	knobs   Health
	unmade  bool // there is no backing file yet
	filling bool // the backing file is not complete: the target must wait
	growing int  // requests that make the file longer
}

const maxSizeGiB = 262144

func volumeCreateFields() []field {
	return append([]field{nameField()}, volumeFields(true)...)
}

func volumeInlineFields() []field {
	return append([]field{nameField(), restorePointField()}, volumeFields(false)...)
}

func volumeUpdateFields() []field {
	return append([]field{restorePointField()}, volumeFields(false)...)
}

func volumeFields(create bool) []field {
	old, size := integer("size", 1, 32768).to(v21), integer("size", 1, maxSizeGiB).from22()
	old.required, size.required = create, create
	fields := []field{
		old, size,
		integer("replica_count", 1, 5),
		placementModeField(),
		placementPolicyField(),
		references("storage_pool").from22(),
	}
	if create {
		fields = append(fields, group("performance_policy", performanceFields()...), list("snapshot_policies", policyFields()...))
	}
	return fields
}

func placementModeField() field {
	return choice("placement_mode", "hybrid", "single_flash", "all_flash")
}

func placementPolicyField() field {
	return reference("placement_policy").since(product33).loosely()
}

const volumePath = storagePath + "/:si/volumes"

func (a *Array) volumeRoutes() []route {
	return []route{
		{path: volumePath, ops: map[string]op{
			"GET":  {do: listVolumes, list: true, descr: "list volumes"},
			"POST": {do: createVolume, in: volumeCreateFields(), descr: "add a volume"}}},
		{path: volumePath + "/:vol", ops: map[string]op{
			"GET":    {do: getVolume, descr: "read a volume"},
			"PUT":    {do: updateVolume, in: volumeUpdateFields(), descr: "change a volume"},
			"DELETE": {do: deleteVolume, in: []field{flag("force")}, descr: "delete a volume"}}},
	}
}

func (si *storageInstance) volume(name string) *volume {
	for _, v := range si.Volumes {
		if v.Name == name {
			return v
		}
	}
	return nil
}

func (r *request) volume() (*volume, error) {
	si, err := r.storage()
	if err != nil {
		return nil, err
	}
	if v := si.volume(r.param("vol")); v != nil {
		return v, nil
	}
	return nil, errNotFound("volume", r.param("vol"))
}

func listVolumes(r *request) (any, error) {
	si, err := r.storage()
	if err != nil {
		return nil, err
	}
	return page(r, si.Volumes, r.renderVolume, func(v *volume) string { return v.Name })
}

func getVolume(r *request) (any, error) {
	v, err := r.volume()
	if err != nil {
		return nil, err
	}
	return r.renderVolume(v), nil
}

func createVolume(r *request) (any, error) {
	si, err := r.storage()
	if err != nil {
		return nil, err
	}
	if err = allow(len(si.Volumes), r.array.cfg.Limits.VolumesPerStorage, "volumes of a storage instance"); err != nil {
		return nil, err
	}
	if err = allow(r.array.state.count.volumes, r.array.cfg.Limits.Volumes, "volumes"); err != nil {
		return nil, err
	}
	v, err := r.newVolume(si, r.body)
	if err != nil {
		return nil, err
	}
	r.attachVolume(si, v)
	r.saveApp(si.app)
	return later(func() any { return r.renderVolume(v) }), nil
}

func (r *request) attachVolume(si *storageInstance, v *volume) {
	si.Volumes = append(si.Volumes, v)
	r.array.state.knowVolume(v)
	r.makeFile(v)
	r.export(si)
	r.undo(func() {
		if r.array.state.has(v) {
			r.detachVolume(v)
		}
	})
}

func (r *request) detachVolume(v *volume) {
	v.si.Volumes = slices.DeleteFunc(slices.Clone(v.si.Volumes), func(x *volume) bool { return x == v })
	r.array.state.forgetVolume(v)
	r.dropFilesOf(v)
	r.export(v.si)
}

// newVolume makes a volume that is in no storage instance yet.
func (r *request) newVolume(si *storageInstance, b body) (*volume, error) {
	if si.volume(b.str("name")) != nil {
		return nil, errConflict("volume", b.str("name"))
	}
	v := &volume{
		Name: b.str("name"), UUID: newUUID(), SizeGiB: b.int("size"), Replicas: b.int("replica_count"),
		Placement: b.or("placement_mode", "hybrid"), Policy: b.or("placement_policy", defaultPlacement),
		Pools: b.strs("storage_pool"), Policies: b.list("snapshot_policies"),
		Node: int(r.array.state.next()), si: si,
	}
	if v.Replicas == 0 {
		v.Replicas = int64(min(3, r.array.cfg.Nodes))
	}
	if limits := b.obj("performance_policy"); len(limits) > 0 {
		v.Performance = limits
	}
	return v, r.checkVolume(v)
}

func (r *request) checkVolume(v *volume) error {
	if v.Replicas > int64(r.array.cfg.Nodes) {
		return errRefused("replica_count %d is more than the %d storage nodes", v.Replicas, r.array.cfg.Nodes)
	}
	if r.is33() {
		if err := r.checkPlacement(v.Policy); err != nil {
			return err
		}
	}
	return r.checkPools(v.Pools)
}

func updateVolume(r *request) (any, error) {
	v, err := r.volume()
	if err != nil {
		return nil, err
	}
	var p plan
	if err := r.planVolume(v, r.body, &p); err != nil {
		return nil, err
	}
	p.run()
	r.saveApp(v.si.app)
	return later(func() any { return r.renderVolume(v) }), nil
}

// planVolume changes a volume. Growing is possible online; shrinking is not
// possible, and neither is giving up replicas.
func (r *request) planVolume(v *volume, b body, p *plan) error {
	if b.has("size") && v.filling {
		return errRefused("volume %s can not grow while its data is copied", v.Name)
	}
	if b.has("size") && b.int("size") < v.SizeGiB {
		return errRefused("volume %s has %d GiB and can not be shrunk to %d GiB", v.Name, v.SizeGiB, b.int("size"))
	}
	if b.has("replica_count") && b.int("replica_count") < v.Replicas {
		return errRefused("replica_count of volume %s can not be lowered from %d", v.Name, v.Replicas)
	}
	if b.has("replica_count") && b.int("replica_count") != v.Replicas && r.array.cfg.StrictOffline && !v.si.off() {
		return errRefused("replica_count of volume %s can be changed only while it is offline", v.Name)
	}
	after := *v
	after.change(b)
	if err := r.checkVolume(&after); err != nil {
		return err
	}
	if err := r.planVolumeRestore(v, b.str("restore_point"), p); err != nil {
		return err
	}
	p.add(func() { r.applyVolume(v, b) })
	return nil
}

func (v *volume) change(b body) {
	if b.has("replica_count") {
		v.Replicas = b.int("replica_count")
	}
	v.Placement = b.or("placement_mode", v.Placement)
	v.Policy = b.or("placement_policy", v.Policy)
	if b.has("storage_pool") {
		v.Pools = b.strs("storage_pool")
	}
}

func (r *request) applyVolume(v *volume, b body) {
	before := *v
	v.change(b)
	if size := b.int("size"); size > v.SizeGiB {
		r.grow(v, size)
	}
	if v.Replicas != before.Replicas {
		v.busy(r.now, r.array.cfg.ResizeDelay, "replica_change_in_progress")
	}
	if v.Placement != before.Placement || v.Policy != before.Policy {
		v.busy(r.now, r.array.cfg.ResizeDelay, "placement_change_in_progress")
	}
}

func (v *volume) busy(now time.Time, delay time.Duration, with string) {
	v.BusyUntil, v.BusyWith = now.Add(delay), with
}

func deleteVolume(r *request) (any, error) {
	v, err := r.volume()
	if err != nil {
		return nil, err
	}
	if !v.si.off() && !r.forced() && len(r.active(v.si)) > 0 {
		return nil, errRefused("volume %s has active initiators", v.Name)
	}
	shown := r.renderVolume(v)
	if r.failure != nil {
		return nil, r.failure
	}
	r.detachVolume(v)
	r.saveApp(v.si.app)
	return shown, nil
}

func (s *state) knowVolume(v *volume) {
	s.volumes[v.UUID] = v
	s.count.volumes++
	s.count.snapshots += len(v.Snapshots)
}

// has says whether a volume is there and stays: what is deleted may still be shown.
func (s *state) has(v *volume) bool { return s.volumes[v.UUID] == v && !v.si.gone }

func (s *state) forgetVolume(v *volume) {
	delete(s.volumes, v.UUID)
	s.count.volumes--
	s.count.snapshots -= len(v.Snapshots)
}
