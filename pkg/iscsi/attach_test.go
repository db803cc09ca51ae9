package iscsi_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

func multipath(mode iscsi.MultipathMode) func(*iscsi.Config) {
	return func(c *iscsi.Config) { c.Multipath = mode }
}

// attachedHost is a host with multipath that has the LUN of targetA.
func attachedHost(tb testing.TB, changes ...func(*iscsi.Config)) (*host, *iscsi.Initiator) {
	tb.Helper()
	h := newHost(tb).runMultipathd()
	i := h.initiator(changes...)
	attach(tb, i, targetA())
	return h, i
}

func attach(tb testing.TB, i *iscsi.Initiator, target iscsi.Target) iscsi.Device {
	tb.Helper()
	return attachWith(tb, i, target, nil)
}

func attachWith(tb testing.TB, i *iscsi.Initiator, target iscsi.Target, auth *iscsi.CHAP) iscsi.Device {
	tb.Helper()
	d, err := i.Attach(tb.Context(), target, auth)
	if err != nil {
		tb.Fatalf("attach: %v", err)
	}
	if err := i.Complete(tb.Context(), target, d); err != nil {
		tb.Fatalf("complete: %v", err)
	}
	return d
}

// FM 28 and FM 30: exactly one path when no map combines them, found in sysfs;
// this host has no link that udev makes.
func TestAttachWithoutMultipathdUsesOneSession(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	got := attach(t, h.initiator(), targetA())
	want := iscsi.Device{Path: "/dev/sdb", WWID: wwidA, Paths: []string{"/dev/sdb"}, Bytes: gib}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := len(h.glob("sys/class/iscsi_session/session*")); got != 1 {
		t.Errorf("%d sessions, want 1: two disks of one LUN without a map invite a write to both", got)
	}
	if got := h.read("sys/class/iscsi_session/session1/recovery_tmo"); got != "120" {
		t.Errorf("replacement timeout %s, want 120 for a single path", got)
	}
}

func TestAttachWithMultipathdReturnsTheMap(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	got := attach(t, h.initiator(), targetA())
	want := iscsi.Device{Path: "/dev/dm-0", WWID: wwidA, Paths: []string{"/dev/sdb", "/dev/sdc"}, Bytes: gib}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, s := range h.glob("sys/class/iscsi_session/session*") {
		if got := h.read(s + "/recovery_tmo"); got != "5" {
			t.Errorf("replacement timeout %s, want 5 below a map", got)
		}
	}
}

