//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

const miB = 1 << 20

// TestADiskThatFailsForAWhileIsWaitedFor is FM 1 over two paths: the array's disk
// fails under the probe of a new volume. Linux' target calls that a failure of the
// path, so the map tries again and again; the call ends with its caller, its work
// when the disk is well again, and the repeated call finds the volume staged.
func TestADiskThatFailsForAWhileIsWaitedFor(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the array's disk fails at the probe, for ten seconds")
	w := bed.Workers[0]
	v, published, file := zeros(ctx, t, bed)
	mend := breakDisk(ctx, t, bed, file, 0, 4*miB)
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := w.Stage(limited, v, published); err == nil {
		t.Fatal("staged from a disk that fails")
	}
	expectZeros(ctx, t, bed, file)
	mend()
	must(t, eventually(ctx, func() error { return w.Stage(ctx, v, published) }))
	must(t, w.PublishTo(ctx, v, published, "pod-0"))
	write(ctx, t, w, testbed.TargetPath(v, "pod-0")+"/data", 64)
	gone(ctx, t, bed, v)
}

// diskFailures are FM 1 where no map hides them: the array's disk fails under a
// volume at some moment of a stage. The stage is an error, nothing is taken for
// empty, and when the disk is well again everything is there.
func diskFailures() map[string]func(context.Context, *testing.T, *testbed.Bed) {
	return map[string]func(context.Context, *testing.T, *testbed.Bed){
		"a new volume that cannot be read is not formatted": failAtProbe,
		"a volume whose head cannot be read is not formatted": func(ctx context.Context, t *testing.T, bed *testbed.Bed) {
			_ = failWithData(ctx, t, bed, "xfs", 0, 64<<10) // whatever the error is
		},
		"a disk that fails under mkfs is an error": failAtMkfs,
		// Of 1 GiB of xfs the log is in the middle, and the probe reads only its first blocks.
		"a disk that fails under mount is an error": func(ctx context.Context, t *testing.T, bed *testbed.Bed) {
			failAtMount(ctx, t, bed, "xfs", 530*miB, 600*miB)
		},
		// Of 1 GiB of ext4 the journal begins right in the middle.
		"a disk that fails under mount of ext4 is an error": func(ctx context.Context, t *testing.T, bed *testbed.Bed) {
			failAtMount(ctx, t, bed, "ext4", 512*miB, 544*miB)
		},
	}
}

// failAtMount is FM 16: a disk that cannot be read is no damaged file system. The
// stage is to be tried again, and nothing is checked or repaired, though the
// volume's class asks for that.
func failAtMount(ctx context.Context, t *testing.T, bed *testbed.Bed, fsType string, from, to int64) {
	t.Helper()
	ran := withoutCheckers(ctx, t, bed.Workers[0])
	err := failWithData(ctx, t, bed, fsType, from, to)
	expectCode(t, err, codes.Unavailable)
	if strings.Contains(err.Error(), "damaged") {
		t.Errorf("what cannot be read is called damaged: %v", err)
	}
	if argv := ran(); argv != "" {
		t.Errorf("a disk that cannot be read was checked: %s", argv)
	}
}

// withoutCheckers puts something in the place of a worker's checkers of file
// systems that only notes how it was called, until the test ends.
func withoutCheckers(ctx context.Context, t testing.TB, w *testbed.Worker) (ran func() string) {
	t.Helper()
	const each = "for tool in e2fsck xfs_repair; do %s $(readlink -f $(command -v $tool)); done"
	sh(ctx, t, w.Guest, `rm -f /run/checked; cat > /run/checker <<'END'
#!/bin/sh
echo "$0 $*" >> /run/checked
exit 8
END
chmod 755 /run/checker; `+fmt.Sprintf(each, "mount --bind /run/checker"))
	t.Cleanup(func() { sh(context.WithoutCancel(ctx), t, w.Guest, fmt.Sprintf(each, "umount")) })
	return func() string { t.Helper(); return sh(ctx, t, w.Guest, "cat /run/checked 2>/dev/null || true") }
}

