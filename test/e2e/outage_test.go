//go:build e2e

package e2e

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// realOutage is for how long TestNoPathForLongerThanEveryTimeout keeps the array
// away beyond what every timeout needs: $E2E_OUTAGE, which make e2e-long sets to 10m.
func realOutage(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("E2E_OUTAGE")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("E2E_OUTAGE: %v", err)
	}
	return d
}

// TestNoPathForLongerThanEveryTimeout is FM 20, 21 and 31: the array is away for
// so long that the map stops to queue, the writer gets its error and the file
// system shuts down. No call hangs meanwhile; when the array is back the volume
// can be taken down and used anew, with all that was acknowledged.
func TestNoPathForLongerThanEveryTimeout(t *testing.T) {
	ctx, bed := useBed(t)
	outage := realOutage(t)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patient+outage)
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
	case <-time.After(outage):
	case <-ctx.Done():
	}
	// The unpublish first: of a volume that is published still, an unstage looks at nothing.
	must(t, inTime(ctx, t, "unpublish after the queue has failed", time.Minute, func(ctx context.Context) error { return w.UnpublishFrom(ctx, v, "pod-0") }))
	expectDeadMap(ctx, t, w)
	err := inTime(ctx, t, "unstage after the queue has failed", time.Minute, func(ctx context.Context) error { return w.Unstage(ctx, v) })
	expectCode(t, err, codes.DataLoss, v.ID) // what the writer had not synced
	setLinks(ctx, t, w, true)
	must(t, eventually(ctx, func() error { return w.UnpublishFrom(ctx, v, "pod-0") }))
	must(t, eventually(ctx, func() error { return w.Unstage(ctx, v) }))
	must(t, bed.Unpublish(ctx, v, w))
	acked := writer.acked(ctx, t)
	must(t, bed.Attach(ctx, v, w, "pod-0"))
	expectStream(ctx, t, w, dir, acked)
	gone(ctx, t, bed, v)
}

// expectDeadMap expects one staged file system, and beneath it a map that has no path which
// works, and that has ceased to queue.
func expectDeadMap(ctx context.Context, t testing.TB, w *testbed.Worker) {
	t.Helper()
	got := sh(ctx, t, w.Guest, `cat /sys/block/sd*/device/state | grep -c running || true
dmsetup table | grep -c queue_if_no_path || true
grep -c /globalmount /proc/mounts || true`)
	if got != "0\n0\n1" {
		t.Fatalf("paths that work, maps that queue, file systems on a map: %q, want none, none and 1", got)
	}
}

// inTime makes a call that may fail but not last, and returns its error.
func inTime(ctx context.Context, t testing.TB, what string, limit time.Duration, call func(context.Context) error) error {
	t.Helper()
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := call(limited)
	if limited.Err() != nil {
		t.Errorf("%s lasts longer than %v: %v", what, limit, err)
	}
	t.Logf("%s answered after %v: %v", what, time.Since(began).Round(100*time.Millisecond), err)
	return err
}

// TestUnstageWithoutAPathLosesNothing is FM 21: the array goes away while a volume
// has dirty pages, and its pod ends. The unstage does not hang and takes nothing
// for written; when the array is back, it is, and what was dirty is there.
func TestUnstageWithoutAPathLosesNothing(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "an unstage under dirty pages while both portals are lost")
	w := bed.Workers[0]
	v, dir := attached(ctx, t, bed, "dirty", testbed.Mount("xfs"))
	sum := soil(ctx, t, w, dir+"/dirty")
	setLinks(ctx, t, w, false)
	t.Cleanup(func() { setLinks(context.WithoutCancel(ctx), t, w, true) })
	must(t, w.UnpublishFrom(ctx, v, "pod-0"))
	limited, cancel := context.WithTimeout(ctx, 5*time.Second) // before the queue ends
	defer cancel()
	if err := w.Unstage(limited, v); err == nil {
		t.Error("a volume with dirty pages was unstaged while no path was there")
	}
	setLinks(ctx, t, w, true)
	must(t, eventually(ctx, func() error { return w.Unstage(ctx, v) }))
	must(t, bed.Unpublish(ctx, v, w))
	must(t, bed.Attach(ctx, v, w, "pod-0"))
	if got := checksum(ctx, t, w, dir+"/dirty"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	gone(ctx, t, bed, v)
}

// TestUnstageSaysThatDirtyPagesAreLost is FM 21: the array stays away until the map
// stops to queue, so what was dirty is lost. The unmount would not say so; the
// first unstage does, and the next one ends.
func TestUnstageSaysThatDirtyPagesAreLost(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "an unstage under dirty pages after the array was away for too long")
	w := bed.Workers[0]
	v, dir := attached(ctx, t, bed, "lost", testbed.Mount("ext4"))
	soil(ctx, t, w, dir+"/dirty")
	setLinks(ctx, t, w, false)
	t.Cleanup(func() { setLinks(context.WithoutCancel(ctx), t, w, true) })
	must(t, w.UnpublishFrom(ctx, v, "pod-0"))
	patient, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	expectCode(t, w.Unstage(patient, v), codes.DataLoss, v.ID)
	setLinks(ctx, t, w, true)
	must(t, eventually(ctx, func() error { return w.Unstage(ctx, v) }))
	must(t, bed.Unpublish(ctx, v, w))
	must(t, bed.Attach(ctx, v, w, "pod-0"))
	gone(ctx, t, bed, v)
}