// The work on the device need not wait for the last path.
func TestAttachIsContentWithOneProvenPathInTheMap(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	h.unheard = true
	i := h.initiator()
	d, err := i.Attach(t.Context(), targetA(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := iscsi.Device{Path: "/dev/dm-0", WWID: wwidA, Paths: []string{"/dev/sdb", "/dev/sdc"}, Bytes: gib}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("both paths are proven (-want +got):\n%s", diff)
	}
	inMap := func() int { return len(h.glob("sys/block/dm-0/slaves/*")) }
	if n := inMap(); n != 1 {
		t.Fatalf("%d paths are in the map, want 1 as yet", n)
	}
	for range 2 {
		if err := i.Complete(t.Context(), targetA(), d); err != nil {
			t.Fatal(err)
		}
	}
	if n := inMap(); n != 2 {
		t.Errorf("%d paths are in the map, want 2", n)
	}
	if got := h.ran("multipathd add path"); len(got) != 1 {
		t.Errorf("ran %q, want the path that multipathd did not hear of to be offered once", got)
	}
}

func TestCompleteHasNothingToWaitForWithoutAMap(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	d := attach(t, i, targetA())
	h.forget()
	detach(t, i, targetA())
	if err := i.Complete(t.Context(), targetA(), d); err != nil {
		t.Error(err)
	}
}

// FM 30
func TestAttachWaitsForAUdevThatIsAtWork(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	h.greedy = false
	h.write("run/udev/queue", "")
	h.write("proc/321/comm", "systemd-udevd\n")
	early := make(chan bool, 1)
	h.after["multipath -a"] = func() { early <- len(h.glob("run/udev/queue")) > 0 }
	time.AfterFunc(300*time.Millisecond, func() { h.remove("run/udev/queue") }) // a map may take 200 ms
	attach(t, h.initiator(func(c *iscsi.Config) { c.MapTimeout = 200 * time.Millisecond }), targetA())
	if <-early {
		t.Error("multipath was told of the disk while udev was at work")
	}
}

// FM 30
func TestAttachDoesNotWaitForADeadUdevThatLeftItsQueue(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	h.greedy = false
	h.write("run/udev/queue", "")
	start := time.Now()
	attach(t, h.initiator(func(c *iscsi.Config) { c.MapTimeout = 2 * time.Second }), targetA())
	if took := time.Since(start); took > 5*time.Second { // udev at work is waited for 6 s
		t.Errorf("took %v", took)
	}
}

// FM 28: Debian's default, find_multipaths strict, makes no map of a LUN it was not
// told of.
func TestAttachTellsAStrictMultipathOfTheLUN(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	h.greedy = false
	got := attach(t, h.initiator(), targetA())
	if got.Path != "/dev/dm-0" || len(got.Paths) != 2 {
		t.Errorf("got %+v, want a map with two paths", got)
	}
	if len(h.ran("multipath -a")) != 1 {
		t.Errorf("ran %q, want multipath -a once", h.ran())
	}
}

// FM 28: multipath does not want the device, so one bare path is all there is.
func TestAttachBlacklistedKeepsOneSession(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	h.blacklisted = true
	got := attach(t, h.initiator(), targetA())
	if len(got.Paths) != 1 || got.Path != got.Paths[0] {
		t.Errorf("got %+v, want one bare path", got)
	}
	sessions := h.glob("sys/class/iscsi_session/session*")
	if len(sessions) != 1 {
		t.Fatalf("sessions %v, want one", sessions)
	}
	if got := h.read(sessions[0] + "/recovery_tmo"); got != "120" {
		t.Errorf("replacement timeout %s, want 120 for a single path", got)
	}
}

// FM 3, 28: where no map combines the paths one disk is left, also when the session of
// the other carries another LUN and so must stay.
func TestOneDiskIsLeftWithoutAMap(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	h.luns[iqnA][7] = lun{serialB, gib}
	other := targetA()
	other.LUN, other.Serial = 7, serialB
	attach(t, h.initiator(), other) // two sessions
	h.blacklisted = true
	i := h.initiator()
	got := attach(t, i, targetA())
	if disks := inspect(t, i).Disks(); len(got.Paths) != 1 || len(disks) != 1 {
		t.Errorf("got %+v, disks %v, want one", got, disks)
	}
	if sessions := h.glob("sys/class/iscsi_session/session*"); len(sessions) != 2 {
		t.Errorf("sessions %v, want two, for the other LUN's sake", sessions)
	}
	if found, err := i.Find(t.Context(), other); err != nil || len(found.Paths) != 2 {
		t.Errorf("the other LUN: %+v, %v", found, err)
	}
}

// A map that is going away has lost its paths in sysfs before they have lost it.
func TestAMapWithoutItsPathsIsNoDevice(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	for _, path := range h.glob("sys/block/dm-0/slaves/*") {
		if err := os.Remove(h.path(path)); err != nil {
			t.Fatal(err)
		}
	}
	if d, err := i.Find(t.Context(), targetA()); !errors.Is(err, iscsi.ErrUnavailable) {
		t.Errorf("found %+v, %v", d, err)
	}
}

// FM 28: a multipath that was killed has not said that it does not want the disk.
func TestAMultipathThatIsKilledIsNoReasonForOnePath(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	h.greedy = false // it waits to be told
	h.exits["multipath -a"] = 137
	i := h.initiator()
	if _, err := i.Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	delete(h.exits, "multipath -a")
	if got := attach(t, i, targetA()); len(got.Paths) != 2 || got.WWID != wwidA {
		t.Errorf("got %+v, want a map of two paths", got)
	}
}

func TestAttachRequireMultipath(t *testing.T) {
	t.Parallel()
	t.Run("no daemon", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		if _, err := h.initiator(multipath(iscsi.MultipathRequire)).Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrNotReady) {
			t.Errorf("err = %v, want ErrNotReady", err)
		}
		if got := h.left(); len(got) > 0 {
			t.Errorf("left %v, want nothing touched", got)
		}
	})
	t.Run("blacklisted", func(t *testing.T) {
		t.Parallel()
		h := newHost(t).runMultipathd()
		h.blacklisted = true
		if _, err := h.initiator(multipath(iscsi.MultipathRequire)).Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrNotReady) {
			t.Errorf("err = %v, want ErrNotReady", err)
		}
	})
}

func TestAttachMultipathOffIgnoresTheDaemon(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	h.greedy = false
	got := attach(t, h.initiator(multipath(iscsi.MultipathOff)), targetA())
	if got.Path != "/dev/sdb" || len(h.ran("multipath")) > 0 {
		t.Errorf("got %+v after %q, want a bare path and no multipath command", got, h.ran("multipath"))
	}
}

func TestAttachMultipathOffSaysWhenMultipathTookTheDevice(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	_, err := h.initiator(multipath(iscsi.MultipathOff)).Attach(t.Context(), targetA(), nil)
	if !errors.Is(err, iscsi.ErrBusy) || !strings.Contains(err.Error(), "blacklist") {
		t.Errorf("err = %v, want ErrBusy with the remedy", err)
	}
}

func TestAttachIsIdempotent(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, h *host) {
		first := attach(t, h.initiator(), targetA())
		h.forget()
		again := attach(t, h.initiator(), targetA())
		if diff := cmp.Diff(first, again); diff != "" {
			t.Error(diff)
		}
		if ran := h.ran(); len(ran) > 0 {
			t.Errorf("the repeat ran %q, want nothing", ran)
		}
	})
}