// breakDisk is Array.Break; what it returns, or else the test's end, mends it.
func breakDisk(ctx context.Context, t testing.TB, bed *testbed.Bed, file string, from, to int64) (mend func()) {
	t.Helper()
	must(t, bed.Array.Break(ctx, file, from, to))
	mended := false
	mend = func() {
		if !mended {
			mended = true
			must(t, bed.Array.Mend(context.WithoutCancel(ctx)))
		}
	}
	t.Cleanup(mend)
	return mend
}

// zeros is a published volume whose first 4 MiB are zeros that are really there: a
// hole is read without the disk.
func zeros(ctx context.Context, t testing.TB, bed *testbed.Bed) (*testbed.Volume, map[string]string, string) {
	t.Helper()
	v, err := bed.Create(ctx, "unreadable", giB, nil, testbed.Mount("xfs"))
	must(t, err)
	published, err := bed.Publish(ctx, v, bed.Workers[0])
	must(t, err)
	file, err := bed.Array.BackingFile(ctx, published)
	must(t, err)
	sh(ctx, t, bed.Array.Guest, "dd if=/dev/zero of="+file+" bs=1M count=4 conv=notrunc,fsync status=none")
	return v, published, file
}

// expectZeros says that nothing was written since zeros.
func expectZeros(ctx context.Context, t testing.TB, bed *testbed.Bed, file string) {
	t.Helper()
	if blocks := sh(ctx, t, bed.Array.Guest, "stat -c %b "+file); blocks != "8192" {
		t.Errorf("%s sectors of the volume are written, were 8192", blocks)
	}
}

// stageFails stages with the patience of kubelet and expects an error.
func stageFails(ctx context.Context, t testing.TB, w *testbed.Worker, v *testbed.Volume, published map[string]string) error {
	t.Helper()
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	err := w.Stage(limited, v, published)
	if err == nil {
		t.Fatal("staged from a disk that fails")
	}
	t.Logf("after %v: %v", time.Since(began).Round(time.Second), err)
	return err
}

func failAtProbe(ctx context.Context, t *testing.T, bed *testbed.Bed) {
	w := bed.Workers[0]
	v, published, file := zeros(ctx, t, bed)
	mend := breakDisk(ctx, t, bed, file, 0, 4*miB)
	_ = stageFails(ctx, t, w, v, published) // whatever the error is
	mend()
	expectZeros(ctx, t, bed, file)
	must(t, eventually(ctx, func() error { return w.Stage(ctx, v, published) }))
	must(t, w.PublishTo(ctx, v, published, "pod-0"))
	write(ctx, t, w, testbed.TargetPath(v, "pod-0")+"/data", 64)
	gone(ctx, t, bed, v)
}

// allocated tells which blocks of a file are allocated, and a checksum of its
// beginning, its middle and its end, of 1 GiB.
const allocated = "xfs_bmap %[1]s; for at in 0 64 65 127; do dd if=%[1]s bs=8M count=1 skip=$at status=none; done | sha256sum"

