//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// sessionIDs are the ids of all sessions, which a session that is logged in anew
// does not keep.
func sessionIDs(ctx context.Context, t testing.TB, w *testbed.Worker) string {
	t.Helper()
	return sh(ctx, t, w.Guest, "ls /sys/class/iscsi_session")
}

// undisturbed is a volume of worker 1 whose writer must notice nothing, and whose
// sessions must be the same ones in the end.
type undisturbed struct {
	v        *testbed.Volume
	dir      string
	sessions string
	writer   *stream
}

func startUndisturbed(ctx context.Context, t testing.TB, bed *testbed.Bed, name string) undisturbed {
	t.Helper()
	v, dir := attached(ctx, t, bed, name, testbed.Mount("xfs"))
	return undisturbed{v, dir, sessionIDs(ctx, t, bed.Workers[0]), startStream(ctx, t, bed.Workers[0], dir)}
}

// end takes it down and says what disturbed it.
func (u undisturbed) end(ctx context.Context, t testing.TB, bed *testbed.Bed) {
	t.Helper()
	w := bed.Workers[0]
	u.writer.stopUnharmed(ctx, t)
	if after := sessionIDs(ctx, t, w); after != u.sessions {
		t.Errorf("sessions %q, were %q", after, u.sessions)
	}
	expectStream(ctx, t, w, u.dir, u.writer.acked(ctx, t))
	gone(ctx, t, bed, u.v)
}

// TestUpgradeTearsNoSession is FM 37: the plugin is asked to end, as an upgrade
// does, and another process starts, twice, under a running writer. It reconciles
// several times; no session is another afterwards, and the writer hears nothing.
func TestUpgradeTearsNoSession(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the plugin is upgraded under a writer")
	w := bed.Workers[0]
	impatient(ctx, t, w)
	volume := startUndisturbed(ctx, t, bed, "upgraded")
	for range 2 {
		old := sh(ctx, t, w.Guest, "pgrep -x datera-csi")
		sh(ctx, t, w.Guest, "pkill -TERM -x datera-csi; timeout 30 sh -c 'while pgrep -x datera-csi >/dev/null; do sleep 0.1; done'")
		must(t, w.StartPlugin(ctx))
		if pid := sh(ctx, t, w.Guest, "pgrep -x datera-csi"); pid == old {
			t.Fatalf("process %s goes on", pid)
		}
		passTime(ctx, 6*time.Second) // in which it reconciles
	}
	volume.end(ctx, t, bed)
}

// TestDaemonsRestartUnderAWriter is FM 37 and 21: iscsid and multipathd are killed
// and started again, while a writer goes on and a portal is lost and comes back
// under their successors. Afterwards the volume leaves nothing behind.
func TestDaemonsRestartUnderAWriter(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "iscsid and multipathd are killed under a writer, then a portal is lost")
	w := bed.Workers[0]
	volume := startUndisturbed(ctx, t, bed, "daemons")
	for _, daemon := range []string{"iscsid", "multipathd"} {
		sh(ctx, t, w.Guest, fmt.Sprintf("pkill -KILL -x %[1]s; while pgrep -x %[1]s >/dev/null; do sleep 0.1; done; sleep 1; %[1]s", daemon))
	}
	awaitPaths(ctx, t, w, 2)
	must(t, w.SetLink(ctx, 1, false))
	t.Cleanup(func() { must(t, w.SetLink(context.WithoutCancel(ctx), 1, true)) })
	sh(ctx, t, w.Guest, "timeout 90 sh -c 'until grep -q FAILED /sys/class/iscsi_session/*/state; do sleep 0.3; done'")
	must(t, w.SetLink(ctx, 1, true))
	awaitPaths(ctx, t, w, 2)
	volume.end(ctx, t, bed)
}

