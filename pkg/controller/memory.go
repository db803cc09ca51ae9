package controller

import "sync"

// memory is what this process has seen and the array cannot be asked for with one
// request: it can be asked for a snapshot's uuid within one volume only, and for a
// volume's name on one backend only; of a backend that does not answer, nothing. It is
// safe for concurrent use.
type memory[V any] struct {
	mu    sync.Mutex
	byKey map[string]V
	order []string // keys, the oldest first; some are forgotten already
}

// remembered bounds the memory: a name is used again soon or never.
const remembered = 10_000

func (m *memory[V]) note(key string, value V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byKey == nil {
		m.byKey = make(map[string]V)
	}
	if _, known := m.byKey[key]; !known {
		m.order = append(m.order, key)
	}
	m.byKey[key] = value
	if len(m.order) > remembered {
		delete(m.byKey, m.order[0])
		m.order = m.order[1:]
	}
}

func (m *memory[V]) find(key string) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok := m.byKey[key]
	return value, ok
}

func (m *memory[V]) forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byKey, key)
}
