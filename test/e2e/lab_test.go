//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// accident is something that befalls the array, the network or the node, and passes.
type accident struct {
	name   string
	strike func(context.Context, *testbed.Bed) error
	mend   func(context.Context, *testbed.Bed) error
	// lasts is for how long after the strike; an accident of no length lasts until
	// every moment is over, which therefore must end well in spite of it.
	lasts time.Duration
	// without names the moment that does not end before the accident does.
	without string
}

// accidents none of which may cost anything: maps without a path wait longer, which is 24 s
// here (no_path_retry, and a check every 2 s), than the longest of them keeps all paths away;
// and the array has on its disk what it acknowledged.
func accidents() []accident {
	link := func(up bool, networks ...int) func(context.Context, *testbed.Bed) error {
		return func(ctx context.Context, bed *testbed.Bed) error {
			for _, n := range networks {
				if err := bed.Workers[0].SetLink(ctx, n, up); err != nil {
					return err
				}
			}
			return nil
		}
	}
	loss := func(percent int) func(context.Context, *testbed.Bed) error {
		return func(ctx context.Context, bed *testbed.Bed) error {
			for n := range 2 {
				if err := bed.Workers[0].SetLoss(ctx, n, percent); err != nil {
					return err
				}
			}
			return nil
		}
	}
	none := func(context.Context, *testbed.Bed) error { return nil }
	// A client of the plugin dials again by itself.
	restart := func(daemon, start string) func(context.Context, *testbed.Bed) error {
		return func(ctx context.Context, bed *testbed.Bed) error {
			_, err := bed.Workers[0].Shell(ctx, fmt.Sprintf("pkill -KILL -x %[1]s; while pgrep -x %[1]s >/dev/null; do sleep 0.05; done; sleep 1; %[2]s", daemon, start))
			return err
		}
	}
	return []accident{
		{name: "one portal is lost", strike: link(false, 1), mend: link(true, 1), without: inGrowth}, // a map grows with all its paths
		{name: "one portal is lost for 20 s", strike: link(false, 1), mend: link(true, 1), lasts: 20 * time.Second},
		{name: "both portals are lost for 5 s", strike: link(false, 0, 1), mend: link(true, 0, 1), lasts: 5 * time.Second},
		{name: "3 of 100 packets are lost", strike: loss(3), mend: loss(0)},
		{name: "the array's process is killed", strike: func(ctx context.Context, bed *testbed.Bed) error { return bed.Array.RestartProcess(ctx) }, mend: none},
		{name: "the array loses power", strike: func(ctx context.Context, bed *testbed.Bed) error { return bed.Array.Restart(ctx) }, mend: none, lasts: time.Millisecond},
		{name: "the plugin is killed", strike: restart("datera-csi", "/etc/testbed"), mend: none, lasts: time.Millisecond},
		{name: "iscsid is killed", strike: restart("iscsid", "iscsid"), mend: none, lasts: time.Millisecond},
		{name: "multipathd is killed", strike: restart("multipathd", "multipathd"), mend: none, lasts: time.Millisecond},
	}
}

const inGrowth = "in growth"

// moment is what goes on at a volume when an accident strikes.
type moment struct {
	name   string
	before func(context.Context, testing.TB, *subject)
	during func(context.Context, testing.TB, *subject)
}

// subject is a volume at one moment.
type subject struct {
	bed       *testbed.Bed
	w         *testbed.Worker
	v         *testbed.Volume
	pod       string
	published map[string]string
	writer    *stream
	dirty     string     // checksum of what was not synced before the unstage; empty: there is nothing
	remedy    *sync.Once // of all subjects of an accident: the restart of iscsid that errors ask for
}

func (s *subject) dir() string { return testbed.TargetPath(s.v, s.pod) }

const dirtyFile = "/dirty"

// noLoss passes on the error of a call that is repeated, and fails the test when it tells of
// lost data: that is told once, and the repeat goes well.
func noLoss(t testing.TB, err error) error {
	t.Helper()
	if status.Code(err) == codes.DataLoss {
		t.Errorf("an accident that may cost nothing did: %v", err)
	}
	return err
}

func moments() []moment {
	attach := func(ctx context.Context, t testing.TB, s *subject) {
		t.Helper()
		must(t, eventually(ctx, func() error { return s.w.Stage(ctx, s.v, s.published) })) // four at once on a slow host may miss iscsid's timeout
		must(t, s.w.PublishTo(ctx, s.v, s.published, s.pod))
		s.writer = startStream(ctx, t, s.w, s.dir())
	}
	return []moment{
		{
			name:   "at the first stage",
			before: func(context.Context, testing.TB, *subject) {},
			during: func(ctx context.Context, t testing.TB, s *subject) {
				t.Helper()
				must(t, eventually(ctx, func() error { return s.w.Stage(ctx, s.v, s.published) }))
				must(t, eventually(ctx, func() error { return s.w.PublishTo(ctx, s.v, s.published, s.pod) }))
				s.writer = startStream(ctx, t, s.w, s.dir())
				s.writer.stopUnharmed(ctx, t)
			},
		},
		{
			name:   "under a writer",
			before: attach,
			during: func(ctx context.Context, t testing.TB, s *subject) {
				t.Helper()
				s.writer.stopUnharmed(ctx, t)
			},
		},
		{
			name: inGrowth,
			before: func(ctx context.Context, t testing.TB, s *subject) {
				t.Helper()
				attach(ctx, t, s)
				growControllerSide(ctx, t, s.bed, s.v, 2*giB)
			},
			during: func(ctx context.Context, t testing.TB, s *subject) {
				t.Helper()
				must(t, eventually(ctx, func() error { return expandOnce(ctx, s.w, s.v, s.pod, 2*giB) }))
				s.writer.stopUnharmed(ctx, t)
			},
		},
		{
			name: "at unstage",
			before: func(ctx context.Context, t testing.TB, s *subject) {
				t.Helper()
				attach(ctx, t, s)
				s.writer.stopUnharmed(ctx, t)
				s.dirty = soil(ctx, t, s.w, s.dir()+dirtyFile) // for the unstage to write out
				must(t, s.w.UnpublishFrom(ctx, s.v, s.pod))
			},
			during: func(ctx context.Context, t testing.TB, s *subject) {
				t.Helper()
				must(t, eventually(ctx, func() error { return noLoss(t, s.w.Unstage(ctx, s.v)) }))
			},
		},
	}
}

