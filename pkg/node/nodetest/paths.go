package nodetest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

// Cut makes a portal silent: its sessions go down.
func (h *Host) Cut(portal netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silent[portal] = true
	h.settle()
}

// Restore brings a portal back, and with it the sessions there are.
func (h *Host) Restore(portal netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.silent, portal)
	h.settle()
}

// settle is iscsid: a session works when its portal answers and the array admits
// the machine.
func (h *Host) settle() {
	for _, d := range h.disks {
		for p, works := range d.sessions {
			d.sessions[p] = !h.silent[p] && !d.refused && (works || !d.outdated[p])
		}
	}
}

// Admit says whether the array admits the machine to the disk.
func (d *Disk) Admit(admitted bool) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.refused = !admitted
	d.host.settle()
}

// Delete is what the array does to the volume behind the disk, after it has expelled
// every host.
func (d *Disk) Delete() {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.refused, d.deleted = true, true
	d.host.settle()
}

// Rotate changes the secrets of the target, and those of the node records: sessions
// that work go on, and iscsid cannot bring them back once they do not.
func (d *Disk) Rotate() {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.outdated = map[netip.AddrPort]bool{}
	for p := range d.sessions {
		d.outdated[p] = true
	}
}

// EndSession takes a session away, as an administrator may.
func (d *Disk) EndSession(portal netip.AddrPort) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	delete(d.sessions, portal)
}

// LosePaths takes all paths of an attached disk away. Its map stays, because it is
// mounted, and leads nowhere.
func (d *Disk) LosePaths() {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	clear(d.sessions)
	d.bare = true
}

// Surface makes the machine have the disk without anybody's asking, as iscsid does
// that goes on with an abandoned login.
func (d *Disk) Surface() {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	if d.number == (node.Number{}) {
		d.host.plug(d)
	}
}

func (h *Host) logIn(d *Disk, portals []netip.AddrPort) {
	for _, p := range portals {
		if !h.silent[p] && !d.refused {
			d.sessions[p] = true
		}
	}
}

// Inspect implements node.Paths. Every attached disk has a map.
func (h *Host) Inspect(_ context.Context, t iscsi.Target) (iscsi.Shape, error) {
	leave, err := h.enter("inspect")
	if err != nil {
		return iscsi.Shape{}, err
	}
	defer leave()
	var s iscsi.Shape
	d := h.disks[lun{t.IQN, t.LUN}]
	if d == nil || d.number == (node.Number{}) {
		return s, nil
	}
	s.Map, s.NodeRecords = &iscsi.MapCondition{Name: d.path, Number: d.number.String(), Bytes: d.visible}, len(d.target.Portals)
	for _, portal := range t.Portals {
		path := iscsi.PathCondition{Portal: portal}
		if works, there := d.sessions[portal]; works {
			path = iscsi.PathCondition{Portal: portal, Session: "LOGGED_IN", Disk: d.path, InMap: true, State: "running"}
		} else if there {
			path.Session, path.Outdated = "FAILED", d.outdated[portal]
		}
		s.Paths = append(s.Paths, path)
	}
	for _, m := range h.mounts {
		if m.disk == d.number {
			s.Mounts = append(s.Mounts, m.path)
		}
	}
	slices.Sort(s.Mounts)
	s.Mounts = slices.Compact(s.Mounts)
	return s, nil
}

// Heal implements node.Paths.
func (h *Host) Heal(_ context.Context, t iscsi.Target, portals []netip.AddrPort) (iscsi.Healed, error) {
	leave, err := h.enter("heal")
	if err != nil {
		return iscsi.Healed{}, err
	}
	defer leave()
	done := iscsi.Healed{Failed: map[netip.AddrPort]error{}}
	d := h.disks[lun{t.IQN, t.LUN}]
	if d == nil || d.number == (node.Number{}) {
		return done, nil
	}
	for p, works := range d.sessions {
		if !works && d.outdated[p] && !h.silent[p] && len(d.sessions) > 1 {
			h.done("renew " + t.IQN + " " + p.String())
			delete(d.outdated, p)
			d.sessions[p] = !d.refused
		}
	}
	for _, p := range portals {
		if _, there := d.sessions[p]; there {
			continue
		}
		if err := h.step("login " + p.String()); err != nil {
			return done, err
		}
		h.done("login " + t.IQN + " " + p.String())
		h.logIn(d, []netip.AddrPort{p})
		switch {
		case d.sessions[p]:
			done.LoggedIn = append(done.LoggedIn, p)
		case d.refused && !h.silent[p]:
			done.Failed[p] = iscsi.ErrAuth
		default:
			done.Failed[p] = fmt.Errorf("%s is silent: %w", p, iscsi.ErrUnavailable)
		}
	}
	return done, nil
}

