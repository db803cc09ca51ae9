//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/internal/publishctx"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// flagged runs the worker's plugin with more flags until the test ends.
func flagged(ctx context.Context, t testing.TB, w *testbed.Worker, flags string) {
	t.Helper()
	restart := func(ctx context.Context, edit string) {
		must(t, w.KillPlugin(ctx))
		sh(ctx, t, w.Guest, "sed -i '"+edit+"' /etc/testbed")
		must(t, w.StartPlugin(ctx))
	}
	restart(ctx, "s/ -v=4 / "+flags+" -v=4 /")
	t.Cleanup(func() { restart(context.WithoutCancel(ctx), "s/ "+flags+" / /") })
}

// impatient runs the worker's plugin with short times for reconciling until the test ends.
func impatient(ctx context.Context, t testing.TB, w *testbed.Worker) {
	t.Helper()
	flagged(ctx, t, w, "--reconcile-interval=2s --forgotten-after=8s")
}

// queueing lets the worker's maps keep what they cannot send without end, until the
// test ends. It is what makes a wrong step hang for good.
func queueing(ctx context.Context, t testing.TB, w *testbed.Worker) {
	t.Helper()
	set := func(ctx context.Context, from, to string) {
		sh(ctx, t, w.Guest, fmt.Sprintf(`sed -i 's/no_path_retry %s/no_path_retry %[2]s/' %[3]s
for i in $(seq 100); do
	multipathd reconfigure >/dev/null 2>&1 || true
	multipathd show config | sed -n '/vendor "DATERA"/,/}/p' | grep -q 'no_path_retry "\?%[2]s' && exit 0
	sleep 0.2
done; exit 1`, from, to, testbed.MultipathConf))
	}
	set(ctx, "12", "queue")
	t.Cleanup(func() { set(context.WithoutCancel(ctx), "queue", "12") })
}

// staged makes a volume and stages it on worker 1, for no pod.
func staged(ctx context.Context, t testing.TB, bed *testbed.Bed, name string, as *csi.VolumeCapability) *testbed.Volume {
	t.Helper()
	v, err := bed.Create(ctx, name, giB, nil, as)
	must(t, err)
	published, err := bed.Publish(ctx, v, bed.Workers[0])
	must(t, err)
	must(t, bed.Workers[0].Stage(ctx, v, published))
	return v
}

// unstaged undoes staged.
func unstaged(ctx context.Context, t testing.TB, bed *testbed.Bed, v *testbed.Volume) {
	t.Helper()
	must(t, bed.Workers[0].Unstage(ctx, v))
	must(t, bed.Unpublish(ctx, v, bed.Workers[0]))
	must(t, bed.Delete(ctx, v))
}

// logged counts lines of the plugin's log that hold all these words.
func logged(ctx context.Context, t testing.TB, w *testbed.Worker, words ...string) string {
	t.Helper()
	return sh(ctx, t, w.Guest, "cat "+testbed.NodeLog+" | grep -F '"+strings.Join(words, "' | grep -F '")+"' | wc -l")
}

// sessions are the sessions of a worker, with their states.
func sessions(ctx context.Context, t testing.TB, w *testbed.Worker) string {
	t.Helper()
	return sh(ctx, t, w.Guest, "cd /sys/class/iscsi_session && for s in *; do [ -e $s ] && echo $s $(cat $s/targetname $s/state); done; true")
}

// awaitPaths waits until the maps of a worker have so many paths that work, two each.
func awaitPaths(ctx context.Context, t testing.TB, w *testbed.Worker, n int) {
	t.Helper()
	script := fmt.Sprintf(`for i in $(seq 300); do
	[ $(ls -d /sys/block/dm-*/slaves/* | wc -l) = %[1]d ] && [ $(cat /sys/class/iscsi_session/*/state | grep -c LOGGED_IN) = %[1]d ] &&
	[ $(cat /sys/block/sd*/device/state | grep -c running) = %[1]d ] && exit 0; sleep 0.3; done 2>/dev/null; exit 1`, n)
	if code := exitCode(ctx, t, w.Guest, script); code != 0 {
		t.Fatalf("no maps with %d working paths: %s\n%s", n, sessions(ctx, t, w), sh(ctx, t, w.Guest, "ls /sys/block/dm-*/slaves; tail -n 20 "+testbed.NodeLog))
	}
}

