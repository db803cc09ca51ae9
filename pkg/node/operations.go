package node

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/datera-csi/datera-csi/internal/keylock"
)

// operations keeps two calls for one volume apart, and lets a step of a call
// outlive the call: a kernel that waits for a device, or a mkfs, is not ended by
// a caller that lost patience, and until it ends nobody else may touch the volume
// (FM 35, 38).
type operations struct {
	keys  keylock.Keys
	mu    sync.Mutex
	doing map[string]string // by volume: what the holder of the key does
	steps int               // that run
	idle  []chan struct{}   // closed when none does
}

// begin takes the volume for one call, or says that it is taken.
func (o *operations) begin(volume, what string) (*operation, error) {
	unlock, ok := o.keys.TryLock(volume)
	if !ok {
		o.mu.Lock()
		defer o.mu.Unlock()
		return nil, fmt.Errorf("%w: volume %s: %s is not over yet; ask again", errPending, volume, o.doing[volume])
	}
	op := &operation{all: o, volume: volume, unlock: unlock}
	op.holders.Store(1)
	op.now(what)
	return op, nil
}

// operation is one call's hold on its volume. The hold ends when the call and
// everything it started have.
type operation struct {
	all     *operations
	volume  string
	unlock  func()
	holders atomic.Int32
	endTurn func() // nil: it has none
}

// takeTurn waits for the operation's turn, which lasts no longer than its hold.
func (op *operation) takeTurn(ctx context.Context, from turns, what string) (err error) {
	op.now(what + ", which waits for its turn,")
	op.endTurn, err = from.take(ctx)
	op.now(what)
	return err
}

func (op *operation) now(what string) {
	op.all.mu.Lock()
	defer op.all.mu.Unlock()
	if op.all.doing == nil {
		op.all.doing = make(map[string]string)
	}
	op.all.doing[op.volume] = what
}

func (op *operation) release() {
	if op.holders.Add(-1) > 0 {
		return
	}
	if op.endTurn != nil {
		op.endTurn()
	}
	op.all.mu.Lock()
	delete(op.all.doing, op.volume)
	op.all.mu.Unlock()
	op.unlock()
}

// own runs a step that may take longer than the caller waits. The step gets a
// ctx with the caller's values that does not end with the caller; when the caller
// is gone first, own returns its ctx's error, the step goes on, and the volume
// stays locked until the step is over.
func (op *operation) own(ctx context.Context, what string, step func(context.Context) error) error {
	op.now(what)
	op.holders.Add(1)
	done := make(chan error, 1)
	op.all.enter()
	go func() {
		err := survive(context.WithoutCancel(ctx), step)
		op.release() // first: a caller that has its answer may call again at once
		op.all.leave()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s of volume %s takes longer than the call and goes on: %w", what, op.volume, ctx.Err())
	}
}

// survive turns a panic of step into an error, as the RPC server does for its
// handlers: one volume's surprise must not end the calls of all others.
func survive(ctx context.Context, step func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return step(ctx)
}

func (o *operations) enter() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.steps++
}

func (o *operations) leave() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.steps--; o.steps > 0 {
		return
	}
	for _, c := range o.idle {
		close(c)
	}
	o.idle = nil
}

// idleness returns a channel that is closed when no step runs.
func (o *operations) idleness() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := make(chan struct{})
	if o.steps == 0 {
		close(c)
		return c
	}
	o.idle = append(o.idle, c)
	return c
}

// Drain waits until no step is left that outlived its call, or until ctx ends.
// What is cut short then, a record tells the next process.
func (s *Server) Drain(ctx context.Context) error {
	select {
	case <-s.operations.idleness():
		return nil
	case <-ctx.Done():
		s.operations.mu.Lock()
		defer s.operations.mu.Unlock()
		return fmt.Errorf("still at work on %d volumes: %v: %w", len(s.operations.doing), s.operations.doing, ctx.Err())
	}
}
