//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// TestFiftyVolumesEightAtATime is FM 27: fifty volumes are staged and unstaged eight at a
// time. The calls do not disturb each other.
func TestFiftyVolumesEightAtATime(t *testing.T) {
	ctx, bed := useBed(t)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 4*patient)
	defer cancel()
	fault(t, "50 volumes at once")
	eightAtATime(ctx, t, bed, 50, 0)
}

// TestVolumesBesideHundredsOfSessions is FM 27: volumes are staged and unstaged eight at a
// time on a worker with sessions of somebody else, 300 together, at each of which every
// iscsiadm looks. The others' sessions are all there in the end.
func TestVolumesBesideHundredsOfSessions(t *testing.T) {
	const volumes, foreign = 10, 140
	ctx, bed := useBed(t)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 4*patient)
	defer cancel()
	fault(t, "300 sessions")
	w := bed.Workers[0]
	must(t, bed.StartStrangers(ctx, w, foreign))
	t.Cleanup(func() { must(t, bed.EndStrangers(context.WithoutCancel(ctx), w)) })
	eightAtATime(ctx, t, bed, volumes, 2*foreign)
}

// eightAtATime brings volumes to the first worker and takes them away, eight at a time, beside
// this many sessions of others.
func eightAtATime(ctx context.Context, t *testing.T, bed *testbed.Bed, volumes, others int) {
	t.Helper()
	w := bed.Workers[0]
	all := make([]*testbed.Volume, volumes)
	each := func(do func(i int) error) { t.Helper(); share(t, volumes, 8, do) }
	pod := func(i int) string { return fmt.Sprintf("pod-%d", i) }
	each(func(i int) (err error) {
		all[i], err = bed.Create(ctx, fmt.Sprintf("many-%d", i), giB, nil, testbed.Mount("ext4"))
		return err
	})
	each(func(i int) error { return bed.Attach(ctx, all[i], w, pod(i)) })
	if n := sh(ctx, t, w.Guest, "grep -c kubelet/pods /proc/mounts"); n != fmt.Sprint(volumes) {
		t.Errorf("%s mounts for pods, want %d", n, volumes)
	}
	if n := sh(ctx, t, w.Guest, "ls /sys/class/iscsi_session | wc -l"); n != fmt.Sprint(2*volumes+others) {
		t.Errorf("%s sessions, want %d", n, 2*volumes+others)
	}
	each(func(i int) error { return bed.Detach(ctx, all[i], w, pod(i)) })
	each(func(i int) error { return bed.Delete(ctx, all[i]) })
	if n := sh(ctx, t, w.Guest, "cat /sys/class/iscsi_session/*/state 2>/dev/null | grep -c LOGGED_IN || true"); n != fmt.Sprint(others) {
		t.Errorf("%s sessions of others are left, were %d", n, others)
	}
}