// TestADiskThatTheKernelGaveUpComesBack is FM 20: a path of a map is set offline, as the
// kernel does after errors that it cannot mend, while its session works. It is used again
// under a running writer.
func TestADiskThatTheKernelGaveUpComesBack(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the kernel gives a path up")
	w := bed.Workers[0]
	impatient(ctx, t, w)
	v, dir := attached(ctx, t, bed, "given-up", testbed.Mount("xfs"))
	writer := startStream(ctx, t, w, dir)
	awaitPaths(ctx, t, w, 2)
	sh(ctx, t, w.Guest, "set -- /sys/block/sd*/device/state; echo offline > $1; grep -q offline $1")
	awaitPaths(ctx, t, w, 2)
	writer.stopUnharmed(ctx, t)
	must(t, bed.Detach(ctx, v, w, "pod-0"))
	must(t, bed.Delete(ctx, v))
}

// TestDegradedAttachHeals is FM 20 and 25: a volume is attached while a portal is
// dead, which the log tells; when the portal is back, the path joins the map under a
// running writer.
func TestDegradedAttachHeals(t *testing.T) {
	ctx, bed := useBed(t)
	w := bed.Workers[0]
	impatient(ctx, t, w)
	must(t, w.SetLink(ctx, 1, false))
	t.Cleanup(func() { must(t, w.SetLink(context.WithoutCancel(ctx), 1, true)) })
	v, dir := attached(ctx, t, bed, "degraded", testbed.Mount("xfs"))
	startWriter(ctx, t, w, dir)
	once := "datera-csi node --host-exec=direct --reconcile-once --record-dir=" + testbed.Records
	if out := sh(ctx, t, w.Guest, once+" 2>/dev/null || true"); !strings.Contains(out, "DegradedPaths") {
		t.Errorf("the dry run says: %s", out)
	}
	if logged(ctx, t, w, "DegradedPaths", v.ID, "portal=") == "0" {
		t.Error("the log does not tell of the volume's dead portal")
	}
	must(t, w.SetLink(ctx, 1, true))
	start := time.Now()
	awaitPaths(ctx, t, w, 2)
	t.Logf("healed in %.1f s", time.Since(start).Seconds())
	stopWriter(ctx, t, w)
	if out := sh(ctx, t, w.Guest, once+" || true"); !strings.Contains(out, `"attached": 1`) || !strings.Contains(out, `"findings": null`) {
		t.Errorf("after it was healed the dry run says: %s", out)
	}
	gone(ctx, t, bed, v)
}

// targetOf is where a volume is that worker 1 has.
func targetOf(ctx context.Context, t testing.TB, bed *testbed.Bed, v *testbed.Volume) iscsi.Target {
	t.Helper()
	published, err := bed.Publish(ctx, v, bed.Workers[0])
	must(t, err)
	c, err := publishctx.Decode(published)
	must(t, err)
	return c.Target
}

// logOut ends sessions behind everybody's back, as an administrator does.
func logOut(ctx context.Context, t testing.TB, w *testbed.Worker, target iscsi.Target, portals int) {
	t.Helper()
	for _, p := range target.Portals[:portals] {
		sh(ctx, t, w.Guest, fmt.Sprintf("iscsiadm -m node -T %s -p %s -u >/dev/null", target.IQN, p))
	}
}

// TestSessionsLoggedOutByHandComeBack is FM 20: one session, then all of them are
// logged out under a writer, which waits for as long as multipath lets it.
func TestSessionsLoggedOutByHandComeBack(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "sessions are logged out by hand under a writer")
	w := bed.Workers[0]
	impatient(ctx, t, w)
	v, dir := attached(ctx, t, bed, "logged-out", testbed.Mount("xfs"))
	writer := startStream(ctx, t, w, dir)
	for portals := range 2 {
		logOut(ctx, t, w, targetOf(ctx, t, bed, v), portals+1)
		start := time.Now()
		awaitPaths(ctx, t, w, 2)
		t.Logf("%d sessions were back after %.1f s", portals+1, time.Since(start).Seconds())
	}
	writer.stopUnharmed(ctx, t)
	expectStream(ctx, t, w, dir, writer.acked(ctx, t))
	gone(ctx, t, bed, v)
}

