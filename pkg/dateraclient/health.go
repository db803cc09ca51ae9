package dateraclient

import "encoding/json"

// Health is what the array says about a volume's well-being: of the app instance,
// of its storage instance and of its volume.
type Health struct {
	App, StorageInstance, Volume Condition
}

// Condition is the state of one object in the array's words. What the array does
// not say is empty; some fields only one kind of object has.
type Condition struct {
	Health       string   // unknown, ok, warning or critical
	OpState      string   // storage instance: available, unavailable, failed; volume: available, free otherwise
	Deployment   string   // deployed, not_deployed, degraded or failed
	Availability string   // volume: available or unavailable
	Recovery     string   // volume: recovery_in_progress, recovery_pending, recovery_failed
	Storage      string   // volume: replicas_degraded, flash_degraded
	Causes       []string // why Health is not ok
}

// conditionWire is what objects of three kinds have in common, and more.
type conditionWire struct {
	Health       text   `json:"health"`
	Deployment   text   `json:"deployment_state"`
	Availability text   `json:"availability_state"`
	Recovery     text   `json:"recovery_state"`
	Storage      text   `json:"storage_state"`
	Causes       causes `json:"causes"`
}

// causes are told in whatever form the array words them: what only describes must
// not be what makes a volume unreadable.
type causes []string

func (c *causes) UnmarshalJSON(raw []byte) error {
	var parts []json.RawMessage
	if json.Unmarshal(raw, &parts) != nil {
		parts = []json.RawMessage{raw}
	}
	*c = nil
	for _, part := range parts {
		var s string
		if json.Unmarshal(part, &s) != nil {
			s = string(part)
		}
		if s != "" {
			*c = append(*c, clip(s, excerptBytes))
		}
	}
	return nil
}

func (w conditionWire) condition(opState text) Condition {
	return Condition{
		Health: string(w.Health), OpState: string(opState), Deployment: string(w.Deployment),
		Availability: string(w.Availability), Recovery: string(w.Recovery), Storage: string(w.Storage),
		Causes: w.Causes,
	}
}

func (a *appInstance) health(si *storageInstance, v *volumeWire) Health {
	return Health{
		App:             a.condition(a.OpState),
		StorageInstance: si.condition(si.OpState),
		Volume:          v.condition(v.OpState),
	}
}
