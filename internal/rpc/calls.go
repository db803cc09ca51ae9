package rpc

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Call is one RPC being answered.
type Call struct {
	ID     uint64 // counts from 1 in each process; the log's key "call"
	Method string // e.g. /csi.v1.Node/NodeStageVolume
	Since  time.Time
}

// calls counts what is in flight.
type calls struct {
	mu      sync.Mutex
	last    uint64
	running map[uint64]Call
	waiters []chan struct{} // closed when nothing runs
}

func newCalls() *calls { return &calls{running: make(map[uint64]Call)} }

// begin enters a call; done takes it out again.
func (c *calls) begin(method string, now time.Time) (call Call, done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	call = Call{ID: c.last, Method: method, Since: now}
	c.running[call.ID] = call
	return call, func() { c.end(call.ID) }
}

func (c *calls) end(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.running, id)
	if len(c.running) > 0 {
		return
	}
	for _, w := range c.waiters {
		close(w)
	}
	c.waiters = nil
}

func (c *calls) list() []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]Call, 0, len(c.running))
	for _, call := range c.running {
		all = append(all, call)
	}
	slices.SortFunc(all, func(a, b Call) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// idle returns a channel that is closed at the first moment nothing runs.
func (c *calls) idle() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := make(chan struct{})
	if len(c.running) == 0 {
		close(w)
		return w
	}
	c.waiters = append(c.waiters, w)
	return w
}
