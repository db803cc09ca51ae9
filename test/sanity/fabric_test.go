package sanity_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node/nodetest"
)

// fabric is the simulated array's data plane in memory. It lets the host in as a
// real target would: by access list, CHAP, portal, LUN and serial number.
type fabric struct {
	mu       sync.Mutex
	targets  map[string]sim.Target
	sessions map[string][]string // initiators by target
}

func newFabric() *fabric {
	return &fabric{targets: make(map[string]sim.Target), sessions: make(map[string][]string)}
}

func (f *fabric) Apply(_ context.Context, t sim.Target) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.targets[t.IQN] = t
	f.sessions[t.IQN] = slices.DeleteFunc(f.sessions[t.IQN], func(initiator string) bool {
		return !t.AllowAll && !slices.Contains(t.Initiators, initiator)
	})
	return nil
}

func (f *fabric) Remove(_ context.Context, iqn string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.targets, iqn)
	delete(f.sessions, iqn)
	return nil
}

func (f *fabric) Sessions(iqn string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sessions[iqn]), nil
}

func (f *fabric) Targets() ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.targets)), nil
}

func (f *fabric) logIn(t iscsi.Target, initiator string, auth *iscsi.CHAP) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	lun, err := f.lun(t)
	if err != nil {
		return err
	}
	exported := f.targets[t.IQN]
	if !exported.AllowAll && !slices.Contains(exported.Initiators, initiator) {
		return fmt.Errorf("%w: %s does not admit %s", iscsi.ErrAuth, t.IQN, initiator)
	}
	if auth == nil {
		auth = &iscsi.CHAP{}
	}
	shown := sim.Auth{TargetUser: auth.User, TargetPassword: auth.Password, InitiatorUser: auth.UserIn, InitiatorPassword: auth.PasswordIn}
	if shown != exported.Auth {
		return fmt.Errorf("%w: %s wants other secrets", iscsi.ErrAuth, t.IQN)
	}
	if lun.Serial != t.Serial || lun.Bytes < t.Bytes {
		return fmt.Errorf("%w: LUN %d of %s has serial %s and %d bytes", iscsi.ErrForeign, t.LUN, t.IQN, lun.Serial, lun.Bytes)
	}
	if !slices.Contains(f.sessions[t.IQN], initiator) {
		f.sessions[t.IQN] = append(f.sessions[t.IQN], initiator)
	}
	return nil
}

func (f *fabric) logOut(iqn, initiator string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sessions[iqn] = slices.DeleteFunc(f.sessions[iqn], func(i string) bool { return i == initiator })
}

// lun finds what a node was told to attach; f.mu is held.
func (f *fabric) lun(t iscsi.Target) (sim.LUN, error) {
	exported, ok := f.targets[t.IQN]
	if !ok || t.LUN >= len(exported.LUNs) {
		return sim.LUN{}, fmt.Errorf("%w: there is no LUN %d of %s", iscsi.ErrUnavailable, t.LUN, t.IQN)
	}
	for _, portal := range t.Portals {
		if !slices.Contains(exported.Portals, portal) {
			return sim.LUN{}, fmt.Errorf("%w: %s has no portal %s", iscsi.ErrUnavailable, t.IQN, portal)
		}
	}
	return exported.LUNs[t.LUN], nil
}

func (f *fabric) bytes(t iscsi.Target) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	lun, err := f.lun(t)
	return lun.Bytes, err
}

// initiator is the host's initiator on the fabric.
type initiator struct {
	*nodetest.Host
	fabric *fabric
	name   string
}

func (i *initiator) Attach(ctx context.Context, t iscsi.Target, auth *iscsi.CHAP) (iscsi.Device, error) {
	if err := i.fabric.logIn(t, i.name, auth); err != nil {
		return iscsi.Device{}, err
	}
	return i.Host.Attach(ctx, t, auth)
}

func (i *initiator) Detach(ctx context.Context, t iscsi.Target) error {
	if err := i.Host.Detach(ctx, t); err != nil {
		return err
	}
	i.fabric.logOut(t.IQN, i.name)
	return nil
}