// TestRebootThenUnstage is FM 5 and 29: the node loses power with volumes in use.
// Kubelet, back again, takes off first what it remembers: each call succeeds and
// leaves nothing. Staged anew, the data are there.
func TestRebootThenUnstage(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the node loses power, and volumes are unstaged after the boot")
	w := bed.Workers[0]
	v, dir := attached(ctx, t, bed, "rebooted", testbed.Mount("xfs"))
	raw, device := attached(ctx, t, bed, "rebooted-raw", testbed.Block(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	sum := write(ctx, t, w, dir+"/data", 1024)
	scatter(ctx, t, w, device)
	rawSum := samples(ctx, t, w, device)
	sh(ctx, t, w.Guest, "sync") // the worker's own disk; the plugin has synced its records itself
	must(t, w.Reboot(ctx))
	if n := sh(ctx, t, w.Guest, "find "+testbed.Records+" -maxdepth 1 -type f | wc -l"); n != "2" {
		t.Errorf("%s records after the boot, want 2", n)
	}
	for _, x := range []*testbed.Volume{v, raw} {
		must(t, w.UnpublishFrom(ctx, x, "pod-0"))
		must(t, w.Unstage(ctx, x))
	}
	left, err := w.Leftovers(ctx)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left on the worker: %q", left)
	}
	for _, x := range []*testbed.Volume{v, raw} {
		must(t, bed.Attach(ctx, x, w, "pod-0"))
	}
	if got := checksum(ctx, t, w, dir+"/data"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	if got := samples(ctx, t, w, device); got != rawSum {
		t.Errorf("checksum of the raw device %s, was %s", got, rawSum)
	}
	gone(ctx, t, bed, v)
	gone(ctx, t, bed, raw)
}

// TestANameThatPassedToAnotherVolumeIsNotTouched is FM 2, 3 and 8: the map of a
// staged volume is taken away by hand, and its name passes to another volume, which
// a pod uses. Every call for the first volume leaves that alone.
func TestANameThatPassedToAnotherVolumeIsNotTouched(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the name of a map passes to another volume")
	w := bed.Workers[0]
	flagged(ctx, t, w, "--reconcile=off")
	first := staged(ctx, t, bed, "first", testbed.Mount("xfs"))
	source := "findmnt -no SOURCE " + testbed.StagingPath(first)
	device := sh(ctx, t, w.Guest, source+" | xargs readlink -f")
	target := targetOf(ctx, t, bed, first)
	sh(ctx, t, w.Guest, fmt.Sprintf("umount %s; multipath -f $(cat /sys/block/%s/dm/name)", testbed.StagingPath(first), device[len("/dev/"):]))
	logOut(ctx, t, w, target, len(target.Portals))

	second, dir := attached(ctx, t, bed, "second", testbed.Mount("xfs"))
	if now := sh(ctx, t, w.Guest, "findmnt -no SOURCE "+testbed.StagingPath(second)+" | xargs readlink -f"); now != device {
		t.Fatalf("the name %s did not pass on: the second volume has %s", device, now)
	}
	writer := startStream(ctx, t, w, dir)
	published, err := bed.Publish(ctx, first, w)
	must(t, err)
	if err := w.PublishTo(ctx, first, published, "pod-1"); err == nil {
		t.Error("a volume that is not there was published")
	}
	// The other volume's file system on the first one's staging path.
	sh(ctx, t, w.Guest, fmt.Sprintf("mount --bind %s %s", testbed.StagingPath(second), testbed.StagingPath(first)))
	for what, call := range map[string]func() error{
		"published": func() error { return w.PublishTo(ctx, first, published, "pod-1") },
		"staged":    func() error { return w.Stage(ctx, first, published) },
		"unstaged":  func() error { return w.Unstage(ctx, first) },
	} {
		if err := call(); err == nil {
			t.Errorf("the other volume was %s as this one", what)
		} else {
			t.Logf("%s: %v", what, err)
		}
	}
	sh(ctx, t, w.Guest, "umount "+testbed.StagingPath(first))
	must(t, w.UnpublishFrom(ctx, first, "pod-1"))
	must(t, w.Unstage(ctx, first))
	writer.stopUnharmed(ctx, t)
	expectStream(ctx, t, w, dir, writer.acked(ctx, t))
	must(t, bed.Unpublish(ctx, first, w))
	must(t, bed.Delete(ctx, first))
	gone(ctx, t, bed, second)
}