// A host that got its multipathd after the volume was mounted keeps the bare
// path, and no second one is put beside it (FM 28).
func TestAttachLeavesAMountedPathAlone(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	first := attach(t, h.initiator(), targetA())
	h.mount("8:16", "/", "/var/lib/kubelet/x", "xfs", "/dev/sdb")
	h.runMultipathd()
	again := attach(t, h.initiator(), targetA())
	if diff := cmp.Diff(first, again); diff != "" {
		t.Error(diff)
	}
	if got := len(h.glob("sys/class/iscsi_session/session*")); got != 1 {
		t.Errorf("%d sessions, want 1", got)
	}
}

// FM 29: a boot logs in to what is automatic, and scans what is automatic.
func TestNodeRecordsBringNothingBackAfterAReboot(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	attach(t, h.initiator(), targetA())
	for key, want := range map[string]string{
		"node.startup":                              "manual",
		"node.conn[0].startup":                      "manual",
		"node.session.scan":                         "manual",
		"node.session.initial_login_retry_max":      "1",
		"node.session.nr_sessions":                  "1",
		"node.session.reopen_max":                   "0",
		"node.session.timeo.replacement_timeout":    "120",
		"node.conn[0].timeo.login_timeout":          "1",
		"node.session.auth.authmethod":              "None",
		"node.name":                                 iqnA,
		"iface.iscsi_ifacename":                     "default",
		"node.session.timeo.no_such_key_is_made_up": "",
	} {
		if got := h.record(iqnA, portals()[0], key); got != want {
			t.Errorf("%s = %q, want %q", key, got, want)
		}
	}
}

// FM 29: iscsiadm made the record as the host's iscsid.conf has it, which may be to log in
// at boot. It is ours for good before there is a session to come back.
func TestNodeRecordsAreDurableBeforeTheLogin(t *testing.T) {
	t.Parallel()
	h, target := newHost(t), targetA()
	target.Portals = portals()[:1]
	dir, synced := "etc/iscsi/nodes/"+iqnA, false
	h.after["sync "+dir] = func() { synced = h.record(iqnA, portals()[0], "node.startup") == "manual" }
	h.after["--login"] = func() {
		if !synced {
			t.Error("a power failure may bring the host's settings back")
		}
	}
	attach(t, h.initiator(), target)

	h = newHost(t)
	h.dead[dir] = syscall.EIO
	if _, err := h.initiator().Attach(t.Context(), target, nil); !errors.Is(err, syscall.EIO) || len(h.ran("--login")) > 0 {
		t.Errorf("err = %v, want that of the sync; ran %q", err, h.ran())
	}
}

// FM 27: a discovery would bring every target of the array to this host.
func TestNoDiscoveryEver(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	if _, err := i.Rescan(t.Context(), targetA()); err != nil {
		t.Fatal(err)
	}
	if err := i.Detach(t.Context(), targetA()); err != nil {
		t.Fatal(err)
	}
	for _, c := range h.ran() {
		if strings.Contains(c, "discovery") || strings.Contains(c, "-R") {
			t.Errorf("ran %q", c)
		}
		if strings.HasPrefix(c, "iscsiadm") && !strings.Contains(c, iqnA) && !strings.Contains(c, "-m session -r ") {
			t.Errorf("ran %q, which is not about one target", c)
		}
	}
}

// FM 40: no secret in an argument, an error, a log line or a world-readable file.
func TestSecretsStayOutOfSight(t *testing.T) {
	auth := &iscsi.CHAP{User: "canary-user", Password: "canary-password", UserIn: "canary-in", PasswordIn: "canary-password-in"}
	var logged bytes.Buffer
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	for k, v := range map[string]string{"logtostderr": "false", "stderrthreshold": "FATAL", "v": "9"} {
		if err := flags.Set(k, v); err != nil {
			t.Fatal(err)
		}
	}
	klog.SetOutput(&logged)
	t.Cleanup(func() { klog.SetOutput(os.Stderr) })

	h := newHost(t).runMultipathd()
	h.login[portals()[1]] = 24
	i := h.initiator()
	d, err := i.Attach(t.Context(), targetA(), auth)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"node.session.auth.authmethod":  "CHAP",
		"node.session.auth.username":    auth.User,
		"node.session.auth.password":    auth.Password,
		"node.session.auth.username_in": auth.UserIn,
		"node.session.auth.password_in": auth.PasswordIn,
	} {
		if got := h.record(iqnA, portals()[0], key); got != want {
			t.Errorf("%s is not set in the record", key)
		}
	}
	info, err := os.Stat(h.path(recordPath(iqnA, portals()[0].String())))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("record: %v, %v, want mode 0600", info.Mode(), err)
	}
	h.login[portals()[0]] = 24
	if detachErr := i.Detach(t.Context(), targetA()); detachErr != nil {
		t.Fatal(detachErr)
	}
	_, err = i.Attach(t.Context(), targetA(), auth)
	if !errors.Is(err, iscsi.ErrAuth) {
		t.Fatalf("err = %v, want ErrAuth", err)
	}
	badErr := func() error {
		_, e := i.Attach(t.Context(), targetA(), &iscsi.CHAP{User: "u", Password: "canary\n"})
		return e
	}()
	if badErr == nil {
		t.Error("a password with a line break was accepted; it would write lines of its own into the record")
	}
	klog.Flush()
	seen := fmt.Sprintf("%s %v %v %+v %#v %s %s", strings.Join(h.ran(), "\n"), err, badErr, auth, *auth, fmt.Sprint(d), logged.String())
	if strings.Contains(seen, "canary") {
		t.Errorf("a secret got out:\n%s", seen)
	}
	if logged.Len() == 0 {
		t.Error("the portal that refused us was not logged, so the log proved nothing")
	}
}

