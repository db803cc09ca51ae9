package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

const (
	// usualPortals is what an array has: one portal on each of two networks. A
	// volume that is staged with more makes this node count with more.
	usualPortals = 2

	// spareFiles of iscsid are not for sessions. It has about ten for itself, and
	// one more for each iscsiadm that asks it something.
	spareFiles = 64

	// settleTime is for how long there must have been room for more volumes before
	// more are promised: sessions of others come and go.
	settleTime = 15 * time.Minute
)

// allotment is how many volumes this node takes. The scheduler sends no more; a
// volume above it would not be attached, or would take the sessions of another.
type allotment struct {
	fixed    int64 // as an administrator has it; 0: what the sessions suffice for
	sessions int64 // that this host may have, for whomever
	onePath  bool  // a volume has one session, however many portals

	mu    sync.Mutex
	told  int64     // the last answer
	more  int64     // what there has been room for since, when that is more
	since time.Time // when it became more
}

// volumes is how many this node takes, now that it has these sessions and these
// volumes staged. Where others took sessions away it is fewer at once; when they
// give them back it is more only after settleTime, so that the answer, which every
// scheduler of the cluster hears, does not follow each login. It is never below
// what is staged, nor 0, which to CSI is no limit.
func (a *allotment) volumes(f iscsi.Fabric, records []*record, unread int, now time.Time) int64 {
	if a.fixed > 0 {
		return a.fixed
	}
	room := a.budget(f) - int64(len(f.Sessions))
	portals := int64(usualPortals)
	for _, rec := range records {
		portals = max(portals, int64(len(rec.Target.Portals)))
	}
	for _, s := range f.Sessions {
		if slices.ContainsFunc(records, func(rec *record) bool { return rec.Target.IQN == s.IQN }) {
			room++ // it is one of those that are shared out
		}
	}
	if a.onePath {
		portals = 1
	}
	return max(a.steady(room/portals, now), int64(len(records)+unread), 1)
}

// budget is how many sessions there may be. Iscsid keeps a file open for each: one
// that gets no more cannot bring a lost session back either.
func (a *allotment) budget(f iscsi.Fabric) int64 {
	if f.DaemonFiles == 0 {
		return a.sessions
	}
	return min(a.sessions, int64(f.DaemonFiles)-spareFiles)
}

func (a *allotment) steady(n int64, now time.Time) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.told == 0 || n <= a.told:
		a.told, a.since = max(n, 1), time.Time{}
	case a.since.IsZero():
		a.more, a.since = n, now
	default:
		if a.more = min(a.more, n); now.Sub(a.since) >= settleTime {
			a.told, a.since = a.more, time.Time{}
		}
	}
	return a.told
}

// takes is how many volumes this node takes. It always has an answer: at a
// registration an error would take away the driver from under the volumes that are
// staged.
func (s *Server) takes(ctx context.Context) int64 {
	if s.allotment.fixed > 0 {
		return s.allotment.fixed
	}
	fabric, err := s.attacher.Fabric(ctx)
	if err != nil {
		klog.FromContext(ctx).Info("The sessions of this host cannot be counted, so those of others are not", "err", err)
	}
	records, unread := s.records.list()
	n := s.allotment.volumes(fabric, records, len(unread), s.clock())
	klog.FromContext(ctx).V(4).Info("Counted what this node takes", "volumes", n, "staged", len(records)+len(unread), "sessions", len(fabric.Sessions), "filesOfIscsid", fabric.DaemonFiles)
	return n
}
