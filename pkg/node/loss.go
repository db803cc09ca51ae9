package node

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// writeOut writes what the file system holds back, as an unmount does, which does
// not say when that fails. What cannot be written the kernel drops: that is an error
// until a caller has heard it, and the repeat goes on, for it does not come back
// (FM 21). So it is of a file system that had shut down before: who wrote without a
// sync never heard.
//
// The kernel tells it once, and a step may outlive its caller and the plugin: so it is
// in the log at once, and in the record until somebody was told.
func (s *Server) writeOut(ctx context.Context, rec *record, there []Mount) error {
	if rec.ReadOnly {
		return nil
	}
	err := s.devices.Sync(there[len(there)-1].Path)
	if _, told := s.lossTold.Load(rec.Volume); told {
		return nil
	}
	if err != nil && !errors.Is(err, unix.EROFS) && rec.Unwritten == "" { // an ext4 that stopped before is read-only
		klog.FromContext(ctx).Error(err, "What was written last may be lost", "volume", rec.Volume, "path", rec.Staging)
		rec.Unwritten = err.Error()
		s.saveLoss(ctx, rec)
	}
	return s.untold(rec)
}

// untold is the loss of a volume that nobody has heard of.
func (s *Server) untold(rec *record) error {
	if _, told := s.lossTold.Load(rec.Volume); told || rec.Unwritten == "" {
		return nil
	}
	return fmt.Errorf("%w: %s; see why the volume could not be written; the next attempt goes on", errUnwritten, rec.Unwritten)
}

// tellLoss notes that a caller hears of a volume's loss. From then on until the volume is
// staged anew nothing is told.
func (s *Server) tellLoss(ctx context.Context, rec *record) {
	s.lossTold.Store(rec.Volume, true)
	rec.Unwritten = ""
	s.saveLoss(ctx, rec)
}

// hearAnew says that what is written from now on is told of if it is lost. A loss that
// could not be taken out of the record is none of that: it would be told again and again.
func (s *Server) hearAnew(rec *record) {
	if rec.Unwritten == "" {
		s.lossTold.Delete(rec.Volume)
	}
}

// saveLoss goes on without a record that cannot be written: at worst the loss is told
// twice, or after a restart of the plugin by the log alone.
func (s *Server) saveLoss(ctx context.Context, rec *record) {
	if err := s.records.save(rec); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot note what is told of a loss", "volume", rec.Volume)
	}
}
