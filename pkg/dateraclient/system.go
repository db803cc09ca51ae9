package dateraclient

import (
	"context"
)

// System is the array as a whole.
type System struct {
	Name         string
	UUID         string
	SWVersion    string // product version, e.g. 3.3.4.0
	BuildVersion string
	Health       string // unknown, ok, warning or critical
	OpState      string // running, initializing, maintenance, degraded…

	// Capacities in bytes. Volumes are thin: what is provisioned may exceed the
	// total.
	All, Hybrid, AllFlash Capacity
}

// Capacity is one class of storage, in bytes.
type Capacity struct{ Total, Available, Provisioned int64 }

// System asks the array about itself, every time anew.
func (c *Client) System(ctx context.Context) (*System, error) {
	w, err := call[systemWire](ctx, c, get("/system"))
	if err != nil {
		return nil, err
	}
	return w.system(), nil
}

type systemWire struct {
	Name         text `json:"name"`
	UUID         text `json:"uuid"`
	SWVersion    text `json:"sw_version"`
	BuildVersion text `json:"build_version"`
	Health       text `json:"health"`
	OpState      text `json:"op_state"`

	Total       number `json:"total_capacity"`
	Available   number `json:"available_capacity"`
	Provisioned number `json:"total_provisioned_capacity"`

	HybridTotal       number `json:"hybrid_total_capacity"`
	HybridAvailable   number `json:"hybrid_available_capacity"`
	HybridProvisioned number `json:"hybrid_provisioned_capacity"`

	FlashTotal       number `json:"all_flash_total_capacity"`
	FlashAvailable   number `json:"all_flash_available_capacity"`
	FlashProvisioned number `json:"all_flash_provisioned_capacity"`
}

func (w systemWire) system() *System {
	return &System{
		Name: string(w.Name), UUID: string(w.UUID),
		SWVersion: string(w.SWVersion), BuildVersion: string(w.BuildVersion),
		Health: string(w.Health), OpState: string(w.OpState),
		All:      Capacity{int64(w.Total), int64(w.Available), int64(w.Provisioned)},
		Hybrid:   Capacity{int64(w.HybridTotal), int64(w.HybridAvailable), int64(w.HybridProvisioned)},
		AllFlash: Capacity{int64(w.FlashTotal), int64(w.FlashAvailable), int64(w.FlashProvisioned)},
	}
}
