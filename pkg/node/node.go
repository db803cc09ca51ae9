// Package node is the CSI node service: it stages a volume (attach, prove, make a
// file system once, mount), publishes it into workloads, measures and grows it,
// and takes all of it down again.
//
// Three things are promised above all. A file system is made only on a device
// that is proven to be the promised one, readable and empty (FM 1). What is
// mounted is proven by device number, never by name (FM 7, 8). And a record is on
// disk before the first side effect, so that a plugin killed anywhere goes on
// from there (FM 19).
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/internal/filesystem"
	"github.com/datera-csi/datera-csi/internal/mountinfo"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// Attacher makes a LUN a block device of this host and takes it away again;
// *iscsi.Initiator is one. All may be repeated.
type Attacher interface {
	Attach(ctx context.Context, t iscsi.Target, auth *iscsi.CHAP) (iscsi.Device, error)
	// Complete waits for the paths that Attach did not wait for.
	Complete(ctx context.Context, t iscsi.Target, d iscsi.Device) error
	Detach(ctx context.Context, t iscsi.Target) error
	Find(ctx context.Context, t iscsi.Target) (iscsi.Device, error)
	// Prove is Find that asks the device itself who it is.
	Prove(ctx context.Context, t iscsi.Target) (iscsi.Device, error)
	Rescan(ctx context.Context, t iscsi.Target) (bytes int64, err error)
	// FailRefusedIO lets what waits for a path fail, once the array refuses this host.
	FailRefusedIO(ctx context.Context, t iscsi.Target) error
	// Sever keeps from the LUN whatever this host still holds for it, and Rejoin attaches
	// it anew.
	Sever(ctx context.Context, t iscsi.Target) error
	Rejoin(ctx context.Context, t iscsi.Target) error
	// Resume lets a map that stays suspended work again.
	Resume(ctx context.Context, t iscsi.Target) error
	// Condition and Fabric look, and never wait for a device.
	Condition(ctx context.Context, t iscsi.Target) (iscsi.Condition, error)
	Fabric(ctx context.Context) (iscsi.Fabric, error)
}

// Mounts reads and changes the mount table of this process. Mount and Unmount
// may wait for a device without end; no ctx can free them, so their callers keep
// the volume locked until they return.
type Mounts interface {
	// List returns every mount, in the order of the kernel's table: of two mounts
	// on one path the later hides the earlier.
	List() ([]Mount, error)
	// Mount is ErrDamaged where the kernel says that the file system is, and ErrMountRead
	// where it had an I/O error, which a damaged xfs may show as, too.
	Mount(source, target, fsType string, options []string) error
	// Unmount is never lazy and never forced: a busy mount is an error (FM 13).
	Unmount(target string) error
}

// Devices reads block devices. But for SetReadOnly it changes nothing.
type Devices interface {
	// Number says which block device the node at path stands for. A path that is
	// no block device is ErrNotBlock.
	Number(path string) (Number, error)
	// Size is the capacity the kernel holds for the device, in bytes. It never
	// waits for the device.
	Size(n Number) (int64, error)
	// Claim opens the device for reading, and for itself: a device that is
	// mounted, or held by a map or by a running mkfs, is ErrHeld.
	Claim(path string) (Disk, error)
	// SetReadOnly makes the kernel refuse every write to the device, or take them
	// again. It may be repeated.
	SetReadOnly(path string, readOnly bool) error
	// Origin says which iSCSI LUN the device is. A device the kernel no longer
	// knows is fs.ErrNotExist; one that is not iSCSI is iscsi.ErrNotISCSI.
	Origin(n Number) (iscsi.Target, error)
	// FilesystemBytes is the size of the file system of this type that is on
	// device and mounted at path, as the kernel has it now.
	FilesystemBytes(fsType, device, path string) (int64, error)
	// FilesystemErrors is what the file system of this type remembers of errors,
	// as the kernel has it in memory.
	FilesystemErrors(fsType string, n Number) (FilesystemErrors, error)
	// Stopped says whether the file system takes no writes any more because of the
	// errors it remembers, although its mount does not show it.
	Stopped(m Mount, e FilesystemErrors) (bool, error)
	// Usage is statfs, and Alive reads a name of the directory. They may wait for
	// the device without end.
	Usage(path string) (Usage, error)
	Alive(dir string) error
	// Sync writes out what the file system of dir holds back, and says what an
	// unmount does not: whether it could. It may wait without end, too.
	Sync(dir string) error
}

