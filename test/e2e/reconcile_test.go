//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// impatient runs the worker's plugin with short times for reconciling until the test ends.
func impatient(ctx context.Context, t testing.TB, w *testbed.Worker) {
	t.Helper()
	restart := func(ctx context.Context, edit string) {
		must(t, w.KillPlugin(ctx))
		sh(ctx, t, w.Guest, "sed -i '"+edit+"' /etc/testbed")
		must(t, w.StartPlugin(ctx))
	}
	const flags = " --reconcile-interval=2s --forgotten-after=8s "
	restart(ctx, "s/ -v=4 /"+flags+"-v=4 /")
	t.Cleanup(func() { restart(context.WithoutCancel(ctx), "s/"+flags+"/ /") })
}

// sessions are the sessions of a worker, with their states.
func sessions(ctx context.Context, t testing.TB, w *testbed.Worker) string {
	t.Helper()
	return sh(ctx, t, w.Guest, "cd /sys/class/iscsi_session && for s in *; do [ -e $s ] && echo $s $(cat $s/targetname $s/state); done; true")
}

// awaitPaths waits until the only map of a worker has so many paths that work.
func awaitPaths(ctx context.Context, t testing.TB, w *testbed.Worker, n int) {
	t.Helper()
	script := fmt.Sprintf(`for i in $(seq 900); do
	[ $(ls /sys/block/dm-0/slaves | wc -l) = %[1]d ] && [ $(cat /sys/class/iscsi_session/*/state | grep -c LOGGED_IN) = %[1]d ] && exit 0; sleep 0.1; done; exit 1`, n)
	if code := exitCode(ctx, t, w.Guest, script); code != 0 {
		t.Fatalf("no map with %d working paths: %s\n%s", n, sessions(ctx, t, w), sh(ctx, t, w.Guest, "ls /sys/block/dm-*/slaves; tail -n 20 "+testbed.NodeLog))
	}
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
	if n := sh(ctx, t, w.Guest, fmt.Sprintf("grep DegradedPaths %s | grep %s | grep -c portal=", testbed.NodeLog, v.ID)); n == "0" {
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
