package node

import (
	"context"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/singleflight"
)

// NodeGetVolumeStats measures what is mounted at the path. It takes no lock, and
// it never hangs: a device that does not answer costs one goroutine, however often
// it is asked (FM 31).
func (s *Server) NodeGetVolumeStats(ctx context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	r, err := parseStats(req)
	if err != nil {
		return nil, err
	}
	usage, err := s.stats.do(ctx, r.Volume+"\x00"+r.Path, s.statsTimeout, func(ctx context.Context) ([]*csi.VolumeUsage, error) {
		return s.measure(ctx, r)
	})
	if err != nil {
		return nil, statusOf(fmt.Errorf("measure volume %s: %w", r.Volume, err))
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: usage}, nil
}

func (s *Server) measure(ctx context.Context, r statsRequest) ([]*csi.VolumeUsage, error) {
	rec, device, m, err := s.volumeAt(ctx, r.Volume, r.Path)
	if err != nil {
		return nil, err
	}
	if rec.Mode == modeBlock {
		return []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: device.Bytes}}, nil
	}
	u, err := s.devices.Usage(m.Path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: u.TotalBytes, Available: u.AvailableBytes, Used: u.TotalBytes - u.FreeBytes},
		{Unit: csi.VolumeUsage_INODES, Total: u.TotalInodes, Available: u.FreeInodes, Used: u.TotalInodes - u.FreeInodes},
	}, nil
}

// measurements are those under way, one a key: later callers wait for the one
// that runs.
type measurements[T any] struct {
	flights singleflight.Group
}

// do runs f once however many ask, and leaves it behind when it takes longer
// than limit or than the caller waits.
func (m *measurements[T]) do(ctx context.Context, key string, limit time.Duration, f func(context.Context) (T, error)) (T, error) {
	var none T
	result := m.flights.DoChan(key, func() (any, error) {
		own, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		var measured T
		err := survive(own, func(ctx context.Context) (err error) {
			measured, err = f(ctx)
			return err
		})
		return measured, err
	})
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r := <-result:
		measured, ok := r.Val.(T)
		if r.Err == nil && !ok {
			return none, fmt.Errorf("measured a %T, not a %T", r.Val, none)
		}
		return measured, r.Err
	case <-timer.C:
		return none, fmt.Errorf("%w after %s; the paths to it may all be down", errNoAnswer, limit)
	case <-ctx.Done():
		return none, fmt.Errorf("%w yet: %w", errNoAnswer, ctx.Err())
	}
}
