package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// CreateSnapshot makes a snapshot, or finds the one that an earlier call of the
// same name has made. It answers the same each time.
func (s *Server) CreateSnapshot(ctx context.Context, req *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	want, err := parseCreateSnapshot(req)
	if err != nil {
		return nil, err
	}
	for _, warning := range want.Warnings {
		klog.FromContext(ctx).Info("Snapshot class", "snapshot", req.GetName(), "warning", warning)
	}
	v, snap, err := s.ensureSnapshot(ctx, want)
	if err != nil {
		return nil, withSnapshotStatus(fmt.Errorf("create snapshot %s of volume %s: %w", want.Name, want.Source, err))
	}
	answer, err := renderSnapshot(want.Source, v, snap)
	if err != nil {
		return nil, withSnapshotStatus(err)
	}
	return &csi.CreateSnapshotResponse{Snapshot: answer}, nil
}

// ensureSnapshot holds the volume while the snapshot is made, so that it is not
// deleted at the same time, and lets it go while the array completes the snapshot.
func (s *Server) ensureSnapshot(ctx context.Context, want createSnapshotRequest) (*dateraclient.Volume, *dateraclient.Snapshot, error) {
	release, ok := s.names.TryLock(want.Spec.UUID)
	if !ok {
		return nil, nil, fmt.Errorf("snapshot %s: %w", want.Name, errHeld)
	}
	defer release()
	array, err := s.backends.array(want.Source.Backend)
	if err != nil {
		return nil, nil, err
	}
	if err = s.unused(ctx, want); err != nil {
		return nil, nil, err
	}
	v, snap, err := s.take(ctx, array, want)
	if err != nil || snap.Available {
		return v, snap, err
	}
	snap, err = settled(ctx, array, v, snap)
	return v, snap, err
}

func (s *Server) take(ctx context.Context, array Array, want createSnapshotRequest) (*dateraclient.Volume, *dateraclient.Snapshot, error) {
	unlock, err := s.lock(want.Source)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	v, snap, err := array.CreateSnapshot(ctx, want.Source.Name, want.Spec)
	if err == nil {
		s.taken.note(want.Spec.UUID, snapshotID{want.Source, snap.UTCTS})
	}
	return v, snap, err
}

// unused refuses a name that a snapshot of another volume has. The array knows
// uuids volume by volume, so only those can be told that this process has seen;
// Kubernetes never uses a name twice.
func (s *Server) unused(ctx context.Context, want createSnapshotRequest) error {
	known, ok := s.taken.find(want.Spec.UUID)
	if !ok || known.Volume == want.Source {
		return nil
	}
	_, v, err := s.find(ctx, known.Volume)
	if errors.Is(err, dateraclient.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUndecided, err)
	}
	for _, snap := range v.OwnSnapshots() {
		if snap.UUID == want.Spec.UUID {
			return fmt.Errorf("%w: the name is that of snapshot %s", errIncompatible, known)
		}
	}
	return nil
}

// settling is how long a call waits for a snapshot to become available. After that
// it answers that it is not, and the caller asks again.
const settling = 10 * time.Second

func settled(ctx context.Context, array Array, v *dateraclient.Volume, snap *dateraclient.Snapshot) (*dateraclient.Snapshot, error) {
	waiting, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	done, err := array.AwaitSnapshot(waiting, v, snap)
	switch {
	case err == nil:
		return done, nil
	case errors.Is(err, dateraclient.ErrNotFound):
		return nil, fmt.Errorf("%w: %w", errRemade, err)
	}
	klog.FromContext(ctx).V(2).Info("Snapshot is not available yet", "volume", v.Name, "snapshot", snap.UTCTS, "reason", err)
	return snap, nil
}

// renderSnapshot is a snapshot in every answer. Its size is that of the volume now:
// what was larger never shrinks, so a volume of that size has room for it.
func renderSnapshot(volume volumeID, v *dateraclient.Volume, snap *dateraclient.Snapshot) (*csi.Snapshot, error) {
	id := snapshotID{volume, snap.UTCTS}
	created, err := id.created()
	if err != nil {
		return nil, err
	}
	return &csi.Snapshot{
		SnapshotId:     id.String(),
		SourceVolumeId: volume.String(),
		SizeBytes:      v.Size.Bytes(),
		CreationTime:   timestamppb.New(created),
		ReadyToUse:     snap.Available,
	}, nil
}

// DeleteSnapshot deletes a snapshot. One that is not there is deleted; what the
// array does not want to lose is an error.
func (s *Server) DeleteSnapshot(ctx context.Context, req *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	want, err := parseDeleteSnapshot(req)
	if err != nil {
		return nil, err
	}
	if want.Never {
		return &csi.DeleteSnapshotResponse{}, nil
	}
	// Not the volume's lock: the array may take long, and a fence must not wait for it.
	unlock, ok := s.leaving.TryLock(want.ID.String())
	if !ok {
		return nil, withStatus(fmt.Errorf("snapshot %s: %w", want.ID, errHeld))
	}
	defer unlock()
	if err := s.ensureSnapshotDeleted(ctx, want.ID); err != nil {
		return nil, withStatus(fmt.Errorf("delete snapshot %s: %w", want.ID, err))
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

func (s *Server) ensureSnapshotDeleted(ctx context.Context, id snapshotID) error {
	array, v, err := s.find(ctx, id.Volume)
	if err == nil {
		err = array.DeleteSnapshot(ctx, v, id.UTCTS)
	}
	if errors.Is(err, dateraclient.ErrNotFound) {
		return nil
	}
	return err
}

// GetSnapshot tells of one snapshot, whoever made it.
func (s *Server) GetSnapshot(ctx context.Context, req *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	id, err := parseGetSnapshot(req)
	if err != nil {
		return nil, err
	}
	answer, err := s.getSnapshot(ctx, id)
	if err != nil {
		return nil, withStatus(err)
	}
	return &csi.GetSnapshotResponse{Snapshot: answer}, nil
}

func (s *Server) getSnapshot(ctx context.Context, id snapshotID) (*csi.Snapshot, error) {
	_, v, err := s.find(ctx, id.Volume)
	if errors.Is(err, dateraclient.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s: %w", errNoSnapshot, id, err)
	}
	if err != nil {
		return nil, fmt.Errorf("get snapshot %s: %w", id, err)
	}
	for _, snap := range v.OwnSnapshots() {
		if snap.UTCTS == id.UTCTS {
			return renderSnapshot(id.Volume, v, &snap)
		}
	}
	return nil, fmt.Errorf("%w: volume %s has none of %s", errNoSnapshot, id.Volume, id.UTCTS)
}
