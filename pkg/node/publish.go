package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/internal/faultpoint"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// NodePublishVolume binds the staged volume onto the target path: its file system,
// or the device file of a block volume. The staging path is proven to be a mount
// of this volume first; without that a workload would write to the node's own
// disk (FM 8). A file system that has stopped and that nobody else uses is mounted anew:
// the kubelet, for which it is staged, would not ask for that (FM 7).
func (s *Server) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	r, err := parsePublish(req)
	if err != nil {
		return nil, err
	}
	op, err := s.operations.begin(ctx, r.Volume, "NodePublishVolume")
	if err != nil {
		return nil, statusOf(err)
	}
	defer op.release()
	if err := s.publish(ctx, op, r); err != nil {
		return nil, statusOf(fmt.Errorf("publish volume %s: %w", r.Volume, err))
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (s *Server) publish(ctx context.Context, op *operation, r publishRequest) error {
	rec, err := s.stagedRecord(ctx, r)
	if err != nil {
		return err
	}
	target, err := resolveOrMake(r.Target)
	if err != nil {
		return err
	}
	if err = s.heedAdmission(ctx, op, rec, r.Context.Admission); err != nil {
		return err
	}
	device, err := s.attacher.Prove(ctx, rec.target())
	if err != nil {
		return fmt.Errorf("prove the device: %w", err)
	}
	numbers, err := s.numbers(device)
	if err != nil {
		return err
	}
	p := &publication{record: rec, device: device, numbers: numbers, at: published{Path: target, ReadOnly: r.ReadOnly || rec.ReadOnly}, oneTarget: r.Capability.OneTarget}
	err = s.runWatched(ctx, op, rec, "binding the target path", func(ctx context.Context) error {
		cause := s.ensurePublished(ctx, p)
		if anew := errors.Is(cause, errStopped) || rec.Remount && errors.Is(cause, errNotStaged); !anew {
			return cause
		}
		if failed := s.remount(ctx, p, r, cause); failed != nil {
			return failed
		}
		return s.ensurePublished(ctx, p)
	})
	if errors.Is(err, errUnwritten) {
		s.tellLoss(ctx, rec)
	}
	return err
}

// remount mounts a file system that stopped anew, unless somebody uses it: then the cause
// is the answer. That it has begun is in the record, for where nothing is mounted on the
// staging path no other publish may mount something.
func (s *Server) remount(ctx context.Context, p *publication, r publishRequest, cause error) error {
	mounts, err := s.mounts.List()
	if err != nil {
		return err
	}
	if len(s.usesOf(mounts, p.numbers, p.record.Staging)) > 0 {
		return cause
	}
	if err := s.noteRemount(p.record, true); err != nil {
		return err
	}
	if err := s.ensureStaged(ctx, p.record, p.device, r.staging(p.record)); err != nil {
		return err
	}
	s.hearAnew(p.record)
	return s.noteRemount(p.record, false)
}

func (s *Server) noteRemount(rec *record, begun bool) error {
	if rec.Remount == begun {
		return nil
	}
	rec.Remount = begun
	return s.records.save(rec)
}

// stagedRecord returns the record of a staged volume that fits the request. When
// it was lost, the publish context and the mount on the staging path bring it back.
func (s *Server) stagedRecord(ctx context.Context, r publishRequest) (*record, error) {
	staging, err := resolve(r.Staging)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errNotStaged, err)
	}
	if err != nil {
		return nil, err
	}
	rec, err := s.records.load(r.Volume)
	if errors.Is(err, fs.ErrNotExist) {
		rec, err = s.derive(ctx, r.Volume, staging)
		if errors.Is(err, errNotStaged) && r.Capability.Mode == modeBlock {
			rec, err = s.adoptBlock(ctx, r, staging)
		}
	}
	if err != nil {
		return nil, err
	}
	asked := r.Context.Target
	switch {
	case rec.Staging != staging:
		return nil, fmt.Errorf("%w: it is staged at %s, not at %s", errNotStaged, rec.Staging, staging)
	case rec.Target.IQN != asked.IQN || rec.Target.LUN != asked.LUN || rec.Target.Serial != asked.Serial:
		return nil, fmt.Errorf("%w: it is staged from target %s LUN %d, and attached as target %s LUN %d; unstage it first", errForeign, rec.Target.IQN, rec.Target.LUN, asked.IQN, asked.LUN)
	case rec.Mode != r.Capability.Mode || rec.FSType != r.Capability.FSType && !r.Capability.AnyFSType:
		return nil, fmt.Errorf("%w: it is staged as %s %s, and asked for as %s %s", errNotStaged, rec.Mode, rec.FSType, r.Capability.Mode, r.Capability.FSType)
	}
	return rec, nil
}

// adoptBlock makes the lost record of a block volume anew, when it is attached.
func (s *Server) adoptBlock(ctx context.Context, r publishRequest, staging string) (*record, error) {
	rec := &record{Volume: r.Volume, Staging: staging, Target: recordTarget(r.Context.Target), Mode: modeBlock, ReadOnly: r.Capability.ReadOnly || r.Context.ReadOnly}
	if err := s.checkUnheld(ctx, rec); err != nil {
		return nil, err
	}
	if _, err := s.attacher.Find(ctx, r.Context.Target); err != nil {
		return nil, fmt.Errorf("%w: there is no record, and: %w", errNotStaged, err)
	}
	klog.FromContext(ctx).Info("The block volume's record was lost and is made anew from its publish context", "volume", r.Volume, "target", rec.Target.IQN, "lun", rec.Target.LUN)
	return rec, s.records.save(rec)
}

