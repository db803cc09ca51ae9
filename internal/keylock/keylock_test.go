package keylock

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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

func TestWhoWaitsGetsTheKeyInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k Keys
		unlock, _ := k.TryLock("a")
		var order []int
		for n := range 5 {
			go func() {
				mine, err := k.Lock(t.Context(), "a")
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, n)
				mine()
			}()
			synctest.Wait() // they come one after the other
		}
		unlock()
		synctest.Wait()
		if want := []int{0, 1, 2, 3, 4}; !slices.Equal(order, want) {
			t.Errorf("the key went to %v, want %v", order, want)
		}
		if len(k.held) != 0 {
			t.Errorf("%d keys are remembered that nobody holds", len(k.held))
		}
	})
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k Keys
		unlock, _ := k.TryLock("a")
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() { _, err := k.Lock(ctx, "a"); failed <- err }()
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("Lock = %v, want that its context was cancelled", err)
		}
		unlock()
		if again, ok := k.TryLock("a"); !ok {
			t.Error("who has left holds the key still")
		} else {
			again()
		}
		if len(k.held) != 0 {
			t.Errorf("%d keys are remembered that nobody holds", len(k.held))
		}
	})
}
