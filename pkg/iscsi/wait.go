package iscsi

import (
	"context"
	"sync"
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

// gates keeps callers with the same key apart; the zero value is ready. Unlike
// a mutex it stops waiting when ctx ends.
type gates struct {
	mu   sync.Mutex
	held map[string]*gate
}

type gate struct {
	slot chan struct{}
	refs int // holder and waiters
}

func (g *gates) lock(ctx context.Context, key string) (unlock func(), err error) {
	g.mu.Lock()
	if g.held == nil {
		g.held = make(map[string]*gate)
	}
	one, ok := g.held[key]
	if !ok {
		one = &gate{slot: make(chan struct{}, 1)}
		g.held[key] = one
	}
	one.refs++
	g.mu.Unlock()
	leave := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if one.refs--; one.refs == 0 {
			delete(g.held, key)
		}
	}
	select {
	case one.slot <- struct{}{}:
		return sync.OnceFunc(func() { <-one.slot; leave() }), nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
