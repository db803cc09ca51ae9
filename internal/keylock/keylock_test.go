package keylock

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestOnlyOneHolderAKey(t *testing.T) {
	var k Keys
	var inside, most, got atomic.Int32
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 200 {
				unlock, ok := k.TryLock("v")
				if !ok {
					continue
				}
				most.Store(max(most.Load(), inside.Add(1)))
				got.Add(1)
				inside.Add(-1)
				unlock()
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 || got.Load() == 0 {
		t.Errorf("at most %d holders at once in %d holds, want 1", most.Load(), got.Load())
	}
}

func TestKeysAreIndependentAndReleasedOnce(t *testing.T) {
	var k Keys
	unlockA, okA := k.TryLock("a")
	unlockB, okB := k.TryLock("b")
	if !okA || !okB {
		t.Fatalf("a %v, b %v, want both", okA, okB)
	}
	unlockA()
	again, ok := k.TryLock("a")
	if !ok {
		t.Fatal("a released key is still held")
	}
	unlockA() // a second release must not take the key from its new holder
	if _, ok := k.TryLock("a"); ok {
		t.Error("a stale unlock released somebody else's key")
	}
	again()
	unlockB()
}
