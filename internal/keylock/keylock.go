// Package keylock keeps two calls for the same thing apart: one holds the key,
// the other is told at once.
package keylock

import "sync"

// Keys is a set of held keys. The zero value is ready for use.
type Keys struct {
	mu   sync.Mutex
	held map[string]struct{}
}

// TryLock takes key and returns the func that releases it, or reports false
// when another caller holds it. It never waits: CSI asks for Aborted when an
// operation is pending, and the caller comes back (CSI v1.13, "Concurrency").
func (k *Keys) TryLock(key string) (unlock func(), ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, taken := k.held[key]; taken {
		return nil, false
	}
	if k.held == nil {
		k.held = make(map[string]struct{})
	}
	k.held[key] = struct{}{}
	return sync.OnceFunc(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.held, key)
	}), true
}
