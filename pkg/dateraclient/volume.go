// Package dateraclient speaks the REST API of a Datera array, versions 2.2 and
// 2.3, in CSI-sized nouns: a Volume here is an app instance with its one storage
// instance and its one volume.
package dateraclient

import "net/netip"

// GiB is the array's unit of size. Bytes exist only at the CSI border.
type GiB int64

// Bytes is g in bytes.
func (g GiB) Bytes() int64 { return int64(g) << 30 }

// Volume is an app instance with exactly one storage instance and one volume.
type Volume struct {
	Name        string // app instance name, the CSI volume id without its backend
	ID          string // app instance id, the array's own key
	Description string
	CreateMode  string // kubernetes for what this driver made
	Template    string // name of the AppTemplate it was made from, or ""
	Online      bool   // admin state of the app instance and of its storage instance
	OpState     string // what the array is doing with the app instance, e.g. cloning; "" at rest
	Exported    bool   // the storage instance's op_state is available

	// Names of the two children: storage-1 and volume-1 in what this driver
	// made without an AppTemplate.
	StorageInstance, Child string

	Size            GiB
	Replicas        int
	PlacementMode   string // product before 3.3
	PlacementPolicy string // product 3.3 and later
	IPPool          string
	QoS             QoS
	CHAP            string // none, chap or mchap
	UUID            string // of the volume: the LUN's unit serial number
	UsedBytes       int64  // capacity_in_use

	IQN     string
	Portals []netip.AddrPort

	Initiators       []string // IQNs the ACL admits
	InitiatorGroups  []string // names; this driver adds none, an administrator may
	AllowAll         bool     // access control is off: any initiator may log in
	ActiveInitiators []string // IQNs logged in now

	Source    Source
	Snapshots []Snapshot // of the volume, and of the whole app instance

	Health Health
}

// Leaving tells that the array is deleting v: it is as good as gone, and its name
// is taken until then.
func (v *Volume) Leaving() bool { return v.OpState == "deleting" }

// Path is the volume's own path, the one to clone it by.
func (v *Volume) Path() string { return v.storagePath() + "/volumes/" + v.Child }

// path is the app instance's. The id outlives a rename, and never means another
// app instance that was made later under the same name.
func (v *Volume) path() string { return "/app_instances/" + v.ID }

func (v *Volume) storagePath() string { return v.path() + "/storage_instances/" + v.StorageInstance }

// Source is what a volume was made from; at most one field is set.
type Source struct {
	Volume   string // path of the app instance or volume
	Snapshot string // path of the snapshot
}

// IsZero says the volume began empty.
func (s Source) IsZero() bool { return s == Source{} }

// QoS are the limits of a volume. Zero means unlimited.
type QoS struct {
	ReadIOPS, WriteIOPS, TotalIOPS                int // operations per second
	ReadBandwidth, WriteBandwidth, TotalBandwidth int // KiB/s
}

// Snapshot is a snapshot of a Volume.
type Snapshot struct {
	Path      string
	UTCTS     string // "seconds.nanoseconds", the array's key; opaque, never reformatted
	UUID      string
	Available bool
}

// VolumeSpec is a volume to be made. Zero fields take the array's default.
type VolumeSpec struct {
	Name, Description string
	Size              GiB
	Replicas          int
	PlacementMode     string
	PlacementPolicy   string
	IPPool            string
	QoS               QoS
	CHAP              *CHAP

	// Template, which the caller has read, makes the volume from an AppTemplate.
	// What else is set here overrides what the template gives: QoS as it is,
	// so that the template's own limits must be copied to be kept, and the rest
	// unless it is zero.
	Template *Template

	// Source makes the volume a clone, by the path of a volume (Volume.Path) or
	// of a snapshot (Snapshot.Path); CloneVolume sets it. The clone has its
	// source's layout and at first its size, which stays if Size is 0. A clone
	// that would be larger than Most is not kept; 0 is no limit.
	Source Source
	Most   GiB
}

// CHAP are the secrets of a storage instance. In is empty for one-way CHAP.
type CHAP struct {
	User, Password     string // what the initiator presents (target_user_name on the array)
	UserIn, PasswordIn string // what the target presents back (initiator_user_name on the array)
}

// String and GoString keep the secrets out of every log and error.
func (c CHAP) String() string { return "CHAP of " + c.User }

// GoString is String.
func (c CHAP) GoString() string { return c.String() }
