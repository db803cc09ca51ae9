package sim

import "fmt"

// Health is what a test wants an object to say about itself. Empty fields mean
// that all is well.
type Health struct {
	Health       string   // unknown, ok, warning, critical
	Causes       []string // reasons for bad health
	OpState      string   // instead of the true op_state
	Availability string   // volumes: availability_state
	Recovery     string   // volumes: recovery_state
	Storage      string   // volumes: storage_state
}

func (h Health) health() string { return or(h.Health, "ok") }

// SetHealth makes an app instance and all that it contains look as h says. An
// OpState is shown by its storage instances and volumes only. The zero Health
// brings back the truth.
func (a *Array) SetHealth(tenant, app string, h Health) error {
	return a.adjust(tenant, app, func(x *appInstance) {
		x.knobs = h
		for _, si := range x.Storage {
			si.knobs = h
			for _, v := range si.Volumes {
				v.knobs = h
			}
		}
	})
}

// SetUsed makes every volume of an app instance show so many bytes in use. It
// has no effect on volumes that have a backing file.
func (a *Array) SetUsed(tenant, app string, bytes int64) error {
	return a.adjust(tenant, app, func(x *appInstance) {
		for _, v := range x.volumes() {
			v.UsedBytes = bytes
		}
	})
}

func (a *Array) adjust(tenant, app string, change func(*appInstance)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.state.tenants.get(tenant)
	if !ok {
		return fmt.Errorf("the array has no tenant %s", tenant)
	}
	x := t.apps.byName[app]
	if x == nil {
		return fmt.Errorf("tenant %s has no app instance %s", tenant, app)
	}
	change(x)
	return nil
}
