package iscsi

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/datera-csi/datera-csi/internal/keylock"
)

// iscsiadm changes the initiator's state with the host's iscsiadm, and only
// changes it. It never runs a discovery, because that would bring the records of
// every target of the array to this host (FM 27).
type iscsiadm struct {
	host      Runner
	syncDir   func(dir string) error
	db        nodeDB
	templates recordTemplates
	root      string
	gate      keylock.Keys // one writer to the database in this process; the lock file keeps other processes apart
}

// iscsiadm's exit status (iscsiadm(8) and open-iscsi's iscsi_err.h).
const (
	exitSessionNotFound = 2
	exitNoMemory        = 3
	exitTransport       = 4
	exitLogin           = 5
	exitDatabase        = 6
	exitInvalid         = 7
	exitTimeout         = 8
	exitPDUTimeout      = 11
	exitNoTransport     = 12
	exitAccess          = 13
	exitSessionExists   = 15
	exitDaemonComm      = 18
	exitFatalLogin      = 19
	exitNoDaemon        = 20
	exitNothingFound    = 21
	exitSysfsLookup     = 22
	exitAuth            = 24
	exitBusy            = 28
	exitAgain           = 29
	exitNotConnected    = 32
)

// adminError says what a failed iscsiadm means and what to do about it.
func adminError(err error) error {
	var exit *ExitError
	if !errors.As(err, &exit) {
		return err
	}
	remedy, kind := meaning(exit.Code)
	return fmt.Errorf("%w: %s: %w", kind, remedy, exit)
}

func meaning(code int) (remedy string, kind error) {
	switch code {
	case exitAuth:
		return "check the CHAP secrets and that the array admits this initiator", ErrAuth
	case exitFatalLogin:
		return "the target ended the login for good; check the mutual CHAP secrets and that the array admits this initiator", ErrAuth
	case exitDaemonComm, exitNoDaemon:
		return "iscsid does not answer; start it: systemctl enable --now iscsid.socket", ErrNotReady
	case exitNoTransport:
		return "the kernel lacks iSCSI over TCP; load it: modprobe iscsi_tcp", ErrNotReady
	case exitAccess:
		return "iscsiadm must run as root", ErrNotReady
	case exitNoSuchTool, exitNotExecutable:
		return "install open-iscsi on the host", ErrNotReady
	case exitTransport, exitLogin, exitTimeout, exitPDUTimeout:
		return "check the network between this host and the portal", ErrUnavailable
	case exitNotConnected:
		return "iscsid is about to bring the session back; ask again", ErrUnavailable
	case exitDatabase, exitInvalid, exitNothingFound:
		return "the node record cannot be used; it is written anew at the next attempt", ErrUnavailable
	}
	return "iscsiadm failed", ErrUnavailable
}

// transient failures go away by themselves: the record database or the daemon is
// busy with another call, or it was started anew and still takes up the sessions
// that it finds.
func transient(err error) bool {
	var exit *ExitError
	return errors.As(err, &exit) && slices.Contains([]int{exitDatabase, exitNoMemory, exitBusy, exitAgain, exitNotConnected}, exit.Code)
}

func exitedWith(err error, codes ...int) bool {
	var exit *ExitError
	return errors.As(err, &exit) && slices.Contains(codes, exit.Code)
}

const (
	// A killed iscsiadm may leave the database's lock behind, and then every later
	// one waits 30 s for it before it goes on (measured). So a call that touches
	// the database gets more time than that, and is not cut short by its caller.
	databaseTimeout = 45 * time.Second

	attempts = 6
)

// patient runs iscsiadm to its end although the caller gives up, but not for
// ever: killed half way it leaves a lock, half a record, or a login that iscsid
// goes on with unseen.
func (a *iscsiadm) patient(ctx context.Context, limit time.Duration, args ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	_, err := a.host.Run(own, append([]string{"iscsiadm"}, args...)...)
	return err
}

// retry repeats what failed for a moment, with growing pauses that differ from
// caller to caller.
func retry(ctx context.Context, fn func() error) error {
	pause := 50 * time.Millisecond
	for n := 1; ; n++ {
		err := fn()
		if err == nil || !transient(err) || n == attempts {
			return err
		}
		timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // jitter, not a secret
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return together(err, ctx.Err())
		}
		pause *= 2
	}
}

// create makes the record of one portal as iscsid.conf of this host has it, with
// the settings on top.
func (a *iscsiadm) create(ctx context.Context, iqn string, portal netip.AddrPort, settings []setting) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	all, err := a.db.list(iqn)
	if err != nil {
		return err
	}
	if r, ok := a.templates.copyFor(iqn, portal, all); ok {
		return r.replace(r.with(settings))
	}
	if err = a.newRecord(ctx, iqn, portal); err != nil {
		return err
	}
	if all, err = a.db.list(iqn); err != nil {
		return err
	}
	written := false
	for _, r := range all {
		if r.portal != portal {
			continue
		}
		a.templates.learn(iqn, r)
		// Iscsiadm made it with the host's node.startup, which must not come back: it may be to log in at boot.
		if err := together(r.replace(r.with(settings)), a.syncDir(filepath.Dir(r.path))); err != nil {
			return err
		}
		written = true
	}
	if !written {
		return fmt.Errorf("%w: iscsiadm made no node record for %s at %s below %s; is that where the host keeps them, seen from here?",
			ErrNotReady, iqn, portal, strings.Join(a.db.databases(), " or "))
	}
	return nil
}

