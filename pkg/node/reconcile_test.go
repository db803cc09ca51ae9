package node_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

// reconcile is one pass; the machine's clock goes on by step first.
func (w *wheel) reconcile(mode node.ReconcileMode, step time.Duration) node.Report {
	w.now = w.now.Add(step)
	return w.server.Reconcile(w.ctx(), mode)
}

// wheel is a machine with a clock.
type wheel struct {
	*machine
	now time.Time
}

func newWheel(tb testing.TB, opts ...func(*node.Config)) *wheel {
	tb.Helper()
	w := &wheel{now: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)}
	w.machine = newMachine(tb, append(opts, w.clocked)...)
	return w
}

func (w *wheel) clocked(c *node.Config) { c.Clock = func() time.Time { return w.now } }

func expect(tb testing.TB, r node.Report, reason node.Reason, outcome node.Outcome, n int) {
	tb.Helper()
	if got := r.Count(reason, outcome); got != n {
		tb.Errorf("%d findings %s %s, want %d: %+v", got, reason, outcome, n, r.Findings)
	}
}

// FM 20, 25: the volume was attached while a portal was dead. Reconcile logs in
// when the portal is back, says so, and has nothing to do then.
func TestReconcileHealsADegradedVolume(t *testing.T) {
	w := newWheel(t)
	v := w.volume("a")
	dead := v.target.Portals[1]
	w.Cut(dead)
	ok(t, v.stage(), v.publish())
	r := w.reconcile(node.ReconcileRepair, 0)
	expect(t, r, node.ReasonDegraded, node.Failed, 1)
	if r.Counts[node.ReasonDegraded][node.Failed] != 1 {
		t.Errorf("numbers: %v", r.Counts)
	}
	if f := r.Findings[0]; f.Volume != v.id || f.Portal != dead.String() || f.Error == "" {
		t.Errorf("the finding does not say which volume, portal and why: %+v", f)
	}
	w.Restore(dead)
	expect(t, w.reconcile(node.ReconcileObserve, time.Minute), node.ReasonDegraded, node.Would, 1)
	expect(t, w.reconcile(node.ReconcileRepair, time.Minute), node.ReasonDegraded, node.Done, 1)
	if again := w.reconcile(node.ReconcileRepair, time.Minute); len(again.Findings) > 0 || again.Attached != 1 {
		t.Errorf("a second pass found %+v", again)
	}
	ok(t, v.unpublish(), v.unstage())
	w.nothingLeft()
}

// Paths that the daemon gives back come back only while it runs, which sysfs does not show.
func TestReconcileSaysThatNobodyWatchesTheMaps(t *testing.T) {
	w := newWheel(t)
	w.SetFabric(iscsi.Fabric{Unwatched: 2})
	expect(t, w.reconcile(node.ReconcileRepair, 0), node.ReasonUnwatched, node.Seen, 0) // they are not this plugin's
	ok(t, w.volume("a").stage())
	r := w.reconcile(node.ReconcileRepair, time.Minute)
	expect(t, r, node.ReasonUnwatched, node.Seen, 1)
	if !strings.Contains(r.Findings[0].Evidence, "systemctl enable --now multipathd") {
		t.Errorf("no remedy: %+v", r.Findings[0])
	}
	w.SetFabric(iscsi.Fabric{})
	expect(t, w.reconcile(node.ReconcileRepair, time.Minute), node.ReasonUnwatched, "", 0)
	w.Fail("fabric", errDevice)
	expect(t, w.reconcile(node.ReconcileRepair, time.Minute), node.ReasonUnclear, node.Seen, 1)
}

// A login to a dead portal takes its time; not each of many volumes spends it.
func TestReconcileAsksADeadPortalAFewTimes(t *testing.T) {
	w := newWheel(t)
	w.Cut(w.volume("a").target.Portals[1])
	for i := range 20 {
		ok(t, w.volume(fmt.Sprintf("v%d", i)).stage())
	}
	r := w.reconcile(node.ReconcileRepair, 0)
	if got := len(w.calls("login")); got < 2 || got > 6 {
		t.Errorf("%d logins in vain, want a few", got)
	}
	if r.Count(node.ReasonDegraded, "") != 20 {
		t.Errorf("%d volumes are called degraded, want 20", r.Count(node.ReasonDegraded, ""))
	}
}

