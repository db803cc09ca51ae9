package lio

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/datera-csi/datera-csi/internal/sim"
)

const (
	groupName = "tpgt_1" // the array answers portal group tag 1
	lunPrefix = "lun_"
	lunLink   = "dev" // lun_N/dev is the LUN's backstore
	mapLink   = "map" // acls/IQN/lun_N/map is the LUN an initiator sees
)

func (e *Exporter) tpg(iqn string) string { return filepath.Join(e.fabric, iqn, groupName) }

func lunName(n int) string { return lunPrefix + strconv.Itoa(n) }

// linked says whether LUN n of a target is backed; its backstore then allows few
// changes.
func (e *Exporter) linked(iqn string, n int) (bool, error) {
	links, err := e.links(filepath.Join(e.tpg(iqn), "lun", lunName(n)))
	return len(links) > 0, err
}

// group makes the target and its one portal group, disabled as they begin.
func (e *Exporter) group(_ context.Context, t sim.Target) error {
	if err := e.mkdir(filepath.Join(e.fabric, t.IQN)); err != nil {
		return err
	}
	return e.mkdir(e.tpg(t.IQN))
}

// luns links every backstore and takes away LUNs that are no longer described.
func (e *Exporter) luns(ctx context.Context, t sim.Target) error {
	dir := filepath.Join(e.tpg(t.IQN), "lun")
	for n := range t.LUNs {
		lun := filepath.Join(dir, lunName(n))
		if err := e.mkdir(lun); err != nil {
			return err
		}
		if err := e.link(e.backstore(t.IQN, n), filepath.Join(lun, lunLink)); err != nil {
			return err
		}
	}
	luns, err := e.dirsLike(dir, lunPrefix)
	if err != nil {
		return err
	}
	for _, l := range luns {
		if n, err := strconv.Atoi(l[len(lunPrefix):]); err == nil && n < len(t.LUNs) {
			continue
		}
		if err := e.dropLUN(ctx, t.IQN, l); err != nil {
			return err
		}
	}
	return e.dropBackstores(ctx, t.IQN, len(t.LUNs))
}

// dropLUN takes a LUN from every initiator, then from the target.
func (e *Exporter) dropLUN(ctx context.Context, iqn, lun string) error {
	acls, err := e.dirs(filepath.Join(e.tpg(iqn), "acls"))
	if err != nil {
		return err
	}
	for _, a := range acls {
		if err := e.dropLinked(ctx, filepath.Join(e.tpg(iqn), "acls", a, lun)); err != nil {
			return err
		}
	}
	return e.dropLinked(ctx, filepath.Join(e.tpg(iqn), "lun", lun))
}

// dropLinked removes a directory and the links in it.
func (e *Exporter) dropLinked(ctx context.Context, dir string) error {
	links, err := e.links(dir)
	if err != nil {
		return err
	}
	for _, l := range links {
		if err := e.drop(ctx, filepath.Join(dir, l)); err != nil {
			return err
		}
	}
	return e.drop(ctx, dir)
}

// portals listens where described and nowhere else. A session that came in by a
// portal survives it; only new logins are refused.
func (e *Exporter) portals(ctx context.Context, t sim.Target) error {
	dir := filepath.Join(e.tpg(t.IQN), "np")
	var want []string
	for _, p := range t.Portals {
		want = append(want, p.String())
	}
	have, err := e.dirs(dir)
	if err != nil {
		return err
	}
	for _, p := range have {
		if slices.Contains(want, p) {
			continue
		}
		if err := e.drop(ctx, filepath.Join(dir, p)); err != nil {
			return err
		}
	}
	for _, p := range want {
		if err := e.mkdir(filepath.Join(dir, p)); err != nil {
			return fmt.Errorf("listen on portal %s: %w", p, err)
		}
	}
	return nil
}

// attributes sets who may log in at all, and how. Strangers do not even see the
// target in a discovery unless it admits everybody.
func (e *Exporter) attributes(_ context.Context, t sim.Target) error {
	dir := filepath.Join(e.tpg(t.IQN), "attrib")
	all := flag(t.AllowAll)
	open := sim.Auth{}
	if t.AllowAll {
		open = t.Auth
	}
	if err := e.setAuth(filepath.Join(e.tpg(t.IQN), "auth"), open); err != nil {
		return err
	}
	for _, a := range []attribute{
		{"authentication", flag(t.Auth.TargetUser != "")},
		{"demo_mode_write_protect", flag(!t.AllowAll)},
		{"demo_mode_discovery", all},
		{"generate_node_acls", all},
	} {
		if err := e.put(filepath.Join(dir, a.name), a.value); err != nil {
			return err
		}
	}
	return nil
}

func flag(on bool) string {
	if on {
		return "1"
	}
	return "0"
}

func (e *Exporter) enable(_ context.Context, t sim.Target) error {
	return e.put(filepath.Join(e.tpg(t.IQN), "enable"), "1")
}

// remove takes everything down in the order the kernel wants: the sessions with
// the portal group, then what refers to the LUNs, the LUNs, the target, and at
// last the backstores that mark it.
func (e *Exporter) remove(ctx context.Context, iqn string) error {
	dir := filepath.Join(e.fabric, iqn)
	groups, err := e.dirsLike(dir, "tpgt_")
	if err != nil {
		return err
	}
	for _, g := range groups {
		if err := e.removeGroup(ctx, filepath.Join(dir, g)); err != nil {
			return err
		}
	}
	if err := e.drop(ctx, dir); err != nil {
		return err
	}
	return e.dropBackstores(ctx, iqn, 0)
}

func (e *Exporter) removeGroup(ctx context.Context, tpg string) error {
	if err := e.disable(ctx, tpg); err != nil {
		return err
	}
	for _, step := range []struct {
		dir  string
		drop func(context.Context, string) error
	}{
		{"acls", e.evict}, {"np", e.drop}, {"lun", e.dropLinked},
	} {
		dirs, err := e.dirs(filepath.Join(tpg, step.dir))
		if err != nil {
			return err
		}
		for _, d := range dirs {
			if err := step.drop(ctx, filepath.Join(tpg, step.dir, d)); err != nil {
				return err
			}
		}
	}
	return e.drop(ctx, tpg)
}

// disable ends every session of a portal group and waits until the last dynamic
// one is gone; those of an ACL are waited for when it is evicted.
func (e *Exporter) disable(ctx context.Context, tpg string) error {
	if err := e.put(filepath.Join(tpg, "enable"), "0"); err != nil {
		return err
	}
	return until(ctx, "sessions of "+strings.TrimPrefix(tpg, e.fabric+"/")+" to end", func() (bool, error) {
		users, err := e.dynamic(tpg)
		return len(users) == 0, err
	})
}
