//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// attached makes a volume and brings it to pod-0 on worker 1.
func attached(ctx context.Context, t testing.TB, bed *testbed.Bed, name string, as *csi.VolumeCapability) (*testbed.Volume, string) {
	t.Helper()
	v, err := bed.Create(ctx, name, giB, nil, as)
	must(t, err)
	must(t, bed.Attach(ctx, v, bed.Workers[0], "pod-0"))
	return v, testbed.TargetPath(v, "pod-0")
}

// gone detaches and deletes a volume that attached has made.
func gone(ctx context.Context, t testing.TB, bed *testbed.Bed, v *testbed.Volume) {
	t.Helper()
	must(t, bed.Detach(ctx, v, bed.Workers[0], "pod-0"))
	must(t, bed.Delete(ctx, v))
}

// TestBusyVolumeIsNotUnstaged is FM 5 and 13: a process sits in the volume, so
// unstaging is an error, the mount stays whole, and later it works.
func TestBusyVolumeIsNotUnstaged(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "unstage under an open file")
	w := bed.Workers[0]
	v, dir := attached(ctx, t, bed, "busy", testbed.Mount("xfs"))
	must(t, w.UnpublishFrom(ctx, v, "pod-0"))
	staging := testbed.StagingPath(v)
	sh(ctx, t, w.Guest, "cd "+staging+" && (setsid sleep 600 >file </dev/null 2>/dev/null & echo $! >/run/sitter)")
	if err := w.Unstage(ctx, v); err == nil {
		t.Fatal("a busy volume was unstaged")
	}
	sum := write(ctx, t, w, staging+"/data", 64)
	if n := sh(ctx, t, w.Guest, "find "+testbed.Records+" -maxdepth 1 -type f | wc -l"); n != "1" {
		t.Errorf("%s records after a failed unstage, want 1", n)
	}
	sh(ctx, t, w.Guest, "kill $(cat /run/sitter)")
	must(t, w.Unstage(ctx, v))
	must(t, bed.Unpublish(ctx, v, w))

	must(t, bed.Attach(ctx, v, w, "pod-0"))
	if got := checksum(ctx, t, w, dir+"/data"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	gone(ctx, t, bed, v)
}

// TestLostRecordIsNoExcuse is FM 5: without its record a staged volume is still
// found and taken down whole.
func TestLostRecordIsNoExcuse(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the plugin's record is lost")
	w := bed.Workers[0]
	v, _ := attached(ctx, t, bed, "forgotten", testbed.Mount("xfs"))
	sh(ctx, t, w.Guest, "find "+testbed.Records+" -maxdepth 1 -type f -delete")
	gone(ctx, t, bed, v)
}

// TestPublishRefusesAStagingDirectoryThatIsNoMount is FM 8.
func TestPublishRefusesAStagingDirectoryThatIsNoMount(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the staging directory is no mount")
	w := bed.Workers[0]
	v, err := bed.Create(ctx, "hollow", giB, nil, testbed.Mount("xfs"))
	must(t, err)
	published, err := bed.Publish(ctx, v, w)
	must(t, err)
	sh(ctx, t, w.Guest, "mkdir -p "+testbed.StagingPath(v))
	expectCode(t, w.PublishTo(ctx, v, published, "pod-0"), codes.FailedPrecondition)
	if code := exitCode(ctx, t, w.Guest, "mountpoint -q "+testbed.TargetPath(v, "pod-0")); code == 0 {
		t.Error("an empty directory was published")
	}
	must(t, bed.Detach(ctx, v, w, "pod-0"))
	must(t, bed.Delete(ctx, v))
}