// FM 6: kubelet forgot a volume, and the orchestrator detached it. It is taken down
// only when the array refuses this node, nobody uses it, and for the whole time.
func TestAForgottenVolumeIsTakenDownAfterItsTime(t *testing.T) {
	w := newWheel(t)
	v := w.volume("a")
	ok(t, v.stage())
	v.disk().Admit(false)
	expect(t, w.reconcile(node.ReconcileRepair, 0), node.ReasonForgotten, node.Waits, 1)
	expect(t, w.reconcile(node.ReconcileRepair, 14*time.Minute), node.ReasonForgotten, node.Waits, 1)
	expect(t, w.reconcile(node.ReconcileObserve, 2*time.Minute), node.ReasonForgotten, node.Would, 1)
	expect(t, w.reconcile(node.ReconcileRepair, time.Minute), node.ReasonForgotten, node.Done, 1)
	w.nothingLeft()
	if v.disk().Path() != "" {
		t.Error("it is still attached")
	}
	ok(t, v.unstage())
}

// FM 6: a target that is not there is no refusal by itself, for it may come back.
// That of a volume which was refused before was deleted.
func TestAForgottenVolumeMayBeDeletedMeanwhile(t *testing.T) {
	for name, refused := range map[string]bool{"after it was refused": true, "unseen": false} {
		t.Run(name, func(t *testing.T) {
			w := newWheel(t)
			v := w.volume("a")
			ok(t, v.stage())
			if refused {
				v.disk().Admit(false)
				expect(t, w.reconcile(node.ReconcileRepair, 0), node.ReasonForgotten, node.Waits, 1)
			}
			v.disk().Delete()
			w.reconcile(node.ReconcileRepair, time.Minute)
			w.reconcile(node.ReconcileRepair, 20*time.Minute)
			if down := v.disk().Path() == ""; down != refused {
				t.Errorf("taken down: %v, and it was refused: %v", down, refused)
			}
			if failed := len(w.calls("failQueuedIO")) == 1; failed != refused {
				t.Errorf("what waits was made to fail: %v, and it was refused: %v", failed, refused)
			}
		})
	}
}

// FM 6, 20: what is not proven is not done.
func TestWhatMayBeUsedIsNeverTakenDown(t *testing.T) {
	for name, spoil := range map[string]func(w *wheel, v *volume){
		"published":              func(_ *wheel, v *volume) { ok(t, v.publish()); v.disk().Admit(false) },
		"mounted in a container": func(_ *wheel, v *volume) { v.disk().Hold(true); v.disk().Admit(false) },
		"the network is dead":    func(w *wheel, v *volume) { w.Cut(v.target.Portals[0]); w.Cut(v.target.Portals[1]) },
		"one portal works":       func(w *wheel, v *volume) { w.Cut(v.target.Portals[1]) },
		"admitted again in between": func(w *wheel, v *volume) {
			v.disk().Admit(false)
			w.reconcile(node.ReconcileRepair, 0)
			v.disk().Admit(true)
			w.reconcile(node.ReconcileRepair, 20*time.Minute)
			v.disk().Admit(false)
		},
		"only observed": func(w *wheel, v *volume) {
			v.disk().Admit(false)
			w.reconcile(node.ReconcileObserve, 0)
			w.reconcile(node.ReconcileObserve, time.Hour)
			v.disk().Admit(true)
		},
		"the plugin was just started": func(w *wheel, v *volume) {
			v.disk().Admit(false)
			w.reconcile(node.ReconcileRepair, 0)
			w.restart(w.clocked)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWheel(t)
			v := w.volume("a")
			ok(t, v.stage())
			spoil(w, v)
			passes := 3
			if strings.Contains(name, "again") || strings.Contains(name, "started") {
				passes = 1
			}
			for range passes {
				w.reconcile(node.ReconcileRepair, 20*time.Minute)
			}
			if v.disk().Path() == "" || len(w.records()) != 1 {
				t.Error("it was taken down")
			}
		})
	}
}

