package node

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"
)

// operations keeps two calls for one volume apart, and lets a step of a call
// outlive the call: a kernel that waits for a device, or a mkfs, is not ended by
// a caller that lost patience, and until it ends nobody else may touch the volume
// (FM 35, 38).
type operations struct {
	mu    sync.Mutex
	held  map[string]*operation // by volume
	steps int                   // that run
	idle  []chan struct{}       // closed when none does
}

// operation is one call's hold on its volume. The hold ends when the call and
// everything it started have.
type operation struct {
	all     *operations
	volume  string
	doing   string        // for those who find the volume taken; guarded by all.mu
	repair  bool          // it is Reconcile's, which no caller knows of
	over    chan struct{} // closed at the end
	refs    atomic.Int32
	endTurn func() // nil: it has none
}

// repairPatience is for how long a call waits for Reconcile to let go of a volume:
// most of its looks are over sooner than a caller would ask again.
const repairPatience = 2 * time.Second

// begin takes the volume for one call, or says that it is taken. Only for Reconcile
// does it wait, and not for long.
func (o *operations) begin(ctx context.Context, volume, what string) (*operation, error) {
	limit := time.NewTimer(repairPatience)
	defer limit.Stop()
	for {
		op, other := o.take(volume, what, false)
		if op != nil {
			return op, nil
		}
		pending := fmt.Errorf("%w: volume %s: %s is not over yet; ask again", errPending, volume, other.doing)
		if !other.repair {
			return nil, pending
		}
		select {
		case <-other.over:
		case <-limit.C:
			return nil, pending
		case <-ctx.Done():
			return nil, pending
		}
	}
}

// busyWith is what has a volume when another call wants it.
type busyWith struct {
	doing  string
	repair bool
	over   <-chan struct{}
}

// take is begin that never waits. It answers the operation, or else who holds the
// volume.
func (o *operations) take(volume, what string, repair bool) (*operation, busyWith) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if other, taken := o.held[volume]; taken {
		return nil, busyWith{doing: other.doing, repair: other.repair, over: other.over}
	}
	op := &operation{all: o, volume: volume, doing: what, repair: repair, over: make(chan struct{})}
	op.refs.Store(1)
	if o.held == nil {
		o.held = make(map[string]*operation)
	}
	o.held[volume] = op
	return op, busyWith{}
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
	op.doing = what
}

func (op *operation) release() {
	if op.refs.Add(-1) > 0 {
		return
	}
	if op.endTurn != nil {
		op.endTurn()
	}
	op.all.mu.Lock()
	defer op.all.mu.Unlock()
	delete(op.all.held, op.volume)
	close(op.over)
}

// runDetached runs a step that may take longer than the caller waits. The step gets a
// ctx with the caller's values that does not end with the caller; when the caller
// is gone first, runDetached returns its ctx's error, the step goes on, and the volume
// stays locked until the step is over.
func (op *operation) runDetached(ctx context.Context, what string, step func(context.Context) error) error {
	op.now(what)
	op.refs.Add(1)
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
			klog.FromContext(ctx).Error(nil, "Panic", "value", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v; the log has its stack", v)
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

// drained returns a channel that is closed when no step runs.
func (o *operations) drained() <-chan struct{} {
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

// doing says what is done, by volume.
func (o *operations) doing() map[string]string {
	o.mu.Lock()
	defer o.mu.Unlock()
	doing := make(map[string]string, len(o.held))
	for volume, op := range o.held {
		doing[volume] = op.doing
	}
	return doing
}

// Drain waits until no step is left that outlived its call, or until ctx ends.
// What is cut short then, a record tells the next process.
func (s *Server) Drain(ctx context.Context) error {
	select {
	case <-s.operations.drained():
		return nil
	case <-ctx.Done():
		doing := s.operations.doing()
		return fmt.Errorf("still at work on %d volumes: %v: %w", len(doing), doing, ctx.Err())
	}
}
