package iscsi

import (
	"context"
	"time"
)

// MultipathMode says what to do about dm-multipath.
type MultipathMode string

const (
	MultipathAuto    MultipathMode = "auto"    // a map when multipathd runs and wants the device, else one path
	MultipathRequire MultipathMode = "require" // a map or an error
	MultipathOff     MultipathMode = "off"     // one path, whatever runs
)

// Config of an Initiator. The zero value works on a bare host.
type Config struct {
	Host      Runner        // runs iscsiadm and multipathd; nil means Direct
	Root      string        // the host's root directory as seen from here, for /etc/iscsi, /run and /proc; "" means /
	Sysfs     string        // "" means /sys
	Dev       string        // "" means /dev
	Multipath MultipathMode // "" means MultipathAuto

	LoginTimeout time.Duration // for one login to one portal; 0 means 10 s
	DiskTimeout  time.Duration // for a disk to appear once its portal is logged in; 0 means 30 s
	MapTimeout   time.Duration // for multipathd to make, change or remove a map; 0 means 20 s
	FlushTimeout time.Duration // for a device to write out what it buffers; 0 means 60 s
}

// Initiator attaches and detaches LUNs with this host's iSCSI initiator. Its
// methods may be called in parallel; for one Target the caller keeps calls apart.
type Initiator struct{ cfg Config }

// New returns an Initiator; it looks at nothing yet.
func New(cfg Config) *Initiator { return &Initiator{cfg: cfg} }

// Attach makes the LUN a block device of this host, or finds that it is one.
func (i *Initiator) Attach(ctx context.Context, t Target, auth *CHAP) (Device, error) {
	return Device{}, ErrNotReady
}

// Detach takes the LUN away from this host. Nothing there is success.
func (i *Initiator) Detach(ctx context.Context, t Target) error { return ErrNotReady }

// Find returns the device that Attach made, from sysfs alone.
func (i *Initiator) Find(ctx context.Context, t Target) (Device, error) {
	return Device{}, ErrNotReady
}

// Rescan makes growth of the LUN visible and returns the bytes the host sees now.
func (i *Initiator) Rescan(ctx context.Context, t Target) (int64, error) { return 0, ErrNotReady }

// Name returns the IQN of this host's initiator.
func (i *Initiator) Name() (string, error) { return "", ErrNotReady }

// Ready says whether this host can attach at all; ErrNotReady says what is missing.
func (i *Initiator) Ready(ctx context.Context) error { return ErrNotReady }