// TestForgottenVolumeIsUnstagedOnceTheArrayRefuses is FM 6: kubelet forgot two
// volumes, one of them with data that are not written yet, and the orchestrator
// detached them. They are taken down by the node itself although multipath would
// queue for ever; the volume of a pod beside them notices nothing.
func TestForgottenVolumeIsUnstagedOnceTheArrayRefuses(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "kubelet forgets staged volumes and they are detached; maps queue for ever")
	w := bed.Workers[0]
	queueing(ctx, t, w)
	impatient(ctx, t, w)
	used, dir := attached(ctx, t, bed, "in-use", testbed.Mount("ext4"))
	writer := startStream(ctx, t, w, dir)
	forgotten := []*testbed.Volume{
		staged(ctx, t, bed, "forgotten-mount", testbed.Mount("xfs")),
		staged(ctx, t, bed, "forgotten-block", testbed.Block(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)),
	}
	sh(ctx, t, w.Guest, "dd if=/dev/zero of="+testbed.StagingPath(forgotten[0])+"/dirty bs=64k count=64 status=none")
	start := time.Now()
	for _, v := range forgotten {
		must(t, bed.Unpublish(ctx, v, w))
	}
	// One of them is deleted while its time runs: its target is then unknown.
	must(t, eventually(ctx, func() error {
		if logged(ctx, t, w, "ForgottenVolume", forgotten[1].ID, `outcome="waits"`) == "0" {
			return context.DeadlineExceeded
		}
		return bed.Delete(ctx, forgotten[1])
	}))
	if code := exitCode(ctx, t, w.Guest, "for i in $(seq 300); do [ $(find "+testbed.Records+" -maxdepth 1 -type f | wc -l) = 1 ] && exit 0; sleep 0.5; done; exit 1"); code != 0 {
		t.Fatalf("still there after %v: %s\n%s", time.Since(start), sessions(ctx, t, w), sh(ctx, t, w.Guest, "grep Reconcile "+testbed.NodeLog+" | tail -n 20; multipath -ll; grep kubelet /proc/mounts"))
	}
	t.Logf("taken down %.1f s after they were detached", time.Since(start).Seconds())
	left := sh(ctx, t, w.Guest, "ls /sys/class/iscsi_session | wc -l; ls -d /sys/block/sd* | wc -l; ls -d /sys/block/dm-* | wc -l; ls /etc/iscsi/nodes | wc -l; grep -c /globalmount /proc/mounts")
	if want := "2\n2\n1\n1\n1"; left != want {
		t.Errorf("sessions, disks, maps, targets and staged file systems that are left: %q, want %q", left, want)
	}
	for _, v := range forgotten {
		if logged(ctx, t, w, "ForgottenVolume", v.ID, `outcome="done"`) != "1" {
			t.Errorf("the log does not tell once that %s was taken down", v.ID)
		}
		must(t, w.Unstage(ctx, v)) // kubelet remembers after all
		must(t, bed.Delete(ctx, v))
	}
	writer.stopUnharmed(ctx, t)
	gone(ctx, t, bed, used)
}

