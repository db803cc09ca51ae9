package node_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/pkg/node"
)

// eventually waits until the condition holds.
func eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			tb.Fatalf("%s did not come to pass", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// leftAt makes a call whose caller leaves it once op, which is held, waits.
func (m *machine) leftAt(op string, call func(context.Context) error) error {
	m.t.Helper()
	ctx, leave := context.WithCancel(m.ctx())
	defer leave()
	done := make(chan error, 1)
	go func() { done <- call(ctx) }()
	eventually(m.t, op, func() bool { return m.Waits(op) })
	leave()
	return <-done
}

// FM 35
func TestAMkfsThatTakesLongerThanItsCallIsMadeOnce(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	release := m.Hold("mkfs.xfs")
	want(t, m.leftAt("mkfs.xfs", v.stageFor), codes.Canceled, "goes on")
	for range 5 {
		want(t, v.stage(), codes.Aborted, v.id, "preparing and mounting the file system")
		want(t, v.unstage(), codes.Aborted, v.id)
	}
	ok(t, m.volume("b").unstage()) // others are not held up

	short, cancelShort := context.WithTimeout(m.ctx(), 10*time.Millisecond)
	defer cancelShort()
	if err := m.server.Drain(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain: got %v, want it to tell that work is left", err)
	}
	release()
	ok(t, m.server.Drain(m.ctx()))
	if name, _, err := v.disk().Filesystem(); err != nil || name != "xfs" {
		t.Errorf("when the call is long over, the disk holds %q, %v", name, err)
	}
	if diff := cmp.Diff(m.Mounted(), []string{v.staging}); diff != "" {
		t.Errorf("mounts differ (-got +want):\n%s", diff)
	}
	eventually(t, "the lock's end", func() bool { return v.stage() == nil })
	if got := m.calls("mkfs"); len(got) != 1 {
		t.Errorf("got %v, want one", got)
	}
	ok(t, v.unstage())
	m.nothingLeft()
}

func TestAMkfsHasATimeLimit(t *testing.T) {
	m := newMachine(t)
	m.restart(func(c *node.Config) {
		c.FormatTimeout = 20 * time.Millisecond
		c.Runner = waiter{c.Runner}
	})
	v := m.volume("a")
	want(t, v.stage(), codes.DeadlineExceeded, "make xfs")
	m.restart()
	ok(t, v.stage()) // the record says that it began, and the device is still empty
}

// waiter runs every mkfs until its ctx ends.
type waiter struct {
	runner interface {
		Run(ctx context.Context, argv ...string) ([]byte, error)
	}
}

func (w waiter) Run(ctx context.Context, argv ...string) ([]byte, error) {
	if argv[0] != "mkfs.xfs" || argv[1] == "-V" {
		return w.runner.Run(ctx, argv...)
	}
	<-ctx.Done()
	return nil, fmt.Errorf("run mkfs.xfs: killed: %w", ctx.Err())
}

func TestAHungUnmountKeepsItsVolumeLockedAndNoOther(t *testing.T) {
	m := newMachine(t)
	a, b := m.volume("a"), m.volume("b")
	ok(t, a.stage())
	release := m.Hold("unmount")
	want(t, m.leftAt("unmount", a.unstageFor), codes.Canceled, "goes on")
	want(t, a.unstage(), codes.Aborted, "unmounting")
	ok(t, b.stage())
	if len(m.records()) != 2 {
		t.Error("the record is gone before the mount is")
	}
	release()
	eventually(t, "the unstage", func() bool { return a.unstage() == nil })
}

// FM 38
func TestParallelCallsForManyVolumes(t *testing.T) {
	m := newMachine(t)
	var wg sync.WaitGroup
	for i := range 8 {
		v := m.volume(fmt.Sprintf("v%d", i))
		for range 3 { // three callers that do not know of each other
			wg.Go(func() {
				for range 4 {
					for _, call := range []func() error{v.stage, v.publish, v.unpublish, v.unstage} {
						switch c := status.Code(call()); c {
						case codes.OK, codes.Aborted, codes.FailedPrecondition:
						default:
							t.Errorf("%s: unexpected code %v", v.id, c)
						}
					}
				}
			})
		}
	}
	wg.Wait()
	for i := range 8 {
		v := m.volume(fmt.Sprintf("v%d", i))
		ok(t, v.unpublish(), v.unstage())
		if got := m.calls("mkfs.xfs"); len(got) > 8 {
			t.Errorf("more file systems than volumes were made: %v", got)
		}
	}
	m.nothingLeft()
}

func TestAPanicInAStepIsAnErrorOfThatCallOnly(t *testing.T) {
	m := newMachine(t)
	m.restart(func(c *node.Config) { c.Runner = panicky{} })
	v := m.volume("a")
	want(t, v.stage(), codes.Internal, "panic", "no disk of that name")
	m.restart()
	ok(t, v.stage())
}

type panicky struct{}

func (panicky) Run(context.Context, ...string) ([]byte, error) { panic("no disk of that name") }

// FM 31
func TestStatsOfADeadVolumeCostOneGoroutine(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish())
	release := m.Hold("usage")
	before := runtime.NumGoroutine()
	for range 10 {
		started := time.Now()
		_, err := v.stats(v.path)
		want(t, err, codes.Unavailable, "does not answer")
		if took := time.Since(started); took > 3*time.Second {
			t.Fatalf("it took %s", took)
		}
		if got := runtime.NumGoroutine(); got > before+3 {
			t.Fatalf("%d goroutines, %d before", got, before)
		}
	}
	ctx, cancel := context.WithTimeout(m.ctx(), 10*time.Millisecond)
	defer cancel()
	_, err := m.server.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: v.path})
	want(t, err, codes.Unavailable)
	ok(t, v.publishAt(v.path+"2")) // a measurement holds no lock
	release()
	eventually(t, "an answer", func() bool { _, err := v.stats(v.path); return err == nil })
}
