package iscsi

import (
	"context"
	"errors"
	"slices"
	"time"

	"k8s.io/klog/v2"
)

// FailRefusedIO lets everything fail that the LUN's map keeps waiting for a path, once
// no session works and the target refuses this host, also when it is asked again after
// Config.RefusalPause: it can be written no more, and whoever waits for it, an unmount
// above all, would wait for ever (FM 21). While a session works, or nothing but silence
// speaks against it, everything stays.
func (i *Initiator) FailRefusedIO(ctx context.Context, t Target) error {
	m, found, err := i.queueingMap(ctx, t)
	if err != nil || !found {
		return err
	}
	refusal, final, err := i.refusedForGood(ctx, t)
	if err != nil || !final {
		return err
	}
	klog.FromContext(ctx).Info("The array does not admit this host any more, so what waits to be written fails", "target", t.IQN, "lun", t.LUN, "map", m.name, "refusedBy", refusal.refusedBy())
	return i.disableQueueing(ctx, m)
}

// refusedForGood says whether the target refuses this host, and does so again after a
// pause, in which no session comes back. A portal of an array that has just started may
// take logins before it knows whom it admits, and what a map drops upon that is lost.
func (i *Initiator) refusedForGood(ctx context.Context, t Target) (Refusal, bool, error) {
	refusal, err := i.AskAdmission(ctx, t)
	if err != nil || !refusal.Final() {
		return refusal, false, err
	}
	back, err := until(ctx, i.cfg.RefusalPause, func() (bool, error) {
		sessions, lookErr := i.sysfs.sessions(t.IQN)
		return slices.ContainsFunc(sessions, session.live), lookErr
	})
	if err != nil || back {
		return refusal, false, err
	}
	refusal, err = i.AskAdmission(ctx, t)
	return refusal, err == nil && refusal.Final(), err
}

// FailQueuedIO is FailRefusedIO on the caller's word that the target takes nothing from this
// host any more, where the target cannot say so: it refused this host, and is
// deleted now (FM 6).
func (i *Initiator) FailQueuedIO(ctx context.Context, t Target) error {
	m, found, err := i.queueingMap(ctx, t)
	if err != nil || !found {
		return err
	}
	klog.FromContext(ctx).Info("The volume is given up, so what waits to be written fails", "target", t.IQN, "lun", t.LUN, "map", m.name)
	return i.disableQueueing(ctx, m)
}

// queueingMap finds the map of a LUN to which no session works and which keeps what it
// cannot send.
func (i *Initiator) queueingMap(ctx context.Context, t Target) (dmap, bool, error) {
	m, found, err := i.mapWithoutSession(t)
	return m, found && err == nil && i.queues(ctx, m), err
}

// mapWithoutSession finds the map of a LUN to which no session works.
func (i *Initiator) mapWithoutSession(t Target) (dmap, bool, error) {
	if err := t.check(); err != nil {
		return dmap{}, false, err
	}
	sessions, err := i.sysfs.sessions(t.IQN)
	if err != nil || slices.ContainsFunc(sessions, session.live) {
		return dmap{}, false, err
	}
	return i.anyMap(t)
}

// disableQueueing lets what a map keeps waiting fail. Multipathd is told first, which
// would turn it on again; the kernel is where that does not help, because no daemon
// runs or it has no time. For a map that stays, multipathd remembers it until
// restoreQueueing.
func (i *Initiator) disableQueueing(ctx context.Context, m dmap) error {
	i.failing.Store(m.wwid, true) // first: it may happen although nobody hears of it
	told := i.multipath(ctx, "multipathd", "disablequeueing", "map", m.alias)
	table, err := i.table(ctx, mapUUID+m.wwid)
	if ctx.Err() != nil || gone(err) || err == nil && !table.queues {
		return fatal(told)
	}
	ctx, cancel := context.WithTimeout(ctx, mapperTimeout)
	defer cancel()
	_, err = bounded(ctx, &i.bounds, "end the queueing of "+m.wwid, func() (struct{}, error) { return struct{}{}, i.kernel.FailIfNoPath(mapUUID + m.wwid) })
	return err
}

// restoreQueueing lets a map wait for its paths again, as multipath.conf says, that
// this process let fail what it could not send: the array admits this host again, and a
// path works. Else the next outage would be an error to who uses it. That multipathd
// does not do it is no reason to do without the map: the next call tries again.
func (i *Initiator) restoreQueueing(ctx context.Context, t Target, m dmap) {
	if !i.fails(m) {
		return
	}
	disks, err := i.sysfs.lun(t.IQN, t.LUN)
	if err != nil || !slices.ContainsFunc(disks, func(d disk) bool { return d.running() && slices.Contains(m.slaves, d.name) }) {
		return
	}
	log := klog.FromContext(ctx).WithValues("target", t.IQN, "lun", t.LUN, "map", m.name)
	i.failing.Delete(m.wwid) // first: it may be made to fail anew meanwhile
	if err := i.multipath(ctx, "multipathd", "restorequeueing", "map", m.alias); err != nil {
		i.failing.Store(m.wwid, true)
		log.Info("The map does not wait for its paths as it should, and multipathd does not change that", "err", err)
		return
	}
	log.Info("A path works again, so the map waits for its paths as multipath.conf says")
}

// fails says that a map was made to fail what it cannot send.
func (i *Initiator) fails(m dmap) bool {
	_, is := i.failing.Load(m.wwid)
	return is
}

// queues says whether a map keeps what it cannot send; false also when the kernel
// does not tell.
func (i *Initiator) queues(ctx context.Context, m dmap) bool {
	table, err := i.table(ctx, mapUUID+m.wwid)
	return err == nil && table.queues
}

// mapperTimeout is how long device-mapper may take, which answers from memory.
const mapperTimeout = 2 * time.Second

// table asks device-mapper about a map, and not for long. Who asks beside another
// waits for his turn.
func (i *Initiator) table(ctx context.Context, uuid string) (t mapTable, err error) {
	ctx, cancel := context.WithTimeout(ctx, mapperTimeout)
	defer cancel()
	_, _ = until(ctx, mapperTimeout, func() (bool, error) {
		t, err = bounded(ctx, &i.bounds, "ask for the table of "+uuid, func() (mapTable, error) { return i.kernel.Table(uuid) })
		return !errors.Is(err, errWaits), nil
	})
	return t, err
}
