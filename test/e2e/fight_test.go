//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// TestTheLoserOfAFightWritesNothing is FM 4: two workers fight for a volume. The
// one that has lost it writes on as fast as it can, on a network that works; every
// such write must fail, and the winner's data stay as it wrote them. Then the
// other way round.
func TestTheLoserOfAFightWritesNothing(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "two nodes write to one volume, the loser never stops")
	v, err := bed.Create(ctx, "fight", giB, nil, testbed.Block(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	must(t, err)
	device := testbed.TargetPath(v, "pod-0")
	for round := range 2 {
		loser, winner := bed.Workers[round], bed.Workers[1-round]
		stale, err := bed.Publish(ctx, v, loser)
		must(t, err)
		must(t, loser.Stage(ctx, v, stale))
		must(t, loser.PublishTo(ctx, v, stale, "pod-0"))
		hammer(ctx, t, loser, device)
		_, err = bed.Publish(ctx, v, winner)
		expectCode(t, err, codes.FailedPrecondition, loser.ID)

		must(t, bed.Unpublish(ctx, v, loser))
		must(t, bed.Attach(ctx, v, winner, "pod-0"))
		won := sh(ctx, t, winner.Guest, "dd if=/dev/urandom of=/run/mark bs=1M count=8 status=none; dd if=/run/mark of="+device+" bs=1M oflag=direct status=none; sha256sum < /run/mark")
		tried, done := hammered(ctx, t, loser)
		must(t, eventually(ctx, func() error {
			if now, _ := hammered(ctx, t, loser); now < tried+3 {
				return context.DeadlineExceeded
			}
			return nil
		}))
		if _, now := hammered(ctx, t, loser); now != done {
			t.Errorf("%d writes of the loser went through", now-done)
		}
		if err := loser.Stage(ctx, v, stale); err == nil {
			t.Error("the loser staged the volume again")
		}
		if got := sh(ctx, t, winner.Guest, "dd if="+device+" bs=1M count=8 iflag=direct status=none | sha256sum"); got != won {
			t.Errorf("the winner reads %s and wrote %s", got, won)
		}
		sh(ctx, t, loser.Guest, "touch /run/hammer/stop; while [ -e /run/hammer/runs ]; do sleep 0.1; done")
		must(t, loser.UnpublishFrom(ctx, v, "pod-0"))
		must(t, eventually(ctx, func() error { return loser.Unstage(ctx, v) }))
		must(t, bed.Detach(ctx, v, winner, "pod-0"))
	}
	must(t, bed.Delete(ctx, v))
}

// hammer writes to a device without end, whether it works or not, and counts.
func hammer(ctx context.Context, t testing.TB, w *testbed.Worker, device string) {
	t.Helper()
	sh(ctx, t, w.Guest, `rm -rf /run/hammer; mkdir /run/hammer; touch /run/hammer/runs; echo 0 0 > /run/hammer/count
cat > /run/hammer.sh <<'END'
tried=0; done=0
while [ ! -e /run/hammer/stop ]; do
	dd if=/dev/zero of=$1 bs=64k count=1 seek=$((tried%128)) conv=notrunc oflag=direct status=none 2>/dev/null && done=$((done+1))
	tried=$((tried+1))
	echo $tried $done > /run/hammer/new; mv /run/hammer/new /run/hammer/count
done
rm /run/hammer/runs
END
setsid sh /run/hammer.sh `+device+` >/dev/null 2>&1 </dev/null &`)
	must(t, eventually(ctx, func() error {
		if _, done := hammered(ctx, t, w); done == 0 {
			return context.DeadlineExceeded
		}
		return nil
	}))
}

func hammered(ctx context.Context, t testing.TB, w *testbed.Worker) (tried, done int) {
	t.Helper()
	if _, err := fmt.Sscan(sh(ctx, t, w.Guest, "cat /run/hammer/count"), &tried, &done); err != nil {
		t.Fatal(err)
	}
	return tried, done
}

// TestRevokedWorkerNeitherReadsNorWrites takes a volume from a worker that has
// dirty pages of it, on a network that works: it sees no zeros in place of data
// but errors, and what it had not synced never arrives.
func TestRevokedWorkerNeitherReadsNorWrites(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the initiator is revoked under dirty pages")
	w, next := bed.Workers[0], bed.Workers[1]
	v, dir := attached(ctx, t, bed, "blind", testbed.Mount("xfs"))
	sum := write(ctx, t, w, dir+"/data", 64)
	sh(ctx, t, w.Guest, "echo 360000 > /proc/sys/vm/dirty_writeback_centisecs; echo 360000 > /proc/sys/vm/dirty_expire_centisecs; "+
		"dd if=/dev/urandom of="+dir+"/dirty bs=64k count=16 status=none")
	t.Cleanup(func() {
		sh(context.WithoutCancel(ctx), t, w.Guest, "echo 500 > /proc/sys/vm/dirty_writeback_centisecs; echo 3000 > /proc/sys/vm/dirty_expire_centisecs")
	})
	must(t, bed.Unpublish(ctx, v, w))
	device := sh(ctx, t, w.Guest, "findmnt -no SOURCE "+testbed.StagingPath(v))
	if code := exitCode(ctx, t, w.Guest, "timeout 120 dd if="+device+" of=/dev/null bs=4k count=1 iflag=direct"); code == 0 {
		t.Error("a worker that is not admitted reads the device")
	}
	if code := exitCode(ctx, t, w.Guest, "timeout 120 sync -f "+dir+"/dirty"); code == 0 {
		t.Error("a worker that is not admitted wrote its dirty pages")
	}
	must(t, eventually(ctx, func() error { return w.UnpublishFrom(ctx, v, "pod-0") }))
	must(t, eventually(ctx, func() error { return w.Unstage(ctx, v) }))
	must(t, bed.Attach(ctx, v, next, "pod-0"))
	if got := checksum(ctx, t, next, dir+"/data"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	if code := exitCode(ctx, t, next.Guest, "test -s "+dir+"/dirty"); code == 0 {
		t.Error("what was never acknowledged has arrived")
	}
	must(t, bed.Detach(ctx, v, next, "pod-0"))
	must(t, bed.Delete(ctx, v))
}

// TestLUNThatNowIsAnotherVolumeIsRefused is FM 2: behind the same target and LUN
// stands another volume, before the stage and after it. No call hands it out, and
// nothing is written to it.
func TestLUNThatNowIsAnotherVolumeIsRefused(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the LUN is used for another volume, under the same target")
	w := bed.Workers[0]
	v, err := bed.Create(ctx, "swapped", giB, nil, testbed.Block(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	must(t, err)
	published, err := bed.Publish(ctx, v, w)
	must(t, err)
	restore, err := bed.Array.SwapLUN(ctx, published)
	must(t, err)
	t.Cleanup(func() { must(t, restore(context.WithoutCancel(ctx))) })
	expectCode(t, w.Stage(ctx, v, published), codes.FailedPrecondition)
	must(t, restore(ctx))

	must(t, w.Stage(ctx, v, published))
	restore, err = bed.Array.SwapLUN(ctx, published)
	must(t, err)
	t.Cleanup(func() { must(t, restore(context.WithoutCancel(ctx))) })
	expectCode(t, w.Stage(ctx, v, published), codes.FailedPrecondition)
	expectCode(t, w.PublishTo(ctx, v, published, "pod-0"), codes.FailedPrecondition)
	must(t, restore(ctx))
	must(t, eventually(ctx, func() error { return w.Stage(ctx, v, published) })) // the stage that was refused has taken it down
	must(t, w.PublishTo(ctx, v, published, "pod-0"))
	sh(ctx, t, w.Guest, "dd if=/dev/urandom of="+testbed.TargetPath(v, "pod-0")+" bs=64k count=1 oflag=direct status=none")
	gone(ctx, t, bed, v)
}
