package dateraclient

import (
	"context"
)

// System is the array as a whole.
type System struct {
	UUID      string
	SWVersion string // product version, e.g. 3.3.4.0

	// In bytes. Volumes are thin: what is provisioned may exceed the total.
	All, Hybrid, AllFlash Capacity
}

// Capacity is one class of storage, in bytes.
type Capacity struct{ Total, Available int64 }

// System asks the array about itself, every time anew.
func (c *Client) System(ctx context.Context) (*System, error) {
	w, err := call[systemWire](ctx, c, get("/system"))
	if err != nil {
		return nil, err
	}
	return w.system(), nil
}

type systemWire struct {
	UUID      text `json:"uuid"`
	SWVersion text `json:"sw_version"`

	Total     number `json:"total_capacity"`
	Available number `json:"available_capacity"`

	HybridTotal     number `json:"hybrid_total_capacity"`
	HybridAvailable number `json:"hybrid_available_capacity"`

	FlashTotal     number `json:"all_flash_total_capacity"`
	FlashAvailable number `json:"all_flash_available_capacity"`
}

func (w systemWire) system() *System {
	return &System{
		UUID: string(w.UUID), SWVersion: string(w.SWVersion),
		All:      Capacity{int64(w.Total), int64(w.Available)},
		Hybrid:   Capacity{int64(w.HybridTotal), int64(w.HybridAvailable)},
		AllFlash: Capacity{int64(w.FlashTotal), int64(w.FlashAvailable)},
	}
}
