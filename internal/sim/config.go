package sim

import (
	"errors"
	"fmt"
	"net/netip"
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

	Report func(error) // hears of errors inside the array, such as clients see as 500; nil: nobody
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
	if c.Nodes < 1 || (c.Limits.Nodes >= 0 && c.Nodes > c.Limits.Nodes) {
		return product{}, fmt.Errorf("%d storage nodes: an array has 1 to %d", c.Nodes, c.Limits.Nodes)
	}
	if c.AllFlashNodes < 0 || c.AllFlashNodes > c.Nodes || c.Capacity < 0 {
		return product{}, fmt.Errorf("%d of %d nodes are all-flash, with %d bytes: this can not be", c.AllFlashNodes, c.Nodes, c.Capacity)
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
