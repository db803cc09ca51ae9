package node

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// turns lets a few volumes be staged, or unstaged, at a time and keeps the others in
// the order in which they came. All calls of a host share its iscsid, udev and
// multipathd; too many at once slow each other until logins and identifications run
// into their time limits and are repeated, and then none ends.
//
// A call that takes longer than limit hangs in the kernel or makes a
// very large file system, and no longer counts: devices that do not answer hold the
// others up for a while, never for good. For a stage the limit is longer than a login
// to a dead portal and a stage on a host that is short of processor time, or it
// would give way just when it is needed. For an unstage it is shorter: when an
// array is lost, all volumes of a host may have to leave with nothing to wait for.
type turns struct {
	places chan struct{}
	limit  time.Duration
}

func newTurns(atATime int64, limit time.Duration) turns {
	return turns{places: make(chan struct{}, atATime), limit: limit}
}

// take waits for a turn, which ends after limit or when end is called,
// once or more often. The error is ctx's.
func (t turns) take(ctx context.Context) (end func(), err error) {
	select {
	case t.places <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a turn, of which this host has %d at a time (--parallel-stages): %w", cap(t.places), ctx.Err())
	}
	leave := sync.OnceFunc(func() { <-t.places })
	timer := time.AfterFunc(t.limit, leave)
	return func() {
		timer.Stop()
		leave()
	}, nil
}
