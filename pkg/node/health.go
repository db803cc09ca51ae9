package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/internal/health"
)

// NodeGetVolumeHealth tells what this node finds wrong with a volume that it
// staged or began to stage: with its paths, its map, its file system and its
// mounts. It takes no lock, and what it reads cannot wait for a device, but for
// one look into the file system that is given up after a while (FM 31).
func (s *Server) NodeGetVolumeHealth(ctx context.Context, req *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	r, err := parseHealth(req)
	if err != nil {
		return nil, err
	}
	found, err := s.examine(ctx, r)
	if err != nil {
		return nil, statusOf(fmt.Errorf("health of volume %s: %w", r.Volume, err))
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: &csi.VolumeHealth{VolumeId: r.Volume, HealthStatuses: found.Entries()}}, nil
}

// examine goes from the portals up to the workload's path. Each entry comes from
// one thing that is seen, and stays as long as it is, whatever else is found.
func (s *Server) examine(ctx context.Context, r healthRequest) (*diagnosis, error) {
	rec, err := s.records.load(r.Volume)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is not staged here", errNotFound, r.Volume)
	}
	if err != nil {
		return nil, err
	}
	c, err := s.attacher.Condition(ctx, rec.target())
	if err != nil {
		return nil, err
	}
	mounts, err := s.mounts.List()
	if err != nil {
		return nil, err
	}
	d := &diagnosis{}
	if rec.Fenced { // all else follows from it
		d.Add(health.Inaccessible, string(ReasonFenced), former+"; "+remount)
		return d, nil
	}
	reachable := d.paths(rec, c)
	d.device(rec, c)
	numbers := numbersOf(c)
	if rec.Mode == modeMount {
		s.filesystem(ctx, d, rec, numbers, at(mounts, rec.Staging), reachable)
	}
	if r.Path != "" {
		s.target(d, rec, numbers, at(mounts, whereMounted(r.Path)), r.Path)
	}
	return d, nil
}

// whereMounted is the path as the mount table shows it. Its last element is not
// looked at: it may be a mount of a dead device.
func whereMounted(path string) string {
	path = filepath.Clean(path)
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return path
	}
	return filepath.Join(dir, filepath.Base(path))
}

// target says whether the workload's path shows the volume.
func (s *Server) target(d *diagnosis, rec *record, numbers map[Number]bool, there []Mount, path string) {
	if len(there) == 0 {
		d.Add(health.Inaccessible, "NotPublished", "nothing is mounted on "+path+"; what is written there goes to this node's own disk. Delete the pod, so that it is published anew")
		return
	}
	if len(there) > 1 {
		d.Add(health.Degraded, "StackedMounts", fmt.Sprintf("%d mounts are stacked on %s; the pod must be deleted, so that all are taken off", len(there), path))
	}
	if m := there[len(there)-1]; len(numbers) > 0 && !s.showsVolume(rec, numbers, m) {
		d.Add(health.Inaccessible, "ForeignMount", fmt.Sprintf("%s is a mount of %s (device %s), which is not the volume's device; delete the pod, so that it is published anew", path, m.Source, m.Device))
	}
}

// diagnosis collects what is wrong.
type diagnosis struct{ health.Findings }
