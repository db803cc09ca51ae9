//go:build e2e

package e2e

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

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

// TestWhatWasMountedBeforeAFenceIsNotUsedAfterIt is FM 4: a worker loses its volume to
// another one, which changes it, and gets it back while its mount of before is still
// there. What it has in memory is older than the volume: it may not be written over it,
// nor be shown to the next pod.
func TestWhatWasMountedBeforeAFenceIsNotUsedAfterIt(t *testing.T) {
	for _, fs := range []string{"xfs", "ext4"} {
		t.Run(fs, func(t *testing.T) {
			ctx, bed := useBed(t)
			fault(t, "a node gets a volume back that another one has used, before it has unmounted it")
			letInAgain(ctx, t, bed, fs)
		})
	}
}

func letInAgain(ctx context.Context, t *testing.T, bed *testbed.Bed, fs string) {
	t.Helper()
	one, two := bed.Workers[0], bed.Workers[1]
	v, dir := attached(ctx, t, bed, "let-in-again-"+fs, testbed.Mount(fs))
	write(ctx, t, one, dir+"/before", 64)
	sh(ctx, t, one.Guest, "sync -f "+dir+"; ls "+dir+" >/dev/null")

	must(t, bed.Unpublish(ctx, v, one)) // nobody unstaged it: its kubelet was away
	must(t, bed.Attach(ctx, v, two, "pod-1"))
	other := testbed.TargetPath(v, "pod-1")
	sums := map[string]string{"before": write(ctx, t, two, other+"/before", 64)}
	sh(ctx, t, two.Guest, "mkdir "+other+"/tree; for i in $(seq 200); do echo $i > "+other+"/tree/$i; done; rm "+other+"/tree/1")
	sums["after"] = write(ctx, t, two, other+"/after", 256)
	must(t, bed.Detach(ctx, v, two, "pod-1"))

	published, err := bed.Publish(ctx, v, one)
	must(t, err)
	if fs == "xfs" { // its sessions are back, and with them what it could write by; else they come back meanwhile
		sh(ctx, t, one.Guest, "for i in $(seq 200); do grep -qvs running /sys/block/sd*/device/state || exit 0; sleep 0.3; done; exit 1")
	}
	expectCode(t, one.PublishTo(ctx, v, published, "pod-2"), codes.FailedPrecondition, "access list", dir)
	if disks := sh(ctx, t, one.Guest, "ls /sys/block | grep ^sd || true"); disks != "" {
		t.Errorf("disks %q are left", disks)
	}
	setLinks(ctx, t, one, false) // nor does a recovery of the sessions bring them back
	time.Sleep(12 * time.Second)
	setLinks(ctx, t, one, true)
	time.Sleep(5 * time.Second)
	if code := exitCode(ctx, t, one.Guest, "timeout 60 dd if=/dev/zero of="+dir+"/late bs=64k count=1 conv=fsync"); code == 0 {
		t.Error("what was mounted before still writes")
	}
	must(t, one.UnpublishFrom(ctx, v, "pod-0"))
	must(t, eventually(ctx, func() error { return one.PublishTo(ctx, v, published, "pod-2") }))
	again := testbed.TargetPath(v, "pod-2")
	for file, want := range sums {
		if got := checksum(ctx, t, one, again+"/"+file); got != want {
			t.Errorf("%s: checksum %s, want %s", file, got, want)
		}
	}
	if n := sh(ctx, t, one.Guest, "ls "+again+"/tree | wc -l; ls "+again+" | grep -c late || true"); n != "199\n0" {
		t.Errorf("files there and late ones: %q, want 199 and none", n)
	}
	sums["last"] = write(ctx, t, one, again+"/last", 64)
	must(t, bed.Detach(ctx, v, one, "pod-2"))

	must(t, bed.Attach(ctx, v, two, "pod-3"))
	for file, want := range sums {
		if got := checksum(ctx, t, two, testbed.TargetPath(v, "pod-3")+"/"+file); got != want {
			t.Errorf("at last, %s: checksum %s, want %s", file, got, want)
		}
	}
	must(t, bed.Detach(ctx, v, two, "pod-3"))
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
