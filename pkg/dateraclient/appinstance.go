package dateraclient

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

const (
	allowAll  = "allow_all"
	denyAll   = "deny_all"
	online    = "online"
	offline   = "offline"
	available = "available"

	// iscsiPort is never part of what the array says.
	iscsiPort = 3260
)

// appInstance is an app instance as the array sends it. What is optional there
// may be missing, null or empty.
type appInstance struct {
	Name       text `json:"name"`
	ID         text `json:"id"`
	Descr      text `json:"descr"`
	CreateMode text `json:"create_mode"`
	AdminState text `json:"admin_state"`
	OpState    text `json:"op_state"`
	ACMode     text `json:"access_control_mode"`
	Template   *ref `json:"app_template"`
	CloneSrc   *ref `json:"clone_src"`
	CloneVol   *ref `json:"clone_volume_src"`
	CloneSnap  *ref `json:"clone_snapshot_src"`

	StorageInstances []storageInstance `json:"storage_instances"`
	Snapshots        []snapshotWire    `json:"snapshots"`

	conditionWire
}

type storageInstance struct {
	Name       text         `json:"name"`
	AdminState text         `json:"admin_state"`
	OpState    text         `json:"op_state"`
	ACMode     text         `json:"access_control_mode"`
	Volumes    []volumeWire `json:"volumes"`
	IPPool     *ref         `json:"ip_pool"`
	Access     struct {
		IPs []text `json:"ips"`
		IQN text   `json:"iqn"`
	} `json:"access"`
	ACL struct {
		Initiators []ref `json:"initiators"`
		Groups     []ref `json:"initiator_groups"`
	} `json:"acl_policy"`
	Auth struct {
		Type text `json:"type"`
	} `json:"auth"`
	ActiveInitiators []text `json:"active_initiators"`

	conditionWire
}

type volumeWire struct {
	Name      text           `json:"name"`
	UUID      text           `json:"uuid"`
	Size      number         `json:"size"`
	Replicas  number         `json:"replica_count"`
	Used      number         `json:"capacity_in_use"` // GiB, fractions allowed
	Mode      text           `json:"placement_mode"`
	Policy    *ref           `json:"placement_policy"`
	OpState   text           `json:"op_state"`
	OpStatus  text           `json:"op_status"`
	QoS       *qosWire       `json:"performance_policy"`
	Snapshots []snapshotWire `json:"snapshots"`

	conditionWire
}

// qosWire is a performance policy. The array takes a missing limit for no limit.
type qosWire struct {
	ReadIOPS       int `json:"read_iops_max,omitempty"`
	WriteIOPS      int `json:"write_iops_max,omitempty"`
	TotalIOPS      int `json:"total_iops_max,omitempty"`
	ReadBandwidth  int `json:"read_bandwidth_max,omitempty"`
	WriteBandwidth int `json:"write_bandwidth_max,omitempty"`
	TotalBandwidth int `json:"total_bandwidth_max,omitempty"`
}

// shape is an error about an object that this client cannot handle as a volume.
func shape(format string, args ...any) error {
	return &Error{kind: ErrShape, Message: fmt.Sprintf(format, args...)}
}

// volume is the app instance in CSI's terms; ErrShape if it has any other number
// of storage instances or volumes than one.
func (a *appInstance) volume() (*Volume, error) {
	si, vol, err := a.children()
	if err != nil {
		return nil, err
	}
	size, err := a.wholeGiB(vol)
	if err != nil {
		return nil, err
	}
	portals, err := a.portals(si)
	if err != nil {
		return nil, err
	}
	mode := si.ACMode
	if mode == "" {
		mode = a.ACMode
	}
	return &Volume{
		Name: string(a.Name), ID: string(a.ID),
		Description: string(a.Descr), CreateMode: string(a.CreateMode), Template: a.Template.name(),
		Online:          a.AdminState != offline && si.AdminState != offline,
		OpState:         string(a.OpState),
		Exported:        si.OpState == available,
		StorageInstance: string(si.Name), Child: string(vol.Name),
		Size: size, Replicas: int(vol.Replicas),
		PlacementMode: string(vol.Mode), PlacementPolicy: vol.Policy.name(),
		IPPool: si.IPPool.name(), QoS: vol.QoS.qos(), CHAP: string(si.Auth.Type),
		UUID: string(vol.UUID), UsedBytes: int64(float64(vol.Used) * float64(GiB(1).Bytes())),
		IQN: string(si.Access.IQN), Portals: portals,
		Initiators: names(si.ACL.Initiators), InitiatorGroups: names(si.ACL.Groups),
		AllowAll: mode == allowAll, ActiveInitiators: plain(si.ActiveInitiators),
		Source: a.source(), Snapshots: a.snapshots(vol),
		Health: a.health(si, vol),
	}, nil
}

