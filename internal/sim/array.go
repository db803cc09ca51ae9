// Package sim is a strict simulator of a Datera array: its REST API, versions
// 2 to 2.3, over an http.Handler, with state, faults and, through an Exporter,
// real iSCSI targets. It is a double for tests and an array for a laptop.
package sim

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Config says what array to simulate. Zero fields take the default named.
type Config struct {
	APIVersions   []string      // what SWVersion serves: for 3.3 v2, v2.1, v2.2 and v2.3
	SWVersion     string        // 3.3.4.0
	Name          string        // of the system; datera-sim
	Users         []User        // admin with the password "password"
	TokenLifetime time.Duration // a key unused this long is forgotten; 15 minutes

	AccessIPs []netip.Addr // portals of every target; 172.28.0.9 and 172.29.0.9
	Nodes     int          // storage nodes; 3

	AllFlashNodes int    // how many of them, the last ones, are all-flash; 0
	Capacity      int64  // raw bytes of all nodes; 64 TiB
	Limits        Limits // product limits

	DataDir  string   // where state and backing files live; "" keeps all in memory
	Exporter Exporter // data plane; nil for none. Needs DataDir.

	Clock         func() time.Time // time.Now
	Latency       time.Duration    // of every request
	ExportDelay   time.Duration    // from online to op_state available
	SnapshotDelay time.Duration    // from POST to op_state available
	CloneDelay    time.Duration    // how long a new clone shows op_state cloning
	ResizeDelay   time.Duration    // how long a grown volume shows volume_resize_in_progress
	DeleteDelay   time.Duration    // how long a deleted app instance stays visible

	SessionsStick bool // revoking an initiator does not end its driven session
	OfflineSticks bool // neither does going offline
	StrictOffline bool // replica_count and ip_pool change only offline or with force
	TypedMetadata bool // metadata values keep their JSON type; otherwise all become texts
	Record        bool // remember requests for Requests

	Report func(error) // hears of errors inside the array, which clients see as 500; nil: nobody
}

// User may log in. Tenant is where the user acts; "" is /root, which may act
// everywhere. Role is admin or viewer; "" is admin.
type User struct {
	Name, Password, Tenant, Role string
}

// Limits are the product's limits. A zero field takes the product's own, a
// negative one means no limit.
type Limits struct {
	AppInstances, StorageInstances, StoragePerApp  int
	Volumes, VolumesPerStorage                     int
	Snapshots, SnapshotsPerVolume                  int
	Initiators, Tenants, Users, Nodes, MetadataLen int
}

// Array is a simulated array. All of its methods are safe for concurrent use.
type Array struct {
	cfg     Config
	product product
	router  *router
	started time.Time

	mu    sync.RWMutex // guards state and everything it reaches
	state *state
	disk  *disk // nil: all in memory

	behind sync.Map // storage instances that the data plane could not follow

	keys     keyring
	driven   drivenSessions
	faults   faultQueue
	log      requestLog
	requests atomic.Uint64
}

// New makes an array. With a DataDir it takes up the state found there; with an
// Exporter it also brings the data plane in line with that state.
func New(cfg Config) (*Array, error) {
	p, err := cfg.setDefaults()
	if err != nil {
		return nil, err
	}
	a := &Array{cfg: cfg, product: p, state: newState(cfg.Nodes), started: cfg.Clock()}
	a.log.on = cfg.Record
	a.router = newRouter(a.routes())
	return a, a.open()
}

// open takes up the state of the data directory, or begins a new one.
func (a *Array) open() error {
	found := false
	if a.cfg.DataDir != "" {
		var err error
		if a.disk, err = openDisk(a.cfg.DataDir); err != nil {
			return err
		}
		if found, err = a.load(); err != nil {
			return errors.Join(err, a.Close())
		}
	}
	if !found {
		a.state.addDefaultAccounts()
		a.state.addDefaultPool(a.accessIPs())
		a.state.addDefaultPlacement()
	}
	a.state.setUsers(a.cfg.Users)
	if a.disk == nil {
		return nil
	}
	return a.saveRest()
}

