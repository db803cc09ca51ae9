package lio

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/datera-csi/datera-csi/internal/sim"
)

const (
	unset    = "NULL" // what the kernel reads as "no name, no secret"
	maxDepth = 512    // the widest command window an ACL may have
)

// revoke ends the sessions of everybody who is no longer admitted.
func (e *Exporter) revoke(ctx context.Context, t sim.Target) error {
	tpg := e.tpg(t.IQN)
	exists, err := e.exists(filepath.Dir(tpg), filepath.Base(tpg))
	if err != nil || !exists {
		return err
	}
	if !t.AllowAll {
		if err = e.closeDoor(ctx, tpg); err != nil {
			return err
		}
	}
	acls, err := e.dirs(filepath.Join(tpg, "acls"))
	if err != nil {
		return err
	}
	for _, a := range acls {
		if !t.AllowAll && slices.Contains(t.Initiators, a) {
			continue
		}
		if err := e.evict(ctx, filepath.Join(tpg, "acls", a)); err != nil {
			return fmt.Errorf("revoke %s: %w", a, err)
		}
	}
	return nil
}

// closeDoor ends the time of "anybody may log in". Whoever came in by it loses
// the session; the admitted ones come back by themselves when their ACL is there.
func (e *Exporter) closeDoor(ctx context.Context, tpg string) error {
	if err := e.put(filepath.Join(tpg, "attrib", "generate_node_acls"), "0"); err != nil {
		return err
	}
	users, err := e.dynamic(tpg)
	if err != nil || len(users) == 0 {
		return err
	}
	return e.disable(ctx, tpg)
}

// evict removes an ACL and with it every session of its initiator: the kernel
// answers the last rmdir only when they are gone.
//
// The sessions are ended before the LUNs are unmapped, not by it. An initiator
// that is logged in without a LUN 0 reads zeros from the one the kernel has
// built in, and would keep them in its page cache.
func (e *Exporter) evict(ctx context.Context, acl string) error {
	if err := e.kick(acl); err != nil {
		return err
	}
	luns, err := e.dirsLike(acl, lunPrefix)
	if err != nil {
		return err
	}
	for _, l := range luns {
		if err := e.dropLinked(ctx, filepath.Join(acl, l)); err != nil {
			return err
		}
	}
	return e.drop(ctx, acl)
}

// kick ends the sessions of an ACL, which stays: the kernel does so when the
// command window changes. It takes an initiator about two seconds to come back,
// and an ACL that is evicted is gone by then.
func (e *Exporter) kick(acl string) error {
	info, err := e.value(filepath.Join(acl, "info"))
	if errors.Is(err, fs.ErrNotExist) || (err == nil && idle(info)) {
		return nil
	}
	if err != nil {
		return err
	}
	file := filepath.Join(acl, "cmdsn_depth")
	now, err := e.value(file)
	if err != nil {
		return err
	}
	depth, err := strconv.Atoi(now)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return e.tree.Write(file, strconv.Itoa(depth%maxDepth+1))
}

// admit makes the ACLs that are missing, maps every LUN and sets the secrets.
// The map follows the mkdir at once and the secrets come last, for the reason
// evict gives.
func (e *Exporter) admit(_ context.Context, t sim.Target) error {
	if t.AllowAll {
		return nil
	}
	tpg := e.tpg(t.IQN)
	for _, i := range t.Initiators {
		acl := filepath.Join(tpg, "acls", i)
		if err := e.mkdir(acl); err != nil {
			return fmt.Errorf("admit %s: %w", i, err)
		}
		for n := range t.LUNs {
			if err := e.mkdir(filepath.Join(acl, lunName(n))); err != nil {
				return fmt.Errorf("admit %s: %w", i, err)
			}
			if err := e.link(filepath.Join(tpg, "lun", lunName(n)), filepath.Join(acl, lunName(n), mapLink)); err != nil {
				return fmt.Errorf("admit %s: %w", i, err)
			}
		}
		if err := e.setAuth(filepath.Join(acl, "auth"), t.Auth); err != nil {
			return fmt.Errorf("admit %s: %w", i, err)
		}
	}
	return nil
}

// setAuth sets or clears CHAP names and secrets. Sessions that are logged in stay.
func (e *Exporter) setAuth(dir string, a sim.Auth) error {
	for _, s := range []attribute{
		{"userid", a.TargetUser}, {"password", a.TargetPassword},
		{"userid_mutual", a.InitiatorUser}, {"password_mutual", a.InitiatorPassword},
	} {
		file := filepath.Join(dir, s.name)
		now, err := e.value(file)
		if err != nil {
			return err
		}
		if strings.HasPrefix(now, unset) {
			now = ""
		}
		if now == s.value {
			continue
		}
		if s.value == "" {
			s.value = unset
		}
		if err := e.tree.Write(file, s.value); err != nil {
			return err
		}
	}
	return nil
}
