package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// reconcileVolume looks at one recorded volume, whose lock is held.
func (p *pass) reconcileVolume(ctx context.Context, op *operation, listed *record) error {
	rec, err := p.records.load(listed.Volume)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // unstaged meanwhile
	}
	if err != nil {
		return err
	}
	shape, err := p.reconciler.paths.Inspect(ctx, rec.target())
	if err != nil {
		return err
	}
	mounts, err := p.mounts.List()
	if err != nil {
		return err
	}
	if !shape.Attached() {
		if n := len(at(mounts, rec.Staging)); n > 0 {
			p.found(p.about(rec, ReasonLost, "", fmt.Sprintf("%s is still mounted, and no session, disk or map of it is left; %s", rec.Staging, restage)))
			return nil
		}
		// After a reboot, or between two stages: kubelet stages it again or unstages it, unless the orchestrator
		// gave this node up for dead and started the pod elsewhere. Then there is no mount that would tell kubelet
		// of the volume, and nobody else takes the record and its node records away (FM 25).
		why, refusal, err := p.whyNotForgotten(ctx, rec, shape, mounts)
		if err == nil && why == "" {
			p.takeDownForgotten(ctx, op, rec, shape, refusal)
		}
		return err
	}
	p.mu.Lock()
	p.report.Attached++
	p.mu.Unlock()
	all := p.defects(rec, shape)
	if len(shape.Live()) == 0 {
		why, refusal, err := p.whyNotForgotten(ctx, rec, shape, mounts)
		if err != nil {
			return err
		}
		if why == "" {
			p.takeDownForgotten(ctx, op, rec, shape, refusal)
			return nil
		}
		all[0].Evidence += "; " + why
		return p.heal(ctx, rec, shape, all)
	}
	healed := p.heal(ctx, rec, shape, all)
	if p.mode != ReconcileRepair {
		return healed
	}
	return errors.Join(healed, p.dropGoneTargets(rec, mounts), p.keepReadOnly(ctx, op, rec))
}

// dropGoneTargets takes those target paths out of the record of which nothing is left:
// the node's disk was full when they were unpublished.
func (p *pass) dropGoneTargets(rec *record, mounts []Mount) error {
	kept := rec
	for _, t := range rec.Targets {
		if len(at(mounts, t.Path)) > 0 {
			continue
		}
		if _, err := os.Lstat(t.Path); errors.Is(err, fs.ErrNotExist) {
			kept = kept.without(t.Path)
		}
	}
	if kept == rec {
		return nil
	}
	*rec = *kept
	return p.records.save(rec)
}

func (p *pass) about(rec *record, reason Reason, portal, evidence string) Finding {
	return Finding{Reason: reason, Outcome: Seen, Volume: rec.Volume, Target: rec.Target.IQN, Portal: portal, Evidence: evidence}
}

// defect is a finding and how to see whether it is still so.
type defect struct {
	Finding

	still    func(iscsi.Shape) bool
	healable bool // Heal does something about it
}