// FM 25: one portal of two is enough.
func TestAttachSurvivesADeadPortal(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, h *host) {
		h.login[portals()[0]] = 8
		got := attach(t, h.initiator(), targetA())
		if len(got.Paths) != 1 || got.Bytes != gib {
			t.Errorf("got %+v, want one path of 1 GiB", got)
		}
	})
}

func TestAttachSaysWhyEveryPortalFailed(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.login[portals()[0]], h.login[portals()[1]] = 8, 4
	_, err := h.initiator().Attach(t.Context(), targetA(), nil)
	if !errors.Is(err, iscsi.ErrUnavailable) {
		t.Fatalf("err = %v, want ErrUnavailable", err)
	}
	for _, p := range portals() {
		if !strings.Contains(err.Error(), p.String()) {
			t.Errorf("err = %v, want it to name %s", err, p)
		}
	}
}

// FM 27: each code means what open-iscsi means by it.
func TestLoginExitCodes(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]error{
		4: iscsi.ErrUnavailable, 5: iscsi.ErrUnavailable, 8: iscsi.ErrUnavailable, 11: iscsi.ErrUnavailable,
		1: iscsi.ErrUnavailable, 6: iscsi.ErrUnavailable, 7: iscsi.ErrUnavailable, 9: iscsi.ErrUnavailable, 21: iscsi.ErrUnavailable,
		19: iscsi.ErrAuth, 24: iscsi.ErrAuth,
		12: iscsi.ErrNotReady, 13: iscsi.ErrNotReady, 18: iscsi.ErrNotReady, 20: iscsi.ErrNotReady, 126: iscsi.ErrNotReady, 127: iscsi.ErrNotReady,
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			for _, p := range portals() {
				h.login[p] = code
			}
			_, err := h.initiator().Attach(t.Context(), targetA(), nil)
			if !errors.Is(err, want) {
				t.Errorf("err = %v, want %v", err, want)
			}
			var exit *iscsi.ExitError
			if !errors.As(err, &exit) || exit.Code != code {
				t.Errorf("err = %v, want it to carry exit %d", err, code)
			}
		})
	}
}

// 15 is what a login says when iscsid is still at an earlier one, whose iscsiadm
// was killed: there is no session yet (measured).
func TestLoginThatFindsAnotherLoginWaitsForItsSession(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.login[portals()[0]] = 15
	h.after["--login"] = func() { h.addSession(iqnA, portals()[0]) }
	got := attach(t, h.initiator(), targetA())
	if got.Path == "" || len(h.ran("--login")) != 1 {
		t.Errorf("got %+v after %q", got, h.ran())
	}

	none := newHost(t)
	none.login[portals()[0]], none.login[portals()[1]] = 15, 15
	if _, err := none.initiator().Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrUnavailable) {
		t.Errorf("err = %v, want ErrUnavailable when no session comes of it", err)
	}
}

// FM 27, 29: one iscsiadm logs in to all portals, where it cannot log in to others:
// those of records that somebody else made are not this volume's.
func TestOneLoginForAllPortalsOfATarget(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	i := h.initiator()
	attach(t, i, targetA())
	if ran := h.ran("--login"); len(ran) != 1 || strings.Contains(ran[0], "-p") {
		t.Errorf("a target without sessions: %q, want one login", ran)
	}
	detach(t, i, targetA())

	h.forget()
	h.newRecord(iqnA, "10.9.9.9:3260")
	attach(t, i, targetA())
	if ran := h.ran("--login"); len(ran) != 2 || len(h.ran("--login", "-p")) != 2 {
		t.Errorf("beside another's record: %q, want a login to each portal", ran)
	}
	if n := len(h.glob("sys/class/iscsi_session/session*")); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
	detach(t, i, targetA())

	h.forget()
	h.addSession(iqnA, portals()[0])
	attach(t, i, targetA())
	if ran := h.ran("--login"); len(ran) != 1 || len(h.ran("--login", "-p "+portals()[1].String())) != 1 {
		t.Errorf("beside a session: %q, want a login to the other portal", ran)
	}
}

