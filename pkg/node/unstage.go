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
)

// NodeUnstageVolume unmounts the staging path, detaches the volume and forgets
// it, in this order; what fails keeps the record and is an error (FM 5). A volume
// of which nothing is there is success. Calls beyond Config.ParallelStages wait for
// their turn, as those of NodeStageVolume do.
func (s *Server) NodeUnstageVolume(ctx context.Context, req *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	r, err := parseUnstage(req)
	if err != nil {
		return nil, err
	}
	const what = "NodeUnstageVolume"
	op, err := s.operations.begin(ctx, r.Volume, what)
	if err != nil {
		return nil, statusOf(err)
	}
	defer op.release()
	if err := op.takeTurn(ctx, s.unstaging, what); err != nil {
		return nil, statusOf(fmt.Errorf("unstage volume %s: %w", r.Volume, err))
	}
	if err := s.unstage(ctx, op, r); err != nil {
		return nil, statusOf(fmt.Errorf("unstage volume %s: %w", r.Volume, err))
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

func (s *Server) unstage(ctx context.Context, op *operation, r unstageRequest) error {
	staging, err := resolve(r.Staging)
	if errors.Is(err, fs.ErrNotExist) {
		staging = r.Staging // nothing can be mounted there, but the record may know more
	} else if err != nil {
		return err
	}
	rec, err := s.records.load(r.Volume)
	if errors.Is(err, fs.ErrNotExist) {
		rec, err = s.derive(ctx, r.Volume, staging)
	}
	if errors.Is(err, errNotStaged) {
		return nil
	}
	if err != nil {
		return err
	}
	numbers, err := s.knownNumbers(ctx, rec)
	if err != nil {
		return err
	}
	if err := s.takeDown(ctx, op, rec, staging, numbers); err != nil {
		return err
	}
	faultpoint.At("unstage: detached")
	s.lossTold.Delete(r.Volume)
	return s.records.remove(r.Volume)
}

// takeDown unmounts the staging path and detaches the volume, whose device has
// these numbers; its record stays.
func (s *Server) takeDown(ctx context.Context, op *operation, rec *record, staging string, numbers map[Number]bool) error {
	if err := s.unmountStaging(ctx, op, rec, staging, numbers); err != nil {
		return err
	}
	faultpoint.At("unstage: unmounted")
	if err := s.attacher.Detach(ctx, rec.target()); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	return nil
}

// unmountStaging is takeOff as a step of a call, which hears of what is lost.
func (s *Server) unmountStaging(ctx context.Context, op *operation, rec *record, staging string, numbers map[Number]bool) error {
	err := s.runWatched(ctx, op, rec, "unmounting", func(ctx context.Context) error { return s.takeOff(ctx, rec, staging, numbers) })
	if errors.Is(err, errUnwritten) {
		s.tellLoss(ctx, rec)
	}
	return err
}

// derive makes a record out of what is mounted on the staging path: the mount
// names the device, and the device's place in sysfs the target, the LUN and the
// portals. That is all a detach needs. A raw block volume leaves no mount there;
// without a record nothing on this host ties it to its id, and its session ends
// when the controller takes this node out of the volume's ACL.
func (s *Server) derive(ctx context.Context, volume, staging string) (*record, error) {
	mounts, err := s.mounts.List()
	if err != nil {
		return nil, err
	}
	there := at(mounts, staging)
	if len(there) == 0 {
		return nil, fmt.Errorf("%w: there is neither a record nor a mount on %s", errNotStaged, staging)
	}
	m := there[len(there)-1]
	origin, err := s.devices.Origin(m.Device)
	if err != nil {
		return nil, fmt.Errorf("%w: volume %s has no record here, and the mount of %s on %s leads to no target: %w; unmount it by hand", errForeign, volume, m.Source, staging, err)
	}
	rec := &record{
		Volume: volume, Staging: staging, Target: recordTarget(origin), Mode: modeMount, FSType: m.Type, ReadOnly: m.ReadOnly(),
	}
	if err := s.checkUnheld(ctx, rec); err != nil {
		return nil, err
	}
	klog.FromContext(ctx).Info("The volume's record was lost and is made anew from its mount", "volume", volume, "path", staging, "target", origin.IQN, "lun", origin.LUN)
	return rec, s.records.save(rec)
}

// takeOff unmounts the staging path after proving that nothing else that this
// mount namespace sees uses the volume. What others see is Detach's to find: it
// claims the device before it takes it away.
func (s *Server) takeOff(ctx context.Context, rec *record, staging string, numbers map[Number]bool) error {
	if err := s.cutOff(ctx, rec); err != nil {
		return err
	}
	mounts, err := s.mounts.List()
	if err != nil {
		return err
	}
	there := at(mounts, staging)
	if staging != rec.Staging {
		there = append(there, at(mounts, rec.Staging)...)
	}
	for _, m := range there {
		if numbers[m.Device] {
			continue
		}
		if err := s.checkOrigin(rec, m); err != nil {
			return err
		}
		numbers[m.Device] = true
	}
	uses := s.usesOf(mounts, numbers, staging, rec.Staging)
	if rec.Fenced { // the device may be gone, and its number another's
		uses = append(uses, rec.boundTargets(mounts)...)
	}
	if len(uses) > 0 {
		return fmt.Errorf("%w: it is still mounted on %v; unpublish it there first", errInUse, slices.Compact(slices.Sorted(slices.Values(uses))))
	}
	if len(there) == 0 {
		return s.untold(rec) // the mount may have gone with a reboot
	}
	s.failRefusedIO(ctx, rec)
	if err := s.writeOut(ctx, rec, there); err != nil {
		return err
	}
	for _, m := range slices.Backward(there) {
		if err := s.unmount(m.Path); err != nil {
			return err
		}
	}
	return nil
}
