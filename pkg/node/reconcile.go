package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// Paths looks at how LUNs are attached and adds what is missing; *iscsi.Initiator
// is one.
type Paths interface {
	Inspect(ctx context.Context, t iscsi.Target) (iscsi.Shape, error)
	Heal(ctx context.Context, t iscsi.Target, portals []netip.AddrPort) (iscsi.Healed, error)
	AskAdmission(ctx context.Context, t iscsi.Target) (iscsi.Refusal, error)
	FailQueuedIO(ctx context.Context, t iscsi.Target) error
	Attached(ctx context.Context, prefix string) ([]iscsi.Target, error)
	Unwatched(ctx context.Context) (int, error)
	CorruptNodeRecords(ctx context.Context) ([]iscsi.CorruptNodeRecord, error)
	QuarantineNodeRecords(ctx context.Context, iqn string) ([]string, error)
}

// ReconcileMode says what Reconcile does about what it finds.
type ReconcileMode string

// The modes.
const (
	ReconcileRepair  ReconcileMode = "repair"
	ReconcileObserve ReconcileMode = "observe" // a dry run: it only tells
	ReconcileOff     ReconcileMode = "off"
)

// RunReconcile reconciles at once and then again and again until ctx ends, with
// pauses of about every, so that the nodes of a cluster do not do it in step.
func (s *Server) RunReconcile(ctx context.Context, mode ReconcileMode, every time.Duration) {
	for mode != ReconcileOff && ctx.Err() == nil {
		s.Reconcile(ctx, mode)
		pause := time.NewTimer(every*9/10 + rand.N(every/5+1)) //nolint:gosec // jitter, not a secret
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// reconciler is what outlives one pass.
type reconciler struct {
	paths  Paths
	prefix string // of the names of the array's targets; "": what no record speaks of is left alone
	grace  time.Duration

	one sync.Mutex // one pass at a time

	mu    sync.Mutex
	known map[volumeLUN]iscsi.Target // every LUN that this process saw a record of
	since map[string]time.Time       // from when on something has been suspected of being left over
	told  map[Finding]bool           // by the last pass, so that a finding is logged when it is new

	numbers string // of the last pass, as they were logged
}

// volumeLUN is a LUN and the volume it was recorded for.
type volumeLUN struct {
	volume, iqn string
	lun         int
}

// remember notes that a LUN is one of ours, which is what permits taking it down
// when its record is gone.
func (r *reconciler) remember(rec *record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil {
		r.known = make(map[volumeLUN]iscsi.Target)
	}
	r.known[volumeLUN{rec.Volume, rec.Target.IQN, rec.Target.LUN}] = rec.target()
}

// remembered is a recordStore that tells of every record that is written.
type remembered struct {
	recordStore
	seen func(*record)
}

func (r *remembered) save(rec *record) error {
	r.seen(rec)
	return r.recordStore.save(rec)
}

// Reconcile compares the records with what this host has of their volumes and
// mends the difference. What it repairs, it repairs by adding: sessions to missing
// portals, one LUN behind a session, paths to a map; it resumes a suspended map
// (FM 20). It takes down only what is provably of this plugin or of its array, unused,
// and no longer recorded or no longer admitted by the array, for longer than the grace
// time, one thing a pass (FM 6). A volume that a call is at work on is passed over.
func (s *Server) Reconcile(ctx context.Context, mode ReconcileMode) Report {
	r := &s.reconciler
	if mode == ReconcileOff || r.paths == nil {
		return Report{Mode: ReconcileOff}
	}
	r.one.Lock()
	defer r.one.Unlock()
	p := &pass{Server: s, mode: mode, report: Report{Mode: mode, Start: s.clock().UTC()}, unanswered: make(map[netip.AddrPort]int), since: make(map[string]time.Time)}
	all, errs := s.records.list()
	for _, err := range errs {
		p.found(Finding{Reason: ReasonRecord, Evidence: "a record cannot be read, so its volume is left alone", Outcome: Seen, Error: err.Error()})
	}
	for _, rec := range all {
		r.remember(rec)
	}
	p.nodeRecords(ctx)
	if len(all) > 0 {
		p.watchers(ctx)
	}
	p.each(ctx, all)
	if len(errs) == 0 && ctx.Err() == nil { // the unreadable one may be of what has none
		p.unrecorded(ctx, all)
		p.strangers(ctx, all)
	}
	p.report.Volumes = len(all)
	p.report.Took = s.clock().Sub(p.report.Start)
	r.finish(ctx, p)
	return p.report
}

// finish remembers what the next pass must know, and logs what is new.
func (r *reconciler) finish(ctx context.Context, p *pass) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.since = p.since
	told := make(map[Finding]bool, len(p.report.Findings))
	slices.SortFunc(p.report.Findings, Finding.compare)
	for _, f := range p.report.Findings {
		told[f.essence()] = true
		if !r.told[f.essence()] {
			klog.FromContext(ctx).Info("Reconcile", "reason", f.Reason, "outcome", f.Outcome, "volume", f.Volume, "target", f.Target, "portal", f.Portal, "evidence", f.Evidence, "err", f.Error)
		}
	}
	r.told = told
	p.report.Counts = p.report.counts()
	if numbers := fmt.Sprint(p.report.Volumes, p.report.Attached, p.report.Counts); numbers != r.numbers {
		klog.FromContext(ctx).Info("Reconcile has new numbers", "volumes", p.report.Volumes, "attached", p.report.Attached, "busy", p.report.Busy, "found", p.report.Counts)
		r.numbers = numbers
	}
}

// pass is one Reconcile.
type pass struct {
	*Server
	mode ReconcileMode

	mu         sync.Mutex
	report     Report
	unanswered map[netip.AddrPort]int // logins in vain, by portal
	since      map[string]time.Time
	takeouts   int // things taken down
	inVain     int // and those that could not be
}

func (p *pass) found(f ...Finding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report.Findings = append(p.report.Findings, f...)
}

// each looks at every recorded volume, a few at a time and in no fixed order, so
// that one which takes long is not always before the same others.
func (p *pass) each(ctx context.Context, all []*record) {
	const atOnce = 4
	all = slices.Clone(all)
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] }) //nolint:gosec // no secret
	slots := make(chan struct{}, atOnce)
	var wait sync.WaitGroup
	for _, rec := range all {
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			p.hold(ctx, rec.Volume, func(ctx context.Context, op *operation) error { return p.reconcileVolume(ctx, op, rec) })
		})
	}
	wait.Wait()
}