// FM 6: a block volume leaves no mount on its staging path; published, it may be
// open behind a device file that no mount table shows.
func TestAPublishedBlockVolumeIsNeverForgotten(t *testing.T) {
	w := newWheel(t)
	v := w.volume("a")
	v.cap = blockCap(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
	ok(t, v.stage(), v.publish())
	v.disk().Admit(false)
	for range 3 {
		expect(t, w.reconcile(node.ReconcileRepair, 20*time.Minute), node.ReasonForgotten, "", 0)
	}
	ok(t, w.Mounts().Unmount(v.path))
	for range 3 {
		expect(t, w.reconcile(node.ReconcileRepair, 20*time.Minute), node.ReasonForgotten, "", 0)
	}
	ok(t, v.unpublish())
	w.reconcile(node.ReconcileRepair, 0)
	expect(t, w.reconcile(node.ReconcileRepair, 20*time.Minute), node.ReasonForgotten, node.Done, 1)
	w.nothingLeft()
}

// FM 25: the node lost its power, its pod was started elsewhere, and the node came back. No mount tells kubelet of
// the volume, so nobody unstages it.
func TestADeadNodeComesBackAndKeepsNothing(t *testing.T) {
	file, block := mountCap("xfs", csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER), blockCap(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
	for name, c := range map[string]struct {
		cap  *csi.VolumeCapability
		lose func(w *wheel, v *volume)
	}{
		"file system":              {file, func(_ *wheel, v *volume) { v.disk().Admit(false) }},
		"block":                    {block, func(_ *wheel, v *volume) { v.disk().Admit(false) }},
		"deleted":                  {file, func(_ *wheel, v *volume) { v.disk().Delete() }},
		"deleted with its portals": {file, func(w *wheel, v *volume) { w.Cut(v.target.Portals[0]); w.Cut(v.target.Portals[1]) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWheel(t)
			v := w.volume("a")
			v.cap = c.cap
			ok(t, v.stage(), v.publish())
			w.Reboot()
			w.restart(w.clocked)
			expect(t, w.reconcile(node.ReconcileRepair, time.Hour), node.ReasonForgotten, "", 0) // it is admitted
			c.lose(w, v)
			expect(t, w.reconcile(node.ReconcileRepair, 0), node.ReasonForgotten, node.Waits, 1)
			expect(t, w.reconcile(node.ReconcileRepair, 16*time.Minute), node.ReasonForgotten, node.Done, 1)
			w.nothingLeft()
		})
	}
}

// FM 1, 25: the node lost its power in the middle of a mkfs. What it knows of that
// outlives the record, which goes when nothing answers for long, and the mkfs is done
// again when the volume is staged.
func TestSilenceForgetsNoUnfinishedFormat(t *testing.T) {
	w := newWheel(t)
	v := w.volume("a")
	w.Fail("mkfs write", errDevice)
	if err := v.stage(); err == nil {
		t.Fatal("staged although mkfs fails")
	}
	w.Reboot()
	w.restart(w.clocked)
	for _, portal := range v.target.Portals {
		w.Cut(portal)
	}
	for range 3 {
		w.reconcile(node.ReconcileRepair, time.Hour)
	}
	if left := w.records(); len(left) > 0 {
		t.Errorf("records left: %v", left)
	}
	for _, portal := range v.target.Portals {
		w.Restore(portal)
	}
	ok(t, v.stage())
}

// Take-downs come one a pass.
func TestForgottenVolumesGoOneByOne(t *testing.T) {
	w := newWheel(t)
	for i := range 3 {
		v := w.volume(fmt.Sprintf("v%d", i))
		ok(t, v.stage())
		v.disk().Admit(false)
	}
	w.reconcile(node.ReconcileRepair, 0)
	for left := 2; left >= 0; left-- {
		expect(t, w.reconcile(node.ReconcileRepair, 16*time.Minute), node.ReasonForgotten, node.Done, 1)
		if got := len(w.records()); got != left {
			t.Errorf("%d records left, want %d", got, left)
		}
	}
}

// FM 27: iscsid went on with a login after its volume was unstaged.
func TestALateLoginIsTakenDown(t *testing.T) {
	w := newWheel(t)
	v := w.volume("a")
	ok(t, v.stage(), v.unstage())
	v.disk().Surface()
	expect(t, w.reconcile(node.ReconcileRepair, 0), node.ReasonUnrecorded, node.Waits, 1)
	expect(t, w.reconcile(node.ReconcileRepair, 16*time.Minute), node.ReasonUnrecorded, node.Done, 1)
	if v.disk().Path() != "" {
		t.Error("it is still attached")
	}
	expect(t, w.reconcile(node.ReconcileRepair, time.Minute), "", "", 0)
}

// FM 5, 6, 29: the record of a raw volume was lost, so that its unstage found nothing to
// do. Once the array refuses this host nobody can want the LUN; until then it may be
// another driver's, or an administrator's.
func TestALUNWithoutARecordGoesOnceTheArrayRefusesIt(t *testing.T) {
	const prefix = "iqn.2013-05.com.daterainc:"
	for name, c := range map[string]struct {
		prefix string
		block  bool
		spoil  func(w *wheel, v *volume)
		goes   bool
	}{
		"refused":             {prefix, true, func(_ *wheel, v *volume) { v.disk().Admit(false) }, true},
		"admitted":            {prefix, true, func(*wheel, *volume) {}, false},
		"silent":              {prefix, true, func(w *wheel, v *volume) { w.Cut(v.target.Portals[0]); w.Cut(v.target.Portals[1]) }, false},
		"refused and mounted": {prefix, false, func(_ *wheel, v *volume) { v.disk().Admit(false) }, false},
		"refused and staged meanwhile": {prefix, true, func(w *wheel, v *volume) {
			v.disk().Admit(false)
			w.OnFailQueuedIO(func() { v.disk().Admit(true) })
		}, false},
		"another's array": {"iqn.2001-01.org.example:", true, func(_ *wheel, v *volume) { v.disk().Admit(false) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWheel(t, func(cfg *node.Config) { cfg.TargetPrefix = c.prefix })
			v := w.volume("a")
			if c.block {
				v.cap = blockCap(writer)
			}
			ok(t, v.stage(), os.RemoveAll(w.Config().RecordDir))
			w.restart(w.clocked, func(cfg *node.Config) { cfg.TargetPrefix = c.prefix })
			c.spoil(w, v)
			r := w.reconcile(node.ReconcileObserve, 0)
			for range 3 {
				r = w.reconcile(node.ReconcileRepair, 20*time.Minute)
			}
			if there := v.disk().Path() != ""; there == c.goes {
				t.Errorf("still attached: %v; last report %+v", there, r)
			}
		})
	}
}

// FM 6: of a LUN whose record cannot be read nothing is known, whether this process attached
// it or an earlier one: it may be wanted.
func TestALUNWhoseRecordCannotBeReadStays(t *testing.T) {
	prefix := func(cfg *node.Config) { cfg.TargetPrefix = "iqn.2013-05.com.daterainc:" }
	for name, restart := range map[string]bool{"known": false, "since a restart": true} {
		t.Run(name, func(t *testing.T) {
			w := newWheel(t, prefix)
			v := w.volume("a")
			v.cap = blockCap(writer)
			ok(t, v.stage())
			w.spoilRecords()
			if restart {
				w.restart(w.clocked, prefix)
			}
			v.disk().Admit(false)
			for range 3 {
				r := w.reconcile(node.ReconcileRepair, 20*time.Minute)
				expect(t, r, node.ReasonRecord, node.Seen, 1)
				expect(t, r, "", "", 1)
			}
			if v.disk().Path() == "" {
				t.Error("it was taken down")
			}
		})
	}
}

// FM 3, 6: a stage that begins while a LUN without a record is taken down waits for that.
func TestAStageWaitsForTheEndOfAStranger(t *testing.T) {
	prefix := func(cfg *node.Config) { cfg.TargetPrefix = "iqn.2013-05.com.daterainc:" }
	w := newWheel(t, prefix)
	v := w.volume("a")
	v.cap = blockCap(writer)
	ok(t, v.stage(), os.RemoveAll(w.Config().RecordDir))
	w.restart(w.clocked, prefix)
	v.disk().Admit(false)
	w.reconcile(node.ReconcileObserve, 0)
	release := w.Hold("detach")
	passes := make(chan struct{})
	go func() {
		defer close(passes)
		for range 3 {
			w.reconcile(node.ReconcileRepair, 20*time.Minute)
		}
	}()
	eventually(t, "the LUN to be taken down", func() bool { return w.Waits("detach") })
	v.disk().Admit(true)
	want(t, v.stage(), codes.Aborted, "not over yet")
	release()
	<-passes
	ok(t, v.stage())
	if v.disk().Path() == "" {
		t.Error("the volume is not attached")
	}
}

// FM 3: what this process never had a record of is not its to take down.
func TestStrangersAreLeftAlone(t *testing.T) {
	w := newWheel(t)
	v, stranger := w.volume("a"), w.volume("stranger")
	ok(t, v.stage())
	stranger.disk().Surface()
	for range 3 {
		w.reconcile(node.ReconcileRepair, 20*time.Minute)
	}
	if stranger.disk().Path() == "" {
		t.Error("the disk of another was taken away")
	}
}

// FM 29: corrupt node records are quarantined when they are ours.
func TestUnsoundNodeRecordsOfOthersAreOnlyTold(t *testing.T) {
	w := newWheel(t)
	v := w.volume("a")
	ok(t, v.stage())
	w.SpoilRecord(v.target.IQN)
	w.SpoilRecord("iqn.2001-01.org.example:other")
	expect(t, w.reconcile(node.ReconcileObserve, 0), node.ReasonNodeRecord, node.Would, 1)
	r := w.reconcile(node.ReconcileRepair, 0)
	expect(t, r, node.ReasonNodeRecord, node.Done, 1)
	expect(t, r, node.ReasonNodeRecord, node.Seen, 1)
	if got := w.calls("quarantine"); len(got) != 1 || !strings.HasSuffix(got[0], v.target.IQN) {
		t.Errorf("quarantined: %q", got)
	}
}

// FM 18: a map that got a path takes writes again, with the kernels of before 5.12.
func TestAReadersDeviceIsKeptReadOnly(t *testing.T) {
	w := newWheel(t)
	reader, writes := w.volume("reader"), w.volume("writer")
	for _, v := range []*volume{reader, writes} {
		v.cap = blockCap(writer)
	}
	reader.ro = true
	ok(t, reader.stage(), reader.publish(), writes.stage(), writes.publish())
	ok(t, w.SetReadOnly(reader.disk().Path(), false)) // the reload of a map
	w.reconcile(node.ReconcileObserve, 0)
	if reader.disk().ReadOnly() {
		t.Error("a dry run changed it")
	}
	// The kernel may wait for a path before it does so, and nobody else waits with it.
	release := w.Hold("setro")
	ok(t, w.leftAt("setro", func(ctx context.Context) error { w.server.Reconcile(ctx, node.ReconcileRepair); return nil }))
	release()
	eventually(t, "the step's end", func() bool { return w.server.Doing(reader.id) == "" })
	w.reconcile(node.ReconcileRepair, 0)
	if !reader.disk().ReadOnly() || writes.disk().ReadOnly() {
		t.Errorf("read-only: the reader's %v, the writer's %v", reader.disk().ReadOnly(), writes.disk().ReadOnly())
	}
}

// FM 38: a volume that a call is at work on is passed over.
func TestReconcilePassesOverABusyVolume(t *testing.T) {
	w := newWheel(t)
	v := w.volume("a")
	release := w.Hold("attach")
	done := make(chan error, 1)
	go func() { done <- v.stage() }()
	for len(w.records()) == 0 {
		time.Sleep(time.Millisecond)
	}
	r := w.reconcile(node.ReconcileRepair, 0)
	release()
	if r.Busy != 1 || len(r.Findings) > 0 {
		t.Errorf("report %+v, want one busy volume and no finding", r)
	}
	ok(t, <-done)
}

// A call that meets Reconcile at its volume waits for it, unless that takes long: no
// caller knows of it, so none can tell when to ask again. A call whose caller has
// gone waits for nobody.
func TestACallWaitsForReconcileButNotForLong(t *testing.T) {
	w := newWheel(t)
	v := w.volume("a")
	ok(t, v.stage())
	meet := func(call func() error, release func(), after time.Duration) (time.Duration, error) {
		t.Helper()
		passed := make(chan struct{})
		go func() { w.reconcile(node.ReconcileRepair, 0); close(passed) }()
		eventually(t, "Reconcile's hold of the volume", func() bool { return w.server.Doing(v.id) == "Reconcile" })
		began := time.Now()
		time.AfterFunc(after, release)
		err := call()
		took := time.Since(began)
		release()
		<-passed
		return took, err
	}
	const while = 100 * time.Millisecond
	if took, err := meet(v.unstage, w.Hold("inspect"), while); err != nil || took < while {
		t.Errorf("after %v: %v, want success after %v", took, err, while)
	}
	ok(t, v.stage())
	took, err := meet(v.unstage, w.Hold("inspect"), time.Minute)
	want(t, err, codes.Aborted, v.id, "Reconcile")
	if took < time.Second || took > 6*time.Second {
		t.Errorf("Aborted after %v, want it after 2 s", took)
	}
	gone, cancel := context.WithCancel(w.ctx())
	cancel()
	took, err = meet(func() error { return v.unstageFor(gone) }, w.Hold("inspect"), time.Minute)
	want(t, err, codes.Aborted, v.id)
	if took > time.Second {
		t.Errorf("a caller that has gone was kept for %v", took)
	}
	ok(t, v.unstage())
}

// FM 6, 20: in random worlds, whatever is published or may be admitted stays, and a
// world that is left alone comes to rest: the last pass does nothing.
func TestReconcileInRandomWorlds(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { randomWorld(t, rand.New(rand.NewPCG(seed, 20))) })
	}
}

