//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

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
		if w.Stage(ctx, v, published) == nil {
			t.Fatalf("the plugin was not killed at %q", step)
		}
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
