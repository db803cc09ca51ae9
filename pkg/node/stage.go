package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/internal/faultpoint"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// NodeStageVolume attaches the volume and, unless it is a raw block volume,
// mounts it on the staging path, with a file system made on the first use. Repeats
// answer alike; a repeat while a mkfs or a mount of an earlier call still runs
// hears Aborted. Calls beyond Config.ParallelStages wait for their turn, and do
// nothing before it.
func (s *Server) NodeStageVolume(ctx context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	r, err := parseStage(req)
	if err != nil {
		return nil, err
	}
	const what = "NodeStageVolume"
	op, err := s.operations.begin(ctx, r.Volume, what)
	if err != nil {
		return nil, statusOf(err)
	}
	defer op.release()
	if err := op.takeTurn(ctx, s.staging, what); err != nil {
		return nil, statusOf(fmt.Errorf("stage volume %s: %w", r.Volume, err))
	}
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithValues("volume", r.Volume)) // what is said of a portal names the volume
	if err := s.stage(ctx, op, r); err != nil {
		return nil, statusOf(fmt.Errorf("stage volume %s: %w", r.Volume, err))
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

func (s *Server) stage(ctx context.Context, op *operation, r stageRequest) error {
	staging, err := resolveOrMake(r.Staging)
	if err != nil {
		return err
	}
	if err = checkDir(staging); err != nil {
		return err
	}
	mounts, err := s.mounts.List()
	if err != nil {
		return err
	}
	rec, err := s.intend(ctx, r, staging)
	if err != nil {
		return err
	}
	faultpoint.At("stage: record written")
	if err = s.untold(rec); err != nil { // before anything is set up for a caller who may leave upon it
		s.tellLoss(ctx, rec)
		return err
	}
	if err = s.passStranger(ctx, rec.Target.IQN); err != nil {
		return err
	}
	device, err := s.fulfil(ctx, op, rec, r)
	switch {
	case err == nil:
		s.hearAnew(rec)
		return nil
	case errors.Is(err, errUnwritten):
		s.tellLoss(ctx, rec)
		return err
	case !final(err):
		return err
	}
	now, listErr := s.mounts.List()
	if listErr != nil {
		return fmt.Errorf("%w; %w: %w", err, errLeft, listErr)
	}
	if len(at(mounts, staging)) > 0 && len(at(now, staging)) > 0 {
		return err // what an earlier stage mounted is there still
	}
	return s.giveUp(ctx, op, rec, device, err)
}

// passStranger waits for Reconcile if it takes down a LUN of this target that had no
// record a moment ago. From now on it has one, and is left alone.
func (s *Server) passStranger(ctx context.Context, iqn string) error {
	op, err := s.operations.begin(ctx, iqn, "NodeStageVolume")
	if err == nil {
		op.release()
	}
	return err
}

// fulfil does what the record says. The device is there unless it was the attach
// that failed.
func (s *Server) fulfil(ctx context.Context, op *operation, rec *record, r stageRequest) (iscsi.Device, error) {
	if err := s.leaveFormer(ctx, op, rec); err != nil {
		return iscsi.Device{}, err
	}
	device, err := s.attacher.Attach(ctx, rec.target(), r.CHAP)
	if err != nil {
		return iscsi.Device{}, fmt.Errorf("attach: %w", err)
	}
	faultpoint.At("stage: attached")
	if err = ensureDir(rec.Staging); err != nil {
		return device, err
	}
	err = s.runWatched(ctx, op, rec, "preparing and mounting the file system", func(ctx context.Context) error {
		if rec.Mode == modeBlock {
			return s.limitBlock(rec, device)
		}
		return s.ensureStaged(ctx, rec, device, r)
	})
	if err != nil {
		return device, err
	}
	return device, s.attacher.Complete(ctx, rec.target(), device)
}

// giveUp takes down what a stage has begun that failed for good, and answers why
// it failed. A caller that hears such a code takes nothing to be left, and never
// unstages: sessions, a map and a node record with a secret in it would stay. Where
// something is left, because somebody uses it for one, the answer is that.
func (s *Server) giveUp(ctx context.Context, op *operation, rec *record, device iscsi.Device, cause error) error {
	var err error
	numbers := map[Number]bool{}
	if device.Path != "" { // it is attached
		numbers, err = s.numbers(device)
	}
	if err == nil {
		err = s.takeDown(ctx, op, rec, rec.Staging, numbers)
	}
	if err == nil {
		err = s.records.remove(rec.Volume)
	}
	if err == nil {
		return cause
	}
	return fmt.Errorf("%w; %w: %w", cause, errLeft, err)
}

// intend writes down what is going to be done, merged with what is known of the
// volume from before. What contradicts it and is still in use is refused.
func (s *Server) intend(ctx context.Context, r stageRequest, staging string) (*record, error) {
	rec := &record{
		Version: recordVersion, Volume: r.Volume, Staging: staging, Target: recordTarget(r.Context.Target),
		Mode: r.Capability.Mode, FSType: r.Capability.FSType, Flags: r.Capability.Flags, ReadOnly: r.Capability.ReadOnly,
		Admission: r.Context.Admission,
	}
	if err := s.checkStagingFree(ctx, rec); err != nil {
		return nil, err
	}
	old, err := s.records.load(r.Volume)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err = s.checkUnheld(ctx, rec); err != nil {
			return nil, err
		}
		return rec, s.records.save(rec)
	case err != nil:
		return nil, err
	}
	if r.Capability.AnyFSType && old.Mode == modeMount && sameLUN(old, rec) {
		rec.FSType = old.FSType
	}
	if err := s.compatible(ctx, old, rec); err != nil {
		return nil, err
	}
	if !sameLUN(old, rec) {
		if err := s.checkUnheld(ctx, rec); err != nil {
			return nil, err
		}
	}
	if old.Target.Serial == rec.Target.Serial {
		rec.Targets, rec.OldErrors, rec.Ungrown, rec.Unwritten = old.Targets, old.OldErrors, old.Ungrown, old.Unwritten
		rec.Admission, rec.Fenced = old.Admission, old.Fenced
		rec.admit(r.Context.Admission)
		rec.Target.Bytes = max(rec.Target.Bytes, old.Target.Bytes)
	}
	if reflect.DeepEqual(old, rec) {
		return rec, nil
	}
	return rec, s.records.save(rec)
}