// Disk is a device opened for reading. ReadAt takes offsets and lengths that are
// multiples of 4096, except at the very end of the device, and parallel calls.
type Disk interface {
	io.ReaderAt
	io.Closer
	Size() (int64, error)
}

// Usage of a mounted file system.
type Usage struct {
	TotalBytes, FreeBytes, AvailableBytes int64
	TotalInodes, FreeInodes               int64
}

// Number is the major and minor number of a block device.
type Number = mountinfo.Number

// Mount is one line of the kernel's mount table.
type Mount = mountinfo.Mount

// Errors of Devices; match them with errors.Is.
var (
	ErrNotBlock = errors.New("not a block device")
	ErrHeld     = errors.New("the device is held by a mount, a map or another program")

	// ErrDamaged and ErrMountRead are of Mounts.
	ErrDamaged   = errors.New("the file system is damaged")
	ErrMountRead = errors.New("the kernel could not read the file system")
)

// Config of a Server. All fields without a default are needed.
type Config struct {
	NodeID    string // the initiator's IQN: what array ACLs admit
	Attacher  Attacher
	Mounts    Mounts            // NewMounts
	Devices   Devices           // NewDevices
	Runner    iscsi.Runner      // runs blkid, mkfs.xfs, mke2fs, xfs_growfs, resize2fs, xfs_repair, e2fsck
	Kernel    string            // release that runs here, as uname -r; empty is taken for an old one
	Topology  map[string]string // where this node is; empty says nothing about it
	RecordDir string            // a directory that outlives this process and the pod, not on tmpfs
	Paths     Paths             // what Reconcile looks at and mends; nil: there is no Reconcile

	// TargetPrefix begins the names of the array's targets. LUNs of such targets that no
	// record speaks of are taken down once nobody uses them and the array refuses this
	// host; empty: they are left alone.
	TargetPrefix string

	MaxVolumes  int64 // volumes this node takes; 0 means as many as its sessions suffice for
	MaxSessions int64 // iSCSI sessions this host may have, others' too; 0 means 512
	OnePath     bool  // a volume has one session, however many portals

	// Inspect looks whether this host is fit. While a finding says that it is not,
	// and no volume is staged, NodeGetInfo refuses. Nil: it is.
	Inspect func(ctx context.Context) []iscsi.Finding

	ParallelStages int64         // volumes that are staged at a time, and as many unstaged, the others wait
	TurnTime       time.Duration // a call that takes longer than this no longer counts as one of them; 0 means 2 min for a stage, 30 s for an unstage

	FormatTimeout time.Duration // after this long a mkfs is killed; 0 means 30 min
	ForgottenTime time.Duration // how long a volume must look forgotten before Reconcile takes it down; 0 means 15 min
	WatchTime     time.Duration // how often a step that may wait for a device asks whether the array still admits this node; 0 means 10 s
	StatsTimeout  time.Duration // after this long NodeGetVolumeStats and NodeGetVolumeHealth give up on a device; 0 means 10 s
	Clock         func() time.Time
}

