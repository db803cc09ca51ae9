//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// soon is in what time a question about health must be answered, whatever hangs.
const soon = 20 * time.Second

// complaints are what worker 1 finds wrong with a volume, as "DEGRADED PathsLost",
// and in its own words.
func complaints(ctx context.Context, t testing.TB, w *testbed.Worker, v *testbed.Volume) (short []string, words string) {
	t.Helper()
	limited, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	res, err := w.NodeGetVolumeHealth(limited, &csi.NodeGetVolumeHealthRequest{
		VolumeId: v.ID, VolumePublishPath: testbed.TargetPath(v, "pod-0"), StagingTargetPath: testbed.StagingPath(v),
	})
	must(t, err)
	for _, e := range res.GetVolumeHealth().GetHealthStatuses() {
		short = append(short, e.GetStatus().String()+" "+e.GetReason())
		words += "\n" + e.GetReason() + ": " + e.GetMessage()
	}
	slices.Sort(short)
	return short, words
}

// expectComplaints waits until these are what is wrong, and nothing else: the kernel
// notices some things late.
func expectComplaints(ctx context.Context, t testing.TB, w *testbed.Worker, v *testbed.Volume, want ...string) {
	t.Helper()
	slices.Sort(want)
	limited, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var got []string
	var words string
	err := eventually(limited, func() error {
		if got, words = complaints(ctx, t, w, v); !slices.Equal(got, want) {
			return context.DeadlineExceeded
		}
		return nil
	})
	t.Logf("the volume's health: %q%s", got, words)
	if err != nil {
		t.Errorf("the volume's health is %q, want %q", got, want)
	}
}

// expectStorage is the same of the node's way to its arrays.
func expectStorage(ctx context.Context, t testing.TB, w *testbed.Worker, want ...string) {
	t.Helper()
	limited, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	res, err := w.NodeGetStorageHealth(limited, &csi.NodeGetStorageHealthRequest{})
	must(t, err)
	var got []string
	for _, e := range res.GetBackendHealth() {
		got = append(got, e.GetStatus().String()+" "+e.GetReason())
	}
	if !slices.Equal(got, want) {
		t.Errorf("the storage's health is %q, want %q", got, want)
	}
}

// ailing makes a volume for a pod on a worker that repairs nothing by itself.
func ailing(t *testing.T, name, what string, as *csi.VolumeCapability) (context.Context, *testbed.Bed, *testbed.Volume) {
	t.Helper()
	ctx, bed := useBed(t)
	fault(t, what)
	flagged(ctx, t, bed.Workers[0], "--reconcile=off")
	v, _ := attached(ctx, t, bed, name, as)
	expectComplaints(ctx, t, bed.Workers[0], v)
	return ctx, bed, v
}

// TestHealthTellsOfLostPaths is FM 31: one portal is lost, then both, while the map
// queues for ever, which only device-mapper's own table tells. All is answered soon.
func TestHealthTellsOfLostPaths(t *testing.T) {
	ctx, bed, v := ailing(t, "lost-paths", "portals are lost; the map queues for ever", testbed.Mount("xfs"))
	w := bed.Workers[0]
	queueing(ctx, t, w)
	expectStorage(ctx, t, w)
	must(t, w.SetLink(ctx, 1, false))
	t.Cleanup(func() { setLinks(context.WithoutCancel(ctx), t, w, true) })
	expectComplaints(ctx, t, w, v, "DEGRADED PathsLost")
	expectStorage(ctx, t, w, "STORAGE_DEGRADED PortalUnreachable")
	must(t, w.SetLink(ctx, 0, false))
	expectComplaints(ctx, t, w, v, "INACCESSIBLE NoPath", "INACCESSIBLE IOQueued")
	expectStorage(ctx, t, w, "STORAGE_UNREACHABLE ArrayUnreachable")
	// A reader of the file system is stuck now; the questions are not.
	sh(ctx, t, w.Guest, "(setsid dd if=/dev/zero of="+testbed.TargetPath(v, "pod-0")+"/stuck bs=4k count=1 conv=fsync >/dev/null 2>&1 </dev/null &)")
	for range 3 {
		inTime(ctx, t, "stats without a path", soon, func(ctx context.Context) error {
			_, err := w.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: v.ID, VolumePath: testbed.TargetPath(v, "pod-0"), StagingTargetPath: testbed.StagingPath(v)})
			return err
		})
	}
	expectComplaints(ctx, t, w, v, "INACCESSIBLE NoPath", "INACCESSIBLE IOQueued")
	setLinks(ctx, t, w, true)
	expectComplaints(ctx, t, w, v)
	expectStorage(ctx, t, w)
	gone(ctx, t, bed, v)
}

