package sim

import (
	"cmp"
	"slices"
)

// row is what a table holds.
type row interface {
	comparable
	key() string
	sequence() uint64 // grows from row to row; never changes
}

// table keeps rows in the order they were made and finds them by key. Adding
// and finding cost the same however many there are.
type table[T row] struct {
	rows  []T
	byKey map[string]T
}

func (t *table[T]) get(key string) (T, bool) {
	x, ok := t.byKey[key]
	return x, ok
}

func (t *table[T]) add(x T) {
	if t.byKey == nil {
		t.byKey = map[string]T{}
	}
	t.byKey[x.key()] = x
	t.rows = append(t.rows, x)
}

func (t *table[T]) remove(x T) {
	i, ok := slices.BinarySearchFunc(t.rows, x.sequence(), func(y T, seq uint64) int { return cmp.Compare(y.sequence(), seq) })
	if !ok {
		return
	}
	delete(t.byKey, x.key())
	t.rows = slices.Delete(t.rows, i, i+1)
}
