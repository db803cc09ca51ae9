package iscsi

import (
	"context"
	"net/netip"
	"time"

	"github.com/datera-csi/datera-csi/internal/mountinfo"
)

// What tests outside of the package need of its inside.

type Identity = identity

type Kernel = kernel

type Opener = opener

func NewOpener(who string, writes bool) Opener { return opener{who: who, writes: writes} }

func NewKeeper(who string) Opener { return opener{who: who, keeper: true} }

func NewWithKernel(cfg Config, k Kernel) *Initiator { return newInitiator(cfg, k) }

// Linux is the kernel of this machine.
func Linux() Kernel { return linux{} }

// HostWith is Direct, with multipathd on another socket and in another network
// namespace.
func HostWith(multipathd, network string) Runner {
	return host{multipathd: multipathd, network: network}
}

var (
	LIOWWID       = lioWWID
	Exchange      = exchange
	OneLine       = oneLine
	AdminError    = adminError
	ParseSerial   = parseSerial
	ParseWWID     = parseWWID
	ParseCapacity = parseCapacity
	SenseKey      = senseKey
	DeviceNumber  = deviceNumber
	CheckNode     = checkNode
	MayWrite      = mayWrite
	ParseHCTL     = parseHCTL
	ParsePortal   = parsePortal
	TableQueues   = tableQueues
)

// Runs says whether something runs under a name.
func (i *Initiator) Runs(name string) (bool, error) { return i.runs(name) }

// EditRecord returns a node record with one setting in it.
func EditRecord(text []byte, key, v string) []byte {
	return nodeRecord{text: text}.with([]setting{{key, v}})
}

// RecordValue reads a key of a node record.
func RecordValue(text []byte, key string) string { return value(text, key) }

// IntactNodeRecord says whether iscsiadm can read a node record.
func IntactNodeRecord(text []byte, iqn string) bool {
	return nodeRecord{text: text, portal: netip.MustParseAddrPort("192.0.2.1:3260")}.intact(iqn)
}

// MountUses says whether the mounts use a device.
func MountUses(table, name, dev string) (point string, used bool) {
	mounts, _ := mountinfo.Parse([]byte(table))
	for _, m := range mounts {
		if uses(m, blockDevice{name: name, dev: dev}) {
			return m.Path, true
		}
	}
	return "", false
}

// MapTable is what a Kernel tells of a map.
type MapTable = mapTable

// NewMapTable makes one.
func NewMapTable(queues bool, opens int) MapTable { return mapTable{queues: queues, opens: opens} }

// Bounds and Bounded are how what may wait in the kernel is asked.
type Bounds = bounds

func Bounded[T any](ctx context.Context, b *Bounds, what string, fn func() (T, error)) (T, error) {
	return bounded(ctx, b, what, fn)
}

// Until is how everything here waits.
func Until(ctx context.Context, timeout time.Duration, cond func() (bool, error)) (bool, error) {
	return until(ctx, timeout, cond)
}