// TestDataIsNeverFormatted is FM 1: whatever is on the device, if it is not the
// file system that was asked for, it stays as it is. It is put there on the array.
func TestDataIsNeverFormatted(t *testing.T) {
	for name, put := range map[string]string{
		"a partition table":          "printf 'label: gpt\n,\n' | sfdisk -q %s",
		"bytes without a signature":  "dd if=/dev/urandom of=%s bs=4k count=16 seek=100 conv=notrunc status=none",
		"bytes in the middle":        "dd if=/dev/urandom of=%s bs=1M count=1 seek=512 conv=notrunc status=none",
		"bytes at the end":           "dd if=/dev/urandom of=%s bs=4k count=1 seek=$(($(stat -c %%s %[1]s)/4096-1)) conv=notrunc status=none",
		"another file system":        "mkfs.ext4 -q %s",
		"an xfs that lost its head":  "mkfs.xfs -q %s; dd if=/dev/zero of=%[1]s bs=64k count=1 conv=notrunc status=none",
		"an ext4 that lost its head": "mkfs.ext4 -q %s; dd if=/dev/zero of=%[1]s bs=64k count=1 conv=notrunc status=none",
	} {
		t.Run(name, func(t *testing.T) {
			ctx, bed := useBed(t)
			fault(t, "the device holds something else")
			w := bed.Workers[0]
			v, err := bed.Create(ctx, "precious", giB, nil, testbed.Mount("xfs"))
			must(t, err)
			published, err := bed.Publish(ctx, v, w)
			must(t, err)
			file, err := bed.Array.BackingFile(ctx, published)
			must(t, err)
			sh(ctx, t, bed.Array.Guest, fmt.Sprintf(put, file)+"; sync")
			sum := sh(ctx, t, bed.Array.Guest, fmt.Sprintf(allocated, file))
			published, err = bed.Publish(ctx, v, w) // with what the array says of the volume now
			must(t, err)
			expectCode(t, w.Stage(ctx, v, published), codes.FailedPrecondition)
			must(t, w.Unstage(ctx, v))
			if now := sh(ctx, t, bed.Array.Guest, fmt.Sprintf(allocated, file)); now != sum {
				t.Errorf("the device was written to; its blocks and a checksum were\n%s\nand are\n%s", sum, now)
			}
			must(t, bed.Unpublish(ctx, v, w))
			must(t, bed.Delete(ctx, v))
		})
	}
}

// TestAVolumeThatReadsAsZerosIsNotFormattedAgain is FM 1: the array has lost what the
// volume holds, and a pod that comes back to its node is staged with what the array
// said before the first mkfs. Only the node knows better.
func TestAVolumeThatReadsAsZerosIsNotFormattedAgain(t *testing.T) {
	for _, fs := range []string{"xfs", "ext4"} {
		t.Run(fs, func(t *testing.T) {
			ctx, bed := useBed(t)
			fault(t, "the array's volume reads as zeros")
			w := bed.Workers[0]
			v, err := bed.Create(ctx, "blank", giB, nil, testbed.Mount(fs))
			must(t, err)
			first, err := bed.Publish(ctx, v, w)
			must(t, err)
			must(t, w.Stage(ctx, v, first))
			sum := write(ctx, t, w, testbed.StagingPath(v)+"/data", 8)
			must(t, w.Unstage(ctx, v))
			file, err := bed.Array.BackingFile(ctx, first)
			must(t, err)
			array := bed.Array.Guest
			sh(ctx, t, array, fmt.Sprintf("dd if=%s of=/data/kept bs=1M conv=sparse status=none; truncate -s 0 %[1]s; truncate -s %[2]d %[1]s; sync", file, int64(giB)))
			expectCode(t, w.Stage(ctx, v, first), codes.FailedPrecondition, "this node found or made "+fs+" there", "look at the array")
			if left := sh(ctx, t, array, "du -k "+file+" | cut -f 1"); left != "0" {
				t.Errorf("%s KiB were written to it", left)
			}
			sh(ctx, t, array, "dd if=/data/kept of="+file+" bs=1M conv=sparse,notrunc status=none; rm /data/kept; sync")
			must(t, w.Stage(ctx, v, first))
			if now := checksum(ctx, t, w, testbed.StagingPath(v)+"/data"); now != sum {
				t.Errorf("it holds %s, and held %s", now, sum)
			}
			must(t, w.Unstage(ctx, v))
			must(t, bed.Unpublish(ctx, v, w))
			must(t, bed.Delete(ctx, v))
		})
	}
}

