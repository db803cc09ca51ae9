package iscsi

import (
	"context"
	"time"
)

// until asks cond again and again until it says true or fails, ctx ends, or the
// timeout passes. Passing the timeout is not an error: the caller knows better
// what it means.
func until(ctx context.Context, timeout time.Duration, cond func() (bool, error)) (bool, error) {
	return untilSlowly(ctx, timeout, 5*time.Millisecond, 100*time.Millisecond, cond)
}

// untilSlowly is until for a cond that costs something, with its own pauses. A cond
// that takes long is asked less often, so that those who wait leave a host that is
// short of processor time to those they wait for.
func untilSlowly(ctx context.Context, timeout, first, slowest time.Duration, cond func() (bool, error)) (bool, error) {
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	for pause := first; ; pause = min(2*pause, slowest) {
		start := time.Now()
		ok, err := cond()
		if ok || err != nil {
			return ok, err
		}
		const share, longest = 5, time.Second // of the time at most a fifth is for looking
		next := time.NewTimer(max(pause, min((share-1)*time.Since(start), longest)))
		select {
		case <-next.C:
		case <-limit.C:
			next.Stop()
			return cond()
		case <-ctx.Done():
			next.Stop()
			return false, ctx.Err()
		}
	}
}
