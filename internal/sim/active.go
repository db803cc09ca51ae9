package sim

import (
	"fmt"
	"slices"
	"sync"
)

// drivenSessions are the iSCSI sessions of an array without a data plane: tests
// open and end them.
type drivenSessions struct {
	mu    sync.Mutex
	byIQN map[string][]string // initiators by target
}

func (d *drivenSessions) of(target string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.byIQN[target])
}

func (d *drivenSessions) add(target, initiator string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byIQN == nil {
		d.byIQN = map[string][]string{}
	}
	if !slices.Contains(d.byIQN[target], initiator) {
		d.byIQN[target] = append(d.byIQN[target], initiator)
	}
}

// keep ends the sessions of a target that stay says false to.
func (d *drivenSessions) keep(target string, stay func(initiator string) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := slices.DeleteFunc(d.byIQN[target], func(i string) bool { return !stay(i) })
	if len(left) == 0 {
		delete(d.byIQN, target)
		return
	}
	d.byIQN[target] = left
}

// LogIn opens a session as an initiator would: the target must be online and
// admit it. Only an array without an Exporter has such sessions.
func (a *Array) LogIn(target, initiator string) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.cfg.Exporter != nil {
		return fmt.Errorf("log in to %s: this array has a data plane of its own", target)
	}
	si := a.state.targets[target]
	if si == nil {
		return fmt.Errorf("log in to %s: no such target", target)
	}
	r := &request{array: a, now: a.now()}
	if r.opState(si) != "available" {
		return fmt.Errorf("log in to %s: the target is not available", target)
	}
	if si.AccessControlMode == modeDenyAll && !slices.Contains(a.state.admitted(si), initiator) {
		return fmt.Errorf("log in to %s: initiator %s is not in the ACL", target, initiator)
	}
	a.driven.add(target, initiator)
	return nil
}

// LogOut ends a session; an absent one is no error.
func (a *Array) LogOut(target, initiator string) {
	a.driven.keep(target, func(i string) bool { return i != initiator })
}

// active are the initiators with a session now. A data plane that can not tell
// fails the request: an empty list would be taken for a proof.
func (r *request) active(si *storageInstance) []string {
	exporter := r.array.cfg.Exporter
	if exporter == nil {
		return append([]string{}, r.array.driven.of(si.IQN)...)
	}
	if !si.exported {
		return []string{}
	}
	sessions, err := exporter.Sessions(si.IQN)
	if err != nil {
		r.failure = errInternal(fmt.Errorf("read the sessions of target %s: %w", si.IQN, err))
	}
	slices.Sort(sessions)
	return append([]string{}, slices.Compact(sessions)...)
}

// endSessions cuts all sessions of a target that goes away.
func (r *request) endSessions(si *storageInstance) {
	if !r.array.cfg.OfflineSticks {
		r.array.driven.keep(si.IQN, func(string) bool { return false })
	}
}

// evict cuts the sessions of initiators that the ACL no longer admits.
func (r *request) evict(si *storageInstance) {
	if r.array.cfg.SessionsStick || si.AccessControlMode == modeAllowAll {
		return
	}
	admitted := r.array.state.admitted(si)
	r.array.driven.keep(si.IQN, func(i string) bool { return slices.Contains(admitted, i) })
}