// Server is the node service. Its methods may be called in parallel; calls for
// one volume are kept apart, the second hears Aborted.
type Server struct {
	csi.UnimplementedNodeServer

	id            string
	attacher      Attacher
	mounts        Mounts
	devices       Devices
	runner        iscsi.Runner
	records       recordStore
	kernel        filesystem.Kernel
	allotment     allotment
	inspect       func(context.Context) []iscsi.Finding
	place         *csi.Topology // nil: not told
	formatTimeout time.Duration
	statsTimeout  time.Duration
	watchTime     time.Duration
	clock         func() time.Time

	operations operations
	staging    turns
	unstaging  turns
	stats      measurements[[]*csi.VolumeUsage]
	looks      measurements[bool]
	lossTold   sync.Map // volumes of whose loss a caller has heard
	reconciler reconciler
}

// recordStore keeps the records; *records is the one, on disk.
type recordStore interface {
	load(volume string) (*record, error)
	save(rec *record) error
	remove(volume string) error
	list() ([]*record, []error)
	holderOf(t iscsi.Target, but string) (string, error)
	format(serial string) (known format, file string, err error)
	saveFormat(f format) error
}

// New returns a Server. It looks at nothing but cfg, and refuses a node id that
// is no initiator name or one that every fresh installation carries: two such
// nodes would be one to the array (FM 10).
func New(cfg Config) (*Server, error) {
	if err := iscsi.CheckName(cfg.NodeID); err != nil {
		return nil, fmt.Errorf("node: %w; write a name of its own into /etc/iscsi/initiatorname.iscsi, e.g. with iscsi-iname, and restart iscsid", err)
	}
	switch {
	case cfg.Attacher == nil || cfg.Mounts == nil || cfg.Devices == nil || cfg.Runner == nil || cfg.Clock == nil:
		return nil, errors.New("node: Attacher, Mounts, Devices, Runner and Clock are needed")
	case cfg.RecordDir == "":
		return nil, errors.New("node: a directory for the records is needed; without one a restart would forget what is staged")
	case cfg.MaxVolumes < 0 || cfg.MaxSessions < 0 || cfg.ParallelStages < 1:
		return nil, fmt.Errorf("node: at most %d volumes, %d sessions and %d stages at a time make no sense", cfg.MaxVolumes, cfg.MaxSessions, cfg.ParallelStages)
	}
	s := &Server{
		id:            cfg.NodeID,
		attacher:      cfg.Attacher,
		mounts:        cfg.Mounts,
		devices:       cfg.Devices,
		runner:        cfg.Runner,
		allotment:     allotment{fixed: cfg.MaxVolumes, sessions: orDefault(cfg.MaxSessions, 512), onePath: cfg.OnePath},
		inspect:       cfg.Inspect,
		staging:       newTurns(cfg.ParallelStages, orDefault(cfg.TurnTime, 2*time.Minute)),
		unstaging:     newTurns(cfg.ParallelStages, orDefault(cfg.TurnTime, 30*time.Second)),
		formatTimeout: orDefault(cfg.FormatTimeout, 30*time.Minute),
		statsTimeout:  orDefault(cfg.StatsTimeout, 10*time.Second),
		watchTime:     orDefault(cfg.WatchTime, 10*time.Second),
		clock:         cfg.Clock,
	}
	s.records = &remembered{recordStore: &records{dir: cfg.RecordDir}, seen: s.reconciler.remember}
	s.reconciler.paths, s.reconciler.prefix, s.reconciler.grace = cfg.Paths, cfg.TargetPrefix, orDefault(cfg.ForgottenTime, 15*time.Minute)
	if cfg.Kernel != "" {
		kernel, err := filesystem.ParseKernel(cfg.Kernel)
		if err != nil {
			return nil, fmt.Errorf("node: kernel %q %w", cfg.Kernel, err)
		}
		s.kernel = kernel
	}
	if len(cfg.Topology) > 0 {
		s.place = &csi.Topology{Segments: maps.Clone(cfg.Topology)}
	}
	return s, nil
}

func orDefault[T time.Duration | int64](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// NodeGetCapabilities lists what is whole.
func (s *Server) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, c := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.NodeServiceCapability_RPC_GET_STORAGE_HEALTH,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}},
		})
	}
	return resp, nil
}
