package sim

import (
	"context"
	"net/netip"
)

// Target is one storage instance as the data plane must show it.
type Target struct {
	IQN        string
	Portals    []netip.AddrPort
	LUNs       []LUN // LUN number = index
	AllowAll   bool  // any initiator may log in; Initiators is then ignored
	Initiators []string
	Auth       Auth
}

// LUN is one volume on a Target.
type LUN struct {
	Serial string // unit serial number, VPD page 0x80: the volume's uuid
	File   string // backing file, at least Bytes long
	Bytes  int64
}

// Auth is the CHAP configuration of a Target. Empty TargetUser means none;
// empty InitiatorUser means one-way. No name or secret begins with NULL.
type Auth struct {
	TargetUser, TargetPassword       string // what the initiator must present
	InitiatorUser, InitiatorPassword string // what the target presents back
}

// Exporter is the data plane beneath the array: it turns storage instances into
// real iSCSI targets. internal/lio implements it with the Linux kernel's target.
type Exporter interface {
	// Apply makes the target look exactly as described: it creates, grows,
	// admits and revokes. An initiator that is no longer listed has lost its
	// session when Apply returns. Safe to repeat.
	Apply(ctx context.Context, t Target) error

	// Remove takes away the target, its backstores and all that Apply made;
	// an absent target is success. Backing files stay.
	Remove(ctx context.Context, iqn string) error

	// Sessions lists the initiators that are logged in to the target now, from
	// the target's own session state.
	Sessions(iqn string) ([]string, error)

	// Targets lists the IQNs of every target of ours in the data plane,
	// including those left by an earlier process.
	Targets() ([]string, error)
}