func randomWorld(t *testing.T, r *rand.Rand) {
	w := newWheel(t)
	var story []string
	portals := w.volume("a").target.Portals
	type life struct {
		*volume
		staged, published, admitted bool
		refusedSince                time.Time
	}
	lives := make([]*life, 4)
	for i := range lives {
		lives[i] = &life{volume: w.volume(fmt.Sprintf("v%d", i)), admitted: true}
		if r.IntN(3) == 0 {
			lives[i].cap = blockCap(writer)
		}
	}
	silent := map[netip.AddrPort]bool{}
	// check says that what must be there is there.
	check := func(report node.Report) {
		for _, l := range lives {
			must := l.staged && (l.published || l.admitted || w.now.Sub(l.refusedSince) < 15*time.Minute)
			if must && l.disk().Path() == "" {
				t.Fatalf("%s was taken down: %+v\n%s", l.id, report.Findings, strings.Join(story, "\n"))
			}
			l.staged = l.staged && l.disk().Path() != ""
		}
	}
	mode := func() node.ReconcileMode {
		return []node.ReconcileMode{node.ReconcileRepair, node.ReconcileRepair, node.ReconcileObserve}[r.IntN(3)]
	}
	for range 60 {
		l := lives[r.IntN(len(lives))]
		portal := portals[r.IntN(len(portals))]
		var err error
		what := []string{"stage", "publish", "unpublish", "unstage", "revoke", "admit", "cut", "restore", "end session", "restart", "fault", "reconcile", "reconcile"}[r.IntN(13)]
		switch what {
		case "stage":
			if err = l.stage(); err == nil {
				l.staged = true
			}
		case "publish":
			if err = l.publish(); err == nil {
				l.published = true
			}
		case "unpublish":
			if err = l.unpublish(); err == nil {
				l.published = false
			}
		case "unstage":
			if err = l.unstage(); err == nil {
				l.staged = false
			}
		case "revoke":
			if l.admitted {
				l.admitted, l.refusedSince = false, w.now
			}
			l.disk().Admit(false)
		case "admit":
			l.admitted = true
			l.disk().Admit(true)
		case "cut":
			w.Cut(portal)
			silent[portal] = true
		case "restore":
			w.Restore(portal)
			delete(silent, portal)
		case "end session":
			if l.admitted {
				l.disk().EndSession(portal)
			}
		case "restart":
			w.restart(w.clocked)
		case "fault":
			w.Fail([]string{"inspect", "heal", "ask", "find", "unmount", "logout", "list"}[r.IntN(7)], errDevice)
		case "reconcile":
			check(w.reconcile(mode(), time.Duration(r.IntN(12))*time.Minute))
		}
		story = append(story, fmt.Sprintf("%s %s: %v", what, l.id, err))
	}
	for range 40 {
		check(w.reconcile(node.ReconcileRepair, 16*time.Minute))
	}
	before := len(w.Calls())
	last := w.reconcile(node.ReconcileRepair, 16*time.Minute)
	check(last)
	for _, c := range w.Calls()[before:] {
		if !strings.HasPrefix(c, "login") { // to what is dead or refused, it tries again
			t.Errorf("the world does not come to rest: %s; %+v\n%s", c, last.Findings, strings.Join(story, "\n"))
		}
	}
	if last.Count("", node.Done) > 0 {
		t.Errorf("something was still done: %+v\n%s", last.Findings, strings.Join(story, "\n"))
	}
	for _, f := range last.Findings {
		if f.Reason == node.ReasonDegraded && f.Outcome != node.Seen && len(silent) == 0 {
			for _, l := range lives {
				if l.id == f.Volume && l.admitted {
					t.Errorf("%s is still degraded although its portals answer: %+v", l.id, f)
				}
			}
		}
	}
}