// publication is one target path of one volume in the making.
type publication struct {
	record    *record
	device    iscsi.Device
	numbers   map[Number]bool
	at        published
	oneTarget bool
}

// ensurePublished makes the target path one bind of the volume.
func (s *Server) ensurePublished(ctx context.Context, p *publication) error {
	mounts, err := s.mounts.List()
	if err != nil {
		return err
	}
	if p.record.Mode == modeMount {
		if err = s.checkUsable(ctx, p, at(mounts, p.record.Staging)); err != nil {
			return err
		}
	}
	done, err := s.publishedAlready(p, at(mounts, p.at.Path))
	if err != nil {
		return err
	}
	if !done && p.oneTarget {
		if uses := s.usesOf(mounts, p.numbers, p.record.Staging, p.at.Path); len(uses) > 0 {
			return fmt.Errorf("%w: its access mode allows one workload, and it is published on %v", errInUse, uses)
		}
	}
	if before, known := p.record.publishedAt(p.at.Path); !known || before != p.at {
		if err := s.records.save(p.record.with(p.at)); err != nil {
			return err
		}
	}
	if done {
		return nil
	}
	faultpoint.At("publish: record written")
	if p.record.Mode == modeBlock {
		if err := s.limitBlock(p.record.with(p.at), p.device); err != nil {
			return err
		}
	}
	return s.bind(p)
}

// checkUsable proves that what is mounted on the staging path is the volume, and that it
// works. Who only reads may take from a stopped file system what is left. The look into it
// is left behind when the device does not answer, so that others may unpublish (FM 31).
func (s *Server) checkUsable(ctx context.Context, p *publication, there []Mount) error {
	if err := s.checkMount(p.record, p.numbers, there); err != nil {
		return err
	}
	_, err := s.looks.do(ctx, "publish "+p.record.Volume, s.statsTimeout, func(context.Context) (bool, error) { return true, s.checkReadable(there[0]) })
	if err != nil || p.at.ReadOnly {
		return err
	}
	return s.checkWritable(p.record, there[0])
}

// limitBlock makes a raw block device read-only unless somebody here may write to
// it: the bind of a device file may be as read-only as it likes, the kernel takes
// writes through it all the same.
func (s *Server) limitBlock(rec *record, device iscsi.Device) error {
	return s.devices.SetReadOnly(device.Path, !rec.writable())
}

// keepReadOnly makes the device of a raw volume that nobody here may write to read-only
// again: before Linux 5.12 a map that gets a path, or grows, takes writes anew (FM 18).
func (s *Server) keepReadOnly(ctx context.Context, op *operation, rec *record) error {
	if rec.Mode != modeBlock || rec.writable() {
		return nil
	}
	device, err := s.attacher.Find(ctx, rec.target())
	if err != nil {
		return nil //nolint:nilerr // whether it is there, and itself, others tell
	}
	return s.runWatched(ctx, op, rec, "keeping the device read-only", func(context.Context) error { return s.limitBlock(rec, device) })
}

// writable says whether somebody here may write to a raw volume, or may yet.
func (r *record) writable() bool {
	return !r.ReadOnly && (len(r.Targets) == 0 || slices.ContainsFunc(r.Targets, func(p published) bool { return !p.ReadOnly }))
}

// publishedAlready says whether the target path is the bind it should be. A bind
// of ours that a crash left writable, of a target that was always to be
// read-only, is taken off; nothing used it yet, for no publish answered OK.
func (s *Server) publishedAlready(p *publication, there []Mount) (bool, error) {
	for _, m := range there {
		if !s.showsVolume(p.record, p.numbers, m) {
			return false, fmt.Errorf("%w: %s is a mount of %s (device %s); unmount it, or use another path", errForeign, p.at.Path, m.Source, m.Device)
		}
	}
	if len(there) == 0 {
		return false, nil
	}
	if len(there) > 1 {
		return false, fmt.Errorf("%w: %d mounts are stacked on %s; unpublish it first", errIncompatible, len(there), p.at.Path)
	}
	if there[0].ReadOnly() == p.at.ReadOnly {
		return true, nil
	}
	if before, known := p.record.publishedAt(p.at.Path); known && before == p.at && p.at.ReadOnly {
		return false, s.unmount(p.at.Path)
	}
	return false, fmt.Errorf("%w: %s is published read-only: %v, and asked for read-only: %v", errIncompatible, p.at.Path, there[0].ReadOnly(), p.at.ReadOnly)
}

// bind mounts the volume on the target path, and looks whether it did.
func (s *Server) bind(p *publication) error {
	source, prepare := p.record.Staging, ensureDir
	if p.record.Mode == modeBlock {
		source, prepare = p.device.Path, ensureFile
	}
	if err := prepare(p.at.Path); err != nil {
		return err
	}
	faultpoint.At("publish: target made")
	options := []string{"bind"}
	if p.at.ReadOnly {
		options = append(options, "ro")
	}
	if err := s.mounts.Mount(source, p.at.Path, "", options); err != nil {
		return err
	}
	faultpoint.At("publish: bound")
	mounts, err := s.mounts.List()
	if err != nil {
		return err
	}
	there := at(mounts, p.at.Path)
	if len(there) != 1 || !s.showsVolume(p.record, p.numbers, there[0]) || p.at.ReadOnly && !there[0].ReadOnly() {
		return fmt.Errorf("%w: %s was bound on %s, but the mount table shows %d mounts there and not that", errForeign, source, p.at.Path, len(there))
	}
	return nil
}