// samples is a checksum of the first, the middle and the last 8 MiB of a device of
// 1 GiB: where the cases above write, and where mkfs does.
func samples(ctx context.Context, t testing.TB, w *testbed.Worker, device string) string {
	t.Helper()
	return sh(ctx, t, w.Guest, "for at in 0 64 127; do dd if="+device+" bs=8M count=1 skip=$at iflag=direct status=none; done | sha256sum")
}

// TestXFSThatShutDownIsNotTakenForStaged is FM 7: as long as a pod has it, nothing else is
// to be had of it; then it is mounted anew, also for a pod that waited meanwhile: for that
// the kubelet publishes it and does not stage it.
func TestXFSThatShutDownIsNotTakenForStaged(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the file system shuts down")
	w := bed.Workers[0]
	v, _ := attached(ctx, t, bed, "shutdown", testbed.Mount("xfs"))
	published, err := bed.Publish(ctx, v, w)
	must(t, err)
	sh(ctx, t, w.Guest, "xfs_io -x -c shutdown "+testbed.StagingPath(v))
	expectCode(t, w.Stage(ctx, v, published), codes.FailedPrecondition, "shut the file system")
	expectCode(t, w.PublishTo(ctx, v, published, "pod-1"), codes.FailedPrecondition, "shut the file system")
	must(t, w.UnpublishFrom(ctx, v, "pod-0"))
	expectCode(t, w.PublishTo(ctx, v, published, "pod-1"), codes.DataLoss, v.ID) // told once: what was not synced is lost
	must(t, w.PublishTo(ctx, v, published, "pod-1"))
	write(ctx, t, w, testbed.TargetPath(v, "pod-1")+"/new", 64)
	must(t, w.Stage(ctx, v, published))
	must(t, w.UnpublishFrom(ctx, v, "pod-1"))
	gone(ctx, t, bed, v)
}

// TestExt4ThatStoppedIsNotTakenForStaged is FM 7: the kernel found an error and lets
// nobody write any more. What is mounted is not handed out again, and a mount made
// anew works.
func TestExt4ThatStoppedIsNotTakenForStaged(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the kernel finds an error in the file system")
	w := bed.Workers[0]
	v, dir := attached(ctx, t, bed, "stopped", testbed.Mount("ext4", "errors=remount-ro"))
	sum := write(ctx, t, w, dir+"/data", 64)
	published, err := bed.Publish(ctx, v, w)
	must(t, err)
	sh(ctx, t, w.Guest, "echo 1 > /sys/fs/ext4/$(basename $(readlink -f $(findmnt -no SOURCE "+testbed.StagingPath(v)+")))/trigger_fs_error")
	if code := exitCode(ctx, t, w.Guest, "touch "+dir+"/new"); code == 0 {
		t.Fatal("the file system goes on, so that this test shows nothing")
	}
	expectCode(t, w.Stage(ctx, v, published), codes.FailedPrecondition, "found an error in the file system")
	expectCode(t, w.PublishTo(ctx, v, published, "pod-1"), codes.FailedPrecondition, "found an error in the file system")
	must(t, bed.Detach(ctx, v, w, "pod-0"))
	must(t, bed.Attach(ctx, v, w, "pod-0"))
	if got := checksum(ctx, t, w, dir+"/data"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	write(ctx, t, w, dir+"/new", 64)
	gone(ctx, t, bed, v)
}

// TestOneDeadPortalIsNoObstacle is FM 25.
func TestOneDeadPortalIsNoObstacle(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "one portal is lost at stage")
	w := bed.Workers[0]
	must(t, w.SetLink(ctx, 1, false))
	t.Cleanup(func() { must(t, w.SetLink(context.WithoutCancel(ctx), 1, true)) })
	v, dir := attached(ctx, t, bed, "onelegged", testbed.Mount("xfs"))
	write(ctx, t, w, dir+"/data", 64)
	must(t, w.SetLink(ctx, 1, true))
	gone(ctx, t, bed, v)
}