// FM 20: the secrets were rotated, and a path is lost. Iscsid cannot bring it back;
// it is told, and mended once the portal would let this node in.
func TestReconcileMakesASessionWithOutdatedSecretsAnew(t *testing.T) {
	w := newWheel(t)
	v := w.volume("a")
	ok(t, v.stage(), v.publish())
	v.disk().Rotate()
	if r := w.reconcile(node.ReconcileRepair, time.Minute); len(r.Findings) > 0 {
		t.Errorf("found while all sessions work: %+v", r.Findings)
	}
	lost := v.target.Portals[1]
	w.Cut(lost)
	r := w.reconcile(node.ReconcileRepair, time.Minute)
	expect(t, r, node.ReasonOutdated, node.Waits, 1)
	if f := r.Findings[0]; f.Portal != lost.String() || f.Volume != v.id {
		t.Errorf("the finding does not say which volume and portal: %+v", f)
	}
	w.Restore(lost)
	expect(t, w.reconcile(node.ReconcileObserve, time.Minute), node.ReasonOutdated, node.Would, 1)
	expect(t, w.reconcile(node.ReconcileRepair, time.Minute), node.ReasonOutdated, node.Done, 1)
	if r = w.reconcile(node.ReconcileRepair, time.Minute); len(r.Findings) > 0 {
		t.Errorf("found after it was mended: %+v", r.Findings)
	}
	ok(t, v.unpublish(), v.unstage())
	w.nothingLeft()
}
