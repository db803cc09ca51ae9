//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
	"github.com/datera-csi/datera-csi/test/e2e/vm/vmtest"
)

// TestSinglePath is the product without multipathd and with one portal: a life
// of a volume, the fence, and what a dead portal does to a writer and to a stage.
func TestSinglePath(t *testing.T) {
	fault(t, "no multipathd, one portal")
	t.Parallel()
	lab := vmtest.Open(t)
	bed, err := testbed.Start(t.Context(), lab, testbed.Config{SinglePath: true, FaultPoints: true, Progress: os.Stderr})
	must(t, err)
	t.Cleanup(func() {
		expectNothingLeft(t, bed)
		must(t, bed.Close())
	})
	type promise struct {
		name string
		run  func(context.Context, *testing.T, *testbed.Bed)
	}
	promises := []promise{
		{"a volume moves with its data", singlePathMove},
		{"a lost worker is fenced", singlePathFence},
		{"what was mounted before a fence is not used after it", func(ctx context.Context, t *testing.T, bed *testbed.Bed) { letInAgain(ctx, t, bed, "xfs") }},
		{"a writer outlives a portal that comes back", singlePathOutage},
		{"a dead portal is an error in time", singlePathDeadPortal},
		{"a rotated secret waits for the next stage", singlePathRotation}, // FM 20
		{"a volume grows, cut off anywhere", singlePathGrowth},            // FM 15
		{"a raw volume grows, cut off anywhere", singlePathRawGrowth},     // FM 15
		{"no link that udev makes is needed", singlePathWithoutUdev},      // FM 30
	}
	for name, run := range diskFailures() { // FM 1 and 16
		promises = append(promises, promise{name, run})
	}
	for _, c := range promises {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patient)
			defer cancel()
			c.run(ctx, t, bed)
			expectNothingLeft(t, bed)
		})
		if t.Failed() {
			return // the rest would only fail of what this one left
		}
	}
}

