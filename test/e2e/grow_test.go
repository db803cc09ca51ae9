//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// growControllerSide grows a volume on the array, as the external resizer does.
func growControllerSide(ctx context.Context, t testing.TB, bed *testbed.Bed, v *testbed.Volume, bytes int64) {
	t.Helper()
	res, err := bed.Controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: v.ID, CapacityRange: &csi.CapacityRange{RequiredBytes: bytes}, VolumeCapability: v.Capability,
	})
	must(t, err)
	if res.GetCapacityBytes() != bytes || !res.GetNodeExpansionRequired() {
		t.Fatalf("growth to %d bytes answered %v", bytes, res)
	}
}

// growNodeSide makes a worker take the growth over, as kubelet does, and expects
// exactly these bytes.
func growNodeSide(ctx context.Context, t testing.TB, w *testbed.Worker, v *testbed.Volume, bytes int64) {
	t.Helper()
	must(t, expandOnce(ctx, w, v, "pod-0", bytes))
}

func expandOnce(ctx context.Context, w *testbed.Worker, v *testbed.Volume, pod string, bytes int64) error {
	res, err := w.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: v.ID, VolumePath: testbed.TargetPath(v, pod), StagingTargetPath: testbed.StagingPath(v),
		CapacityRange: &csi.CapacityRange{RequiredBytes: bytes}, VolumeCapability: v.Capability,
	})
	if err != nil {
		return fmt.Errorf("expand %s on %s: %w", v.Name, w.Name, err)
	}
	if res.GetCapacityBytes() != bytes {
		return fmt.Errorf("expand to %d bytes answered %d", bytes, res.GetCapacityBytes())
	}
	return nil
}

// TestVolumeGrowsUnderAWriter grows twice, calls twice, and the writer notices
// nothing; afterwards the new end can be written and read.
func TestVolumeGrowsUnderAWriter(t *testing.T) {
	single := csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	for name, as := range map[string]*csi.VolumeCapability{
		"xfs": testbed.Mount("xfs"), "ext4": testbed.Mount("ext4"), "raw": testbed.Block(single),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, bed := useBed(t)
			w := bed.Workers[0]
			v, path := attached(ctx, t, bed, "growing-"+name, as)
			if as.GetBlock() != nil {
				startRawWriter(ctx, t, w, path)
			} else {
				startWriter(ctx, t, w, path)
			}
			for _, bytes := range []int64{2 * giB, 3 * giB} {
				for range 2 {
					growControllerSide(ctx, t, bed, v, bytes)
					growNodeSide(ctx, t, w, v, bytes)
				}
				expectBytes(ctx, t, w, v, bytes)
			}
			stopWriter(ctx, t, w)
			useTheEnd(ctx, t, w, v, 3*giB)
			gone(ctx, t, bed, v)
		})
	}
}

// expectBytes asks the worker how large the published volume is: the device to
// the byte, the file system but for what it keeps for itself.
func expectBytes(ctx context.Context, t testing.TB, w *testbed.Worker, v *testbed.Volume, bytes int64) {
	t.Helper()
	path, ask, least := testbed.TargetPath(v, "pod-0"), "stat -f -c '%b %S'", bytes-bytes/16
	if v.Capability.GetBlock() != nil {
		ask, least = "blockdev --getsize64", bytes
	}
	var blocks, size int64
	if n, err := fmt.Sscan(sh(ctx, t, w.Guest, ask+" "+path)+" 1", &blocks, &size); err != nil || n != 2 {
		t.Fatalf("%s: %v", ask, err)
	}
	if got := blocks * size; got < least || got > bytes {
		t.Errorf("the worker sees %d bytes, want %d", got, bytes)
	}
}