// defects says what an attached volume lacks.
func (p *pass) defects(rec *record, s iscsi.Shape) []defect {
	var all []defect
	add := func(healable bool, reason Reason, portal, evidence string, still func(iscsi.Shape) bool) {
		all = append(all, defect{Finding: p.about(rec, reason, portal, evidence), still: still, healable: healable})
	}
	if len(s.Live()) == 0 {
		add(s.Map != nil && len(s.Missing())+len(s.Outdated()) > 0, ReasonNoPaths, "", fmt.Sprintf("no session works; down: %v, without one: %v", s.Down(), s.Missing()), func(s iscsi.Shape) bool { return len(s.Live()) == 0 })
	}
	if s.Map != nil { // else one session is all there should be (FM 28)
		for _, portal := range s.Missing() {
			add(true, ReasonDegraded, portal.String(), "no session to the portal", func(s iscsi.Shape) bool { return slices.Contains(s.Missing(), portal) })
		}
		if s.NodeRecords == 0 {
			add(false, ReasonNodeRecord, "", "the target has no node record left; a session that ends does not come back before the volume is staged again", nil)
		}
		for _, disk := range s.OutsideMap() {
			add(true, ReasonOutsideMap, "", fmt.Sprintf("map %s does not have %s", s.Map.Name, disk), func(s iscsi.Shape) bool { return slices.Contains(s.OutsideMap(), disk) })
		}
		for _, portal := range s.WithoutLUN() {
			add(true, ReasonNotShown, portal.String(), "the session does not show the LUN", func(s iscsi.Shape) bool { return slices.Contains(s.WithoutLUN(), portal) })
		}
	}
	for _, portal := range s.Outdated() {
		evidence := "the session to the portal is down, and iscsid tries to bring it back with secrets that have changed since"
		if s.Map == nil {
			evidence += "; it is the only path: " + restage + " with the new ones, or give the volume its old secrets back on the array until then"
		}
		add(s.Map != nil, ReasonOutdated, portal.String(), evidence, func(s iscsi.Shape) bool { return slices.Contains(s.Outdated(), portal) })
	}
	for _, portal := range s.Down() {
		if slices.Contains(s.Outdated(), portal) {
			continue
		}
		add(false, ReasonDegraded, portal.String(), "the session to the portal is down; iscsid tries to bring it back", nil)
	}
	for _, disk := range s.Offline() {
		add(true, ReasonOffline, "", "the kernel gave up "+disk+", whose session works", func(s iscsi.Shape) bool { return slices.Contains(s.Offline(), disk) })
	}
	if s.Suspended() {
		add(true, ReasonSuspended, "", "map "+s.Map.Name+" keeps all I/O waiting", iscsi.Shape.Suspended)
	}
	return all
}

// heal adds what the volume lacks, and looks whether it lacks it still.
func (p *pass) heal(ctx context.Context, rec *record, before iscsi.Shape, all []defect) error {
	if rec.Fenced { // a path would also let what was mounted before write
		p.found(p.about(rec, ReasonFenced, "", former+"; "+rec.Staging+" is still used as it was mounted before; "+remount))
		return nil
	}
	if p.mode != ReconcileRepair || !before.Healable() {
		for _, d := range all {
			if d.healable {
				d.Outcome = Would
			}
			p.found(d.Finding)
		}
		return nil
	}
	healed, healErr := p.reconciler.paths.Heal(ctx, rec.target(), p.worthTrying(before.Missing()))
	p.noteAnswers(healed)
	after, err := p.reconciler.paths.Inspect(ctx, rec.target())
	if err != nil {
		return errors.Join(healErr, err)
	}
	for _, d := range all {
		switch portal, _ := netip.ParseAddrPort(d.Portal); {
		case !d.healable:
		case healed.Failed[portal] != nil:
			d.Outcome, d.Error = Failed, healed.Failed[portal].Error()
		case d.Reason == ReasonOutsideMap && healErr != nil: // the disk may have gone instead
			d.Outcome, d.Error = Failed, healErr.Error()
		case !d.still(after):
			d.Outcome = Done
		case d.Reason == ReasonOutdated && healErr == nil:
			d.Outcome, d.Evidence = Waits, d.Evidence+"; the portal does not let this host log in, or it is the map's last path"
		case d.Reason == ReasonDegraded:
			d.Outcome, d.Evidence = Waits, d.Evidence+"; it does not answer other volumes either"
		default:
			d.Outcome, d.Error = Failed, whyNot(healed, healErr)
		}
		p.found(d.Finding)
	}
	return nil
}

// whyNot says why something is as it was although Heal was at it.
func whyNot(m iscsi.Healed, healErr error) string {
	errs := []error{healErr}
	for _, portal := range slices.SortedFunc(maps.Keys(m.Failed), netip.AddrPort.Compare) {
		errs = append(errs, m.Failed[portal])
	}
	if err := errors.Join(errs...); err != nil {
		return err.Error()
	}
	return "it is still so after all that could be tried"
}

// worthTrying leaves out portals at which logins of this pass had no answer: each
// takes as long as a login may, and all of them would fail.
func (p *pass) worthTrying(portals []netip.AddrPort) []netip.AddrPort {
	const tries = 2
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(portals), func(portal netip.AddrPort) bool { return p.unanswered[portal] >= tries })
}

