//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// checkHost is what `node --check` on a worker finds besides what is fine, by what
// was looked at, and its exit status.
func checkHost(ctx context.Context, t testing.TB, w *testbed.Worker) (found map[string]iscsi.Severity, exit int) {
	t.Helper()
	out := sh(ctx, t, w.Guest, "datera-csi node --check --output=json --host-exec=direct --record-dir="+testbed.Records+" >/run/check 2>/dev/null && echo 0 >/run/check.exit || echo $? >/run/check.exit; cat /run/check")
	var all []iscsi.Finding
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	found = map[string]iscsi.Severity{}
	for _, f := range all {
		t.Logf("%s %s: %s -> %s", f.Severity, f.Check, f.What, f.Remedy)
		if f.Severity != iscsi.Fine && f.Check != "clock" && f.Check != "record directory" { // a guest has no NTP, and its root is an overlay
			found[f.Check] = f.Severity
		}
	}
	if sh(ctx, t, w.Guest, "cat /run/check.exit") != "0" {
		exit = 1
	}
	return found, exit
}

// stopIscsid ends the daemon; running sessions go on.
func stopIscsid(ctx context.Context, t testing.TB, w *testbed.Worker) {
	t.Helper()
	sh(ctx, t, w.Guest, "pkill -x iscsid; for i in $(seq 100); do pgrep -x iscsid >/dev/null || exit 0; sleep 0.1; done; exit 1")
	t.Cleanup(func() { startIscsid(context.WithoutCancel(ctx), t, w) })
}

func startIscsid(ctx context.Context, t testing.TB, w *testbed.Worker) {
	t.Helper()
	sh(ctx, t, w.Guest, "pgrep -x iscsid >/dev/null || iscsid")
}

// TestUnfitWorkerRegistersNoVolumes is FM 26: without iscsid no volume could work,
// so the worker is not registered, and says why; started, it is. A worker that has
// a volume stays registered, for kubelet would forget the driver and the volume.
func TestUnfitWorkerRegistersNoVolumes(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "iscsid is stopped")
	w := bed.Workers[0]
	register := func() error {
		info, err := w.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
		if err == nil && info.GetMaxVolumesPerNode() != 256 {
			t.Errorf("it takes %d volumes, want 256", info.GetMaxVolumesPerNode())
		}
		return err
	}
	if found, exit := checkHost(ctx, t, w); len(found) > 0 || exit != 0 {
		t.Errorf("a worker with the multipath settings that are shipped: %v, exit %d", found, exit)
	}
	must(t, register())

	v, _ := attached(ctx, t, bed, "fit", testbed.Mount("xfs"))
	stopIscsid(ctx, t, w)
	if found, exit := checkHost(ctx, t, w); found["iscsid"] != iscsi.Unfit || exit != 1 {
		t.Errorf("without iscsid: %v, exit %d", found, exit)
	}
	must(t, register())
	startIscsid(ctx, t, w)
	must(t, eventually(ctx, func() error { return bed.Detach(ctx, v, w, "pod-0") })) // it takes the sessions up in its own time
	must(t, bed.Delete(ctx, v))

	stopIscsid(ctx, t, w)
	expectCode(t, register(), codes.FailedPrecondition, "iscsid")
	startIscsid(ctx, t, w)
	must(t, register())
}

// TestMultipathdThatWasNotToldOfItsNewSettingsIsFoundOut is FM 28: what counts is
// what the daemon goes by, not what its files say.
func TestMultipathdThatWasNotToldOfItsNewSettingsIsFoundOut(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "multipath.conf is edited, and multipathd not told")
	w := bed.Workers[0]
	const conf = testbed.MultipathConf
	t.Cleanup(func() {
		sh(context.WithoutCancel(ctx), t, w.Guest, "sed -i 's/no_path_retry queue/no_path_retry 12/' "+conf+"; multipathd reconfigure")
	})
	sh(ctx, t, w.Guest, "sed -i 's/no_path_retry 12/no_path_retry queue/' "+conf)
	if found, _ := checkHost(ctx, t, w); len(found) != 1 || found["multipathd"] != iscsi.Warning {
		t.Errorf("not told: %v", found)
	}
	sh(ctx, t, w.Guest, "multipathd reconfigure")
	must(t, eventually(ctx, func() error { // it does so in its own time
		if found, _ := checkHost(ctx, t, w); len(found) != 1 || found["multipath no_path_retry"] != iscsi.Warning {
			return context.DeadlineExceeded
		}
		return nil
	}))
}