func (c *Config) setDefaults() (product, error) {
	setDefault(&c.SWVersion, "3.3.4.0")
	setDefault(&c.Name, "datera-sim")
	setDefault(&c.TokenLifetime, 15*time.Minute)
	setDefault(&c.Nodes, 3)
	setDefault(&c.Capacity, 64<<40)
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if len(c.Users) == 0 {
		c.Users = []User{{Name: "admin", Password: "password"}}
	}
	if len(c.AccessIPs) == 0 {
		c.AccessIPs = []netip.Addr{netip.AddrFrom4([4]byte{172, 28, 0, 9}), netip.AddrFrom4([4]byte{172, 29, 0, 9})}
	}
	c.Limits.setDefaults()
	if c.Exporter != nil && c.DataDir == "" {
		return product{}, errors.New("an exporter needs a data directory for the volumes' backing files")
	}
	p, err := parseProduct(c.SWVersion)
	if err != nil {
		return p, err
	}
	if len(c.APIVersions) == 0 {
		c.APIVersions = defaultVersions(p)
	}
	for _, v := range c.APIVersions {
		if _, ok := parseVersion(v); !ok {
			return p, fmt.Errorf("API version %q is not one of v2, v2.1, v2.2 and v2.3", v)
		}
	}
	return p, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (l *Limits) setDefaults() {
	setDefault(&l.AppInstances, 4096)
	setDefault(&l.StorageInstances, 4096)
	setDefault(&l.StoragePerApp, 256)
	setDefault(&l.Volumes, 4096)
	setDefault(&l.VolumesPerStorage, 256)
	setDefault(&l.Snapshots, 16384)
	setDefault(&l.SnapshotsPerVolume, 256)
	setDefault(&l.Initiators, 512)
	setDefault(&l.Tenants, 64)
	setDefault(&l.Users, 256)
	setDefault(&l.Nodes, 20)
	setDefault(&l.MetadataLen, 2048)
}

// allow refuses one more of something when there are have of them already.
func allow(have, limit int, what string) error {
	if limit >= 0 && have >= limit {
		return errLimit(what, limit)
	}
	return nil
}

func (a *Array) now() time.Time { return a.cfg.Clock() }

func (a *Array) serves(v string) bool {
	for _, s := range a.cfg.APIVersions {
		if s == v {
			return true
		}
	}
	return false
}

// perform runs an operation under the lock it needs, then makes its changes
// durable and visible on the data plane before anybody hears of them.
func (a *Array) perform(ctx context.Context, r *request) (any, error) {
	if r.http.Method == http.MethodGet {
		a.catchUp(context.WithoutCancel(ctx))
		return a.look(r, r.op.do)
	}
	result, err := a.change(r)
	if err != nil {
		return nil, err
	}
	if err := a.settle(context.WithoutCancel(ctx), r); err != nil {
		return nil, err
	}
	if show, ok := result.(later); ok {
		return a.look(r, func(*request) (any, error) { return show(), nil })
	}
	return result, nil
}

// later is an answer that must be rendered after the data plane has followed.
type later func() any

func (a *Array) look(r *request, do func(*request) (any, error)) (any, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	r.now = a.now()
	if r.own() == nil {
		return nil, errPermission("there is no tenant %s", r.tenant)
	}
	result, err := do(r)
	if err == nil {
		err = r.failure
	}
	return result, err
}

func (a *Array) change(r *request) (any, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.now = a.now()
	a.state.purge(r.now)
	if r.own() == nil {
		return nil, errPermission("there is no tenant %s", r.tenant)
	}
	return r.op.do(r)
}

// settle is what follows a change, outside the big lock: backing files, then the
// state on disk, then the data plane. Files go last. A client that leaves does not
// stop it: the state has changed already.
func (a *Array) settle(ctx context.Context, r *request) error {
	for _, work := range r.changed.work {
		if err := work(); err != nil {
			a.mu.Lock()
			defer a.mu.Unlock()
			for _, undo := range r.changed.undo {
				undo()
			}
			return err
		}
	}
	if err := a.persist(&r.changed); err != nil {
		return err
	}
	if err := a.exportAll(ctx, r); err != nil {
		return err
	}
	return removeFiles(r.changed.files)
}

// Fail plans a fault for the next requests that match.
func (a *Array) Fail(m Match, f Fault) { a.faults.plan(m, f) }

// ClearFaults takes back all faults that are still planned and ends a leader
// change.
func (a *Array) ClearFaults() { a.faults.clear() }

// ChangeLeader makes the array answer 503 to everything for d, as it does while
// its management leader moves to another node.
func (a *Array) ChangeLeader(d time.Duration) {
	a.faults.mu.Lock()
	defer a.faults.mu.Unlock()
	a.faults.down = a.now().Add(d)
}

// wait lets d pass; it says false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
