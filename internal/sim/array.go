// Package sim is a strict simulator of a Datera array: its REST API, versions
// 2 to 2.3, over an http.Handler, with state, faults and, through an Exporter,
// real iSCSI targets. It is a double for tests and an array for a laptop.
package sim

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Array is a simulated array. All of its methods are safe for concurrent use.
type Array struct {
	cfg     Config
	product product
	router  *router
	table   []*route // the same, sorted by path
	started time.Time

	mu    sync.RWMutex // guards state and everything it reaches
	state *state
	disk  *disk // nil: all in memory

	filled *sync.Cond // on mu, for reading: a request's work on backing files has ended

	behind sync.Map // storage instances that disk or data plane could not follow, and why

	events eventLog
	gauges gauges

	keys     keyring
	driven   drivenSessions
	faults   faultQueue
	log      requestLog
	requests atomic.Uint64
}

// New makes an array. With a DataDir it takes up the state found there; BringUp then
// brings the Exporter's data plane in line with it.
func New(cfg Config) (*Array, error) {
	p, err := cfg.setDefaults()
	if err != nil {
		return nil, err
	}
	a := &Array{cfg: cfg, product: p, state: newState(cfg.Nodes), started: cfg.Clock()}
	a.log.on = cfg.Record
	a.filled = sync.NewCond(a.mu.RLocker())
	a.router, a.table = newRouter(a.routes())
	return a, a.open()
}

// open takes up the state of the data directory, or begins a new one.
func (a *Array) open() error {
	found := false
	if a.cfg.DataDir != "" {
		var err error
		if a.disk, err = openDisk(a.cfg.DataDir); err != nil {
			return err
		}
		if found, err = a.load(); err != nil {
			return errors.Join(err, a.Close())
		}
	}
	if !found {
		a.state.addDefaultAccounts()
		a.state.addDefaultPool(a.accessIPs())
		a.state.addDefaultPlacement()
	}
	a.state.setUsers(a.cfg.Users)
	if a.disk == nil {
		return nil
	}
	return a.saveRest()
}

// allow refuses one more of something when there are have of them already.
func allow(have, limit int, what string) error {
	if limit >= 0 && have >= limit {
		return errLimit(what, limit)
	}
	return nil
}

func (a *Array) now() time.Time { return a.cfg.Clock() }

func (a *Array) serves(v string) bool {
	for _, s := range a.cfg.APIVersions {
		if s == v {
			return true
		}
	}
	return false
}

// perform runs an operation under the lock it needs, then makes its changes
// durable and visible on the data plane before anybody hears of them.
func (a *Array) perform(ctx context.Context, r *request) (any, error) {
	if r.http.Method == http.MethodGet {
		a.catchUp(context.WithoutCancel(ctx))
		return a.look(r, r.op.do)
	}
	result, err := a.change(r)
	if err != nil {
		return nil, err
	}
	if err := a.settle(context.WithoutCancel(ctx), r); err != nil {
		return nil, err
	}
	if !r.op.public {
		r.happened()
	}
	if show, ok := result.(later); ok {
		return a.look(r, func(*request) (any, error) { return show(), nil })
	}
	return result, nil
}

// later is an answer that must be rendered after the data plane has followed.
type later func() any

func (a *Array) look(r *request, do func(*request) (any, error)) (any, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	r.now = a.now()
	if r.own() == nil {
		return nil, errPermission("there is no tenant %s", r.tenant)
	}
	result, err := do(r)
	if err == nil {
		err = r.failure
	}
	return result, err
}

func (a *Array) change(r *request) (any, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.now = a.now()
	a.state.purge(r.now)
	if r.own() == nil {
		return nil, errPermission("there is no tenant %s", r.tenant)
	}
	return r.op.do(r)
}

// settle is what follows a change, outside the big lock: backing files, then the
// state on disk, then the data plane, also of a change that was taken back: others
// may have saved and shown it meanwhile. Files go last. A client that leaves does
// not stop it: the state has changed already.
func (a *Array) settle(ctx context.Context, r *request) error {
	failed := a.work(&r.changed)
	a.filled.Broadcast()
	if err := a.persist(&r.changed); err != nil {
		a.leaveBehind(&r.changed, err)
		return errors.Join(failed, err)
	}
	if err := a.exportAll(ctx, r); err != nil {
		return errors.Join(failed, err)
	}
	return errors.Join(failed, removeFiles(r.changed.files))
}

// work does what a request needs of backing files. If that fails, what cannot be
// without it is taken back.
func (a *Array) work(c *changes) error {
	for i, j := range c.jobs {
		err := j.work()
		a.mu.Lock()
		if err == nil {
			j.done(true)
			a.mu.Unlock()
			continue
		}
		for _, rest := range c.jobs[i:] {
			rest.done(false)
		}
		for _, undo := range c.undo {
			undo()
		}
		a.mu.Unlock()
		return err
	}
	return nil
}

// Fail plans a fault for the next requests that match.
func (a *Array) Fail(m Match, f Fault) { a.faults.plan(m, f) }

// ClearFaults takes back all faults that are still planned and ends a leader
// change.
func (a *Array) ClearFaults() { a.faults.clear() }

// ChangeLeader makes the array answer 503 to everything for d, as it does while
// its management leader moves to another node.
func (a *Array) ChangeLeader(d time.Duration) {
	a.faults.mu.Lock()
	defer a.faults.mu.Unlock()
	a.faults.down = a.now().Add(d)
}

// wait lets d pass; it says false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