// FM 27: parallel calls make the record database fail for a moment.
func TestDatabaseErrorsAreTriedAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.exits["-o new"] = 6
	h.exits["--login"] = 29
	attach(t, h.initiator(), targetA())
	if got := len(h.ran("-o new")); got != 2 {
		t.Errorf("%d attempts to make the record, want 2", got)
	}
	if got := len(h.ran("--login")); got != 2 {
		t.Errorf("%d attempts to log in, want 2", got)
	}
}

// A record that a crash corrupted cannot be replaced or deleted by iscsiadm (FM 29).
func TestAttachOverAPoisonedRecord(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write(recordPath(iqnA, portals()[0].String()), "")
	h.write("etc/iscsi/nodes/iqn.2001-05.com.other:x/172.28.0.9,3260", "")
	i := h.initiator()
	attach(t, i, targetA())
	if got := h.record(iqnA, portals()[0], "node.startup"); got != "manual" {
		t.Errorf("node.startup = %q, want an intact record", got)
	}
	if got := h.glob("etc/iscsi/nodes/iqn.2001*/*"); len(got) != 1 {
		t.Error("the record of another target was touched")
	}
}

// FM 2: the LUN number was given to another volume while the session lived.
func TestStaleLUNIsReplaced(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, h *host) {
		i := h.initiator()
		old := attach(t, i, targetA())
		h.luns[iqnA][0] = lun{serialB, 2 * gib}
		renewed := targetA()
		renewed.Serial, renewed.Bytes = serialB, 2*gib
		got := attach(t, i, renewed)
		if got.WWID != wwidB || got.Bytes != 2*gib || len(got.Paths) != len(old.Paths) {
			t.Errorf("got %+v, want %d paths to the new volume", got, len(old.Paths))
		}
		for _, p := range old.Paths {
			if slices.Contains(got.Paths, p) {
				t.Errorf("%s was kept", p)
			}
		}
	})
}

func TestStaleLUNInUseIsRefusedAndKept(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(*host){
		"mounted":            func(h *host) { h.mount("8:16", "/", "/data", "xfs", "/dev/sdb") },
		"handed out as node": func(h *host) { h.mount("0:5", "/sdb", "/pods/block", "devtmpfs", "devtmpfs") },
		"part of another": func(h *host) {
			h.write("sys/devices/platform/host1/session1/target1:0:0/1:0:0:0/block/sdb/holders/dm-9/x", "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			i := h.initiator()
			attach(t, i, targetA())
			use(h)
			h.luns[iqnA][0] = lun{serialB, gib}
			renewed := targetA()
			renewed.Serial = serialB
			if _, err := i.Attach(t.Context(), renewed, nil); !errors.Is(err, iscsi.ErrForeign) {
				t.Errorf("err = %v, want ErrForeign", err)
			}
			if got := h.glob("sys/block/sd*"); !cmp.Equal(got, []string{"sys/block/sdb"}) {
				t.Errorf("disks %v, want sdb kept", got)
			}
		})
	}
}

// FM 2: right target, right LUN number, another volume.
func TestForeignLUNIsNeverHandedOut(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.luns[iqnA][0] = lun{serialB, gib}
	_, err := h.initiator().Attach(t.Context(), targetA(), nil)
	if !errors.Is(err, iscsi.ErrForeign) || !strings.Contains(err.Error(), serialA) || !strings.Contains(err.Error(), serialB) {
		t.Errorf("err = %v, want ErrForeign naming both serial numbers", err)
	}
}

// FM 2: a container with a /dev of its own, or an old one, shows other devices by the
// names of ours. They are neither asked nor handed out.
func TestADevOfOthersIsNotHandedOut(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		strange []string
		says    string
	}{
		"the paths": {[]string{"sdb", "sdc"}, "/dev/sdb is block device 8:99"},
		"the map":   {[]string{"dm-0"}, "is the host's /dev mounted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t).runMultipathd()
			for _, s := range tt.strange {
				h.strange[s] = true
			}
			if got, err := h.initiator().Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrUnavailable) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %+v, %v, want ErrUnavailable that says %q", got, err, tt.says)
			}
		})
	}
}

// FM 14: the kernel remembers the size of an earlier LUN.
func TestStaleSizeIsReadAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	attach(t, i, targetA())
	h.luns[iqnA][0] = lun{serialA, 3 * gib}
	grown := targetA()
	grown.Bytes = 3 * gib
	if got := attach(t, i, grown); got.Bytes != 3*gib {
		t.Errorf("%d bytes, want %d", got.Bytes, 3*gib)
	}
}

