// Package keylock keeps two calls for the same thing apart: one holds the key, the
// other is told at once, or waits for its turn.
package keylock

import (
	"context"
	"sync"
)

// Keys is a set of held keys. The zero value is ready for use.
type Keys struct {
	mu   sync.Mutex
	held map[string]*key
}

type key struct {
	slot chan struct{} // full while the key is held
	refs int           // holder and waiters
}

// TryLock takes a key and returns the func that releases it, or reports false
// when another caller holds it. It never waits: CSI asks for Aborted when an
// operation is pending, and the caller comes back (CSI v1.13, "Concurrency").
func (k *Keys) TryLock(name string) (unlock func(), ok bool) {
	one := k.refer(name)
	select {
	case one.slot <- struct{}{}:
		return k.unlock(name, one), true
	default:
		k.leave(name, one)
		return nil, false
	}
}

// Lock is TryLock for a caller that waits, first come, first served; the error is
// that of ctx, when it ended first.
func (k *Keys) Lock(ctx context.Context, name string) (unlock func(), err error) {
	one := k.refer(name)
	select {
	case one.slot <- struct{}{}:
		return k.unlock(name, one), nil
	case <-ctx.Done():
		k.leave(name, one)
		return nil, ctx.Err()
	}
}

func (k *Keys) refer(name string) *key {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held == nil {
		k.held = make(map[string]*key)
	}
	one, known := k.held[name]
	if !known {
		one = &key{slot: make(chan struct{}, 1)}
		k.held[name] = one
	}
	one.refs++
	return one
}

func (k *Keys) leave(name string, one *key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if one.refs--; one.refs == 0 {
		delete(k.held, name)
	}
}

func (k *Keys) unlock(name string, one *key) func() {
	return sync.OnceFunc(func() {
		<-one.slot
		k.leave(name, one)
	})
}