// TestRawUnstageWithoutAPathLosesNothing is FM 21 for a raw volume, which no
// unmount holds: a process of the pod that has ended still has dirty pages in it.
func TestRawUnstageWithoutAPathLosesNothing(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "an unstage of a raw volume that a process still has open while both portals are lost")
	w := bed.Workers[0]
	v, path := attached(ctx, t, bed, "rawdirty", testbed.Block(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	// By a node of its own, as a container has one.
	device := sh(ctx, t, w.Guest, "echo /dev/$(basename $(readlink -f /sys/dev/block/$((0x$(stat -c %t "+path+"))):$((0x$(stat -c %T "+path+")))))")
	sum := soil(ctx, t, w, "/run/soil")
	sh(ctx, t, w.Guest, `rm -f /run/holder.*; cat > /run/holder.sh <<'END'
exec 3<>$1 && dd if=/run/soil bs=64k status=none >&3 && touch /run/holder.ready
while [ ! -e /run/holder.stop ]; do sleep 0.2; done
exec 3>&- && touch /run/holder.done
END
setsid sh /run/holder.sh `+device+` >/dev/null 2>&1 </dev/null & timeout 20 sh -c 'until [ -e /run/holder.ready ]; do sleep 0.1; done'`)
	setLinks(ctx, t, w, false)
	t.Cleanup(func() { setLinks(context.WithoutCancel(ctx), t, w, true) })
	must(t, w.UnpublishFrom(ctx, v, "pod-0"))
	for {
		limited, cancel := context.WithTimeout(ctx, 20*time.Second)
		err := w.Unstage(limited, v)
		cancel()
		if err == nil {
			t.Fatal("the volume was unstaged under what waited for a path")
		}
		if strings.Contains(err.Error(), "has open and which keeps") {
			break
		}
		t.Logf("while the sessions are not lost yet: %v", err)
		time.Sleep(time.Second)
	}
	setLinks(ctx, t, w, true)
	sh(ctx, t, w.Guest, "touch /run/holder.stop; timeout 60 sh -c 'until [ -e /run/holder.done ]; do sleep 0.2; done'")
	must(t, eventually(ctx, func() error { return w.Unstage(ctx, v) }))
	must(t, bed.Unpublish(ctx, v, w))
	must(t, bed.Attach(ctx, v, w, "pod-0"))
	if got := sh(ctx, t, w.Guest, "dd if="+path+" bs=64k count=16 iflag=direct status=none | sha256sum"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	gone(ctx, t, bed, v)
}

// TestASuspendedMapIsTakenDownWithoutMultipathd is FM 21: a map is left suspended under
// a volume with dirty pages, and multipathd, which could resume it, is no more. The
// volume is unpublished and unstaged in the time that kubelet grants, and what was
// dirty is there.
func TestASuspendedMapIsTakenDownWithoutMultipathd(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "a map is left suspended, and multipathd is killed")
	w := bed.Workers[0]
	v, dir := attached(ctx, t, bed, "suspended", testbed.Mount("xfs"))
	sum := soil(ctx, t, w, dir+"/dirty")
	sh(ctx, t, w.Guest, "pkill -KILL -x multipathd; while pgrep -x multipathd >/dev/null; do sleep 0.1; done")
	t.Cleanup(func() { sh(context.WithoutCancel(ctx), t, w.Guest, "pgrep -x multipathd >/dev/null || multipathd") })
	sh(ctx, t, w.Guest, "dmsetup suspend --noflush --nolockfs $(cat /sys/block/dm-*/dm/name); grep -q 1 /sys/block/dm-*/dm/suspended")
	kubelet, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	must(t, eventually(kubelet, func() error { return w.UnpublishFrom(kubelet, v, "pod-0") }))
	must(t, eventually(kubelet, func() error { return w.Unstage(kubelet, v) }))
	left, err := w.Leftovers(ctx)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	sh(ctx, t, w.Guest, "multipathd")
	must(t, bed.Unpublish(ctx, v, w))
	must(t, eventually(ctx, func() error { return bed.Attach(ctx, v, w, "pod-0") }))
	if got := checksum(ctx, t, w, dir+"/dirty"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	gone(ctx, t, bed, v)
}

// soil writes a file that stays in the page cache until the test ends or somebody
// syncs it, and returns its checksum.
func soil(ctx context.Context, t testing.TB, w *testbed.Worker, path string) string {
	t.Helper()
	t.Cleanup(func() {
		sh(context.WithoutCancel(ctx), t, w.Guest, "echo 500 > /proc/sys/vm/dirty_writeback_centisecs; echo 3000 > /proc/sys/vm/dirty_expire_centisecs")
	})
	return sh(ctx, t, w.Guest, "echo 360000 > /proc/sys/vm/dirty_writeback_centisecs; echo 360000 > /proc/sys/vm/dirty_expire_centisecs; "+
		"dd if=/dev/urandom of="+path+" bs=64k count=16 status=none; sha256sum < "+path)
}
