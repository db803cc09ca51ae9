//go:build e2e

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// TestFrozenNodeCannotWriteOnceItsVolumeHasMoved is FM 4: a worker is cut off
// with dirty pages of a mounted volume, as a lost node is; the volume goes to
// another worker; the lost one comes back and must get no byte through.
func TestFrozenNodeCannotWriteOnceItsVolumeHasMoved(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "a node is cut off with dirty pages and comes back")
	lost, next := bed.Workers[0], bed.Workers[1]
	v, err := bed.Create(ctx, "fence", 2*giB, nil, testbed.Mount("xfs"))
	must(t, err)
	must(t, bed.Attach(ctx, v, lost, "pod-0"))
	dir := testbed.TargetPath(v, "pod-0")
	before := write(ctx, t, lost, dir+"/before", 256)
	// Dirty pages that the kernel will want to write back, and a file that is held open.
	sh(ctx, t, lost.Guest, "echo 360000 > /proc/sys/vm/dirty_writeback_centisecs; echo 360000 > /proc/sys/vm/dirty_expire_centisecs; "+
		"dd if=/dev/zero of="+dir+"/dirty bs=64k count=64 status=none; setsid sleep 600 <"+dir+"/dirty >/dev/null 2>&1 & echo $! > /run/holder")

	setLinks(ctx, t, lost, false)
	t.Cleanup(func() { setLinks(context.WithoutCancel(ctx), t, lost, true) })
	must(t, bed.Unpublish(ctx, v, lost))
	must(t, bed.Attach(ctx, v, next, "pod-0"))
	if got := checksum(ctx, t, next, dir+"/before"); got != before {
		t.Errorf("what was synced before is not there: checksum %s, was %s", got, before)
	}
	after := write(ctx, t, next, dir+"/after", 256)

	setLinks(ctx, t, lost, true)
	sh(ctx, t, lost.Guest, "echo 500 > /proc/sys/vm/dirty_writeback_centisecs; echo 3000 > /proc/sys/vm/dirty_expire_centisecs")
	if code := exitCode(ctx, t, lost.Guest, "timeout 90 sync -f "+dir+"/dirty"); code == 0 {
		t.Error("the lost worker wrote its dirty pages")
	}
	if code := exitCode(ctx, t, lost.Guest, "timeout 90 dd if=/dev/zero of="+dir+"/late bs=4k count=1 conv=fsync"); code == 0 {
		t.Error("the lost worker wrote")
	}
	// Longer than the lost worker's recovery takes to try again.
	time.Sleep(5 * time.Second)

	must(t, next.UnpublishFrom(ctx, v, "pod-0"))
	must(t, next.Unstage(ctx, v)) // flushes; the next stage reads the disk anew
	must(t, bed.Unpublish(ctx, v, next))
	must(t, bed.Attach(ctx, v, next, "pod-0"))
	for file, want := range map[string]string{"before": before, "after": after} {
		if got := checksum(ctx, t, next, dir+"/"+file); got != want {
			t.Errorf("%s: checksum %s, want %s", file, got, want)
		}
	}
	if code := exitCode(ctx, t, next.Guest, "test -e "+dir+"/late"); code == 0 {
		t.Error("a file of the lost worker is there")
	}
	must(t, bed.Detach(ctx, v, next, "pod-0"))

	// The lost worker cleans up when kubelet is back.
	sh(ctx, t, lost.Guest, "kill $(cat /run/holder)")
	must(t, eventually(ctx, func() error {
		if err := lost.UnpublishFrom(ctx, v, "pod-0"); err != nil {
			return err
		}
		return lost.Unstage(ctx, v)
	}))
	must(t, bed.Delete(ctx, v))
}

func setLinks(ctx context.Context, t testing.TB, w *testbed.Worker, up bool) {
	t.Helper()
	for network := range 2 {
		must(t, w.SetLink(ctx, network, up))
	}
}

// eventually repeats what kubelet would repeat.
func eventually(ctx context.Context, try func() error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}