// TestHealthTellsOfSessionsThatAreGone: a session is logged out by hand; then all
// are, and with them the disks, so that the map that is mounted has no path left.
// Such a volume can still be unpublished and unstaged (FM 5).
func TestHealthTellsOfSessionsThatAreGone(t *testing.T) {
	ctx, bed, v := ailing(t, "logged-off", "sessions are logged out by hand, all disks go", testbed.Mount("xfs"))
	w := bed.Workers[0]
	target := targetOf(ctx, t, bed, v)
	logOut(ctx, t, w, target, 1)
	expectComplaints(ctx, t, w, v, "DEGRADED PathsLost")
	expectStorage(ctx, t, w) // no session there is none that failed
	target.Portals = target.Portals[1:]
	logOut(ctx, t, w, target, 1)
	got, words := complaints(ctx, t, w, v)
	t.Log(words)
	if !slices.Contains(got, "INACCESSIBLE NoPath") { // for how long it queues multipath says
		t.Errorf("the volume's health is %q, want NoPath in it", got)
	}
	if n := sh(ctx, t, w.Guest, "ls -d /sys/block/sd* 2>/dev/null | wc -l; cat /sys/block/dm-*/dm/uuid | grep -c mpath"); n != "0\n1" {
		t.Errorf("disks and maps: %q, want a map without any", n)
	}
	must(t, eventually(ctx, func() error { return w.UnpublishFrom(ctx, v, "pod-0") }))
	must(t, eventually(ctx, func() error { return w.Unstage(ctx, v) }))
	must(t, bed.Unpublish(ctx, v, w))
	must(t, bed.Delete(ctx, v))
}

// TestHealthTellsOfALostDevice is the same without a map: the disk that is mounted
// goes, and its LUN comes back as another.
func TestHealthTellsOfALostDevice(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the disk that is mounted goes and comes back as another")
	w := bed.Workers[0]
	flagged(ctx, t, w, "--reconcile=off")
	sh(ctx, t, w.Guest, "pkill -x multipathd; while pgrep -x multipathd >/dev/null; do sleep 0.1; done")
	t.Cleanup(func() { sh(context.WithoutCancel(ctx), t, w.Guest, "multipathd") })
	v, dir := attached(ctx, t, bed, "lost-disk", testbed.Mount("xfs"))
	sum := write(ctx, t, w, dir+"/data", 64)
	expectComplaints(ctx, t, w, v, "DEGRADED SinglePath")
	target := targetOf(ctx, t, bed, v)
	sh(ctx, t, w.Guest, "iscsiadm -m node -T "+target.IQN+" -u >/dev/null")
	expectComplaints(ctx, t, w, v, "INACCESSIBLE NoPath", "INACCESSIBLE DeviceLost")
	published, err := bed.Publish(ctx, v, w)
	must(t, err)
	// What the pod has is dead, and the disk is another. The kubelet's own mkdir fails there.
	_, err = w.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.ID, PublishContext: published, StagingTargetPath: testbed.StagingPath(v), VolumeCapability: v.Capability, VolumeContext: v.Context,
	})
	if err == nil {
		t.Error("staged over a dead mount that a pod uses")
	} else {
		t.Log(err)
	}
	expectComplaints(ctx, t, w, v, "DEGRADED SinglePath", "INACCESSIBLE DeviceLost", "INACCESSIBLE ForeignMount")
	must(t, w.UnpublishFrom(ctx, v, "pod-0"))
	expectCode(t, w.Unstage(ctx, v), codes.DataLoss, v.ID) // told once: what was not synced went with the device
	must(t, bed.Detach(ctx, v, w, "pod-0"))
	must(t, bed.Attach(ctx, v, w, "pod-0"))
	if got := checksum(ctx, t, w, dir+"/data"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	gone(ctx, t, bed, v)
}

