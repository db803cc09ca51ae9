package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
)

const iscsiPort = 3260

func (a *Array) accessIPs() []string {
	ips := make([]string, len(a.cfg.AccessIPs))
	for i, ip := range a.cfg.AccessIPs {
		ips[i] = ip.String()
	}
	return ips
}

// exportAll brings the data plane in line with what a request has changed.
func (a *Array) exportAll(ctx context.Context, r *request) error {
	if a.cfg.Exporter == nil {
		return nil
	}
	a.catchUp(ctx)
	done := map[*storageInstance]bool{}
	var failed error
	for _, si := range r.changed.targets {
		if done[si] {
			continue
		}
		done[si] = true
		if err := a.exportTarget(ctx, si); err != nil {
			failed = errors.Join(failed, fmt.Errorf("bring target %s of storage_instance %s in line: %w", si.IQN, si.Name, err))
		}
	}
	return failed
}

// leaveBehind notes that a change is not on disk, and so not on the data plane.
func (a *Array) leaveBehind(c *changes, why error) {
	if a.cfg.Exporter == nil {
		return
	}
	for _, si := range c.targets {
		si.exporting.Lock() // whoever has begun to export it may not know of the change
		a.behind.Store(si, why)
		si.exporting.Unlock()
	}
}

// catchUp tries again what could not follow the state before. Whoever asked for
// that has heard of the failure.
func (a *Array) catchUp(ctx context.Context) {
	a.behind.Range(func(key, _ any) bool {
		si, ok := key.(*storageInstance)
		if ok && (!si.app.unsaved.Load() || a.saveApp(si.app) == nil) {
			_ = a.exportTarget(ctx, si) // stays behind when it fails again
		}
		return true
	})
}

// inLine fails a request that would show a target which is another one in truth:
// who is not in the ACL could be taken for shut out.
func (r *request) inLine(si *storageInstance) {
	if why, behind := r.array.behind.Load(si); behind && (si.exported || si.app.unsaved.Load()) && r.http.Method == http.MethodGet {
		r.failure = errInternal(fmt.Errorf("target %s is not in line: %v", si.IQN, why))
	}
}

// exportTarget serialises by target. It looks at the state only once it has the
// target, so the last to come always leaves the newest state behind.
func (a *Array) exportTarget(ctx context.Context, si *storageInstance) error {
	si.exporting.Lock()
	defer si.exporting.Unlock()
	a.mu.RLock()
	target, shown := a.target(si), !si.off() && !si.filling()
	a.mu.RUnlock()
	var err error
	if shown {
		err = a.cfg.Exporter.Apply(ctx, target)
	} else {
		err = a.cfg.Exporter.Remove(ctx, si.IQN)
	}
	switch {
	case err != nil:
		a.behind.Store(si, err)
		left, unknown := a.cfg.Exporter.Targets()
		shown = unknown != nil || slices.Contains(left, si.IQN)
	case !si.app.unsaved.Load():
		a.behind.Delete(si)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	si.exported = shown
	return err
}

// filling says whether the data of a volume is still being copied.
func (si *storageInstance) filling() bool {
	return slices.ContainsFunc(si.Volumes, func(v *volume) bool { return v.filling })
}

func (a *appInstance) filling() bool {
	return slices.ContainsFunc(a.Storage, (*storageInstance).filling)
}

// BringUp brings the data plane in line with the whole state, as at a start:
// every target of the state is shown and no other one of ours is left. A target
// that cannot be shown is reported and tried again later.
func (a *Array) BringUp(ctx context.Context) error {
	if a.cfg.Exporter == nil {
		return nil
	}
	a.mu.RLock()
	targets := maps.Clone(a.state.targets)
	a.mu.RUnlock()
	for _, iqn := range slices.Sorted(maps.Keys(targets)) {
		err := a.exportTarget(ctx, targets[iqn])
		if err != nil && ctx.Err() != nil {
			return err
		}
		if err != nil {
			a.report(fmt.Errorf("bring up target %s of app_instance %s: %w", iqn, targets[iqn].app.Name, err))
		}
	}
	left, err := a.cfg.Exporter.Targets()
	if err != nil {
		return fmt.Errorf("look for targets of an earlier process: %w", err)
	}
	for _, iqn := range left {
		if targets[iqn] != nil {
			continue
		}
		if err := a.cfg.Exporter.Remove(ctx, iqn); err != nil {
			return fmt.Errorf("remove target %s of an earlier process: %w", iqn, err)
		}
	}
	return nil
}

// TakeDown removes all targets from the data plane and leaves the state as it
// is.
func (a *Array) TakeDown(ctx context.Context) error {
	if a.cfg.Exporter == nil {
		return nil
	}
	left, err := a.cfg.Exporter.Targets()
	if err != nil {
		return fmt.Errorf("take down the targets: %w", err)
	}
	for _, iqn := range left {
		if e := a.cfg.Exporter.Remove(ctx, iqn); e != nil {
			err = errors.Join(err, fmt.Errorf("take down target %s: %w", iqn, e))
		}
	}
	return err
}

// target describes a storage instance to the data plane.
func (a *Array) target(si *storageInstance) Target {
	t := Target{
		IQN: si.IQN, AllowAll: si.AccessControlMode == modeAllowAll, Initiators: a.state.admitted(si),
		Auth: Auth{TargetUser: si.Auth.TargetUser, TargetPassword: si.Auth.TargetPassword,
			InitiatorUser: si.Auth.InitiatorUser, InitiatorPassword: si.Auth.InitiatorPassword},
	}
	for _, ip := range a.cfg.AccessIPs {
		t.Portals = append(t.Portals, netip.AddrPortFrom(ip, iscsiPort))
	}
	for _, v := range si.Volumes {
		t.LUNs = append(t.LUNs, LUN{Serial: v.UUID, File: a.volumeFile(v), Bytes: v.SizeGiB << 30})
	}
	return t
}
