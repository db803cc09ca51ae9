package lio_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBusyKernelIsWaitedFor(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	want := target(t)
	apply(t, e, want)
	acl := under(tpg + "/acls/" + hostA)

	k.busy[acl] = 3
	want.Initiators = nil
	apply(t, e, want)
	if got := lines(k.dump(), tpg+"/acls/"+hostA); len(got) > 0 {
		t.Errorf("still there: %q", got)
	}

	want.Initiators = []string{hostA}
	apply(t, e, want)
	k.busy[acl] = 1 << 30
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := e.Remove(ctx, iqn)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), hostA) {
		t.Errorf("a kernel that never lets go: got %v", err)
	}
}

func TestChangesOfOneTargetWaitForEachOther(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	want := target(t)
	apply(t, e, want)
	k.busy[under(tpg+"/acls/"+hostA)] = 1 << 30
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- e.Remove(ctx, iqn) }()
	for began := time.Now(); ; time.Sleep(time.Millisecond) { // until the first holds the target
		enable, err := k.Read(under(tpg + "/enable"))
		must(t, err)
		if enable == "0\n" {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("Remove does not disable the target")
		}
	}

	short, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	if err := e.Apply(short, want); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second change: got %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("first change: got %v", err)
	}
}

func TestManyTargetsAtOnce(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	base := target(t)
	var wg sync.WaitGroup
	for n := range 8 {
		x := base
		x.IQN = fmt.Sprintf("%s%02d", iqn, n)
		wg.Go(func() {
			for range 10 {
				if err := errors.Join(e.Apply(t.Context(), x), e.Remove(t.Context(), x.IQN)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff([]string{"/iscsi"}, k.dump()); diff != "" {
		t.Error(diff)
	}
}

// The last backstore of one target goes while the first of another comes: the
// HBA is not taken from under it.
func TestHBAOutlivesTheLastButOneBackstore(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	want, last := target(t), target(t)
	last.IQN += "-last"
	apply(t, e, last)
	removed := make(chan error, 1)
	k.before[under(disk)] = func() {
		go func() { removed <- e.Remove(t.Context(), last.IQN) }()
		select { // it may only finish if nothing holds the HBA
		case err := <-removed:
			removed <- err
		case <-time.After(50 * time.Millisecond):
		}
	}
	apply(t, e, want)
	must(t, <-removed)
	logIn(t, k, hostA)
}
