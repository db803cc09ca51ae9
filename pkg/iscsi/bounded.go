package iscsi

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"k8s.io/klog/v2"
)

// bounds runs what may wait in the kernel for a dead device, and gives up on it
// when ctx ends. The goroutine left behind ends when the kernel lets it go; as
// long as it has not, the same thing is not begun again, so that retries do not
// pile up goroutines.
type bounds struct {
	mu      sync.Mutex
	waiting map[string]struct{}
}

// errWaits says that the same thing was begun before and has not ended.
var errWaits = errors.New("an earlier attempt still waits for the device")

func bounded[T any](ctx context.Context, b *bounds, what string, fn func() (T, error)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, fmt.Errorf("%s: %w", what, err)
	}
	if !b.begin(what) {
		return zero, fmt.Errorf("%s: %w (%w)", what, errWaits, ErrUnavailable)
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if v := recover(); v != nil {
				r.err = fmt.Errorf("panic: %v", v)
				klog.FromContext(ctx).Error(nil, "Panic", "in", what, "value", v, "stack", string(debug.Stack()))
			}
			b.end(what) // first: a caller that has its answer may ask again at once
			done <- r
		}()
		r.value, r.err = fn()
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return r.value, fmt.Errorf("%s: %w", what, r.err)
		}
		return r.value, nil
	case <-ctx.Done():
		return zero, fmt.Errorf("%s: abandoned, the device does not answer: %w", what, ctx.Err())
	}
}

func (b *bounds) begin(what string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, taken := b.waiting[what]; taken {
		return false
	}
	if b.waiting == nil {
		b.waiting = make(map[string]struct{})
	}
	b.waiting[what] = struct{}{}
	return true
}

// busy says whether an abandoned attempt of ours still waits.
func (b *bounds) busy(what string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, taken := b.waiting[what]
	return taken
}

func (b *bounds) end(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, what)
}
