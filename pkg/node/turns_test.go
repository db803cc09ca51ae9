package node_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/pkg/node"
)

// stagesAtATime makes a machine on which every mkfs is held until release is called,
// and only so many volumes are staged at a time.
func stagesAtATime(t *testing.T, n int64, turn time.Duration) (m *machine, release func()) {
	t.Helper()
	m = newMachine(t)
	m.restart(func(c *node.Config) { c.ParallelStages, c.TurnTime = n, turn })
	return m, m.Hold("mkfs.xfs")
}

// begun waits until so many volumes have a record.
func (m *machine) begun(n int) {
	m.t.Helper()
	eventually(m.t, fmt.Sprint(n, " records"), func() bool { return len(m.records()) == n })
}

// begin stages a volume and does not wait for it.
func (v *volume) begin(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() { done <- v.stageFor(ctx) }()
	return done
}

// waitsForItsTurn says whether a call does, without a touch: one that asks for the volume
// may be the one that has it when the other comes.
func (v *volume) waitsForItsTurn() bool {
	return strings.Contains(v.m.server.Doing(v.id), "waits for its turn")
}

func TestStagesBeyondTheLimitWaitForTheirTurn(t *testing.T) {
	m, release := stagesAtATime(t, 2, time.Hour)
	var staged []<-chan error
	var volumes []*volume
	for i := range 5 {
		volumes = append(volumes, m.volume(fmt.Sprint("v", i)))
		staged = append(staged, volumes[i].begin(m.ctx()))
	}
	eventually(t, "the wait of three", func() bool {
		waiting := 0
		for _, v := range volumes {
			if v.waitsForItsTurn() {
				waiting++
			}
		}
		return waiting == 3
	})
	m.begun(2) // the others have written nothing
	release()
	for _, done := range staged {
		ok(t, <-done)
	}
}

// Fifty pods that end at once must not keep the host from everything else.
func TestUnstagesBeyondTheLimitWaitForTheirTurn(t *testing.T) {
	m := newMachine(t)
	m.restart(func(c *node.Config) { c.ParallelStages, c.TurnTime = 2, time.Hour })
	volumes := make([]*volume, 5)
	for i := range volumes {
		volumes[i] = m.volume(fmt.Sprint("v", i))
		ok(t, volumes[i].stage())
	}
	unmounts := func() (n int) {
		for _, call := range m.Calls() {
			if strings.HasPrefix(call, "umount ") {
				n++
			}
		}
		return n
	}
	release := m.Hold("detach")
	unstaged := make(chan error, len(volumes))
	for _, v := range volumes {
		go func() { unstaged <- v.unstage() }()
	}
	eventually(t, "two unmounts", func() bool { return unmounts() == 2 })
	ok(t, m.volume("new").stage()) // leaving keeps nobody from coming
	if n := unmounts(); n != 2 {
		t.Errorf("%d volumes were unmounted at a time", n)
	}
	release()
	for range volumes {
		ok(t, <-unstaged)
	}
}

func TestAStageThatWaitsForItsTurnHonoursItsCaller(t *testing.T) {
	m, release := stagesAtATime(t, 1, time.Hour)
	first := m.volume("a").begin(m.ctx())
	m.begun(1)
	ctx, leave := context.WithCancel(m.ctx())
	defer leave()
	b := m.volume("b")
	second := b.begin(ctx)
	eventually(t, "the wait for a turn", b.waitsForItsTurn)
	want(t, b.unstage(), codes.Aborted, b.id, "waits for its turn")
	leave()
	want(t, <-second, codes.Canceled, b.id, "turn", "--parallel-stages")
	ok(t, b.unstage()) // nothing was begun, and nothing holds it
	release()
	ok(t, <-first, b.stage())
}

// FM 38
func TestAMkfsThatOutlivesItsCallKeepsItsTurn(t *testing.T) {
	m, release := stagesAtATime(t, 1, time.Hour)
	ctx, cancel := context.WithTimeout(m.ctx(), time.Second) // ample to come to the mkfs
	defer cancel()
	want(t, <-m.volume("a").begin(ctx), codes.DeadlineExceeded, "goes on")
	short, leave := context.WithCancel(m.ctx())
	defer leave()
	b := m.volume("b")
	second := b.begin(short)
	eventually(t, "the wait for a turn", b.waitsForItsTurn)
	leave()
	want(t, <-second, codes.Canceled, "turn", "--parallel-stages")
	release()
	ok(t, b.stage())
}

// FM 25
func TestStagesThatHangDoNotKeepOthersFromTheirTurn(t *testing.T) {
	m, release := stagesAtATime(t, 1, 30*time.Millisecond)
	hung := m.volume("a").begin(m.ctx())
	m.begun(1)
	b := m.volume("b")
	other := b.begin(m.ctx())
	m.begun(2) // behind one that hangs
	release()
	ok(t, <-hung, <-other)
}
