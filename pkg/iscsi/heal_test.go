package iscsi_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

const exitTimeout = 8

// degraded attaches target A while its second portal is dead, and brings the
// portal back.
func degraded(t *testing.T, h *host, i *iscsi.Initiator, auth *iscsi.CHAP) {
	t.Helper()
	dead := portals()[1]
	h.login[dead] = exitTimeout
	if _, err := i.Attach(t.Context(), targetA(), auth); err != nil {
		t.Fatal(err)
	}
	delete(h.login, dead)
}

func inspect(t *testing.T, i *iscsi.Initiator) iscsi.Shape {
	t.Helper()
	s, err := i.Inspect(t.Context(), targetA())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func portalsAsValues() cmp.Option { return cmpopts.EquateComparable(netip.AddrPort{}) }

// FM 20, 25: once the portal is back, its session and its path are added, and
// nothing else happens; then there is nothing left to do.
func TestHealAddsThePathOfAPortalThatIsBack(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	i := h.initiator()
	degraded(t, h, i, nil)
	if s := inspect(t, i); !s.Healable() || !slices.Equal(s.Missing(), portals()[1:]) {
		t.Fatalf("a degraded LUN shows as %+v", s)
	}
	h.forget()
	got, err := i.Heal(t.Context(), targetA(), portals())
	if err != nil {
		t.Fatal(err)
	}
	want := iscsi.Healed{LoggedIn: portals()[1:], Scanned: portals()[1:]}
	if diff := cmp.Diff(got, want, portalsAsValues(), cmpopts.IgnoreFields(iscsi.Healed{}, "Joined")); diff != "" {
		t.Errorf("mended (-got +want):\n%s", diff)
	}
	if s := inspect(t, i); s.Healable() || len(s.Live()) != 2 || len(s.Disks()) != 2 {
		t.Errorf("after it was mended it shows as %+v", s)
	}
	if len(h.glob("sys/block/dm-0/slaves/*")) != 2 {
		t.Error("the map did not take the new path up")
	}
	if taken := append(h.ran("logout"), append(h.ran("delete"), h.ran("del map")...)...); len(taken) > 0 {
		t.Errorf("took something away: %q", taken)
	}
	h.forget()
	again, err := i.Heal(t.Context(), targetA(), portals())
	if err != nil || !cmp.Equal(again, iscsi.Healed{}) || len(h.ran()) > 0 {
		t.Errorf("a second time: %+v, %v, ran %q", again, err, h.ran())
	}
}

// A session that breaks or ends while it is scanned was made to show nothing.
func TestHealDoesNotCountASessionThatShowsNothing(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(h *host){
		"breaks": func(h *host) { h.fail(iqnA, portals()[1]) },
		"ends": func(h *host) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.logOut("2")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t).runMultipathd()
			i := h.initiator()
			degraded(t, h, i, nil)
			h.after["set sys/class/scsi_host/host2/scan"] = func() { lose(h) }
			got, err := i.Heal(t.Context(), targetA(), portals())
			if err != nil || len(got.LoggedIn) != 1 || len(got.Scanned) > 0 {
				t.Errorf("got %+v, %v, want a login and no scan", got, err)
			}
			if len(h.after) > 0 {
				t.Error("nothing was scanned")
			}
		})
	}
}