// FM 14: a file system would be made for the wrong size.
func TestSmallerThanPromisedIsRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	promised := targetA()
	promised.Bytes = 100 * gib
	_, err := h.initiator().Attach(t.Context(), promised, nil)
	if !errors.Is(err, iscsi.ErrForeign) || !strings.Contains(err.Error(), fmt.Sprint(100*gib)) {
		t.Errorf("err = %v, want ErrForeign naming the sizes", err)
	}
}

// FM 15: the map is resized after its paths.
func TestMapFollowsItsGrownPaths(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	h.luns[iqnA][0] = lun{serialA, 3 * gib}
	grown := targetA()
	grown.Bytes = 3 * gib
	if got := attach(t, i, grown); got.Bytes != 3*gib || got.Path != "/dev/dm-0" {
		t.Errorf("got %+v, want the map with %d bytes", got, 3*gib)
	}
}

// FM 3: device-mapper numbers and names pass from one map to another.
func TestMapWithStrangePathIsRefused(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	attach(t, i, iscsi.Target{IQN: iqnB, Portals: portals(), Serial: serialB, Bytes: gib})
	h.addToMap(wwidA, "sdd") // a path of volume B
	before := h.left()
	if _, err := i.Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrForeign) {
		t.Errorf("attach: err = %v, want ErrForeign", err)
	}
	if err := i.Detach(t.Context(), targetA()); !errors.Is(err, iscsi.ErrForeign) {
		t.Errorf("detach: err = %v, want ErrForeign", err)
	}
	if diff := cmp.Diff(before, h.left()); diff != "" {
		t.Errorf("something was touched: %s", diff)
	}
}

// FM 3: the map over our paths is another volume's.
func TestMapOfAnotherWWIDIsRefused(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	h.write("sys/block/dm-0/dm/uuid", "mpath-"+wwidB+"\n")
	if _, err := i.Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrForeign) {
		t.Errorf("attach: err = %v, want ErrForeign", err)
	}
	if err := i.Detach(t.Context(), targetA()); !errors.Is(err, iscsi.ErrForeign) {
		t.Errorf("detach: err = %v, want ErrForeign", err)
	}
	if len(h.ran("del map")) > 0 {
		t.Error("the map of another volume was removed")
	}
}

// FM 2, 3, 28: all paths of what is handed out are one LUN, whether the kernel, the disks
// or the maps say otherwise.
func TestPathsThatDoNotAgreeAreRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		multipathd bool // which has made a map of the LUN
		spoil      func(*host)
		says       string
	}{
		"a silent path is known as another LUN": {true, func(h *host) {
			h.hang("sdb")
			h.write(h.diskDir("sdb")+"/vpd_pg80", string(serialPage(serialB)))
		}, "sdb does not answer, and the kernel knows it as " + serialB},
		"two WWIDs": {false, func(h *host) {
			h.renamed["sdc"] = wwidB
			h.addBothPaths()
		}, "sdb is " + wwidA + " but sdc is " + wwidB},
		"a map that is larger": {true, func(h *host) {
			h.write("sys/block/dm-0/size", fmt.Sprintf("%d\n", 2*gib/512))
		}, fmt.Sprintf("map dm-0 has %d bytes, its paths have %d", 2*gib, gib)},
		"two maps": {true, func(h *host) {
			h.remove("sys/block/dm-0/slaves/sdc", h.diskDir("sdc")+"/block/sdc/holders/dm-0")
			delete(h.byName, wwidA)
			h.addToMap(wwidA, "sdc")
		}, "the paths belong to two maps"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			i := h.initiator()
			if tt.multipathd {
				h.runMultipathd()
				attach(t, i, targetA())
			}
			tt.spoil(h)
			before := h.left()
			if got, err := i.Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrForeign) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %+v, %v, want ErrForeign that says %q", got, err, tt.says)
			}
			if diff := cmp.Diff(before, h.left()); diff != "" {
				t.Errorf("changed:\n%s", diff)
			}
		})
	}
}

// addBothPaths gives the LUN of targetA a session to each portal, and a disk behind each.
func (h *host) addBothPaths() {
	for _, p := range portals() {
		h.addDisk(h.addSession(iqnA, p), 0, h.luns[iqnA][0])
	}
}

func TestDeviceThatSomethingElseIsBuiltOnIsRefused(t *testing.T) {
	t.Parallel()
	for _, on := range []string{"sdb", "sdb1"} { // a virtual machine's disk has groups in its partitions
		h := newHost(t)
		i := h.initiator()
		attach(t, i, targetA())
		if on == "sdb1" {
			h.addPartition("sdb", "8:17")
		}
		h.write(h.diskDir("sdb")+"/block/"+strings.TrimSuffix("sdb/"+on, "/sdb")+"/holders/dm-9/x", "") // LVM, say
		if _, err := i.Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrBusy) || !strings.Contains(err.Error(), on+" is part of dm-9") {
			t.Errorf("err = %v, want ErrBusy naming dm-9 over %s", err, on)
		}
	}
}