// TestHealthTellsOfABrokenFileSystem: xfs that shut down, and ext4 in which the
// kernel found an error and to which it lets nobody write any more. Mounted anew
// both work; ext4 remembers its errors.
func TestHealthTellsOfABrokenFileSystem(t *testing.T) {
	for fs, c := range map[string]struct {
		breaks      string
		want, later []string
		as          *csi.VolumeCapability
	}{
		"xfs": {"xfs_io -x -c shutdown %", []string{"INACCESSIBLE FilesystemShutDown"}, nil, testbed.Mount("xfs")},
		"ext4": {
			"echo 1 > /sys/fs/ext4/$(findmnt -no SOURCE % | xargs readlink -f | xargs basename)/trigger_fs_error",
			[]string{"INACCESSIBLE FilesystemReadOnly", "DEGRADED FilesystemErrors"},
			[]string{"DEGRADED FilesystemErrors"}, testbed.Mount("ext4", "errors=remount-ro"),
		},
	} {
		t.Run(fs, func(t *testing.T) {
			ctx, bed, v := ailing(t, "broken-"+fs, "the kernel stops a file system", c.as)
			w := bed.Workers[0]
			sh(ctx, t, w.Guest, strings.ReplaceAll(c.breaks, "%", testbed.StagingPath(v)))
			expectComplaints(ctx, t, w, v, c.want...)
			if code := exitCode(ctx, t, w.Guest, "touch "+testbed.TargetPath(v, "pod-0")+"/new"); code == 0 {
				t.Error("it can be written to")
			}
			must(t, w.UnpublishFrom(ctx, v, "pod-0"))
			if fs == "xfs" {
				expectCode(t, w.Unstage(ctx, v), codes.DataLoss, v.ID) // told once: what was not synced is lost
			}
			must(t, bed.Detach(ctx, v, w, "pod-0"))
			must(t, bed.Attach(ctx, v, w, "pod-0"))
			expectComplaints(ctx, t, w, v, c.later...)
			sh(ctx, t, w.Guest, "touch "+testbed.TargetPath(v, "pod-0")+"/new")
			gone(ctx, t, bed, v)
		})
	}
}

// TestHealthTellsOfStrangeMounts is FM 7 and 8: what lies over the volume's own
// mounts is told, and never used or taken off as if it were the volume.
func TestHealthTellsOfStrangeMounts(t *testing.T) {
	ctx, bed, v := ailing(t, "covered", "strange mounts lie over the volume's", testbed.Mount("xfs"))
	w := bed.Workers[0]
	staging, dir := testbed.StagingPath(v), testbed.TargetPath(v, "pod-0")
	published, err := bed.Publish(ctx, v, w)
	must(t, err)
	// Private first, or what is mounted on one path shows on the other, too.
	cover := func(path string) {
		sh(ctx, t, w.Guest, fmt.Sprintf("mount --make-private %[1]s; mount -t tmpfs strange %[1]s; touch %[1]s/theirs", path))
	}
	refused := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s a stranger's mount", what)
		}
		t.Logf("%s: %v", what, err)
	}

	cover(dir)
	expectComplaints(ctx, t, w, v, "DEGRADED StackedMounts", "INACCESSIBLE ForeignMount")
	refused("published over", w.PublishTo(ctx, v, published, "pod-0"))
	refused("took off", w.UnpublishFrom(ctx, v, "pod-0"))
	sh(ctx, t, w.Guest, "test -e "+dir+"/theirs; umount "+dir)
	expectComplaints(ctx, t, w, v)

	cover(staging)
	expectComplaints(ctx, t, w, v, "DEGRADED StackedMounts", "INACCESSIBLE DeviceLost")
	refused("published", w.PublishTo(ctx, v, published, "pod-1"))
	refused("took for staged", w.Stage(ctx, v, published))
	must(t, w.UnpublishFrom(ctx, v, "pod-1"))
	must(t, w.UnpublishFrom(ctx, v, "pod-0"))
	refused("took off", w.Unstage(ctx, v))
	sh(ctx, t, w.Guest, "test -e "+staging+"/theirs; umount "+staging)
	must(t, w.Unstage(ctx, v))
	must(t, bed.Unpublish(ctx, v, w))
	must(t, bed.Delete(ctx, v))
}
