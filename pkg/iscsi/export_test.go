package iscsi

// What tests outside of the package need of its inside.

type Identity = identity

type Kernel = kernel

func NewWithKernel(cfg Config, k Kernel) *Initiator { return newInitiator(cfg, k) }

var (
	LIOWWID       = lioWWID
	ParseSerial   = parseSerial
	ParseWWID     = parseWWID
	ParseCapacity = parseCapacity
	SenseKey      = senseKey
	DeviceNumber  = deviceNumber
	ParseHCTL     = parseHCTL
)