// noteAnswers notes which portals answered.
func (p *pass) noteAnswers(m iscsi.Healed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, portal := range m.LoggedIn {
		delete(p.unanswered, portal)
	}
	for portal, err := range m.Failed {
		if errors.Is(err, iscsi.ErrUnavailable) {
			p.unanswered[portal]++
		}
	}
}

// whyNotForgotten looks at a volume no session of which works, and says why it
// is not one that kubelet has forgotten; "" when it is, by what the portals say. While
// it is used, or the array may still admit this node, it is not: iscsid brings the
// sessions back when the network or the array is. It is when nobody uses it and the
// array has taken this node out of its ACL: the orchestrator holds it to be detached,
// and what has not been written can be written no more (FM 6).
func (p *pass) whyNotForgotten(ctx context.Context, rec *record, s iscsi.Shape, mounts []Mount) (why string, refusal iscsi.Refusal, err error) {
	if used := p.usedFor(rec, s, mounts); used != "" {
		return "it is in use: " + used, nil, nil
	}
	refusal, err = p.reconciler.paths.AskAdmission(ctx, rec.target())
	if err != nil {
		return "", nil, err
	}
	evident := refusal.Final() || refusal.Gone() && p.suspectedBefore(forgotten(rec)) || nothingToLose(s, refusal)
	if !evident {
		return fmt.Sprintf("nobody uses it, but nothing says that this node is not admitted: %v", refusal.Others()), nil, nil
	}
	return "", refusal, nil
}

// forgotten is the suspicion that a volume is, as passes remember it.
func forgotten(rec *record) string { return "forgotten " + rec.Volume + " " + rec.Target.Serial }

// takeDownForgotten tells of a forgotten volume, and takes it down when it has been one
// for long enough.
func (p *pass) takeDownForgotten(ctx context.Context, op *operation, rec *record, s iscsi.Shape, refusal iscsi.Refusal) {
	f := p.about(rec, ReasonForgotten, "", fmt.Sprintf("no session works; %v; not mounted but on its staging path; no device is built on it", refusal))
	if !s.Attached() {
		f.Evidence += "; nothing of it is attached"
	}
	p.takeDownOnce(f, forgotten(rec), func() error { return p.abandon(ctx, op, rec) })
}

// nothingToLose says that only a record and node records would go, which the next
// stage writes anew. Then silence is enough: the portals of a volume that was deleted
// may have gone with it.
func nothingToLose(s iscsi.Shape, r iscsi.Refusal) bool { return !s.Attached() && !r.Admits() }

// usedFor says what a volume is in use for, other than being staged; "" is nothing.
func (p *pass) usedFor(rec *record, s iscsi.Shape, mounts []Mount) string {
	var uses []string
	for _, point := range s.Mounts {
		if point != rec.Staging {
			uses = append(uses, "mounted on "+point)
		}
	}
	for _, t := range rec.Targets {
		// A block volume may be open through a node that no mount shows, as long as there is a device.
		if len(at(mounts, t.Path)) > 0 || rec.Mode == modeBlock && s.Attached() {
			uses = append(uses, "published on "+t.Path)
		}
	}
	for _, h := range s.Holders {
		uses = append(uses, "part of "+h)
	}
	return strings.Join(uses, ", ")
}

// abandon is an unstage that nobody asked for. Like every other it takes away only
// what it can claim for itself.
func (p *pass) abandon(ctx context.Context, op *operation, rec *record) error {
	// Whatever waits in a map that keeps I/O, udev's look at a lost disk among them, would hold it open for ever.
	if err := p.reconciler.paths.FailQueuedIO(ctx, rec.target()); err != nil {
		return err
	}
	numbers, err := p.knownNumbers(ctx, rec)
	if err != nil {
		return err
	}
	if err := p.takeDown(ctx, op, rec, rec.Staging, numbers); err != nil {
		return err
	}
	return p.records.remove(rec.Volume)
}