// FM 3, 28: the vendor had maps named by the serial number of their disks. None is handed
// out, since no identity follows from its name, but one that is there can be taken down.
func TestAMapNamedByItsSerialNumberIsOnlyTakenDown(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	h.callout = true
	i := h.initiator()
	if got, err := i.Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrForeign) || !strings.Contains(err.Error(), "getuid_callout") {
		t.Errorf("got %+v, %v, want ErrForeign that names the setting", got, err)
	}
	if h.mapNamed("SDATERA_IBLOCK_"+serialA) == "" {
		t.Fatal("there is no such map")
	}
	if err := i.Detach(t.Context(), targetA()); err != nil {
		t.Fatal(err)
	}
	if left := append(h.glob("sys/block/*"), h.glob("sys/class/iscsi_session/*")...); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}

// A multipath that cannot write down what it is told says so by the status that also
// means that it does not want the disk.
func TestAMultipathThatCannotWriteIsNotTakenForOneThatDeclines(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	h.greedy, h.full = false, true
	if got, err := h.initiator().Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrUnavailable) {
		t.Errorf("got %+v, %v, want ErrUnavailable", got, err)
	}
	if sessions := h.glob("sys/class/iscsi_session/session*"); len(sessions) != 2 {
		t.Errorf("sessions %v, want both: none is given up", sessions)
	}
}

func TestHungDeviceDoesNotHangTheCaller(t *testing.T) {
	t.Parallel()
	t.Run("the only path", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		i := h.initiator()
		attach(t, i, targetA())
		h.hang("sdb")
		for range 3 {
			start := time.Now()
			_, err := i.Attach(t.Context(), targetA(), nil)
			if !errors.Is(err, iscsi.ErrUnavailable) {
				t.Errorf("err = %v, want ErrUnavailable", err)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("took %v", took)
			}
		}
	})
	t.Run("one of two", func(t *testing.T) {
		t.Parallel()
		h := newHost(t).runMultipathd()
		i := h.initiator()
		want := attach(t, i, targetA())
		h.hang("sdb")
		if got := attach(t, i, targetA()); !cmp.Equal(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
	t.Run("the scan", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		h.hang("host1")
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err := h.initiator().Attach(ctx, targetA(), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want deadline exceeded", err)
		}
	})
}

// Secrets that changed while a session was down: iscsid tries the old ones for
// ever, so an unused session is made anew.
func TestSessionThatDoesNotComeBackIsMadeAnew(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator(func(c *iscsi.Config) { c.LoginTimeout = 100 * time.Millisecond })
	attach(t, i, targetA())
	h.fail(iqnA, portals()[0])
	got := attach(t, i, targetA())
	if len(h.ran("--logout")) != 1 || got.Bytes != gib {
		t.Errorf("got %+v after %q, want a new session", got, h.ran())
	}
}

func TestSessionInUseIsNeverEndedByAttach(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator(func(c *iscsi.Config) { c.LoginTimeout = 100 * time.Millisecond })
	attach(t, i, targetA())
	h.mount("8:16", "/", "/data", "xfs", "/dev/sdb")
	h.fail(iqnA, portals()[0])
	if _, err := i.Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrUnavailable) {
		t.Errorf("err = %v, want ErrUnavailable", err)
	}
	if len(h.ran("--logout")) > 0 || len(h.glob("sys/class/iscsi_session/session*")) != 1 {
		t.Error("a session with a mounted disk was ended or a second path put beside it")
	}
}

// FM 28: two sessions and no map. The path that is mounted hangs, and the other answers:
// the first is not ended under its mount, and the second is not handed out beside it.
func TestAPathInUseIsNotGivenUpForAnother(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		mounted []string
		kind    error
		says    string
	}{
		"one":  {[]string{"sdb"}, iscsi.ErrBusy, "a second path to the LUN is in use: sdb is mounted at /sdb"},
		"both": {[]string{"sdb", "sdc"}, iscsi.ErrForeign, "both in use"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.addBothPaths()
			for _, disk := range tt.mounted {
				h.mount(h.read("sys/block/"+disk+"/dev"), "/", "/"+disk, "xfs", "/dev/"+disk)
			}
			if len(tt.mounted) == 1 {
				h.hang("sdb")
			}
			before := h.left()
			if got, err := h.initiator().Attach(t.Context(), targetA(), nil); !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %+v, %v, want %v that says %q", got, err, tt.kind, tt.says)
			}
			if diff := cmp.Diff(before, h.left()); diff != "" || len(h.ran("--logout")) > 0 {
				t.Errorf("ran %q, changed:\n%s", h.ran(), diff)
			}
		})
	}
}

