package sim

import (
	"context"
	"fmt"
	"net/netip"
)

const iscsiPort = 3260

func (a *Array) accessIPs() []string {
	ips := make([]string, len(a.cfg.AccessIPs))
	for i, ip := range a.cfg.AccessIPs {
		ips[i] = ip.String()
	}
	return ips
}

// exportAll brings the data plane in line with what a request has changed. The
// client's leaving does not stop it: the state has changed already.
func (a *Array) exportAll(r *request) error {
	if a.cfg.Exporter == nil {
		return nil
	}
	ctx := context.WithoutCancel(r.ctx)
	done := map[*storageInstance]bool{}
	for _, si := range r.changed.targets {
		if done[si] {
			continue
		}
		done[si] = true
		if err := a.exportTarget(ctx, si); err != nil {
			return fmt.Errorf("bring target %s of storage_instance %s in line: %w", si.IQN, si.Name, err)
		}
	}
	return nil
}

// exportTarget serialises by target. It looks at the state only once it has the
// target, so the last to come always leaves the newest state behind.
func (a *Array) exportTarget(ctx context.Context, si *storageInstance) error {
	si.exporting.Lock()
	defer si.exporting.Unlock()
	a.mu.RLock()
	target, shown := a.target(si), !si.off()
	a.mu.RUnlock()
	var err error
	if shown {
		err = a.cfg.Exporter.Apply(ctx, target)
	} else {
		err = a.cfg.Exporter.Remove(ctx, si.IQN)
	}
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	si.exported = shown
	return nil
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