func singlePathMove(ctx context.Context, t *testing.T, bed *testbed.Bed) {
	one, two := bed.Workers[0], bed.Workers[1]
	v, dir := attached(ctx, t, bed, "single", testbed.Mount("xfs"))
	if n := sh(ctx, t, one.Guest, "ls /sys/class/iscsi_session | wc -l"); n != "1" {
		t.Errorf("%s sessions, want 1", n)
	}
	if source := sh(ctx, t, one.Guest, "findmnt -no SOURCE "+testbed.StagingPath(v)+" | sed 's/[a-z]$//'"); source != "/dev/sd" {
		t.Errorf("mounted from %s, want a disk", source)
	}
	// Without a map the session must wait out an outage by itself.
	if tmo := sh(ctx, t, one.Guest, "cat /sys/class/iscsi_session/*/recovery_tmo"); tmo != "120" {
		t.Errorf("the session fails what it was given after %s s, want 120", tmo)
	}
	sum := write(ctx, t, one, dir+"/data", 256)
	must(t, bed.Attach(ctx, v, one, "pod-0")) // a repeat
	must(t, bed.Detach(ctx, v, one, "pod-0"))
	must(t, bed.Attach(ctx, v, two, "pod-0"))
	if got := checksum(ctx, t, two, dir+"/data"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	must(t, bed.Detach(ctx, v, two, "pod-0"))
	must(t, bed.Delete(ctx, v))
}

// singlePathFence is FM 4 as in TestFrozenNodeCannotWriteOnceItsVolumeHasMoved.
// Here no map fails the lost worker's writes: they wait for the session, which
// the array must refuse for good.
func singlePathFence(ctx context.Context, t *testing.T, bed *testbed.Bed) {
	lost, next := bed.Workers[0], bed.Workers[1]
	v, dir := attached(ctx, t, bed, "single-fence", testbed.Mount("xfs"))
	before := write(ctx, t, lost, dir+"/before", 64)
	sh(ctx, t, lost.Guest, "echo 360000 > /proc/sys/vm/dirty_writeback_centisecs; echo 360000 > /proc/sys/vm/dirty_expire_centisecs; "+
		"dd if=/dev/zero of="+dir+"/dirty bs=64k count=16 status=none")
	setLinks(ctx, t, lost, false)
	t.Cleanup(func() { setLinks(context.WithoutCancel(ctx), t, lost, true) })
	must(t, bed.Unpublish(ctx, v, lost))
	must(t, bed.Attach(ctx, v, next, "pod-0"))
	if got := checksum(ctx, t, next, dir+"/before"); got != before {
		t.Errorf("what was synced before is not there: checksum %s, was %s", got, before)
	}
	after := write(ctx, t, next, dir+"/after", 64)

	// Shortened, for the test's sake, from the two minutes that it may take.
	sh(ctx, t, lost.Guest, "for s in /sys/class/iscsi_session/*; do echo 5 > $s/recovery_tmo; done")
	setLinks(ctx, t, lost, true)
	sh(ctx, t, lost.Guest, "echo 500 > /proc/sys/vm/dirty_writeback_centisecs; echo 3000 > /proc/sys/vm/dirty_expire_centisecs")
	if code := exitCode(ctx, t, lost.Guest, "timeout 90 sync -f "+dir+"/dirty"); code == 0 {
		t.Error("the lost worker wrote its dirty pages")
	}
	must(t, next.UnpublishFrom(ctx, v, "pod-0"))
	must(t, next.Unstage(ctx, v)) // the next stage reads the disk anew
	published, err := bed.Publish(ctx, v, next)
	must(t, err)
	must(t, next.Stage(ctx, v, published))
	must(t, next.PublishTo(ctx, v, published, "pod-0"))
	for file, want := range map[string]string{"before": before, "after": after} {
		if got := checksum(ctx, t, next, dir+"/"+file); got != want {
			t.Errorf("%s: checksum %s, want %s", file, got, want)
		}
	}
	must(t, bed.Detach(ctx, v, next, "pod-0"))
	must(t, eventually(ctx, func() error {
		if err := lost.UnpublishFrom(ctx, v, "pod-0"); err != nil {
			return err
		}
		return lost.Unstage(ctx, v)
	}))
	must(t, bed.Delete(ctx, v))
}

// singlePathOutage takes the only path away under a writer for longer than the
// initiator's pings take to notice, and gives it back.
func singlePathOutage(ctx context.Context, t *testing.T, bed *testbed.Bed) {
	w := bed.Workers[0]
	v, dir := attached(ctx, t, bed, "single-outage", testbed.Mount("xfs"))
	startWriter(ctx, t, w, dir)
	must(t, w.SetLink(ctx, 0, false))
	t.Cleanup(func() { must(t, w.SetLink(context.WithoutCancel(ctx), 0, true)) })
	must(t, eventually(ctx, func() error {
		_, err := w.Shell(ctx, "grep -q -v LOGGED_IN /sys/class/iscsi_session/*/state")
		return err
	}))
	must(t, w.SetLink(ctx, 0, true))
	stopWriter(ctx, t, w)
	gone(ctx, t, bed, v)
}

// singlePathRotation shows what brings a session back that is lost after its secrets were
// changed, where no other path lets the node make it anew: not a restart of iscsid, which
// takes over the old ones from the kernel, but the old ones on the array (docs/limits.md).
func singlePathRotation(ctx context.Context, t *testing.T, bed *testbed.Bed) {
	w := bed.Workers[0]
	v := createWithSecrets(ctx, t, bed, "single-rotation", map[string]string{chapUser: "initiator-user", chapPassword: canary, chapUserIn: "target-user", chapPasswordIn: canaryIn})
	published, err := bed.Publish(ctx, v, w)
	must(t, err)
	must(t, w.Stage(ctx, v, published))
	must(t, w.PublishTo(ctx, v, published, "pod-0"))
	rotate(ctx, t, bed, v, canaryNext, canaryNextIn)
	must(t, w.Stage(ctx, v, published))
	sh(ctx, t, w.Guest, "pkill -KILL -x iscsid; while pgrep -x iscsid >/dev/null; do sleep 0.05; done; iscsid")
	losePortal(ctx, t, w, 0)
	const tries = 15 * time.Second // iscsid's, one every two
	if code := exitCode(ctx, t, w.Guest, fmt.Sprintf("timeout %d sh -c 'until grep -q LOGGED_IN /sys/class/iscsi_session/*/state; do sleep 0.2; done'", int(tries.Seconds()))); code == 0 {
		t.Error("the session is back: a restart of iscsid helps after all")
	}
	rotate(ctx, t, bed, v, canary, canaryIn)
	must(t, eventually(ctx, func() error {
		_, err := w.Shell(ctx, "grep -q LOGGED_IN /sys/class/iscsi_session/*/state")
		return err
	}))
	write(ctx, t, w, testbed.TargetPath(v, "pod-0")+"/new", 8)
	gone(ctx, t, bed, v)
}

// singlePathDeadPortal stages while the only portal is dead: an error that names
// the portal, before kubelet gives up by itself; and the repeat ends well.
func singlePathDeadPortal(ctx context.Context, t *testing.T, bed *testbed.Bed) {
	const kubelet = 2 * time.Minute // what it grants a call
	w := bed.Workers[0]
	v, err := bed.Create(ctx, "single-dead", giB, nil, testbed.Mount("xfs"))
	must(t, err)
	published, err := bed.Publish(ctx, v, w)
	must(t, err)
	must(t, w.SetLink(ctx, 0, false))
	t.Cleanup(func() { must(t, w.SetLink(context.WithoutCancel(ctx), 0, true)) })
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, kubelet)
	defer cancel()
	expectCode(t, w.Stage(limited, v, published), codes.Unavailable, bed.Array.Addr(0).String())
	t.Logf("a stage over a dead portal was refused after %v", time.Since(began).Round(time.Second))
	must(t, w.SetLink(ctx, 0, true))
	must(t, eventually(ctx, func() error { return w.Stage(ctx, v, published) }))
	must(t, w.Unstage(ctx, v))
	must(t, bed.Unpublish(ctx, v, w))
	must(t, bed.Delete(ctx, v))
}

// singlePathWithoutUdev stages and unstages while udev stands still. Over a map
// that cannot be tried: multipathd itself waits for udev.
func singlePathWithoutUdev(ctx context.Context, t *testing.T, bed *testbed.Bed) {
	w := bed.Workers[0]
	sh(ctx, t, w.Guest, "pkill -STOP -x systemd-udevd")
	t.Cleanup(func() {
		sh(context.WithoutCancel(ctx), t, w.Guest, "pkill -CONT -x systemd-udevd; udevadm settle -t 20")
	})
	v, dir := attached(ctx, t, bed, "no-udev", testbed.Mount("xfs"))
	write(ctx, t, w, dir+"/data", 64)
	gone(ctx, t, bed, v)
}

func singlePathGrowth(ctx context.Context, t *testing.T, bed *testbed.Bed) {
	growCutOff(ctx, t, bed, testbed.Mount("xfs"))
}

func singlePathRawGrowth(ctx context.Context, t *testing.T, bed *testbed.Bed) {
	growCutOff(ctx, t, bed, testbed.Block(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
}
