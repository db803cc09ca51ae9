package sim

import (
	"net/http"
	"slices"
	"sync"
	"time"
)

// storageInstance is an iSCSI target with its volumes as LUNs.
type storageInstance struct {
	Name              string
	UUID              string
	IQN               string
	Offline           bool
	AccessControlMode string
	IPPool            string // path
	Service           string // iscsi or object
	Auth              auth
	Initiators        []aclEntry
	Groups            []string // paths
	Volumes           []*volume
	Metadata          map[string]any
	Node              int

	app       *appInstance
	gone      bool      // deleted
	exported  bool      // the data plane shows it, if perhaps not as it should
	available time.Time // when op_state becomes available
	exporting sync.Mutex
	knobs     Health
}

func storageInlineFields() []field {
	return append([]field{flag("force")}, storageCreateFields()...)
}

func storageCreateFields() []field {
	return []field{
		nameField(),
		adminStateField(),
		accessModeField(),
		list("volumes", volumeCreateFields()...),
		group("acl_policy", aclFields()...),
		reference("ip_pool").loosely(),
		free("access"),
		group("auth", authFields()...),
		choice("service_configuration", "iscsi", "object").from22(),
	}
}

func storageUpdateFields() []field {
	return []field{
		adminStateField(),
		group("auth", authFields()...),
		group("acl_policy", aclFields()...),
		list("volumes", volumeInlineFields()...),
		accessModeField(),
		reference("ip_pool").loosely(),
		flag("force"),
	}
}

const storagePath = "/app_instances/:app/storage_instances"

func (a *Array) storageRoutes() []route {
	return []route{
		{path: storagePath, ops: map[string]op{
			"GET":  {do: listStorage, list: true, descr: "list storage instances"},
			"POST": {do: createStorage, in: storageCreateFields(), descr: "add a storage instance"}}},
		{path: storagePath + "/:si", ops: map[string]op{
			"GET":    {do: getStorage, descr: "read a storage instance"},
			"PUT":    {do: updateStorage, in: storageUpdateFields(), descr: "change a storage instance"},
			"DELETE": {do: deleteStorage, in: []field{flag("force")}, descr: "delete a storage instance"}}},
	}
}

func (a *appInstance) storage(name string) *storageInstance {
	for _, si := range a.Storage {
		if si.Name == name {
			return si
		}
	}
	return nil
}

// storage finds the storage instance that the path names. While its app instance
// begins or ends it can be looked at only, with all that is below it.
func (r *request) storage() (*storageInstance, error) {
	a, err := r.app()
	if err == nil && r.http.Method != http.MethodGet {
		err = a.settled(r.now)
	}
	if err != nil {
		return nil, err
	}
	if si := a.storage(r.param("si")); si != nil {
		return si, nil
	}
	return nil, errNotFound("storage_instance", r.param("si"))
}

func listStorage(r *request) (any, error) {
	a, err := r.app()
	if err != nil {
		return nil, err
	}
	return page(r, a.Storage, r.renderStorage, func(si *storageInstance) string { return si.Name })
}

func getStorage(r *request) (any, error) {
	si, err := r.storage()
	if err != nil {
		return nil, err
	}
	return r.renderStorage(si), nil
}

func createStorage(r *request) (any, error) {
	a, err := r.app()
	if err != nil {
		return nil, err
	}
	if err = a.settled(r.now); err != nil {
		return nil, err
	}
	limits, have := r.array.cfg.Limits, r.array.state.count
	if err = allow(have.storage, limits.StorageInstances, "storage instances"); err != nil {
		return nil, err
	}
	if err = allow(len(a.Storage), limits.StoragePerApp, "storage instances of an app instance"); err != nil {
		return nil, err
	}
	si, err := r.newStorage(a, r.body)
	if err != nil {
		return nil, err
	}
	r.attachStorage(si)
	r.saveApp(a)
	return later(func() any { return r.renderStorage(si) }), nil
}

// attachStorage adds a new storage instance to an app instance that is in the state.
func (r *request) attachStorage(si *storageInstance) {
	si.app.Storage = append(si.app.Storage, si)
	r.array.state.knowStorage(si)
	for _, v := range si.Volumes {
		r.makeFile(v)
	}
	r.bringUp(si)
	r.undo(func() {
		if !si.gone {
			r.detachStorage(si)
		}
	})
}

func (r *request) detachStorage(si *storageInstance) {
	for _, v := range si.Volumes {
		r.dropFilesOf(v)
	}
	si.app.Storage = slices.DeleteFunc(slices.Clone(si.app.Storage), func(x *storageInstance) bool { return x == si })
	si.gone = true
	r.endSessions(si)
	r.export(si)
	r.array.state.forgetStorage(si)
}

// addStorage makes a storage instance and appends it to an app instance that
// is not in the state yet.
func (r *request) addStorage(a *appInstance, b body) (*storageInstance, error) {
	si, err := r.newStorage(a, b)
	if err == nil {
		a.Storage = append(a.Storage, si)
	}
	return si, err
}

func (r *request) newStorage(a *appInstance, b body) (*storageInstance, error) {
	if a.storage(b.str("name")) != nil {
		return nil, errConflict("storage_instance", b.str("name"))
	}
	si := r.blankStorage(a, b.str("name"))
	si.Offline = a.Offline || b.str("admin_state") == offline
	si.Service = b.or("service_configuration", "iscsi")
	si.AccessControlMode = b.or("access_control_mode", si.AccessControlMode)
	var p plan
	for _, step := range []func(*storageInstance, body, *plan) error{r.planPool, r.planAuth, r.planACL} {
		if err := step(si, b, &p); err != nil {
			return nil, err
		}
	}
	p.run()
	for _, vb := range b.list("volumes") {
		v, err := r.newVolume(si, vb)
		if err != nil {
			return nil, err
		}
		si.Volumes = append(si.Volumes, v)
	}
	return si, nil
}

// blankStorage is a storage instance as it is before anybody asked for more.
func (r *request) blankStorage(a *appInstance, name string) *storageInstance {
	id := newUUID()
	mode := a.AccessControlMode
	if mode == "" {
		mode = modeDenyAll
	}
	return &storageInstance{Name: name, UUID: id, IQN: "iqn.2013-05.com.daterainc:tc:01:sn:" + id[19:23] + id[24:],
		AccessControlMode: mode, IPPool: "/access_network_ip_pools/default", Service: "iscsi",
		Auth: auth{Type: "none"}, Node: int(r.array.state.next()), app: a}
}

func deleteStorage(r *request) (any, error) {
	si, err := r.storage()
	if err != nil {
		return nil, err
	}
	if !si.off() && !r.forced() {
		return nil, errRefused("storage_instance %s is online: set its admin_state to offline first, or force", si.Name)
	}
	shown := r.renderStorage(si)
	if r.failure != nil {
		return nil, r.failure
	}
	r.detachStorage(si)
	r.saveApp(si.app)
	return shown, nil
}

// off says whether the storage instance is offline by itself or with its app.
func (si *storageInstance) off() bool { return si.gone || si.Offline || si.app.Offline }

func (s *state) knowStorage(si *storageInstance) {
	s.targets[si.IQN] = si
	s.count.storage++
	for _, v := range si.Volumes {
		s.knowVolume(v)
	}
}

func (s *state) forgetStorage(si *storageInstance) {
	delete(s.targets, si.IQN)
	s.count.storage--
	for _, v := range si.Volumes {
		s.forgetVolume(v)
	}
}