func (a *iscsiadm) newRecord(ctx context.Context, iqn string, portal netip.AddrPort) error {
	unlock, err := a.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	all, err := a.db.list(iqn)
	if err != nil {
		return err
	}
	if err = discard(all, func(r nodeRecord) bool { return !r.intact(iqn) }); err != nil {
		return err
	}
	err = retry(ctx, func() error {
		return a.patient(ctx, databaseTimeout, "-m", "node", "-T", iqn, "-p", portal.String(), "-I", "default", "-o", "new")
	})
	if err != nil {
		return fmt.Errorf("make the node record of %s at %s: %w", iqn, portal, adminError(err))
	}
	return nil
}

// login logs in to one portal. A session that exists already is success; the
// caller looks at it.
func (a *iscsiadm) login(ctx context.Context, iqn string, portal netip.AddrPort, timeout time.Duration) error {
	err := a.loginWhere(ctx, timeout, "-T", iqn, "-p", portal.String(), "-I", "default")
	if err != nil {
		return fmt.Errorf("log in to %s at %s: %w", iqn, portal, err)
	}
	return nil
}

// loginAll logs in to every portal of a target that has a node record, all at the
// same time. An error says that not every login went well; the sessions tell which
// did.
func (a *iscsiadm) loginAll(ctx context.Context, iqn string, timeout time.Duration) error {
	if err := a.loginWhere(ctx, timeout, "-T", iqn); err != nil {
		return fmt.Errorf("log in to %s: %w", iqn, err)
	}
	return nil
}

// loginWhere logs in by the node records that the arguments choose.
func (a *iscsiadm) loginWhere(ctx context.Context, timeout time.Duration, which ...string) error {
	err := retry(ctx, func() error {
		return a.patient(ctx, timeout+databaseTimeout, slices.Concat([]string{"-m", "node"}, which, []string{"--login"})...)
	})
	if exitedWith(err, exitSessionExists) {
		return nil
	}
	return adminError(err)
}

const logoutTimeout = 60 * time.Second

// logoutAll ends every session of a target that has a node record.
func (a *iscsiadm) logoutAll(ctx context.Context, iqn string) error {
	return a.patient(ctx, logoutTimeout, "-m", "node", "-T", iqn, "--logout")
}

// errUnknownSession says that iscsid does not know a session: it is not there any
// more, or the kernel has it still and iscsid was killed while it began.
var errUnknownSession = errors.New("iscsid does not know the session")

// logout ends one session. The error is errUnknownSession when iscsid has none.
func (a *iscsiadm) logout(ctx context.Context, s session) error {
	err := retry(ctx, func() error {
		return a.patient(ctx, logoutTimeout, "-m", "session", "-r", strconv.Itoa(s.id), "--logout")
	})
	switch {
	case err == nil:
		return nil
	case exitedWith(err, exitSessionNotFound, exitNothingFound, exitSysfsLookup):
		return errUnknownSession
	}
	return fmt.Errorf("log out of %s: %w", s, adminError(err))
}

// forget deletes every record of a target; none is success.
func (a *iscsiadm) forget(ctx context.Context, iqn string) error {
	unlock, err := a.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	all, err := a.db.list(iqn)
	if err != nil || len(all) == 0 {
		return err
	}
	if slices.ContainsFunc(all, nodeRecord.linked) {
		err = retry(ctx, func() error {
			return a.patient(ctx, databaseTimeout, "-m", "node", "-T", iqn, "-o", "delete")
		})
		if exitedWith(err, exitNoSuchTool, exitNotExecutable) {
			return adminError(err)
		}
	}
	// What iscsiadm says about a delete says little about the files. A record that
	// is still there is one that it was not asked to delete, or cannot read.
	if discardErr := discard(all, func(nodeRecord) bool { return true }); discardErr != nil {
		return together(discardErr, err)
	}
	return nil
}

// discard removes those of the records that are there still.
func discard(all []nodeRecord, which func(nodeRecord) bool) error {
	for _, r := range all {
		if !which(r) {
			continue
		}
		if err := r.remove(); err != nil {
			return err
		}
	}
	return nil
}

// lock admits one writer to the record database, of this process and of any
// other that uses the same lock file. iscsiadm's own lock does not cover its
// walks through the tree: parallel deletes fail with exit 6 (measured).
func (a *iscsiadm) lock(ctx context.Context) (unlock func(), err error) {
	leave, err := a.gate.Lock(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("wait for the node records: %w", err)
	}
	f, err := a.lockFile(ctx)
	if err != nil {
		leave()
		return nil, fmt.Errorf("lock the node records: %w", err)
	}
	a.db.sweep(time.Now())
	return func() {
		_ = f.Close() // which also unlocks it
		leave()
	}, nil
}

func (a *iscsiadm) lockFile(ctx context.Context) (*os.File, error) {
	dir := filepath.Join(a.root, "run/lock")
	if _, err := os.Stat(dir); err != nil {
		dir = filepath.Join(a.root, "run")
	}
	f, err := os.OpenFile(filepath.Join(dir, "iscsi-node-records.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	ok, err := until(ctx, databaseTimeout, func() (bool, error) {
		locked := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(locked, syscall.EWOULDBLOCK) || errors.Is(locked, syscall.EINTR) {
			return false, nil
		}
		return locked == nil, locked
	})
	if ok {
		return f, nil
	}
	if err == nil {
		err = fmt.Errorf("%w: another process holds %s", ErrUnavailable, f.Name())
	}
	return nil, together(err, f.Close())
}