// AskAdmission implements node.Paths.
func (h *Host) AskAdmission(_ context.Context, t iscsi.Target) (iscsi.Refusal, error) {
	leave, err := h.enter("ask")
	if err != nil {
		return nil, err
	}
	defer leave()
	r := iscsi.Refusal{}
	d, err := h.disk(t)
	if err != nil {
		return r, err
	}
	for _, p := range t.Portals {
		switch {
		case h.silent[p]:
			r[p] = iscsi.Admission{Detail: "no answer"}
		case d.deleted:
			r[p] = iscsi.Admission{Verdict: iscsi.NoTarget}
		case d.refused:
			r[p] = iscsi.Admission{Verdict: iscsi.Refused}
		default:
			r[p] = iscsi.Admission{Verdict: iscsi.Admitted}
		}
	}
	return r, nil
}

// Complete implements node.Attacher; a disk here has all its paths at once.
func (h *Host) Complete(context.Context, iscsi.Target, iscsi.Device) error {
	leave, err := h.enter("complete")
	if err != nil {
		return err
	}
	leave()
	return nil
}

// FailRefusedIO implements node.Attacher; it notes that the LUN was refused.
func (h *Host) FailRefusedIO(_ context.Context, t iscsi.Target) error {
	leave, err := h.enter("failRefusedIO")
	if err != nil {
		return err
	}
	defer leave()
	if d := h.disks[lun{t.IQN, t.LUN}]; d != nil && d.refused {
		h.done("failRefusedIO " + t.IQN)
	}
	return nil
}

// Suspend is what a multipathd leaves behind that died over a change of the disk's map.
func (d *Disk) Suspend() {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.suspended = true
}

// Sever implements node.Attacher.
func (h *Host) Sever(_ context.Context, t iscsi.Target) error { return h.sever("sever", t, true) }

// Rejoin implements node.Attacher.
func (h *Host) Rejoin(_ context.Context, t iscsi.Target) error { return h.sever("rejoin", t, false) }

func (h *Host) sever(op string, t iscsi.Target, severed bool) error {
	leave, err := h.enter(op)
	if err != nil {
		return err
	}
	defer leave()
	d := h.disks[lun{t.IQN, t.LUN}]
	if d == nil || d.number == (node.Number{}) || d.severed == severed {
		return nil
	}
	if d.held && !severed {
		return fmt.Errorf("%s: %w", d.path, iscsi.ErrBusy)
	}
	if err := h.step(op + " begun"); err != nil {
		return err
	}
	d.severed = severed
	h.done(op + " " + t.IQN)
	return h.step(op + " done")
}

// Resume implements node.Attacher.
func (h *Host) Resume(_ context.Context, t iscsi.Target) error {
	leave, err := h.enter("resume")
	if err != nil {
		return err
	}
	defer leave()
	if d := h.disks[lun{t.IQN, t.LUN}]; d != nil && d.suspended {
		d.suspended = false
		h.done("resume " + t.IQN)
	}
	return nil
}

// OnFailQueuedIO makes something happen whenever FailQueuedIO is asked for.
func (h *Host) OnFailQueuedIO(do func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onFailQueuedIO = do
}

// FailQueuedIO implements node.Paths; it notes that there was a disk.
func (h *Host) FailQueuedIO(_ context.Context, t iscsi.Target) error {
	h.mu.Lock()
	also := h.onFailQueuedIO
	h.mu.Unlock()
	if also != nil {
		also()
	}
	leave, err := h.enter("failQueuedIO")
	if err != nil {
		return err
	}
	defer leave()
	if d := h.disks[lun{t.IQN, t.LUN}]; d != nil && d.path != "" {
		h.done("failQueuedIO " + t.IQN)
	}
	return nil
}

// Attached implements node.Paths.
func (h *Host) Attached(_ context.Context, prefix string) ([]iscsi.Target, error) {
	leave, err := h.enter("attached")
	if err != nil {
		return nil, err
	}
	defer leave()
	var found []iscsi.Target
	for at, d := range h.disks {
		if strings.HasPrefix(at.iqn, prefix) && len(d.sessions) > 0 {
			found = append(found, iscsi.Target{IQN: at.iqn, LUN: at.lun, Portals: slices.Collect(maps.Keys(d.sessions)), Serial: d.target.Serial})
		}
	}
	return found, nil
}

// CorruptNodeRecords implements node.Paths.
func (h *Host) CorruptNodeRecords(context.Context) ([]iscsi.CorruptNodeRecord, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.corruptRecords), nil
}

// SpoilRecord corrupts the node record of a target.
func (h *Host) SpoilRecord(iqn string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.corruptRecords = append(h.corruptRecords, iscsi.CorruptNodeRecord{IQN: iqn, Path: "/etc/iscsi/nodes/" + iqn})
}

// Unwatched implements node.Paths: what SetFabric said.
func (h *Host) Unwatched(ctx context.Context) (int, error) {
	f, err := h.Fabric(ctx)
	return f.Unwatched, err
}

// QuarantineNodeRecords implements node.Paths.
func (h *Host) QuarantineNodeRecords(_ context.Context, iqn string) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done("quarantine " + iqn)
	h.corruptRecords = slices.DeleteFunc(h.corruptRecords, func(u iscsi.CorruptNodeRecord) bool { return u.IQN == iqn })
	return []string{"/quarantine/" + iqn}, nil
}