// useTheEnd writes where there was nothing before the growth.
func useTheEnd(ctx context.Context, t testing.TB, w *testbed.Worker, v *testbed.Volume, bytes int64) {
	t.Helper()
	path := testbed.TargetPath(v, "pod-0")
	if v.Capability.GetBlock() != nil {
		last := strconv.FormatInt(bytes>>20-1, 10)
		sh(ctx, t, w.Guest, "dd if=/dev/urandom of=/run/mark bs=1M count=1 status=none; "+
			"dd if=/run/mark of="+path+" bs=1M seek="+last+" oflag=direct status=none; "+
			"dd if="+path+" bs=1M skip="+last+" iflag=direct status=none | cmp - /run/mark")
		return
	}
	// More than the volume held before it grew.
	sh(ctx, t, w.Guest, fmt.Sprintf("fallocate -l %d %s/large && rm %[2]s/large", bytes-bytes/8, path))
}

// TestGrowthOfADetachedVolumeShowsAtTheNextStage is FM 34: nobody calls
// NodeExpandVolume for a volume that no pod uses, nor for one restored into a
// larger one.
func TestGrowthOfADetachedVolumeShowsAtTheNextStage(t *testing.T) {
	for _, fsType := range []string{"xfs", "ext4"} {
		t.Run(fsType, func(t *testing.T) {
			ctx, bed := useBed(t)
			fault(t, "nobody calls NodeExpandVolume")
			w := bed.Workers[0]
			v, dir := attached(ctx, t, bed, "asleep-"+fsType, testbed.Mount(fsType))
			sum := write(ctx, t, w, dir+"/data", 64)
			must(t, bed.Detach(ctx, v, w, "pod-0"))
			growControllerSide(ctx, t, bed, v, 2*giB)
			must(t, bed.Attach(ctx, v, w, "pod-0"))
			expectBytes(ctx, t, w, v, 2*giB)
			if got := checksum(ctx, t, w, dir+"/data"); got != sum {
				t.Errorf("checksum %s, was %s", got, sum)
			}
			gone(ctx, t, bed, v)
		})
	}
}

// TestGrowthCutOffAnywhereIsFinishedByTheNextCall is FM 15 and 19: the plugin is
// killed behind each step of a growth, and the caller leaves in the middle of one;
// the repeat ends it, under a writer that notices nothing.
func TestGrowthCutOffAnywhereIsFinishedByTheNextCall(t *testing.T) {
	single := csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	for name, as := range map[string]*csi.VolumeCapability{
		"xfs": testbed.Mount("xfs"), "ext4": testbed.Mount("ext4"), "raw": testbed.Block(single),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, bed := useBed(t)
			fault(t, "the plugin is killed, and the caller leaves, in a growth")
			growCutOff(ctx, t, bed, as)
		})
	}
}

func growCutOff(ctx context.Context, t testing.TB, bed *testbed.Bed, as *csi.VolumeCapability) {
	t.Helper()
	w := bed.Workers[0]
	v, path := attached(ctx, t, bed, "cut-off", as)
	if as.GetBlock() != nil {
		startRawWriter(ctx, t, w, path)
	} else {
		startWriter(ctx, t, w, path)
	}
	size := int64(giB)
	for _, step := range []string{"expand: paths grown", "expand: device grown", "expand: file system grown"} {
		size += giB
		growControllerSide(ctx, t, bed, v, size)
		must(t, w.KillAt(ctx, step))
		expectKilledAt(ctx, t, w, step, expandOnce(ctx, w, v, "pod-0", size))
		must(t, w.StartPlugin(ctx))
		growNodeSide(ctx, t, w, v, size)
		expectBytes(ctx, t, w, v, size)
	}
	size += giB
	growControllerSide(ctx, t, bed, v, size)
	const step = "expand: device grown"
	release, err := w.HoldAt(ctx, step)
	must(t, err)
	left, leave := context.WithCancel(ctx)
	answer := make(chan error, 1)
	go func() { answer <- expandOnce(left, w, v, "pod-0", size) }()
	must(t, w.AwaitHeld(ctx, step))
	leave()
	if <-answer == nil {
		t.Error("a growth whose caller has left went well")
	}
	must(t, release(ctx))
	must(t, eventually(ctx, func() error { return expandOnce(ctx, w, v, "pod-0", size) }))
	expectBytes(ctx, t, w, v, size)
	stopWriter(ctx, t, w)
	useTheEnd(ctx, t, w, v, size)
	gone(ctx, t, bed, v)
}