// FM 25: what stays dead is named, with its error, and the rest stays as it is.
func TestHealNamesThePortalThatStaysDead(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	i := h.initiator()
	degraded(t, h, i, nil)
	h.login[portals()[1]] = exitTimeout
	got, err := i.Heal(t.Context(), targetA(), portals())
	if err != nil || !errors.Is(got.Failed[portals()[1]], iscsi.ErrUnavailable) || len(got.LoggedIn) > 0 {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err = i.Heal(t.Context(), targetA(), nil); err != nil || len(got.Failed) > 0 {
		t.Errorf("tried a portal that was not named: %+v, %v", got, err)
	}
}

// FM 40, 20: nobody hands Heal a secret. The node records have it, and when the
// portal's own is lost, that of its sibling does.
func TestHealLogsInWithTheSecretsOfTheNodeRecords(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	i := h.initiator()
	degraded(t, h, i, &iscsi.CHAP{User: "u", Password: "secret-of-twelve"})
	h.remove(recordPath(iqnA, portals()[1].String()))
	if got, err := i.Heal(t.Context(), targetA(), portals()); err != nil || len(got.LoggedIn) != 1 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if got := h.record(iqnA, portals()[1], "node.session.auth.password"); got != "secret-of-twelve" {
		t.Errorf("the new record has password %q", got)
	}
	if slices.ContainsFunc(h.ran(), func(c string) bool { return strings.Contains(c, "secret-of") }) {
		t.Error("the secret was an argument")
	}
}

func TestHealWithoutNodeRecordsSaysSo(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	i := h.initiator()
	degraded(t, h, i, nil)
	h.remove("etc/iscsi/nodes")
	got, err := i.Heal(t.Context(), targetA(), portals())
	if err != nil || !errors.Is(got.Failed[portals()[1]], iscsi.ErrNoRecord) {
		t.Errorf("got %+v, %v, want ErrNoRecord", got, err)
	}
}

// FM 28: without a map a second session would be a second disk of one LUN. Only a disk
// that the kernel gave up is revived.
func TestHealAddsNoPathWithoutAMap(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		fall func(*host)
		want iscsi.Healed
	}{
		"the session is down":   {func(h *host) { h.fail(iqnA, portals()[0]) }, iscsi.Healed{}},
		"the disk was given up": {func(h *host) { h.write(h.diskDir("sdb")+"/state", "offline\n") }, iscsi.Healed{Revived: []string{"sdb"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			i := h.initiator()
			attach(t, i, targetA())
			tt.fall(h)
			before := h.left()
			h.forget()
			got, err := i.Heal(t.Context(), targetA(), portals())
			if err != nil || !cmp.Equal(got, tt.want, portalsAsValues()) || len(h.ran()) > 0 {
				t.Errorf("got %+v, %v, ran %q", got, err, h.ran())
			}
			if diff := cmp.Diff(before, h.left()); diff != "" {
				t.Errorf("changed:\n%s", diff)
			}
		})
	}
}

// FM 21: whoever touches a suspended map waits for ever.
func TestHealResumesASuspendedMap(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	h.write("sys/block/dm-0/dm/suspended", "1\n")
	got, err := i.Heal(t.Context(), targetA(), nil)
	if err != nil || got.Resumed != "dm-0" || h.read("sys/block/dm-0/dm/suspended") != "0" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// FM 21: so does whoever waits for it, with multipathd or without.
func TestASuspendedMapIsResumedForWhoWaits(t *testing.T) {
	t.Parallel()
	for name, dead := range map[string]bool{"multipathd runs": false, "multipathd died": true} {
		h, i := attachedHost(t)
		if err := i.Resume(t.Context(), targetA()); err != nil || len(h.ran("resume map")) > 0 {
			t.Errorf("%s: nothing is suspended: %v, ran %q", name, err, h.ran())
		}
		h.write("sys/block/dm-0/dm/suspended", "1\n")
		if dead {
			if err := os.RemoveAll(h.path("proc/4711")); err != nil {
				t.Fatal(err)
			}
		}
		h.slowResumes = 1 // it is asked again
		if err := i.Resume(t.Context(), targetA()); err != nil || h.read("sys/block/dm-0/dm/suspended") != "0" {
			t.Errorf("%s: %v, suspended %s", name, err, h.read("sys/block/dm-0/dm/suspended"))
		}
	}
}

// showAs gives the disks and the map of a LUN another identity than its array makes here.
func (h *host) showAs(serial, wwid string) {
	for _, name := range []string{"sdb", "sdc"} {
		h.write(h.diskDir(name)+"/vpd_pg80", string(serialPage(serial)))
		h.write(h.diskDir(name)+"/vpd_pg83", string(idPage(wwid)))
	}
	h.write("sys/block/dm-0/dm/uuid", "mpath-"+wwid+"\n")
}

// FM 21: how an array makes a WWID out of a serial number is its own affair: that the
// paths have both is what makes the map the LUN's.
func TestASuspendedMapIsResumedWhateverItsWWID(t *testing.T) {
	t.Parallel()
	const wwid = "3600a0980383041372d244f6a4d4c3456"
	for name, resume := range map[string]func(*iscsi.Initiator) error{
		"for who waits": func(i *iscsi.Initiator) error { return i.Resume(t.Context(), targetA()) },
		"by a pass":     func(i *iscsi.Initiator) error { _, err := i.Heal(t.Context(), targetA(), nil); return err },
	} {
		h, i := attachedHost(t)
		h.showAs(serialA, wwid)
		h.write("sys/block/dm-0/dm/suspended", "1\n")
		if err := resume(i); err != nil || h.read("sys/block/dm-0/dm/suspended") != "0" {
			t.Errorf("%s: %v, suspended %s", name, err, h.read("sys/block/dm-0/dm/suspended"))
		}
	}
}

// FM 2, 21: another LUN under this number, or whatever has got the map's number
// meanwhile, is not this one's to resume.
func TestASuspendedMapOfAnotherLUNIsLeftAlone(t *testing.T) {
	t.Parallel()
	t.Run("under the number", func(t *testing.T) {
		t.Parallel()
		h, i := attachedHost(t)
		h.showAs(serialB, wwidB)
		h.write("sys/block/dm-0/dm/suspended", "1\n")
		if err := i.Resume(t.Context(), targetA()); !errors.Is(err, iscsi.ErrForeign) {
			t.Errorf("err = %v, want ErrForeign", err)
		}
		if _, err := i.Heal(t.Context(), targetA(), nil); !errors.Is(err, iscsi.ErrForeign) {
			t.Errorf("heal: err = %v, want ErrForeign", err)
		}
		if h.read("sys/block/dm-0/dm/suspended") != "1" {
			t.Error("it was resumed")
		}
	})
	t.Run("meanwhile", func(t *testing.T) {
		t.Parallel()
		h, i := attachedHost(t)
		h.write("sys/block/dm-0/dm/suspended", "1\n")
		passes := time.AfterFunc(100*time.Millisecond, func() { h.write("sys/block/dm-0/dm/uuid", "mpath-"+wwidB+"\n") })
		defer passes.Stop()
		if err := i.Resume(t.Context(), targetA()); err != nil || h.read("sys/block/dm-0/dm/suspended") != "1" {
			t.Errorf("%v, suspended %s", err, h.read("sys/block/dm-0/dm/suspended"))
		}
	})
}

func TestHealRevivesADiskThatTheKernelGaveUp(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	name := inspect(t, i).Disks()[0]
	h.write(h.diskDir(name)+"/state", "offline\n")
	got, err := i.Heal(t.Context(), targetA(), nil)
	if err != nil || !slices.Equal(got.Revived, []string{name}) || h.read(h.diskDir(name)+"/state") != "running" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// FM 2: a portal that shows another LUN by now adds nothing, and takes nothing away.
func TestHealDoesNotTakeUpAnotherLUN(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	i := h.initiator()
	degraded(t, h, i, nil)
	h.luns[iqnA][0] = lun{serialB, gib}
	if _, err := i.Heal(t.Context(), targetA(), portals()); !errors.Is(err, iscsi.ErrForeign) {
		t.Errorf("got %v, want ErrForeign", err)
	}
	if slaves := h.glob("sys/block/dm-0/slaves/*"); len(slaves) != 1 {
		t.Errorf("the map has the paths %q", slaves)
	}
	if len(h.ran("logout")) > 0 {
		t.Error("ended a session")
	}
	// Nor does it take the volume from those who use it through the other path.
	if d, err := i.Find(t.Context(), targetA()); err != nil || d.Path != "/dev/dm-0" || len(d.Paths) != 1 {
		t.Errorf("found %+v, %v", d, err)
	}
}

// FM 20: a session that broke while its disk was found leaves a disk that never says
// who it is, until it is found anew.
func TestHealFindsADiskAnewThatTheKernelCouldNotIdentify(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	i := h.initiator()
	degraded(t, h, i, nil)
	h.mute, h.overlooked = true, true
	got, err := i.Heal(t.Context(), targetA(), portals())
	if err != nil || len(got.Joined) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
	if s := inspect(t, i); len(s.OutsideMap()) > 0 || len(s.Disks()) != 2 {
		t.Errorf("left %+v", s)
	}
}

// FM 20: udev asks such a disk again and multipathd takes it up. It is a path as any
// other then, and the volume is whole.
func TestADiskThatOnlyUdevCouldIdentifyIsAPathOfItsMap(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	i := h.initiator()
	degraded(t, h, i, nil)
	h.mute = true
	if _, err := i.Heal(t.Context(), targetA(), portals()); err != nil {
		t.Fatal(err)
	}
	if s := inspect(t, i); len(s.OutsideMap()) > 0 || len(s.Disks()) != 2 {
		t.Errorf("it shows as %+v", s)
	}
	if d, err := i.Find(t.Context(), targetA()); err != nil || len(d.Paths) != 2 {
		t.Errorf("found %+v, %v", d, err)
	}
	if _, err := i.Prove(t.Context(), targetA()); err != nil {
		t.Error(err)
	}
	before := h.read("proc/1/mountinfo")
	h.mount("253:0", "/", "/staging", "xfs", "/dev/dm-0")
	attach(t, i, targetA()) // a repeat, under a mount
	h.write("proc/1/mountinfo", before+"\n")
	detach(t, i, targetA())
	wantNothingLeft(t, h, i)
}

// FM 14: a path that the map lacked while the LUN grew is made to show its size before
// the map takes it up.
func TestHealShowsTheGrowthOfAPathThatTheMapLacked(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	i := h.initiator()
	degraded(t, h, i, nil)
	h.overlooked, h.exits["add path"] = true, 1
	if _, err := i.Heal(t.Context(), targetA(), portals()); !errors.Is(err, iscsi.ErrUnavailable) {
		t.Fatalf("err = %v; the path must not be in the map yet", err)
	}
	h.luns[iqnA][0] = lun{serialA, 2 * gib}
	grown := targetA()
	grown.Bytes = 2 * gib
	if got, err := i.Rescan(t.Context(), grown); got != 2*gib || err != nil {
		t.Fatalf("grew to %d, %v", got, err)
	}
	_, _ = i.Heal(t.Context(), grown, portals()) // multipathd does not take it up in this test
	for _, name := range inspect(t, i).Disks() {
		if got := h.read(h.diskDir(name) + "/block/" + name + "/size"); got != strconv.FormatInt(2*gib/512, 10) {
			t.Errorf("%s has %s sectors", name, got)
		}
	}
}

func TestInspectNamesWhatUsesADevice(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	i := h.initiator()
	if s := inspect(t, i); s.Attached() {
		t.Errorf("nothing is attached, and it shows as %+v", s)
	}
	attach(t, i, targetA())
	h.mount("253:0", "/", "/var/lib/kubelet/x", "xfs", "/dev/dm-0")
	if s := inspect(t, i); !slices.Equal(s.Mounts, []string{"/var/lib/kubelet/x"}) || len(s.Holders) > 0 {
		t.Errorf("mounts %q, holders %q", s.Mounts, s.Holders)
	}
}

// FM 29: a corrupt record is moved out of iscsiadm's sight when it is ours,
// and only named when it is another's.
func TestUnsoundRecordsAreSetAside(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	ours, others := recordPath(iqnA, portals()[0].String()), recordPath(iqnB, portals()[0].String())
	h.write(ours, "node.name = "+iqnA+"\n") // no end
	h.write(others, "")
	// Another storage's, whose portal has a name: iscsiadm reads it well.
	h.write("etc/iscsi/nodes/iqn.2004-04.com.other:disk/storage,3260", "node.name = iqn.2004-04.com.other:disk\nnode.conn[0].address = storage\nnode.conn[0].port = 3260\n# END RECORD\n")
	found, err := i.CorruptNodeRecords(t.Context())
	want := []iscsi.CorruptNodeRecord{{IQN: iqnA, Path: h.path(ours)}, {IQN: iqnB, Path: h.path(others)}}
	if diff := cmp.Diff(found, want); err != nil || diff != "" {
		t.Fatalf("%v; corrupt (-got +want):\n%s", err, diff)
	}
	moved, err := i.QuarantineNodeRecords(t.Context(), iqnA)
	if err != nil || len(moved) != 1 {
		t.Fatalf("moved %q, %v", moved, err)
	}
	if _, err := os.Stat(h.path("etc/iscsi/nodes/" + iqnA)); err == nil {
		t.Error("the target's directory is left")
	}
	if b, err := os.ReadFile(moved[0]); err != nil || !strings.Contains(string(b), iqnA) || strings.Contains(moved[0], "/nodes/") {
		t.Errorf("%s holds %q, %v", moved[0], b, err)
	}
	if info, err := os.Stat(filepath.Dir(moved[0])); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the quarantine is %v, %v; it may hold secrets", info.Mode(), err)
	}
	if _, err := os.Stat(h.path(others)); err != nil {
		t.Errorf("another's record: %v", err)
	}
}

// FM 40: a node record that was being written when the plugin was killed may hold a
// secret, and no other name leads to it.
func TestRecordsThatWereBeingWrittenAreRemoved(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	const dead, young = "etc/iscsi/.node-record-1", "etc/iscsi/.node-record-2"
	h.write(dead, "node.session.auth.password = canary\n")
	h.write(young, "")
	long := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(h.path(dead), long, long); err != nil {
		t.Fatal(err)
	}
	attach(t, h.initiator(), targetA())
	if left := h.glob("etc/iscsi/.node-record-*"); !slices.Equal(left, []string{young}) {
		t.Errorf("left %q, want only what may still be written", left)
	}
}

// FM 6: being refused is told from a dead network, from an array that does not know
// the target and from one that would let this host in.
func TestOnlyARefusalIsARefusal(t *testing.T) {
	t.Parallel()
	refused, let, unknown := loginAnswer(2, 2), loginAnswer(0, 0), loginAnswer(2, 3)
	for name, c := range map[string]struct {
		answers [][]byte
		final   bool
		gone    bool
	}{
		"both refuse":                  {[][]byte{refused, refused}, true, false},
		"one refuses, one is silent":   {[][]byte{refused, nil}, true, false},
		"one refuses, one would admit": {[][]byte{refused, let}, false, false},
		"silence":                      {[][]byte{nil, nil}, false, false},
		"no such target":               {[][]byte{unknown, unknown}, false, true},
		"not served":                   {[][]byte{loginAnswer(3, 1), nil}, false, true},
		"no such target at one only":   {[][]byte{unknown, let}, false, false},
		"another protocol":             {[][]byte{[]byte(strings.Repeat("HTTP/1.1 400 ", 8)), nil}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			target := targetA()
			target.Portals = nil
			for _, a := range c.answers {
				target.Portals = append(target.Portals, serveLogin(t, a))
			}
			i := newHost(t).initiator()
			got, err := i.AskAdmission(t.Context(), target)
			if err != nil || got.Final() != c.final || got.Gone() != c.gone {
				t.Errorf("got %+v, %v, want final %v, gone %v", got, err, c.final, c.gone)
			}
		})
	}
}

// Logs and reports are read, and searched, by these words.
func TestARefusalInWords(t *testing.T) {
	t.Parallel()
	r := iscsi.Refusal{
		netip.MustParseAddrPort("192.0.2.1:3260"): {Verdict: iscsi.Refused},
		netip.MustParseAddrPort("192.0.2.2:3260"): {Verdict: iscsi.Admitted},
		netip.MustParseAddrPort("192.0.2.3:3260"): {Verdict: iscsi.NoTarget},
		netip.MustParseAddrPort("192.0.2.4:3260"): {Detail: "no answer"},
	}
	const want = "not admitted, says [192.0.2.1:3260], others map[192.0.2.2:3260:it would let this host log in 192.0.2.3:3260:it does not serve the target 192.0.2.4:3260:no answer]"
	if got := fmt.Sprintf("%v", r); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// FM 21: a host that was given another name while it has sessions is asked for by the
// name that those have: iscsid brings them back under it.
func TestAdmissionIsAskedByTheNameOfTheSessions(t *testing.T) {
	t.Parallel()
	const before = "iqn.1993-08.org.debian:01:before"
	h, i := attachedHost(t)
	own, err := i.Name()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{own, before} {
		for _, dir := range h.glob("sys/class/iscsi_session/session*") {
			h.write(dir+"/initiatorname", name+"\n")
		}
		asked := make(chan string, 1)
		target := targetA()
		target.Portals = []netip.AddrPort{serveLoginTo(t, func(name string) { asked <- name }, loginAnswer(0, 0))}
		if _, err := i.AskAdmission(t.Context(), target); err != nil {
			t.Fatal(err)
		}
		if got := <-asked; got != name {
			t.Errorf("asked as %q, want %q", got, name)
		}
	}
}

// loginAnswer is the header of an answer to a login, with its status.
func loginAnswer(class, detail byte) []byte {
	pdu := make([]byte, 48)
	pdu[0], pdu[36], pdu[37] = 0x23, class, detail
	return pdu
}

// serveLogin is a portal that gives each request its answer, and from then on the last
// one; nil closes the connection.
func serveLogin(t *testing.T, answers ...[]byte) netip.AddrPort {
	t.Helper()
	return serveLoginTo(t, func(string) {}, answers...)
}

// serveLoginTo is serveLogin that tells which initiator asks, before it answers.
func serveLoginTo(t *testing.T, asked func(initiator string), answers ...[]byte) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			answerLogin(conn, asked, answers[0])
			answers = answers[min(1, len(answers)-1):]
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

func answerLogin(conn net.Conn, asked func(initiator string), answer []byte) {
	defer conn.Close()
	header := make([]byte, 48)
	if _, err := io.ReadFull(conn, header); err != nil || header[0] != 0x43 {
		return
	}
	keys := make([]byte, binary.BigEndian.Uint32(header[4:]))
	if _, err := io.ReadFull(conn, keys); err != nil {
		return
	}
	name, _, _ := strings.Cut(string(keys), "\x00")
	asked(strings.TrimPrefix(name, "InitiatorName="))
	_, _ = conn.Write(answer)
}
