package node

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// runWatched is operation.runDetached for a step that may wait for the volume's device.
// Without a path it waits for as long as multipath says, which may be for ever. As long
// as it lasts it is looked whether the map stays suspended, and whether the array has
// taken this node out of the volume's ACL: then nothing comes back and nothing can be
// written any more (FM 21).
func (s *Server) runWatched(ctx context.Context, op *operation, rec *record, what string, step func(context.Context) error) error {
	return op.runDetached(ctx, what, func(ctx context.Context) error {
		watch, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.watch(watch, rec)
		}()
		err := survive(ctx, step)
		stop()
		<-ended // all it does ends with watch
		return err
	})
}

// watch looks again and again for what would keep a step for ever.
func (s *Server) watch(ctx context.Context, rec *record) {
	again := time.NewTicker(s.watchTime)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			s.resume(ctx, rec)
			s.failRefusedIO(ctx, rec)
		}
	}
}

// resume lets the volume's map work again, if it stays suspended.
func (s *Server) resume(ctx context.Context, rec *record) {
	s.ease(ctx, rec, s.attacher.Resume, "The volume's map cannot be resumed")
}

// failRefusedIO lets what waits for the volume's device fail, if the array refuses this node.
func (s *Server) failRefusedIO(ctx context.Context, rec *record) {
	s.ease(ctx, rec, s.attacher.FailRefusedIO, "Cannot tell whether the array still admits this node")
}

// ease does something for whoever waits for the volume's device. That it fails is logged,
// unless ctx has ended: then nobody waits any more.
func (s *Server) ease(ctx context.Context, rec *record, do func(context.Context, iscsi.Target) error, failure string) {
	err := survive(ctx, func(ctx context.Context) error { return do(ctx, rec.target()) })
	if err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Info(failure, "volume", rec.Volume, "target", rec.Target.IQN, "err", err)
	}
}