// TestGrowthWaitsForALostPath is FM 15 and 20: while a portal is away the growth of
// a volume in use is an error that names the path, and the writer goes on at the
// size it has; when the portal is back the next attempt grows all of it.
func TestGrowthWaitsForALostPath(t *testing.T) {
	single := csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	for name, as := range map[string]*csi.VolumeCapability{"xfs": testbed.Mount("xfs"), "raw": testbed.Block(single)} {
		t.Run(name, func(t *testing.T) {
			ctx, bed := useBed(t)
			fault(t, "one portal is lost before a growth")
			w := bed.Workers[0]
			v, path := attached(ctx, t, bed, "lame-"+name, as)
			if as.GetBlock() != nil {
				startRawWriter(ctx, t, w, path)
			} else {
				startWriter(ctx, t, w, path)
			}
			must(t, w.SetLink(ctx, 1, false))
			t.Cleanup(func() { must(t, w.SetLink(context.WithoutCancel(ctx), 1, true)) })
			sh(ctx, t, w.Guest, "timeout 90 sh -c 'until cat /sys/block/sd*/device/state | grep -qv running; do sleep 0.3; done'")
			growControllerSide(ctx, t, bed, v, 2*giB)
			expectCode(t, expandOnce(ctx, w, v, "pod-0", 2*giB), codes.Unavailable, bed.Array.Addr(1).String()+":3260, is down")
			expectBytes(ctx, t, w, v, giB)
			if sectors := sh(ctx, t, w.Guest, "cat /sys/block/dm-*/size"); sectors != strconv.Itoa(giB/512) {
				t.Errorf("without a path the map has %s sectors, want what it had", sectors)
			}

			must(t, w.SetLink(ctx, 1, true))
			awaitPaths(ctx, t, w, 2)
			must(t, eventually(ctx, func() error { return expandOnce(ctx, w, v, "pod-0", 2*giB) }))
			expectBytes(ctx, t, w, v, 2*giB)
			if sectors := sh(ctx, t, w.Guest, "cat /sys/block/dm-*/size /sys/block/sd*/size | sort -u"); sectors != strconv.Itoa(2*giB/512) {
				t.Errorf("the map and its paths have %q sectors, want one size", sectors)
			}
			stopWriter(ctx, t, w)
			useTheEnd(ctx, t, w, v, 2*giB)
			gone(ctx, t, bed, v)
		})
	}
}

// TestGrowthThatIsTooMuchIsTriedAgainWithLess is what Kubernetes does about a
// growth that failed: it asks for less. What the array has grown already is not
// taken back, and the node tells what is there.
func TestGrowthThatIsTooMuchIsTriedAgainWithLess(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "a growth fails on the array, a smaller one follows")
	w := bed.Workers[0]
	v, _ := attached(ctx, t, bed, "modest", testbed.Mount("xfs"))
	_, err := bed.Controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: v.ID, CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 50}, VolumeCapability: v.Capability,
	})
	if err == nil {
		t.Fatal("the array grew a volume to a pebibyte")
	}
	growControllerSide(ctx, t, bed, v, 3*giB)
	smaller, err := bed.Controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: v.ID, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * giB}, VolumeCapability: v.Capability,
	})
	must(t, err)
	if got := smaller.GetCapacityBytes(); got != 3*giB {
		t.Errorf("the array answers %d bytes to a smaller request, and has 3 GiB", got)
	}
	res, err := w.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: v.ID, VolumePath: testbed.TargetPath(v, "pod-0"), StagingTargetPath: testbed.StagingPath(v),
		CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * giB}, VolumeCapability: v.Capability,
	})
	must(t, err)
	if got := res.GetCapacityBytes(); got != 3*giB {
		t.Errorf("the node answers %d bytes to a smaller request, and has 3 GiB", got)
	}
	expectBytes(ctx, t, w, v, 3*giB)
	gone(ctx, t, bed, v)
}
