//go:build e2e

package e2e

import (
	"context"
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

var outage = flag.Duration("outage", 0, "how long TestNoPathForLongerThanEveryTimeout keeps the array away, beyond what every timeout needs; 10m is a real one")

// TestNoPathForLongerThanEveryTimeout is FM 20, 21 and 31: the array is away for
// so long that the map stops to queue, the writer gets its error and the file
// system shuts down. No call hangs meanwhile; when the array is back the volume
// can be taken down and used anew, with all that was acknowledged.
func TestNoPathForLongerThanEveryTimeout(t *testing.T) {
	ctx, bed := useBed(t)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patient+*outage)
	defer cancel()
	fault(t, "both portals are lost for longer than every timeout")
	w := bed.Workers[0]
	v, dir := attached(ctx, t, bed, "outage", testbed.Mount("xfs"))
	writer := startStream(ctx, t, w, dir)
	setLinks(ctx, t, w, false)
	t.Cleanup(func() { setLinks(context.WithoutCancel(ctx), t, w, true) })

	inTime(ctx, t, "stats without a path", 30*time.Second, func(ctx context.Context) error {
		_, err := w.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: v.ID, VolumePath: dir, StagingTargetPath: testbed.StagingPath(v)})
		return err
	})
	end := sh(ctx, t, w.Guest, "timeout 150 sh -c 'until [ -s "+writer.note+"/end ]; do sleep 0.3; done' && cat "+writer.note+"/end")
	if !strings.HasPrefix(end, "failed at ") {
		t.Errorf("without a path the writer %s", end)
	}
	select {
	case <-time.After(*outage):
	case <-ctx.Done():
	}
	for what, call := range map[string]func(context.Context) error{
		"unpublish": func(ctx context.Context) error { return w.UnpublishFrom(ctx, v, "pod-0") },
		"unstage":   func(ctx context.Context) error { return w.Unstage(ctx, v) },
	} {
		inTime(ctx, t, what+" after the queue has failed", time.Minute, call)
	}
	setLinks(ctx, t, w, true)
	must(t, eventually(ctx, func() error { return w.UnpublishFrom(ctx, v, "pod-0") }))
	must(t, eventually(ctx, func() error { return w.Unstage(ctx, v) }))
	must(t, bed.Unpublish(ctx, v, w))
	acked := writer.acked(ctx, t)
	must(t, bed.Attach(ctx, v, w, "pod-0"))
	expectStream(ctx, t, w, dir, acked)
	gone(ctx, t, bed, v)
}

// inTime makes a call that may fail but not last.
func inTime(ctx context.Context, t testing.TB, what string, limit time.Duration, call func(context.Context) error) {
	t.Helper()
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := call(limited)
	if limited.Err() != nil {
		t.Errorf("%s lasts longer than %v: %v", what, limit, err)
	}
	t.Logf("%s answered after %v: %v", what, time.Since(began).Round(100*time.Millisecond), err)
}