// longestStep is for how long a pass waits for one volume. What the kernel does not
// finish by then goes on, and the volume is busy in the passes that follow.
const longestStep = 3 * time.Minute

// hold runs fn with the volume's lock, which is also that of its calls, and counts
// the volume as busy when a call has it.
func (p *pass) hold(ctx context.Context, volume string, fn func(context.Context, *operation) error) {
	op, _ := p.operations.take(volume, "Reconcile", true)
	if op == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.report.Busy++
		return
	}
	defer op.release()
	limited, cancel := context.WithTimeout(ctx, longestStep)
	defer cancel()
	if err := survive(limited, func(ctx context.Context) error { return fn(ctx, op) }); err != nil && ctx.Err() == nil {
		p.found(Finding{Reason: ReasonUnclear, Volume: volume, Evidence: "it cannot be told what there is of it, so it is left alone", Outcome: Seen, Error: err.Error()})
	}
}

// suspectedFor says for how long something has been suspected of being left over, and
// whether that is long enough. What is not asked about in a pass begins anew.
func (p *pass) suspectedFor(what string) (age time.Duration, long bool) {
	r := &p.reconciler
	r.mu.Lock()
	from, before := r.since[what]
	r.mu.Unlock()
	now := p.clock()
	if !before {
		from = now
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since[what] = from
	age = now.Sub(from)
	return age, before && age >= r.grace
}

// suspectedBefore says whether something was suspected in the pass before.
func (p *pass) suspectedBefore(what string) bool {
	p.reconciler.mu.Lock()
	defer p.reconciler.mu.Unlock()
	_, before := p.reconciler.since[what]
	return before
}

// takeDownOnce finishes a finding about something that is left over: it is waited for,
// told, put off, or done.
func (p *pass) takeDownOnce(f Finding, what string, do func() error) {
	const mostInAPass, mostInVain = 1, 3 // what fails keeps the place of others for a pass no longer than this
	age, long := p.suspectedFor(what)
	f.Evidence += fmt.Sprintf("; since %s", age.Round(time.Second))
	p.mu.Lock()
	off := p.takeouts >= mostInAPass || p.inVain >= mostInVain
	if long && !off && p.mode == ReconcileRepair {
		p.takeouts++
	}
	p.mu.Unlock()
	switch {
	case !long || off:
		f.Outcome = Waits
	case p.mode != ReconcileRepair:
		f.Outcome = Would
	default:
		f.Outcome = Done
		if err := do(); err != nil {
			f.Outcome, f.Error = Failed, err.Error()
			p.mu.Lock()
			p.takeouts, p.inVain = p.takeouts-1, p.inVain+1
			p.mu.Unlock()
		}
	}
	p.found(f)
}

// nodeRecords quarantines corrupt entries of open-iscsi's database when they are of
// our targets, and names them when they are another's (FM 29).
func (p *pass) nodeRecords(ctx context.Context) {
	corrupt, err := p.reconciler.paths.CorruptNodeRecords(ctx)
	if err != nil {
		p.found(Finding{Reason: ReasonNodeRecord, Evidence: "the node records cannot be read", Outcome: Seen, Error: err.Error()})
	}
	for _, u := range corrupt {
		f := Finding{Reason: ReasonNodeRecord, Target: u.IQN, Evidence: "iscsiadm cannot read " + u.Path, Outcome: Seen}
		switch {
		case !p.ours(u.IQN):
			f.Evidence += "; it is not of this plugin: look at it, and move it away"
		case p.mode == ReconcileRepair:
			f.Outcome = Done
			moved, err := p.reconciler.paths.QuarantineNodeRecords(ctx, u.IQN)
			f.Evidence += fmt.Sprintf("; set aside: %q", moved)
			if err != nil {
				f.Outcome, f.Error = Failed, err.Error()
			}
		default:
			f.Outcome = Would
		}
		p.found(f)
	}
}

// watchers says that multipathd does not run although there are maps.
func (p *pass) watchers(ctx context.Context) {
	maps, err := p.reconciler.paths.Unwatched(ctx)
	switch {
	case err != nil:
		p.found(Finding{Reason: ReasonUnclear, Evidence: "whether somebody watches the multipath maps cannot be told", Outcome: Seen, Error: err.Error()})
	case maps > 0:
		p.found(Finding{Reason: ReasonUnwatched, Evidence: unwatched(maps), Outcome: Seen})
	}
}

func unwatched(maps int) string {
	return fmt.Sprintf("%d multipath maps are in use and multipathd does not run: lost paths do not come back; start it: systemctl enable --now multipathd", maps)
}

func (p *pass) ours(iqn string) bool {
	r := &p.reconciler
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.known {
		if k.iqn == iqn {
			return true
		}
	}
	return false
}
