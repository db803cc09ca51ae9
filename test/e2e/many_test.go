//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// TestFiftyVolumesBesideTwoHundredSessions is FM 27: fifty volumes are staged and
// unstaged eight at a time, on a worker with sessions of somebody else, 300
// together. The calls do not disturb each other, and the others' sessions are all
// there in the end.
func TestFiftyVolumesBesideTwoHundredSessions(t *testing.T) {
	const volumes, workers, foreign = 50, 8, 100
	ctx, bed := useBed(t)
	// Each iscsiadm looks at every session: under emulation that takes two seconds beside two hundred (measured).
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 4*patient)
	defer cancel()
	fault(t, "50 volumes at once, 300 sessions")
	w := bed.Workers[0]
	must(t, bed.StartStrangers(ctx, w, foreign))
	t.Cleanup(func() { must(t, bed.EndStrangers(context.WithoutCancel(ctx), w)) })
	all := make([]*testbed.Volume, volumes)
	each := func(do func(i int) error) { t.Helper(); share(t, volumes, workers, do) }
	pod := func(i int) string { return fmt.Sprintf("pod-%d", i) }
	each(func(i int) (err error) {
		all[i], err = bed.Create(ctx, fmt.Sprintf("many-%d", i), giB, nil, testbed.Mount("ext4"))
		return err
	})
	each(func(i int) error { return bed.Attach(ctx, all[i], w, pod(i)) })
	if n := sh(ctx, t, w.Guest, "grep -c kubelet/pods /proc/mounts"); n != fmt.Sprint(volumes) {
		t.Errorf("%s mounts for pods, want %d", n, volumes)
	}
	if n := sh(ctx, t, w.Guest, "ls /sys/class/iscsi_session | wc -l"); n != fmt.Sprint(2*(volumes+foreign)) {
		t.Errorf("%s sessions, want %d", n, 2*(volumes+foreign))
	}
	each(func(i int) error { return bed.Detach(ctx, all[i], w, pod(i)) })
	each(func(i int) error { return bed.Delete(ctx, all[i]) })
	if n := sh(ctx, t, w.Guest, "grep -l LOGGED_IN /sys/class/iscsi_session/*/state | wc -l"); n != fmt.Sprint(2*foreign) {
		t.Errorf("%s sessions of others are left, were %d", n, 2*foreign)
	}
}