// checkUnheld says that no other volume's record speaks of the same LUN. One that cannot
// be read may, unless nothing of the LUN is on this host.
func (s *Server) checkUnheld(ctx context.Context, rec *record) error {
	holder, err := s.records.holderOf(rec.target(), rec.Volume)
	if errors.Is(err, errRecord) {
		if c, unknown := s.attacher.Condition(ctx, rec.target()); unknown == nil && !c.Attached() {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	if holder != "" {
		return fmt.Errorf("%w: target %s LUN %d is staged here as volume %s", errForeign, rec.Target.IQN, rec.Target.LUN, holder)
	}
	return nil
}

func sameLUN(a, b *record) bool {
	return a.Target.IQN == b.Target.IQN && a.Target.LUN == b.Target.LUN && a.Target.Serial == b.Target.Serial
}

// compatible says whether a stage may take over from an earlier one of the same
// volume. It may when that one asked for the same, or left nothing in use.
func (s *Server) compatible(ctx context.Context, old, asked *record) error {
	sameTarget := sameLUN(old, asked)
	same := old.Mode == asked.Mode && old.FSType == asked.FSType && old.ReadOnly == asked.ReadOnly && slices.Equal(old.Flags, asked.Flags)
	if sameTarget && same && old.Staging == asked.Staging {
		return nil
	}
	mounts, err := s.mounts.List()
	if err != nil {
		return err
	}
	inUse := len(at(mounts, old.Staging)) > 0
	for _, p := range old.Targets {
		inUse = inUse || len(at(mounts, p.Path)) > 0
	}
	switch {
	case !sameTarget:
		if _, err := s.attacher.Find(ctx, old.target()); !errors.Is(err, iscsi.ErrNotAttached) || inUse {
			return fmt.Errorf("%w: it is still staged here from target %s LUN %d, serial %s; unstage it first", errForeign, old.Target.IQN, old.Target.LUN, old.Target.Serial)
		}
	case inUse && old.Staging != asked.Staging:
		return fmt.Errorf("%w: it is staged at %s; unstage it first", errIncompatible, old.Staging)
	case inUse && !same:
		return fmt.Errorf("%w: it is staged as %s %s, flags %q, read-only %v", errIncompatible, old.Mode, old.FSType, old.Flags, old.ReadOnly)
	}
	return nil
}

// checkStagingFree says early, before anything is done, that the staging path is
// a mount of something else.
func (s *Server) checkStagingFree(ctx context.Context, rec *record) error {
	mounts, err := s.mounts.List()
	if err != nil {
		return err
	}
	there := at(mounts, rec.Staging)
	if len(there) > 0 && rec.Mode == modeBlock {
		return fmt.Errorf("%w: %s is a mount of %s; a block volume has none there", errForeign, rec.Staging, there[len(there)-1].Source)
	}
	if len(there) == 0 {
		return nil
	}
	numbers, err := s.knownNumbers(ctx, rec)
	if err != nil {
		return err
	}
	for _, m := range there {
		if numbers[m.Device] {
			continue
		}
		if err := s.checkOrigin(rec, m); err != nil {
			return err
		}
	}
	return nil
}

// ensureStaged makes the staging path one mount of the device, proven by its
// number, and the file system as large as the device.
func (s *Server) ensureStaged(ctx context.Context, rec *record, device iscsi.Device, r stageRequest) error {
	mounted, err := s.stagedAlready(ctx, rec, device)
	if err != nil {
		return err
	}
	if !mounted {
		if err = s.mountFilesystem(ctx, rec, device, r); err != nil {
			return err
		}
	}
	if rec.ReadOnly {
		return nil
	}
	return s.growAtStage(ctx, rec, device)
}

// mountFilesystem mounts the device on the staging path, with a file system made on the
// first use.
func (s *Server) mountFilesystem(ctx context.Context, rec *record, device iscsi.Device, r stageRequest) error {
	// A read-only mount that replays its journal writes (FM 18).
	if err := s.devices.SetReadOnly(device.Path, rec.ReadOnly && r.noReplay()); err != nil {
		return err
	}
	if err := s.ensureFilesystem(ctx, rec, device, r); err != nil {
		return err
	}
	began := s.clock()
	if err := s.mountDevice(ctx, rec, device, r); err != nil {
		return err
	}
	faultpoint.At("stage: mounted")
	if err := s.checkStaged(rec, device); err != nil {
		return err
	}
	return s.noteOldErrors(rec, began)
}

// stageOptions are the mount options. xfs always gets nouuid: a snapshot carries
// the UUID of its source, and the kernel mounts a UUID only once (FM 17). Where
// others may read at the same time, or the LUN cannot be written, the journal is
// not replayed (FM 18).
func stageOptions(rec *record, noReplay bool) []string {
	options := slices.DeleteFunc(slices.Clone(rec.Flags), func(f string) bool { return f == "ro" || f == "rw" })
	if rec.FSType == fsXFS && !slices.Contains(options, "nouuid") {
		options = append(options, "nouuid")
	}
	if !rec.ReadOnly {
		return options
	}
	options = append(options, "ro")
	switch {
	case noReplay && rec.FSType == fsXFS:
		options = append(options, "norecovery")
	case noReplay && rec.FSType == fsExt4:
		options = append(options, "noload")
	}
	return options
}

// stagedAlready says whether the staging path is the mount it should be. A mount
// of ours whose device is gone, or that the kernel stopped, is taken off when nothing
// else uses it; anything else that is there is an error (FM 7).
func (s *Server) stagedAlready(ctx context.Context, rec *record, device iscsi.Device) (bool, error) {
	mounts, err := s.mounts.List()
	if err != nil {
		return false, err
	}
	there := at(mounts, rec.Staging)
	if len(there) == 0 {
		return false, nil
	}
	numbers, err := s.numbers(device)
	if err != nil {
		return false, err
	}
	if !numbers[there[0].Device] {
		return false, s.clearStale(rec, mounts, there)
	}
	err = s.checkMount(rec, numbers, there)
	if err == nil {
		err = s.checkReadable(there[0])
	}
	if err == nil {
		err = s.checkWritable(rec, there[0])
	}
	if !errors.Is(err, errStopped) || len(otherUses(mounts, there[0].Device, rec.Staging)) > 0 {
		return err == nil, err
	}
	if err = s.writeOut(ctx, rec, there); err != nil {
		return false, err
	}
	return false, s.clearStale(rec, mounts, there)
}