// unrecorded takes down LUNs that this process had a record of and has none any
// more, as a login leaves them that iscsid went on with after its volume was
// unstaged.
func (p *pass) unrecorded(ctx context.Context, recorded []*record) {
	r := &p.reconciler
	r.mu.Lock()
	candidates := make(map[volumeLUN]iscsi.Target)
	for k, t := range r.known {
		if !slices.ContainsFunc(recorded, func(rec *record) bool { return rec.Target.IQN == k.iqn && rec.Target.LUN == k.lun }) {
			candidates[k] = t
		}
	}
	r.mu.Unlock()
	for k, t := range candidates {
		p.hold(ctx, k.volume, func(ctx context.Context, _ *operation) error { return p.orphan(ctx, k, t) })
	}
}

func (p *pass) orphan(ctx context.Context, k volumeLUN, t iscsi.Target) error {
	holder, err := p.records.holderOf(t, "")
	if err != nil || holder != "" {
		return err // recorded meanwhile
	}
	s, err := p.reconciler.paths.Inspect(ctx, t)
	if err != nil {
		return err
	}
	if !s.Attached() && s.NodeRecords == 0 {
		p.reconciler.forget(k)
		return nil
	}
	f := Finding{Reason: ReasonUnrecorded, Outcome: Seen, Volume: k.volume, Target: k.iqn,
		Evidence: fmt.Sprintf("this plugin attached it, and no record speaks of it; live %v, down %v, disks %v, map: %v, %d node records", s.Live(), s.Down(), s.Disks(), s.Map != nil, s.NodeRecords)}
	if used := slices.Concat(s.Mounts, s.Holders); len(used) > 0 {
		f.Evidence += fmt.Sprintf("; it is in use: %v", used)
		p.found(f)
		return nil
	}
	p.takeDownOnce(f, "unrecorded "+k.volume+" "+k.iqn, func() error { return p.attacher.Detach(ctx, t) })
	return nil
}

// strangers takes down LUNs of the array that no record speaks of and that this process
// never had one of: their record was lost, or another driver's way here ended before
// theirs. Nothing but the name of the target ties them to the array, so more is asked
// for: no session works, nobody uses them, and the array refuses this host.
func (p *pass) strangers(ctx context.Context, recorded []*record) {
	r := &p.reconciler
	if r.prefix == "" {
		return
	}
	attached, err := r.paths.Attached(ctx, r.prefix)
	if err != nil {
		p.found(Finding{Reason: ReasonUnclear, Evidence: "the sessions of this host cannot be read", Outcome: Seen, Error: err.Error()})
		return
	}
	rand.Shuffle(len(attached), func(i, j int) { attached[i], attached[j] = attached[j], attached[i] }) //nolint:gosec // no secret
	for _, t := range attached {
		if p.ours(t.IQN) || slices.ContainsFunc(recorded, func(rec *record) bool { return rec.Target.IQN == t.IQN }) {
			continue
		}
		p.hold(ctx, t.IQN, func(ctx context.Context, _ *operation) error { return p.stranger(ctx, t) })
	}
}

func (p *pass) stranger(ctx context.Context, t iscsi.Target) error {
	s, err := p.reconciler.paths.Inspect(ctx, t)
	if err != nil {
		return err
	}
	if len(s.Live())+len(s.Mounts)+len(s.Holders) > 0 {
		return nil
	}
	refusal, err := p.reconciler.paths.AskAdmission(ctx, t)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("stranger %s %d", t.IQN, t.LUN)
	if !refusal.Final() && (!refusal.Gone() || !p.suspectedBefore(what)) {
		return nil
	}
	f := Finding{Reason: ReasonUnrecorded, Outcome: Seen, Target: t.IQN,
		Evidence: fmt.Sprintf("LUN %d of the array, which no record speaks of; no session works, nobody uses it; %v", t.LUN, refusal)}
	p.takeDownOnce(f, what, func() error {
		if refusal.Final() { // else whether somebody waits for its map is Detach's to find
			if err := p.reconciler.paths.FailQueuedIO(ctx, t); err != nil {
				return err
			}
		}
		holder, err := p.records.holderOf(t, "")
		if err != nil || holder != "" {
			return err // staged meanwhile
		}
		if s, err = p.reconciler.paths.Inspect(ctx, t); err != nil || len(s.Live()) > 0 {
			return err
		}
		return p.attacher.Detach(ctx, t)
	})
	return nil
}

// forget drops a LUN of which nothing is left.
func (r *reconciler) forget(k volumeLUN) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, k)
}
