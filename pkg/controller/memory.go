package controller

import "sync"

// memory is which snapshot has a uuid, as far as this process has seen: the array
// can be asked for a uuid within one volume only. What is remembered is believed
// after the array has confirmed it. It is safe for concurrent use.
type memory struct {
	mu     sync.Mutex
	byUUID map[string]snapshotID
	order  []string // uuids, the oldest first
}

// remembered bounds the memory: a name is used again soon or never.
const remembered = 10_000

func (m *memory) note(uuid string, id snapshotID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byUUID == nil {
		m.byUUID = make(map[string]snapshotID)
	}
	if _, known := m.byUUID[uuid]; !known {
		m.order = append(m.order, uuid)
	}
	m.byUUID[uuid] = id
	if len(m.order) > remembered {
		delete(m.byUUID, m.order[0])
		m.order = m.order[1:]
	}
}

func (m *memory) find(uuid string) (snapshotID, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, ok := m.byUUID[uuid]
	return id, ok
}
