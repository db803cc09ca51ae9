package node_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

// readmitted is the volume after the array took this machine out, and let it in again.
func (v *volume) readmitted(admission string) {
	v.context.Admission = admission
}

// FM 4: what was mounted before the array took this node out of the volume's access list
// is older than the volume once it is let in again. It is taken off without a write, and
// what the next pod gets is mounted anew.
func TestWhatWasMountedBeforeAFenceIsNotWrittenAfterIt(t *testing.T) {
	for call, again := range map[string]func(*volume) error{"stage": (*volume).stage, "publish": (*volume).publish} {
		for name, c := range map[string]string{"xfs": "xfs", "ext4": "ext4"} {
			t.Run(call+" "+name, func(t *testing.T) {
				m := newMachine(t)
				v := m.volume("a")
				v.cap = mountCap(c, writer)
				v.readmitted("one")
				ok(t, v.stage(), v.publish(), v.unpublish(), v.stage(), v.publish(), v.unpublish())
				v.readmitted("") // which it is, is not known: the node was in already
				ok(t, v.stage(), v.publish(), v.unpublish())
				if got := m.calls("sever"); len(got) > 0 {
					t.Fatalf("cut off although nothing had changed: %q", got)
				}

				v.readmitted("two")
				before := len(m.Calls())
				m.Fail("sync", errDevice) // what it held back cannot be written any more, and is told of
				want(t, again(v), codes.DataLoss, "may be lost")
				ok(t, again(v), v.publish())
				words := func(s string) string { return strings.Fields(s)[0] }
				var did []string
				for _, c := range m.Calls()[before:] {
					did = append(did, words(c))
				}
				wanted := map[string][]string{"publish": {"sever", "umount", "rejoin", "mount"}, "stage": {"sever", "umount", "detach", "attach", "mount"}}[call]
				if !slices.Equal(did[:min(len(did), len(wanted))], wanted) {
					t.Errorf("did %q, want %q first", did, wanted)
				}
				ok(t, v.unpublish(), v.unstage())
				m.nothingLeft()
			})
		}
	}
}

// FM 4: as long as somebody uses what was mounted before, nobody gets it, and it reaches
// the volume no more; Reconcile does not mend that.
func TestWhatIsUsedSinceBeforeAFenceIsCutOff(t *testing.T) {
	for name, c := range map[string]bool{"mount": false, "block": true} {
		t.Run(name, func(t *testing.T) {
			w := newWheel(t)
			v := w.volume("a")
			if c {
				v.cap = blockCap(writer)
			}
			v.readmitted("one")
			ok(t, v.stage(), v.publish())
			v.readmitted("two")
			want(t, v.publishAt(v.path+"2"), codes.FailedPrecondition, "still mounted on", v.path, "access list")
			if got := w.calls("sever"); len(got) != 1 {
				t.Errorf("cut off by %q", got)
			}
			r := w.reconcile(node.ReconcileRepair, 0)
			expect(t, r, node.ReasonFenced, node.Seen, 1)
			if got := w.calls("rejoin"); len(got) > 0 {
				t.Errorf("mended by %q", got)
			}
			v.expectHealth(map[string]string{"INACCESSIBLE/FormerMount": "access list"})
			for _, p := range v.target.Portals {
				w.Cut(p)
			}
			v.disk().EndSession(v.target.Portals[1])
			r = w.reconcile(node.ReconcileRepair, time.Minute) // which would give the map a path
			expect(t, r, node.ReasonFenced, node.Seen, 1)
			for _, p := range v.target.Portals {
				w.Restore(p)
			}
			want(t, v.publishAt(v.path+"2"), codes.FailedPrecondition, "still mounted on")
			v.disk().Hold(true) // some other container has it
			ok(t, v.unpublish())
			want(t, v.publishAt(v.path+"2"), codes.FailedPrecondition, "access list")
			if got := w.calls("rejoin"); len(got) > 0 {
				t.Errorf("attached anew by %q", got)
			}
			v.disk().Hold(false)
			ok(t, v.publishAt(v.path+"2"), v.unpublishAt(v.path+"2"), v.unstage())
			w.nothingLeft()
		})
	}
}

// FM 4: an unstage writes nothing of before the fence either.
func TestAnUnstageAfterAFenceWritesNothing(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.readmitted("one")
	ok(t, v.stage(), v.publish())
	v.readmitted("two")
	want(t, v.publishAt(v.path+"2"), codes.FailedPrecondition, "access list")
	ok(t, v.unpublish())
	m.restart() // it is in the record
	before := len(m.Calls())
	ok(t, v.unstage())
	did := m.Calls()[before:]
	if len(did) != 2 || !strings.HasPrefix(did[0], "umount") || !strings.HasPrefix(did[1], "detach") {
		t.Errorf("did %q", did)
	}
	m.nothingLeft()
}

// FM 4, 19: cut off anywhere, it is finished by the next call.
func TestLeavingAFormerMountThatIsCutOffIsFinished(t *testing.T) {
	for call, again := range map[string]func(*volume) error{"stage": (*volume).stage, "publish": (*volume).publish, "unstage": (*volume).unstage} {
		for step := 1; ; step++ {
			m := newMachine(t)
			v := m.volume("a")
			v.readmitted("one")
			ok(t, v.stage(), v.publish(), v.unpublish())
			v.readmitted("two")
			if call == "unstage" {
				ok(t, v.publishAt(v.path+"2"), v.unpublishAt(v.path+"2"))
			}
			m.CrashAt(step)
			err := again(v)
			if !m.Crashed() {
				ok(t, err)
				if step < 4 && call != "unstage" {
					t.Fatalf("%s %d: nothing was cut off", call, step)
				}
				break
			}
			m.Revive()
			m.restart()
			if call != "unstage" {
				ok(t, again(v), v.publish(), v.unpublish())
				if fresh := slices.DeleteFunc(m.calls("mount"), func(c string) bool { return !strings.Contains(c, "-t xfs") }); len(fresh) != 2 {
					t.Errorf("%s %d: mounted by %q", call, step, fresh)
				}
			}
			ok(t, v.unstage())
			m.nothingLeft()
		}
	}
}

// A publish brings no secrets: without a node record that has them only a stage can log in.
func TestAFormerMountWithoutNodeRecordsAsksForAStage(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.readmitted("one")
	ok(t, v.stage(), v.publish(), v.unpublish())
	v.readmitted("two")
	m.Fail("rejoin", iscsi.ErrNoRecord)
	want(t, v.publish(), codes.FailedPrecondition, iscsi.ErrNoRecord.Error())
	ok(t, v.stage(), v.publish(), v.unpublish(), v.unstage())
	m.nothingLeft()
}

// A record of before, or that was lost, knows no admission: the one that comes is taken.
func TestAnAdmissionThatWasNotKnownIsNoOther(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish())
	v.readmitted("one")
	ok(t, v.publish(), os.RemoveAll(m.Config().RecordDir))
	v.readmitted("two")
	ok(t, v.publish(), v.unpublish(), v.unstage())
	if got := m.calls("sever"); len(got) > 0 {
		t.Errorf("cut off by %q", got)
	}
	m.nothingLeft()
}
