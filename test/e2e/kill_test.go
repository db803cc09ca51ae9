//go:build e2e

package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// TestPluginKilledAtEveryStepConverges is FM 19: in one life of a volume the
// plugin is killed behind each step of its work, and the repeated call goes on
// from there. A writer in the pod notices nothing, what it was acknowledged is
// there, and nothing is left.
func TestPluginKilledAtEveryStepConverges(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the plugin is killed behind every step")
	w := bed.Workers[0]
	steps, err := testbed.FaultPoints()
	must(t, err)
	v, err := bed.Create(ctx, "killed", giB, nil, testbed.Mount("xfs"))
	must(t, err)
	published, err := bed.Publish(ctx, v, w)
	must(t, err)
	must(t, w.KillAt(ctx, steps...))

	kills := 0
	insist := func(call func() error) { kills += insistOn(ctx, t, w, call) }
	insist(func() error { return w.Stage(ctx, v, published) })
	insist(func() error { return w.PublishTo(ctx, v, published, "pod-0") })
	dir := testbed.TargetPath(v, "pod-0")
	writer := startStream(ctx, t, w, dir)
	growControllerSide(ctx, t, bed, v, 2*giB)
	insist(func() error { return expandOnce(ctx, w, v, "pod-0", 2*giB) })
	writer.stopUnharmed(ctx, t)
	acked := writer.acked(ctx, t)
	expectBytes(ctx, t, w, v, 2*giB)
	insist(func() error { return w.UnpublishFrom(ctx, v, "pod-0") })
	insist(func() error { return w.Unstage(ctx, v) })
	must(t, bed.Unpublish(ctx, v, w))

	missed, err := w.NotReached(ctx)
	must(t, err)
	if len(missed) > 0 || kills != len(steps) {
		t.Errorf("the plugin was killed %d times at %d steps; never at %q", kills, len(steps), missed)
	}
	must(t, bed.Attach(ctx, v, w, "pod-0"))
	expectStream(ctx, t, w, dir, acked)
	gone(ctx, t, bed, v)
}

// TestStageGivenUpAtEveryStepLeavesNothing is FM 5 and 19: the plugin is killed
// behind each step of a stage, and then the pod is gone: kubelet unstages at once.
func TestStageGivenUpAtEveryStepLeavesNothing(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the plugin is killed behind every step of a stage, and the pod is deleted")
	w := bed.Workers[0]
	steps, err := testbed.FaultPoints()
	must(t, err)
	steps = slices.DeleteFunc(steps, func(s string) bool { return !strings.HasPrefix(s, "stage: ") && !strings.HasPrefix(s, "attach: ") })
	for _, step := range steps {
		v, err := bed.Create(ctx, "given-up", giB, nil, testbed.Mount("ext4"))
		must(t, err)
		published, err := bed.Publish(ctx, v, w)
		must(t, err)
		must(t, w.KillAt(ctx, step))
		expectKilledAt(ctx, t, w, step, w.Stage(ctx, v, published))
		must(t, w.StartPlugin(ctx))
		must(t, w.Unstage(ctx, v))
		left, err := w.Leftovers(ctx)
		must(t, err)
		if len(left) > 0 {
			t.Fatalf("killed at %q and unstaged, but left behind:\n%s", step, strings.Join(left, "\n"))
		}
		must(t, bed.Unpublish(ctx, v, w))
		must(t, bed.Delete(ctx, v))
	}
}

// expectKilledAt expects that a call failed because the plugin was killed at this point. A
// call that failed before would have shown nothing, and the next to come there would be killed.
func expectKilledAt(ctx context.Context, t testing.TB, w *testbed.Worker, step string, err error) {
	t.Helper()
	missed, lookErr := w.NotReached(ctx)
	must(t, lookErr)
	if err == nil || len(missed) > 0 {
		t.Fatalf("the plugin was not killed at %q; the call answered %v", step, err)
	}
}

// insistOn repeats a call until it succeeds, starts the plugin whenever it is
// dead, and says how often that was.
func insistOn(ctx context.Context, t testing.TB, w *testbed.Worker, call func() error) (starts int) {
	t.Helper()
	for {
		err := call()
		alive, aliveErr := w.Alive(ctx)
		must(t, aliveErr)
		switch {
		case !alive:
			must(t, w.StartPlugin(ctx))
			starts++
		case err == nil:
			return starts
		default:
			must(t, eventually(ctx, func() error {
				if err = call(); err == nil {
					return nil
				}
				if alive, _ := w.Alive(ctx); !alive {
					return nil
				}
				return err
			}))
		}
	}
}