// TestRebootBringsNothingBackByItself is FM 29: after a power cut there is no
// session until the volume is staged again, and what was synced is there.
func TestRebootBringsNothingBackByItself(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the node loses power")
	w := bed.Workers[0]
	v, dir := attached(ctx, t, bed, "reboot", testbed.Mount("xfs"))
	sum := write(ctx, t, w, dir+"/data", 1024)
	sh(ctx, t, w.Guest, "sync") // the worker's own disk: the record is synced by the plugin itself
	must(t, w.Reboot(ctx))
	if n := sh(ctx, t, w.Guest, "ls /sys/class/iscsi_session | wc -l"); n != "0" {
		t.Errorf("%s sessions after the boot, want none", n)
	}
	must(t, bed.Attach(ctx, v, w, "pod-0"))
	if got := checksum(ctx, t, w, dir+"/data"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	gone(ctx, t, bed, v)
}

// TestPluginKilledAtAnyMomentConverges is FM 19: the plugin is killed somewhere
// in the first stage, and the repeated call ends well.
func TestPluginKilledAtAnyMomentConverges(t *testing.T) {
	delays := []int{50, 200, 400, 700, 1000, 1300, 1700, 2200}
	var kills, within atomic.Int32
	t.Cleanup(func() { // when all have ended
		t.Logf("%d of %d kills struck within the stage", within.Load(), kills.Load())
		if int(kills.Load()) == len(delays) && within.Load() == 0 {
			t.Error("all struck before the stage or after it, so that this test shows nothing")
		}
	})
	for _, after := range delays {
		t.Run(fmt.Sprintf("%d ms", after), func(t *testing.T) {
			ctx, bed := useBed(t)
			fault(t, "the plugin is killed by the clock in a stage")
			w := bed.Workers[0]
			v, err := bed.Create(ctx, "killed", 20*giB, nil, testbed.Mount("xfs"))
			must(t, err)
			published, err := bed.Publish(ctx, v, w)
			must(t, err)
			staged := make(chan error, 1)
			go func() { staged <- w.Stage(ctx, v, published) }()
			time.Sleep(time.Duration(after) * time.Millisecond)
			must(t, w.KillPlugin(ctx))
			err = <-staged
			t.Logf("the interrupted call answered: %v", err)
			kills.Add(1)
			if err != nil && sh(ctx, t, w.Guest, "find "+testbed.Records+" -maxdepth 1 -type f | wc -l") != "0" { // it had begun, and not ended
				within.Add(1)
			}
			must(t, w.StartPlugin(ctx))

			must(t, eventually(ctx, func() error { return w.Stage(ctx, v, published) }))
			must(t, w.PublishTo(ctx, v, published, "pod-0"))
			write(ctx, t, w, testbed.TargetPath(v, "pod-0")+"/data", 64)
			gone(ctx, t, bed, v)
		})
	}
}

// TestWriterOutlivesThePlugin is FM 37: the plugin is killed and started under a
// running writer, which notices nothing.
func TestWriterOutlivesThePlugin(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the plugin is killed under a writer")
	w := bed.Workers[0]
	v, dir := attached(ctx, t, bed, "upgrade", testbed.Mount("xfs"))
	startWriter(ctx, t, w, dir)
	must(t, w.KillPlugin(ctx))
	must(t, w.StartPlugin(ctx))
	stopWriter(ctx, t, w)
	gone(ctx, t, bed, v)
}

// startWriter appends and syncs without end in the background; the first error ends it.
func startWriter(ctx context.Context, t testing.TB, w *testbed.Worker, dir string) {
	t.Helper()
	sh(ctx, t, w.Guest, `rm -f /run/stop /run/writer
cat > /run/writer.sh <<'END'
n=0
while [ ! -e /run/stop ]; do
	dd if=/dev/zero of=$1/stream bs=4k count=1 seek=$n conv=notrunc,fsync status=none || { echo "failed at $n" > /run/writer; exit 1; }
	n=$((n+1))
done
echo "wrote $n" > /run/writer
END
setsid sh /run/writer.sh `+dir+` >/dev/null 2>&1 </dev/null &`)
}

func stopWriter(ctx context.Context, t testing.TB, w *testbed.Worker) {
	t.Helper()
	out := sh(ctx, t, w.Guest, "sleep 1; touch /run/stop; for i in $(seq 300); do [ -s /run/writer ] && break; sleep 0.1; done; cat /run/writer")
	if !strings.HasPrefix(out, "wrote ") || out == "wrote 0" {
		t.Errorf("the writer %s", out)
	}
}

// TestArrayRestartsUnderAWriter kills the array's own process: its targets go on,
// and afterwards it knows its volumes and sessions.
func TestArrayRestartsUnderAWriter(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the array's process is killed under a writer")
	w := bed.Workers[0]
	v, dir := attached(ctx, t, bed, "leader", testbed.Mount("xfs"))
	startWriter(ctx, t, w, dir)
	must(t, bed.Array.RestartProcess(ctx))
	_, err := bed.Publish(ctx, v, bed.Workers[1])
	expectCode(t, err, codes.FailedPrecondition, w.ID)
	stopWriter(ctx, t, w)
	gone(ctx, t, bed, v)
}

// TestPoisonedNodeDatabaseHurtsNobodyElse is FM 29: the record of another
// target was cut by a crash.
func TestPoisonedNodeDatabaseHurtsNobodyElse(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the node database is cut by a crash")
	w := bed.Workers[0]
	v, _ := attached(ctx, t, bed, "poisoned", testbed.Mount("xfs"))
	sh(ctx, t, w.Guest, "find /etc/iscsi/nodes -type f -exec truncate -s 0 {} +")
	other, err := bed.Create(ctx, "neighbour", giB, nil, testbed.Mount("xfs"))
	must(t, err)
	must(t, bed.Attach(ctx, other, w, "pod-1"))
	must(t, bed.Detach(ctx, other, w, "pod-1"))
	must(t, bed.Delete(ctx, other))
	gone(ctx, t, bed, v)
}

// TestManyVolumesAtOnce is FM 27: parallel stages and unstages do not disturb each other.
func TestManyVolumesAtOnce(t *testing.T) {
	const volumes, workers = 12, 6
	ctx, bed := useBed(t)
	fault(t, "12 volumes, 6 at once")
	w := bed.Workers[0]
	all := make([]*testbed.Volume, volumes)
	each := func(do func(i int) error) { t.Helper(); share(t, volumes, workers, do) }
	each(func(i int) (err error) {
		all[i], err = bed.Create(ctx, fmt.Sprintf("many-%d", i), giB, nil, testbed.Mount("ext4"))
		return err
	})
	each(func(i int) error { return bed.Attach(ctx, all[i], w, fmt.Sprintf("pod-%d", i)) })
	if n := sh(ctx, t, w.Guest, "grep -c kubelet/pods /proc/mounts"); n != fmt.Sprint(volumes) {
		t.Errorf("%s mounts for pods, want %d", n, volumes)
	}
	if n := sh(ctx, t, w.Guest, "ls /sys/class/iscsi_session | wc -l"); n != fmt.Sprint(2*volumes) {
		t.Errorf("%s sessions, want %d", n, 2*volumes)
	}
	each(func(i int) error { return bed.Detach(ctx, all[i], w, fmt.Sprintf("pod-%d", i)) })
	each(func(i int) error { return bed.Delete(ctx, all[i]) })
}
