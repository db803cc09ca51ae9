//go:build e2e

package e2e

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

func TestPodMovesWithItsData(t *testing.T) {
	for _, fsType := range []string{"xfs", "ext4", ""} {
		t.Run("fsType="+fsType, func(t *testing.T) {
			ctx, bed := useBed(t)
			one, two := bed.Workers[0], bed.Workers[1]
			v, err := bed.Create(ctx, "mover", 2*giB, nil, testbed.Mount(fsType))
			must(t, err)
			must(t, bed.Attach(ctx, v, one, "pod-0"))
			file := testbed.TargetPath(v, "pod-0") + "/data"
			want := write(ctx, t, one, file, 1024)

			_, err = bed.Publish(ctx, v, two)
			expectCode(t, err, codes.FailedPrecondition, one.ID)

			must(t, bed.Detach(ctx, v, one, "pod-0"))
			must(t, bed.Attach(ctx, v, two, "pod-0"))
			if got := checksum(ctx, t, two, file); got != want {
				t.Errorf("checksum %s, was %s", got, want)
			}
			must(t, bed.Detach(ctx, v, two, "pod-0"))
			must(t, bed.Delete(ctx, v))
		})
	}
}

// TestEveryNodeCallCanBeRepeated makes each call twice, as kubelet does after a lost answer.
func TestEveryNodeCallCanBeRepeated(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "every answer is lost once")
	w := bed.Workers[0]
	v, err := bed.Create(ctx, "again", giB, nil, testbed.Mount("xfs"))
	must(t, err)
	file := testbed.TargetPath(v, "pod-0") + "/data"
	var sum string
	for i := range 2 {
		must(t, bed.Attach(ctx, v, w, "pod-0"))
		if i == 0 {
			sum = write(ctx, t, w, file, 64)
		}
	}
	if n := sh(ctx, t, w.Guest, "grep -c "+testbed.TargetPath(v, "pod-0")+" /proc/mounts"); n != "1" {
		t.Errorf("%s mounts on the target, want 1", n)
	}
	if got := checksum(ctx, t, w, file); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	for range 2 {
		must(t, bed.Detach(ctx, v, w, "pod-0"))
	}
	for range 2 {
		must(t, bed.Delete(ctx, v))
	}
}
