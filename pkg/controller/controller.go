// Package controller is the CSI controller service of a Datera array: it makes,
// deletes, grows, admits and fences volumes over the array's REST API.
//
// Every RPC has four beats: parse, lock, ensure, answer. Every id is
// deterministic and the array is the only truth, so two live replicas of this
// service do each other no harm.
package controller

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/internal/keylock"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// Array is what this package asks of an array. *dateraclient.Client is the one
// implementation; see there for the errors.
type Array interface {
	Volume(ctx context.Context, name string) (*dateraclient.Volume, error)
	Walk(ctx context.Context, from dateraclient.Place, size int) iter.Seq2[dateraclient.Step, error]
	System(ctx context.Context) (*dateraclient.System, error)
	Template(ctx context.Context, name string) (*dateraclient.Template, error)
	CreateVolume(ctx context.Context, spec dateraclient.VolumeSpec) (*dateraclient.Volume, error)
	CheckPlace(ctx context.Context, spec dateraclient.VolumeSpec) error
	CloneVolume(ctx context.Context, spec dateraclient.VolumeSpec, from dateraclient.Origin) (*dateraclient.Volume, error)
	Conform(ctx context.Context, volume *dateraclient.Volume, spec dateraclient.VolumeSpec) (*dateraclient.Volume, error)
	ModifyVolume(ctx context.Context, volume *dateraclient.Volume, to dateraclient.Change) error
	GrowVolume(ctx context.Context, volume *dateraclient.Volume, to dateraclient.GiB) (*dateraclient.Volume, error)
	DeleteVolume(ctx context.Context, volume *dateraclient.Volume) error
	RetireVolume(ctx context.Context, volume *dateraclient.Volume, name, description string) error
	CreateSnapshot(ctx context.Context, volume string, spec dateraclient.SnapshotSpec) (*dateraclient.Volume, *dateraclient.Snapshot, error)
	AwaitSnapshot(ctx context.Context, volume *dateraclient.Volume, snapshot *dateraclient.Snapshot) (*dateraclient.Snapshot, error)
	DeleteSnapshot(ctx context.Context, volume *dateraclient.Volume, utcTS string) error
	Grant(ctx context.Context, volume *dateraclient.Volume, iqn string) (*dateraclient.Volume, error)
	Revoke(ctx context.Context, volume *dateraclient.Volume, iqn string) error
}

// Config is what a Server is made of.
type Config struct {
	Backends *Backends        // required
	Clock    func() time.Time // dates what is kept; nil is time.Now

	// Namesakes are the nodes that have an initiator name when there are several, so
	// far as that is known; nil: nobody knows. It must not wait for anything.
	Namesakes func(ctx context.Context, initiator string) (nodes []string)

	TurnTime time.Duration // how long a publish or an unpublish waits for other calls of its volume; 0 means 10 s
}

// Server implements csi.ControllerServer. It is safe for concurrent use.
type Server struct {
	csi.UnimplementedControllerServer

	backends *Backends
	volumes  keylock.Keys       // held by volume id, from the first look at the array to the answer
	names    keylock.Keys       // held by snapshot uuid while the snapshot is made
	leaving  keylock.Keys       // held by snapshot id while the snapshot is deleted
	taken    memory[snapshotID] // by uuid; believed after the array has confirmed it
	placed   memory[string]     // the backend by a volume's name: it may be there since a call of this process
	silent   memory[time.Time]  // backends that did not answer, by name, and until when they are not waited for
	admitted memory[admission]  // by volume and node
	clock    func() time.Time
	sharing  func(ctx context.Context, initiator string) (nodes []string)
	turnTime time.Duration
}

// New makes a Server. It asks nothing of the array.
func New(cfg Config) *Server {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Namesakes == nil {
		cfg.Namesakes = func(context.Context, string) []string { return nil }
	}
	if cfg.TurnTime == 0 {
		cfg.TurnTime = 10 * time.Second // a sidecar gives a call a minute
	}
	return &Server{backends: cfg.Backends, clock: cfg.Clock, sharing: cfg.Namesakes, turnTime: cfg.TurnTime}
}

// ControllerGetCapabilities lists what this Server offers in full.
//
// PUBLISH_READONLY is not among them: the array cannot admit an initiator for
// reading only, nor does it know who was admitted for what, as the capability
// would have it. A read-only publish is honoured all the same, by the node.
func (*Server) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	types := []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES,
		csi.ControllerServiceCapability_RPC_GET_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_MODIFY_VOLUME,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_GET_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	}
	caps := make([]*csi.ControllerServiceCapability, len(types))
	for i, t := range types {
		caps[i] = &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{
			Rpc: &csi.ControllerServiceCapability_RPC{Type: t},
		}}
	}
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: caps}, nil
}

// lock takes the volume for one call. The caller releases it; another call for
// the same volume hears Aborted and comes back (CSI v1.13, "Concurrency").
func (s *Server) lock(id volumeID) (unlock func(), err error) {
	unlock, ok := s.volumes.TryLock(id.String())
	if !ok {
		return nil, fmt.Errorf("volume %s: %w", id, errHeld)
	}
	return unlock, nil
}

// lockInTurn is lock for what many nodes ask of one volume at once: they wait a little
// for each other, since who hears Aborted stays away for longer and longer.
func (s *Server) lockInTurn(ctx context.Context, id volumeID) (unlock func(), err error) {
	waiting, cancel := context.WithTimeout(ctx, s.turnTime)
	defer cancel()
	unlock, err = s.volumes.Lock(waiting, id.String())
	if err != nil && ctx.Err() == nil {
		err = errHeld
	}
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", id, err)
	}
	return unlock, nil
}

// lockEach is lock for a volume that may come to be on any of the backends.
func (s *Server) lockEach(name string, on []candidate) (unlock func(), err error) {
	var held []func()
	unlock = func() {
		for _, release := range held {
			release()
		}
	}
	for _, c := range on {
		release, err := s.lock(volumeID{Backend: c.Backend, Name: name})
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, release)
	}
	return unlock, nil
}

// find reads the volume of an id from its array.
func (s *Server) find(ctx context.Context, id volumeID) (Array, *dateraclient.Volume, error) {
	array, err := s.backends.array(id.Backend)
	if err != nil {
		return nil, nil, err
	}
	v, err := array.Volume(ctx, id.Name)
	return array, v, err
}