// FM 25: a map that multipathd has left still has two paths, and works by one.
func TestAMapWithoutMultipathdIsHandedOutByThePathThatWorks(t *testing.T) {
	t.Parallel()
	for _, dead := range portals() {
		h, i := attachedHost(t)
		if err := os.RemoveAll(h.path("proc/4711")); err != nil {
			t.Fatal(err)
		}
		h.fail(iqnA, dead)
		h.forget()
		d, err := i.Attach(t.Context(), targetA(), nil)
		if err != nil || d.Path != "/dev/dm-0" || len(d.Paths) != 2 {
			t.Errorf("%s is dead: got %+v, %v, want the map", dead, d, err)
		}
		if len(h.ran()) > 0 {
			t.Errorf("ran %q", h.ran())
		}
	}
}

// FM 28: another LUN of the target in use elsewhere is no reason to leave the disk that
// is mounted.
func TestALiveSessionOfAnotherLUNIsNoSecondPath(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.luns[iqnA][7] = lun{serialB, gib}
	i := h.initiator(func(c *iscsi.Config) { c.LoginTimeout = 100 * time.Millisecond })
	d := attach(t, i, targetA())
	h.mount(h.read("sys/block/sdb/dev"), "/", "/data", "xfs", d.Path)
	if other := h.addDisk(h.addSession(iqnA, portals()[1]), 7, h.luns[iqnA][7]); other != "sdc" {
		t.Fatal(other)
	}
	h.mount(h.read("sys/block/sdc/dev"), "/", "/other", "xfs", "/dev/sdc")
	h.fail(iqnA, portals()[0])
	if d, err := i.Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrUnavailable) {
		t.Errorf("got %+v, %v, want ErrUnavailable", d, err)
	}
	if disks := h.glob("sys/block/sd*"); len(disks) != 2 {
		t.Errorf("disks %q, want no second one of the LUN", disks)
	}
}

func TestLUNThatTheArrayDoesNotShow(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	delete(h.luns, iqnA)
	if _, err := h.initiator().Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrUnavailable) {
		t.Errorf("err = %v, want ErrUnavailable", err)
	}
}

func TestAttachRefusesBadTargets(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*iscsi.Target){
		"no name":          func(t *iscsi.Target) { t.IQN = "" },
		"path in name":     func(t *iscsi.Target) { t.IQN = "iqn.2013-05.com.x:../../passwd" },
		"option as name":   func(t *iscsi.Target) { t.IQN = "--rm" },
		"no portal":        func(t *iscsi.Target) { t.Portals = nil },
		"zero portal":      func(t *iscsi.Target) { t.Portals[0] = netip.AddrPort{} },
		"negative LUN":     func(t *iscsi.Target) { t.LUN = -1 },
		"LUN out of range": func(t *iscsi.Target) { t.LUN = 256 },
		"no serial":        func(t *iscsi.Target) { t.Serial = "" },
		"no size":          func(t *iscsi.Target) { t.Bytes = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			target := targetA()
			change(&target)
			if _, err := h.initiator().Attach(t.Context(), target, nil); err == nil {
				t.Error("accepted")
			}
			if ran := h.ran(); len(ran) > 0 {
				t.Errorf("ran %q", ran)
			}
		})
	}
}

// FM 27 and FM 38: many at once, on one initiator.
func TestFiftyTargetsAtOnce(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	i := h.initiator(func(c *iscsi.Config) {
		c.DiskTimeout, c.MapTimeout, c.LoginTimeout, c.FlushTimeout = time.Minute, time.Minute, time.Minute, time.Minute
	})
	targets := make([]iscsi.Target, 50)
	for n := range targets {
		targets[n] = targetA()
		targets[n].IQN = fmt.Sprintf("iqn.2013-05.com.daterainc:tc:01:sn:%08x", n)
		targets[n].Serial = fmt.Sprintf("%08x-1111-2222-3333-444455556666", n)
		h.luns[targets[n].IQN] = map[int]lun{0: {targets[n].Serial, gib}}
	}
	var wait sync.WaitGroup
	paths := make([]string, len(targets))
	for n, target := range targets {
		wait.Go(func() {
			d, err := i.Attach(t.Context(), target, nil)
			if err != nil {
				t.Errorf("attach %d: %v", n, err)
				return
			}
			if d.WWID != iscsi.LIOWWID(target.Serial) || len(d.Paths) != 2 {
				t.Errorf("%d: got %+v", n, d)
			}
			paths[n] = d.Path
		})
	}
	wait.Wait()
	slices.Sort(paths)
	if got := len(slices.Compact(paths)); got != len(targets) {
		t.Errorf("%d different devices, want %d", got, len(targets))
	}
	for n, target := range targets {
		wait.Go(func() {
			if err := i.Detach(t.Context(), target); err != nil {
				t.Errorf("detach %d: %v", n, err)
			}
		})
	}
	wait.Wait()
	if left := h.left(); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestAttachOnAHostThatIsNotReady(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write("proc/1/net/unix", "Num RefCount\n")
	if _, err := h.initiator().Attach(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrNotReady) {
		t.Errorf("err = %v, want ErrNotReady", err)
	}
	if got := h.left(); len(got) > 0 || len(h.ran()) > 0 {
		t.Errorf("left %v after %q", got, h.ran())
	}
}