// TestNoAccidentLosesData is FM 20, 25 and 37: whatever befalls a volume, calls
// end well, if not at once then when repeated; a writer hears no error; all that
// was acknowledged, and all that was written before the unstage, is there when the volume is
// attached anew; no call tells of a loss; nothing is left.
// Every accident strikes once, with a volume at each moment.
func TestNoAccidentLosesData(t *testing.T) {
	for _, a := range accidents() {
		t.Run(a.name, func(t *testing.T) {
			ctx, bed := useBed(t)
			all := slices.DeleteFunc(moments(), func(m moment) bool { return m.name == a.without })
			subjects, remedy := make([]*subject, len(all)), &sync.Once{}
			atOnce(t, len(all), func(n int) {
				subjects[n] = newSubject(ctx, t, bed, all[n], fmt.Sprintf("moment-%d", n))
				subjects[n].remedy = remedy
			})
			struck := make(chan error, 1)
			go func() { struck <- befall(ctx, bed, a) }()
			if a.lasts == 0 {
				must(t, <-struck)
			}
			atOnce(t, len(all), func(n int) {
				t.Run(all[n].name, func(t *testing.T) {
					fault(t, a.name+" "+all[n].name)
					all[n].during(ctx, t, subjects[n])
				})
			})
			if a.lasts > 0 {
				must(t, <-struck)
			}
			must(t, a.mend(context.WithoutCancel(ctx), bed))
			atOnce(t, len(all), func(n int) { subjects[n].expectWhole(ctx, t) })
		})
	}
}

// befall lets an accident strike. One that has a length is over when it returns.
func befall(ctx context.Context, bed *testbed.Bed, a accident) error {
	if err := a.strike(ctx, bed); err != nil || a.lasts == 0 {
		return err
	}
	select {
	case <-time.After(a.lasts):
	case <-ctx.Done():
	}
	return a.mend(context.WithoutCancel(ctx), bed)
}

func newSubject(ctx context.Context, t testing.TB, bed *testbed.Bed, m moment, name string) *subject {
	t.Helper()
	v, err := bed.Create(ctx, name, giB, nil, testbed.Mount("xfs"))
	must(t, err)
	published, err := bed.Publish(ctx, v, bed.Workers[0])
	must(t, err)
	s := &subject{bed: bed, w: bed.Workers[0], v: v, pod: "pod-" + name, published: published}
	m.before(ctx, t, s)
	return s
}

// expectWhole takes a subject down, reads it anew on the other worker and deletes it.
func (s *subject) expectWhole(ctx context.Context, t testing.TB) {
	t.Helper()
	acked := s.writer.acked(ctx, t)
	other := s.bed.Workers[1]
	_, err := s.bed.Publish(ctx, s.v, other)
	expectCode(t, err, codes.FailedPrecondition, s.w.ID) // who has the volume is known
	must(t, eventually(ctx, func() error {
		err := noLoss(t, s.bed.Detach(ctx, s.v, s.w, s.pod))
		if err != nil && strings.Contains(err.Error(), "systemctl restart iscsid") { // it was killed amid a login
			s.remedy.Do(func() { // once: it takes up one session after the other, which takes its time
				sh(ctx, t, s.w.Guest, "pkill -x iscsid; while pgrep -x iscsid >/dev/null; do sleep 0.05; done; iscsid")
			})
		}
		return err
	}))
	must(t, eventually(ctx, func() error { return s.bed.Attach(ctx, s.v, other, s.pod) }))
	expectStream(ctx, t, other, s.dir(), acked)
	if s.dirty != "" {
		if got := checksum(ctx, t, other, s.dir()+dirtyFile); got != s.dirty {
			t.Errorf("what was not synced before the unstage has checksum %s, had %s", got, s.dirty)
		}
	}
	must(t, s.bed.Detach(ctx, s.v, other, s.pod))
	must(t, s.bed.Delete(ctx, s.v))
}

// atOnce does n things at the same time. One that fails ends the test when all
// have ended.
func atOnce(t testing.TB, n int, do func(i int)) {
	t.Helper()
	done := make(chan struct{}, n)
	for i := range n {
		go func() {
			defer func() { done <- struct{}{} }() // also when do ends the goroutine by t.Fatal
			do(i)
		}()
	}
	for range n {
		<-done
	}
	if t.Failed() {
		t.FailNow()
	}
}

// share does n things, so many at a time; the first error ends the test.
func share(t testing.TB, n, atATime int, do func(i int) error) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(atATime)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	must(t, group.Wait())
}