// failWithData lets a part of a volume fail that holds a file system with data, of
// a class that asks for repairs. It returns how the stage failed.
func failWithData(ctx context.Context, t *testing.T, bed *testbed.Bed, fsType string, from, to int64) error {
	t.Helper()
	w := bed.Workers[0]
	v, err := bed.Create(ctx, "lost-head", giB, map[string]string{"fsck": "preen"}, testbed.Mount(fsType))
	must(t, err)
	must(t, bed.Attach(ctx, v, w, "pod-0"))
	dir := testbed.TargetPath(v, "pod-0")
	sum := write(ctx, t, w, dir+"/data", 256)
	must(t, bed.Detach(ctx, v, w, "pod-0"))
	published, err := bed.Publish(ctx, v, w)
	must(t, err)
	file, err := bed.Array.BackingFile(ctx, published)
	must(t, err)
	before := sh(ctx, t, bed.Array.Guest, fmt.Sprintf(allocated, file))
	mend := breakDisk(ctx, t, bed, file, from, to)
	failed := stageFails(ctx, t, w, v, published)
	mend()
	if after := sh(ctx, t, bed.Array.Guest, fmt.Sprintf(allocated, file)); after != before {
		t.Error("the volume was written to")
	}
	must(t, eventually(ctx, func() error { return w.Stage(ctx, v, published) }))
	must(t, w.PublishTo(ctx, v, published, "pod-0"))
	if got := checksum(ctx, t, w, dir+"/data"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	gone(ctx, t, bed, v)
	return failed
}

// failAtMkfs lets the disk fail when the volume was proven empty and mkfs is
// about to begin.
func failAtMkfs(ctx context.Context, t *testing.T, bed *testbed.Bed) {
	w := bed.Workers[0]
	v, err := bed.Create(ctx, "no-mkfs", giB, nil, testbed.Mount("xfs"))
	must(t, err)
	published, err := bed.Publish(ctx, v, w)
	must(t, err)
	file, err := bed.Array.BackingFile(ctx, published)
	must(t, err)
	release, err := w.HoldAt(ctx, "stage: format begun")
	must(t, err)
	staged := make(chan error, 1)
	go func() { staged <- w.Stage(ctx, v, published) }()
	must(t, w.AwaitHeld(ctx, "stage: format begun"))
	// Its blocks are allocated now, so that it is known where mkfs will write.
	sh(ctx, t, bed.Array.Guest, fmt.Sprintf("fallocate -l %d %s", int64(giB), file))
	mend := breakDisk(ctx, t, bed, file, 0, giB)
	must(t, release(ctx))
	if err := <-staged; err == nil {
		t.Fatal("staged on a disk that fails")
	} else {
		t.Log(err)
	}
	mend()
	must(t, eventually(ctx, func() error { return w.Stage(ctx, v, published) }))
	must(t, w.PublishTo(ctx, v, published, "pod-0"))
	dir := testbed.TargetPath(v, "pod-0")
	sum := write(ctx, t, w, dir+"/data", 256)
	must(t, bed.Detach(ctx, v, w, "pod-0"))
	must(t, bed.Attach(ctx, v, w, "pod-0"))
	if got := checksum(ctx, t, w, dir+"/data"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	gone(ctx, t, bed, v)
}

// TestAFullArrayTakesNothingBack fills the array under a writer: what it
// acknowledged before is there, what it could not take is an error or waits, and
// with room again all goes on.
func TestAFullArrayTakesNothingBack(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the array's disk is full")
	w := bed.Workers[0]
	v, dir := attached(ctx, t, bed, "full", testbed.Mount("xfs"))
	sum := write(ctx, t, w, dir+"/data", 1024)
	release, err := bed.Array.Fill(ctx, 16*miB)
	must(t, err)
	t.Cleanup(func() { must(t, release(context.WithoutCancel(ctx))) })
	sh(ctx, t, w.Guest, "rm -f /run/large; setsid sh -c 'dd if=/dev/urandom of="+dir+"/large bs=1M count=96 conv=fsync; echo $? > /run/large' >/dev/null 2>&1 </dev/null &")
	sh(ctx, t, w.Guest, "timeout 15 sh -c 'until [ -s /run/large ]; do sleep 0.3; done' || true")
	if end := sh(ctx, t, w.Guest, "cat /run/large 2>/dev/null || true"); end == "0" {
		t.Error("a full array acknowledged 96 MiB, and has room for 16")
	} else {
		t.Logf("the writer ended within 15 s: %q", end)
	}
	must(t, release(ctx))
	sh(ctx, t, w.Guest, "timeout 120 sh -c 'until [ -s /run/large ]; do sleep 0.3; done'")
	must(t, w.UnpublishFrom(ctx, v, "pod-0"))
	must(t, eventually(ctx, func() error { return w.Unstage(ctx, v) }))
	must(t, bed.Unpublish(ctx, v, w))
	must(t, bed.Attach(ctx, v, w, "pod-0"))
	if got := checksum(ctx, t, w, dir+"/data"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	write(ctx, t, w, dir+"/more", 1024)
	gone(ctx, t, bed, v)
}