// children are the one storage instance and the one volume.
func (a *appInstance) children() (*storageInstance, *volumeWire, error) {
	var found []string
	for _, si := range a.StorageInstances {
		for _, v := range si.Volumes {
			found = append(found, string(si.Name+"/"+v.Name))
		}
		if len(si.Volumes) == 0 {
			found = append(found, string(si.Name)+"/(none)")
		}
	}
	switch {
	case !isName(string(a.Name)) || !isName(string(a.ID)):
		return nil, nil, shape("an app instance with the name %q and the id %q",
			clip(string(a.Name), excerptBytes), clip(string(a.ID), excerptBytes))
	case len(a.StorageInstances) != 1 || len(a.StorageInstances[0].Volumes) != 1:
		return nil, nil, shape("app instance %s has %d storage instances with the volumes [%s], not one with one",
			a.Name, len(a.StorageInstances), strings.Join(found, ", "))
	}
	si, v := &a.StorageInstances[0], &a.StorageInstances[0].Volumes[0]
	if !isName(string(si.Name)) || !isName(string(v.Name)) {
		return nil, nil, shape("app instance %s has a volume whose name is %q", a.Name,
			clip(string(si.Name+"/"+v.Name), excerptBytes))
	}
	return si, v, nil
}

// wholeGiB refuses a size that GiB cannot hold: a rounded one would later be taken
// for the wrong device.
func (a *appInstance) wholeGiB(v *volumeWire) (GiB, error) {
	size := GiB(v.Size)
	if number(size) != v.Size || size <= 0 || size > maxSize {
		return 0, shape("app instance %s: volume %s has the size %v GiB", a.Name, v.Name, v.Size)
	}
	return size, nil
}

// maxSize keeps sizes in bytes within int64; the array's own limit is far below.
const maxSize = GiB(1) << 32

func (a *appInstance) portals(si *storageInstance) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, ip := range si.Access.IPs {
		addr, err := netip.ParseAddr(string(ip))
		if err != nil {
			return nil, shape("app instance %s: storage instance %s has the address %q", a.Name, si.Name, ip)
		}
		out = append(out, netip.AddrPortFrom(addr, iscsiPort))
	}
	return out, nil
}

// source tells a clone's origin from the form of its path.
func (a *appInstance) source() Source {
	for _, r := range []*ref{a.CloneSnap, a.CloneVol, a.CloneSrc} {
		switch {
		case r == nil || r.Path == "":
		case strings.Contains(r.Path, "/snapshots/"):
			return Source{Snapshot: r.Path}
		default:
			return Source{Volume: r.Path}
		}
	}
	return Source{}
}

// snapshots are those of the volume and those of the app instance as a whole:
// deleting it takes both along.
func (a *appInstance) snapshots(v *volumeWire) []Snapshot {
	var out []Snapshot
	for _, s := range slices.Concat(v.Snapshots, a.Snapshots) {
		out = append(out, s.snapshot())
	}
	return out
}

func (q *qosWire) qos() QoS {
	if q == nil {
		return QoS{}
	}
	return QoS(*q)
}

func plain(in []text) []string {
	var out []string
	for _, t := range in {
		out = append(out, string(t))
	}
	return out
}