// TestLUNWithoutARecordIsTakenDownOnceTheArrayRefuses is FM 5 and 6: the record of a
// staged raw volume is lost and the plugin starts anew, so that nothing on the node
// ties a device to the volume. Its unstage has nothing to do. The LUN stays for as
// long as the array admits this node, and goes when the volume was detached; the
// volume of a pod beside it notices nothing.
func TestLUNWithoutARecordIsTakenDownOnceTheArrayRefuses(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the record of a raw volume is lost, and it is detached")
	w := bed.Workers[0]
	impatient(ctx, t, w)
	used, dir := attached(ctx, t, bed, "recorded", testbed.Mount("ext4"))
	writer := startStream(ctx, t, w, dir)
	lost := staged(ctx, t, bed, "unrecorded", testbed.Block(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	target := targetOf(ctx, t, bed, lost)
	must(t, w.KillPlugin(ctx))
	sh(ctx, t, w.Guest, "rm $(grep -lF "+target.IQN+" "+testbed.Records+"/*.json)")
	must(t, w.StartPlugin(ctx))
	must(t, w.Unstage(ctx, lost))
	passTime(ctx, 15*time.Second) // twice what a forgotten volume is given
	expectThere := func(want string) {
		t.Helper()
		there := sh(ctx, t, w.Guest, "ls /sys/class/iscsi_session | wc -l; ls -d /sys/block/sd* | wc -l; ls -d /sys/block/dm-* | wc -l; ls /etc/iscsi/nodes | wc -l")
		if there != want {
			t.Errorf("sessions, disks, maps and targets: %q, want %q", there, want)
		}
	}
	expectThere("4\n4\n2\n2") // it is admitted, and may be in use in a way that nobody sees

	start := time.Now()
	must(t, bed.Unpublish(ctx, lost, w))
	if code := exitCode(ctx, t, w.Guest, "for i in $(seq 300); do [ ! -e /etc/iscsi/nodes/"+target.IQN+" ] && ! grep -qF "+target.IQN+" /sys/class/iscsi_session/*/targetname && exit 0; sleep 0.5; done; exit 1"); code != 0 {
		t.Fatalf("still there after %v: %s\n%s", time.Since(start), sessions(ctx, t, w), sh(ctx, t, w.Guest, "grep Reconcile "+testbed.NodeLog+" | tail -n 20; multipath -ll"))
	}
	t.Logf("taken down %.1f s after it was detached", time.Since(start).Seconds())
	expectThere("2\n2\n1\n1")
	must(t, bed.Delete(ctx, lost))
	writer.stopUnharmed(ctx, t)
	expectStream(ctx, t, w, dir, writer.acked(ctx, t))
	gone(ctx, t, bed, used)
}

// TestDeadNetworkForgetsNothing is FM 6 and 20: the portals are silent for far
// longer than a forgotten volume is given. Silence is no evidence: what is staged
// stays, and all heals.
func TestDeadNetworkForgetsNothing(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "both portals are silent for five times as long as a forgotten volume is given")
	w := bed.Workers[0]
	queueing(ctx, t, w)
	impatient(ctx, t, w)
	idle := staged(ctx, t, bed, "idle", testbed.Mount("xfs"))
	sum := write(ctx, t, w, testbed.StagingPath(idle)+"/data", 64)
	used, dir := attached(ctx, t, bed, "waits", testbed.Mount("xfs"))
	writer := startStream(ctx, t, w, dir)
	setLinks(ctx, t, w, false)
	t.Cleanup(func() { setLinks(context.WithoutCancel(ctx), t, w, true) })
	passTime(ctx, 40*time.Second)
	if n := sh(ctx, t, w.Guest, "find "+testbed.Records+" -maxdepth 1 -type f | wc -l; grep -c /globalmount /proc/mounts"); n != "2\n2" {
		t.Errorf("records and staged file systems: %q, want two of each", n)
	}
	setLinks(ctx, t, w, true)
	start := time.Now()
	awaitPaths(ctx, t, w, 4)
	t.Logf("healed in %.1f s", time.Since(start).Seconds())
	for _, v := range []*testbed.Volume{idle, used} {
		if logged(ctx, t, w, "ForgottenVolume", v.ID) != "0" {
			t.Errorf("%s was called forgotten", v.ID)
		}
	}
	writer.stopUnharmed(ctx, t)
	if got := checksum(ctx, t, w, testbed.StagingPath(idle)+"/data"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	unstaged(ctx, t, bed, idle)
	gone(ctx, t, bed, used)
}

// passTime lets time go by that a test is about.
func passTime(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// TestAnUnmountThatWaitsEndsWhenTheArrayRefuses is FM 21: the network dies, maps
// queue for ever, multipathd is no more, and an unstage waits in the unmount. Then
// the volume is detached from the node, so that what waits can never be written;
// the unmount must end.
func TestAnUnmountThatWaitsEndsWhenTheArrayRefuses(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "an unmount waits for a dead network, and the volume is detached")
	expectUnmountEndsWhenRefused(ctx, t, bed)
}

func expectUnmountEndsWhenRefused(ctx context.Context, t *testing.T, bed *testbed.Bed) {
	t.Helper()
	w := bed.Workers[0]
	queueing(ctx, t, w)
	v := staged(ctx, t, bed, "stuck", testbed.Mount("xfs"))
	// For the unmount to write out. Later, dd itself would wait for blocks that it must read.
	sh(ctx, t, w.Guest, "dd if=/dev/zero of="+testbed.StagingPath(v)+"/dirty bs=64k count=16 status=none")
	setLinks(ctx, t, w, false)
	t.Cleanup(func() { setLinks(context.WithoutCancel(ctx), t, w, true) })
	sh(ctx, t, w.Guest, "timeout 60 sh -c 'while grep -q LOGGED_IN /sys/class/iscsi_session/*/state; do sleep 0.3; done'")
	sh(ctx, t, w.Guest, "pkill -KILL -x multipathd; while pgrep -x multipathd >/dev/null; do sleep 0.1; done")
	t.Cleanup(func() { sh(context.WithoutCancel(ctx), t, w.Guest, "pgrep -x multipathd >/dev/null || multipathd") })
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := w.Unstage(limited, v); err == nil {
		t.Error("unstaged although nothing could be written")
	}
	must(t, bed.Unpublish(ctx, v, w))
	setLinks(ctx, t, w, true)
	start := time.Now()
	soon, cancelSoon := context.WithTimeout(ctx, 2*time.Minute)
	defer cancelSoon()
	told := false
	must(t, eventually(soon, func() error {
		err := w.Unstage(ctx, v)
		told = told || status.Code(err) == codes.DataLoss
		return err
	}))
	if !told {
		t.Error("nobody was told that what was dirty is lost")
	}
	t.Logf("unstaged %.1f s after the network was back", time.Since(start).Seconds())
	must(t, bed.Delete(ctx, v))
}

// TestNodeDatabaseIsMended is FM 29: records that a crash has cut are set aside when
// they are of this plugin's targets, and only named when they are another's.
func TestNodeDatabaseIsMended(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "node records of the plugin and of others are cut by a crash")
	w := bed.Workers[0]
	impatient(ctx, t, w)
	v := staged(ctx, t, bed, "cut", testbed.Mount("xfs"))
	target := targetOf(ctx, t, bed, v)
	const other = "iqn.2001-04.com.stranger:cut"
	sh(ctx, t, w.Guest, fmt.Sprintf("cd /etc/iscsi/nodes; mkdir -p %s; : > %[1]s/192.0.2.1,3260,1; for f in $(find %s -type f | head -n 1); do : > $f; done", other, target.IQN))
	t.Cleanup(func() {
		sh(context.WithoutCancel(ctx), t, w.Guest, "rm -rf /etc/iscsi/nodes/"+other+" /etc/iscsi/.datera-csi-quarantine")
	})
	if code := exitCode(ctx, t, w.Guest, "for i in $(seq 100); do [ -n \"$(ls -A /etc/iscsi/.datera-csi-quarantine 2>/dev/null)\" ] && exit 0; sleep 0.3; done; exit 1"); code != 0 {
		t.Fatalf("nothing was set aside:\n%s", sh(ctx, t, w.Guest, "find /etc/iscsi; grep Reconcile "+testbed.NodeLog+" | tail"))
	}
	if got := sh(ctx, t, w.Guest, "cd /etc/iscsi/.datera-csi-quarantine; ls; ls | wc -l; stat -c %a ."); !strings.HasPrefix(got, target.IQN) || !strings.HasSuffix(got, "\n1\n700") {
		t.Errorf("set aside: %q, want the one record of ours, for root alone", got)
	}
	if code := exitCode(ctx, t, w.Guest, "test -e /etc/iscsi/nodes/"+other+"/192.0.2.1,3260,1"); code != 0 {
		t.Error("the record of another was moved")
	}
	if logged(ctx, t, w, "BadNodeRecord", other, `outcome="seen"`) == "0" || logged(ctx, t, w, "BadNodeRecord", target.IQN, `outcome="done"`) == "0" {
		t.Error("the log does not tell of both")
	}
	// A lost record is made after its sibling's when its session is needed again.
	before := sessions(ctx, t, w)
	sh(ctx, t, w.Guest, "rm -r /etc/iscsi/nodes/"+other+"; for s in /sys/class/iscsi_session/session*; do iscsiadm -m session -r ${s##*session} -u >/dev/null; done")
	awaitPaths(ctx, t, w, 2)
	if sessions(ctx, t, w) == before {
		t.Errorf("the sessions were not logged out: %s", before)
	}
	unstaged(ctx, t, bed, v)
}
