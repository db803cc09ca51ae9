//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// TestRawBlockIsADeviceFile follows a raw block volume from worker to worker: a
// device file in place of a directory, with every byte in its place.
func TestRawBlockIsADeviceFile(t *testing.T) {
	ctx, bed := useBed(t)
	one, two := bed.Workers[0], bed.Workers[1]
	v, device := attached(ctx, t, bed, "raw", testbed.Block(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	expectDeviceFile(ctx, t, one, device)
	published, err := bed.Publish(ctx, v, one)
	must(t, err)
	must(t, one.PublishTo(ctx, v, published, "pod-0"))
	if n := sh(ctx, t, one.Guest, "grep -c "+device+" /proc/mounts"); n != "1" {
		t.Errorf("%s mounts on the target after a second publish, want 1", n)
	}

	scatter(ctx, t, one, device)
	sum := samples(ctx, t, one, device)
	must(t, bed.Detach(ctx, v, one, "pod-0"))
	if code := exitCode(ctx, t, one.Guest, "test -e "+device); code == 0 {
		t.Error("the target is there after unpublish")
	}

	must(t, bed.Attach(ctx, v, two, "pod-0"))
	if got := samples(ctx, t, two, device); got != sum {
		t.Error("the other worker reads other bytes")
	}
	must(t, bed.Detach(ctx, v, two, "pod-0"))
	must(t, bed.Delete(ctx, v))
}

// expectDeviceFile compares the number of the device file that a pod gets with
// that of the multipath map over the only LUN there is.
func expectDeviceFile(ctx context.Context, t testing.TB, w *testbed.Worker, device string) {
	t.Helper()
	got := sh(ctx, t, w.Guest, "test -b "+device+" && echo $((0x$(stat -c %t "+device+"))):$((0x$(stat -c %T "+device+")))")
	if want := sh(ctx, t, w.Guest, "cat $(dirname $(dirname $(grep -l ^mpath- /sys/block/dm-*/dm/uuid)))/dev"); got != want {
		t.Errorf("the device file has number %s, the volume %s", got, want)
	}
}

// scatter writes random bytes where samples looks.
func scatter(ctx context.Context, t testing.TB, w *testbed.Worker, device string) {
	t.Helper()
	sh(ctx, t, w.Guest, "for at in 0 64 127; do dd if=/dev/urandom of="+device+" bs=256k count=1 seek=$((at*32)) oflag=direct iflag=fullblock status=none; done")
}

// TestRawBlockLeavesNothing is FM 36: publish and unpublish as kubelet does it,
// which puts a loop device over the published file meanwhile.
func TestRawBlockLeavesNothing(t *testing.T) {
	const rounds = 20
	ctx, bed := useBed(t)
	w := bed.Workers[0]
	v, device := attached(ctx, t, bed, "looped", testbed.Block(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	published, err := bed.Publish(ctx, v, w)
	must(t, err)
	sh(ctx, t, w.Guest, "modprobe loop")
	for round := range rounds {
		must(t, w.PublishTo(ctx, v, published, "pod-0"))
		// udev may look into the loop device yet, and then it goes a little later.
		sh(ctx, t, w.Guest, "losetup -d $(losetup --find --show "+device+"); for i in $(seq 100); do [ -z \"$(losetup -a)\" ] && break; sleep 0.1; done")
		must(t, w.UnpublishFrom(ctx, v, "pod-0"))
		if code := exitCode(ctx, t, w.Guest, "test -e "+device); code == 0 {
			t.Fatalf("round %d: the target is there after unpublish", round)
		}
	}
	if loops := sh(ctx, t, w.Guest, "losetup -a"); loops != "" {
		t.Errorf("loop devices are left: %s", loops)
	}
	if n := sh(ctx, t, w.Guest, "grep -c volumeDevices /proc/mounts || true"); n != "0" {
		t.Errorf("%s mounts are left, want none", n)
	}
	gone(ctx, t, bed, v)
}

// TestRawBlockOnTwoWorkers writes on both at once: each sees what the other
// wrote, and when one leaves, the other goes on.
func TestRawBlockOnTwoWorkers(t *testing.T) {
	ctx, bed := useBed(t)
	one, two := bed.Workers[0], bed.Workers[1]
	v, device := attached(ctx, t, bed, "shared", testbed.Block(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER))
	must(t, bed.Attach(ctx, v, two, "pod-0"))
	for n, pair := range [][2]*testbed.Worker{{one, two}, {two, one}} {
		writer, reader := pair[0], pair[1]
		at := fmt.Sprint(100 + n) // MiB
		sh(ctx, t, writer.Guest, "dd if=/dev/urandom of=/run/mark bs=1M count=1 status=none; dd if=/run/mark of="+device+" bs=1M seek="+at+" oflag=direct status=none")
		want := sh(ctx, t, writer.Guest, "sha256sum < /run/mark")
		got := sh(ctx, t, reader.Guest, "dd if="+device+" bs=1M count=1 skip="+at+" iflag=direct status=none | sha256sum")
		if got != want {
			t.Errorf("%s does not read what %s wrote", reader.Name, writer.Name)
		}
	}

	startRawWriter(ctx, t, two, device)
	must(t, bed.Detach(ctx, v, one, "pod-0"))
	stopWriter(ctx, t, two)
	must(t, bed.Detach(ctx, v, two, "pod-0"))
	must(t, bed.Delete(ctx, v))
}

// startRawWriter is startWriter for a device: it writes through the first 4 MiB,
// past the page cache, round and round.
func startRawWriter(ctx context.Context, t testing.TB, w *testbed.Worker, device string) {
	t.Helper()
	sh(ctx, t, w.Guest, `rm -f /run/stop /run/writer
cat > /run/writer.sh <<'END'
n=0
while [ ! -e /run/stop ]; do
	dd if=/dev/zero of=$1 bs=4k count=1 seek=$((n%1024)) conv=notrunc oflag=direct status=none || { echo "failed at $n" > /run/writer; exit 1; }
	n=$((n+1))
done
echo "wrote $n" > /run/writer
END
setsid sh /run/writer.sh `+device+` >/dev/null 2>&1 </dev/null &`)
}
