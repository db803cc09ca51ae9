package sim

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"
)

// state is everything the array knows. Array.mu guards it.
type state struct {
	seq     uint64 // of the last row made
	lastTS  int64  // nanoseconds of the last snapshot's utc_ts: no two are equal
	tenants table[*tenant]

	documents map[docKey]*table[*doc]

	volumes map[string]*volume          // by uuid
	targets map[string]*storageInstance // by IQN
	count   counts
	system  systemState
	dying   []*appInstance // deleted and still to be seen, in the order they go
}

// counts are kept while things come and go, so that asking is free.
type counts struct {
	apps, storage, volumes, snapshots, initiators int
}

// tenant is a tenant and what belongs to it.
type tenant struct {
	Seq   uint64
	Path  string // /root/prod
	Name  string
	Descr string

	Settings body

	apps       appTable
	initiators table[*initiator]
}

func (t *tenant) key() string      { return t.Path }
func (t *tenant) sequence() uint64 { return t.Seq }

// appTable finds app instances by id and by name.
type appTable struct {
	table[*appInstance]
	byName map[string]*appInstance
}

func newState(nodes int) *state {
	s := &state{
		documents: map[docKey]*table[*doc]{},
		volumes:   map[string]*volume{},
		targets:   map[string]*storageInstance{},
	}
	s.system.UUID = newUUID()
	for range nodes {
		s.system.NodeUUIDs = append(s.system.NodeUUIDs, newUUID())
	}
	s.addTenant(rootTenant, "root", "")
	return s
}

func (s *state) next() uint64 {
	s.seq++
	return s.seq
}

func (s *state) addTenant(path, name, descr string) *tenant {
	t := &tenant{Seq: s.next(), Path: path, Name: name, Descr: descr}
	s.tenants.add(t)
	return t
}

// own is the tenant that the request works in; nil when it was deleted after authorise
// saw it.
func (r *request) own() *tenant {
	t, _ := r.array.state.tenants.get(r.tenant)
	return t
}

// timestamp is a utc_ts no snapshot has had: seconds, a dot, nanoseconds
// without trailing zeros, never a whole second.
func (s *state) timestamp(now time.Time) string {
	ns := now.UnixNano()
	if ns <= s.lastTS {
		ns = s.lastTS + 1
	}
	if ns%1e9 == 0 {
		ns++
	}
	s.lastTS = ns
	return formatTS(ns)
}

func formatTS(ns int64) string {
	ts := fmt.Sprintf("%d.%09d", ns/1e9, ns%1e9)
	for ts[len(ts)-1] == '0' {
		ts = ts[:len(ts)-1]
	}
	return ts
}

const zeroUUID = "00000000-0000-0000-0000-000000000000"

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	var out [36]byte
	hex.Encode(out[:], b[:4])
	hex.Encode(out[9:], b[4:6])
	hex.Encode(out[14:], b[6:8])
	hex.Encode(out[19:], b[8:10])
	hex.Encode(out[24:], b[10:])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return string(out[:])
}

func newKey() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}
