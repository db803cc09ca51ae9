package node

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// writeOut writes what the file system holds back, as an unmount does, which does
// not say when that fails. What cannot be written the kernel drops: that is an error
// until a caller has heard it, and the repeat goes on, for it does not come back
// (FM 21). So it is of a file system that had shut down before: who wrote without a
// sync never heard.
func (s *Server) writeOut(rec *record, there []Mount) error {
	if rec.ReadOnly {
		return nil
	}
	err := s.devices.Sync(there[len(there)-1].Path)
	if err != nil && !errors.Is(err, unix.EROFS) { // an ext4 that stopped before is read-only
		s.losses.LoadOrStore(rec.Volume, &loss{cause: err})
	}
	found, _ := s.losses.Load(rec.Volume)
	l, lost := found.(*loss)
	if !lost || l.told.Load() {
		return nil
	}
	return fmt.Errorf("%w: %w; see why the volume could not be written; the next attempt unmounts it", errUnwritten, l.cause)
}

// loss is why something of a volume could not be written. A step may outlive its
// caller, so that it happened and that it was told are two things.
type loss struct {
	cause error
	told  atomic.Bool
}

// toldLoss notes that a caller hears of a volume's loss.
func (s *Server) toldLoss(volume string) {
	found, _ := s.losses.Load(volume)
	if l, ok := found.(*loss); ok {
		l.told.Store(true)
	}
}
