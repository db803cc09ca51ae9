package lio

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// Sessions lists the initiators that are logged in to the target now, each once,
// from the kernel's own session state; none when there is no such target.
//
// The kernel shows the latest session of an initiator only. When that one has
// lost its connection (TARG_SESS_STATE_FAILED, for 20 seconds at most) it counts
// still: an older one, by another portal, may be at work.
func (e *Exporter) Sessions(iqn string) ([]string, error) {
	if err := checkIQN(iqn); err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	tpg := e.tpg(iqn)
	users, err := e.dynamic(tpg)
	if err != nil {
		return nil, fmt.Errorf("list sessions of %s: %w", iqn, err)
	}
	acls, err := e.dirs(filepath.Join(tpg, "acls"))
	if err != nil {
		return nil, fmt.Errorf("list sessions of %s: %w", iqn, err)
	}
	for _, a := range acls {
		info, err := e.value(filepath.Join(tpg, "acls", a, "info"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil, fmt.Errorf("list sessions of %s: %w", iqn, err)
		}
		if loggedIn(info) {
			users = append(users, a)
		}
	}
	slices.Sort(users)
	return slices.Compact(users), nil
}

// dynamic lists the sessions that need no ACL; none when tpg does not exist. The
// kernel ends each name with a line end and a zero byte.
func (e *Exporter) dynamic(tpg string) ([]string, error) {
	s, err := e.value(filepath.Join(tpg, "dynamic_sessions"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == 0 }), err
}

// idle says that an ACL's info file shows no session in any state.
func idle(info string) bool { return strings.HasPrefix(info, "No active iSCSI Session") }

// loggedIn reads the "Session State:" of an ACL's info file. A session whose
// login is not finished is none.
func loggedIn(info string) bool {
	_, state, _ := strings.Cut(info, "Session State: ")
	state, _, _ = strings.Cut(state, "\n")
	switch strings.TrimSpace(state) {
	case "TARG_SESS_STATE_LOGGED_IN", "TARG_SESS_STATE_FAILED", "TARG_SESS_STATE_IN_CONTINUE":
		return true
	}
	return false
}
