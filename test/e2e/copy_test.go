//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// copied makes a volume with the content of another one, or of a snapshot.
func copied(ctx context.Context, t testing.TB, bed *testbed.Bed, name string, from *csi.VolumeContentSource, as *csi.VolumeCapability) *testbed.Volume {
	t.Helper()
	res, err := bed.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:                name,
		CapacityRange:       &csi.CapacityRange{RequiredBytes: giB},
		VolumeCapabilities:  []*csi.VolumeCapability{as},
		VolumeContentSource: from,
	})
	must(t, err)
	v := res.GetVolume()
	return &testbed.Volume{Name: name, ID: v.GetVolumeId(), Context: v.GetVolumeContext(), Capability: as}
}

func contentOf(v *testbed.Volume) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: v.ID},
	}}
}

// snapshot makes one of a volume, and what deletes it.
func snapshot(ctx context.Context, t testing.TB, bed *testbed.Bed, v *testbed.Volume) (content *csi.VolumeContentSource, remove func()) {
	t.Helper()
	res, err := bed.Controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: v.ID, Name: "snapshot-" + v.Name})
	must(t, err)
	if !res.GetSnapshot().GetReadyToUse() {
		t.Fatalf("the snapshot is not ready: %v", res)
	}
	id := res.GetSnapshot().GetSnapshotId()
	content = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id},
	}}
	return content, func() {
		t.Helper()
		_, err := bed.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: id})
		must(t, err)
	}
}

// TestACloneIsUsedBesideItsSource is FM 17: a clone has the UUID of its source's
// file system, which is in use on the same worker when the clone is made and
// mounted. Both are written to, and each keeps what is its own.
func TestACloneIsUsedBesideItsSource(t *testing.T) {
	for _, fsType := range []string{"xfs", "ext4"} {
		t.Run(fsType, func(t *testing.T) {
			ctx, bed := useBed(t)
			fault(t, "two file systems of one UUID on one node")
			w := bed.Workers[0]
			v, dir := attached(ctx, t, bed, "twin-source", testbed.Mount(fsType))
			sum := write(ctx, t, w, dir+"/data", 64)
			clone := copied(ctx, t, bed, "twin-clone", contentOf(v), testbed.Mount(fsType))
			cloneDir := testbed.TargetPath(clone, "pod-0")
			must(t, bed.Attach(ctx, clone, w, "pod-0"))
			uuids := sh(ctx, t, w.Guest, "for d in "+dir+" "+cloneDir+"; do blkid -p -s UUID -o value $(findmnt -no SOURCE $d); done | uniq | wc -l")
			if uuids != "1" {
				t.Errorf("the file systems have %s UUIDs, so that this test shows nothing", uuids)
			}
			own := map[string]string{dir: write(ctx, t, w, dir+"/own", 64), cloneDir: write(ctx, t, w, cloneDir+"/own", 64)}
			expectOwn := func() {
				t.Helper()
				for d, want := range own {
					if got := checksum(ctx, t, w, d+"/own"); got != want {
						t.Errorf("%s: what was written there has checksum %s, had %s", d, got, want)
					}
					if got := checksum(ctx, t, w, d+"/data"); got != sum {
						t.Errorf("%s: what was cloned has checksum %s, had %s", d, got, sum)
					}
				}
			}
			expectOwn()
			must(t, bed.Detach(ctx, v, w, "pod-0"))
			must(t, bed.Detach(ctx, clone, w, "pod-0"))
			must(t, bed.Attach(ctx, clone, w, "pod-0")) // the clone first
			must(t, bed.Attach(ctx, v, w, "pod-0"))
			expectOwn()
			gone(ctx, t, bed, clone)
			gone(ctx, t, bed, v)
		})
	}
}

// TestReadersOfADirtySnapshotWriteNothing is FM 16 and 18: a snapshot is taken of a
// volume that is mounted, so that its journal is to be replayed. Two workers read a
// volume made of it at once, and not a byte of it changes: without the replay they
// need not see what only the journal has, but all that is older. A writer replays
// it, and has everything that was synced.
func TestReadersOfADirtySnapshotWriteNothing(t *testing.T) {
	// Of the volume's file on the array: is its journal to be replayed?
	dirty := map[string]string{
		"xfs":  "xfs_logprint -t %s 2>/dev/null | grep -c '<DIRTY>'",
		"ext4": "dumpe2fs -h %s 2>/dev/null | grep -c needs_recovery",
	}
	for fsType, isDirty := range dirty {
		t.Run(fsType, func(t *testing.T) {
			ctx, bed := useBed(t)
			fault(t, "a snapshot of a mounted file system")
			one, two := bed.Workers[0], bed.Workers[1]
			v, dir := attached(ctx, t, bed, "dirty-source", testbed.Mount(fsType))
			old := write(ctx, t, one, dir+"/old", 64)
			must(t, bed.Detach(ctx, v, one, "pod-0")) // and so it is in its place
			must(t, bed.Attach(ctx, v, one, "pod-0"))
			recent := write(ctx, t, one, dir+"/recent", 64)
			content, removeSnapshot := snapshot(ctx, t, bed, v)

			as := testbed.Mount(fsType)
			as.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
			read := copied(ctx, t, bed, "dirty-readers", content, as)
			expectReadersWriteNothing(ctx, t, bed, read, isDirty, old)
			must(t, bed.Delete(ctx, read))

			restored := copied(ctx, t, bed, "dirty-restored", content, testbed.Mount(fsType))
			must(t, bed.Attach(ctx, restored, two, "pod-0"))
			for name, want := range map[string]string{"old": old, "recent": recent} {
				if got := checksum(ctx, t, two, testbed.TargetPath(restored, "pod-0")+"/"+name); got != want {
					t.Errorf("a writer reads %s with checksum %s, was %s", name, got, want)
				}
			}
			must(t, bed.Detach(ctx, restored, two, "pod-0"))
			must(t, bed.Delete(ctx, restored))
			removeSnapshot()
			gone(ctx, t, bed, v)
		})
	}
}

// expectReadersWriteNothing reads a volume on both workers at once. Its blocks are
// shared with the snapshot, so that any write at all gives it others.
func expectReadersWriteNothing(ctx context.Context, t testing.TB, bed *testbed.Bed, v *testbed.Volume, isDirty, old string) {
	t.Helper()
	published, err := bed.Publish(ctx, v, bed.Workers[0])
	must(t, err)
	file, err := bed.Array.BackingFile(ctx, published)
	must(t, err)
	if n := sh(ctx, t, bed.Array.Guest, fmt.Sprintf(isDirty+" || true", file)); n != "1" {
		t.Fatalf("the snapshot's journal is clean, so that this test shows nothing: %q", n)
	}
	content := "xfs_bmap " + file + "; md5sum < " + file
	before := sh(ctx, t, bed.Array.Guest, content)
	dir := testbed.TargetPath(v, "pod-0")
	atOnce(t, len(bed.Workers), func(n int) { must(t, bed.Attach(ctx, v, bed.Workers[n], "pod-0")) })
	for _, w := range bed.Workers {
		if got := checksum(ctx, t, w, dir+"/old"); got != old {
			t.Errorf("%s reads checksum %s, was %s", w.Name, got, old)
		}
		if code := exitCode(ctx, t, w.Guest, "touch "+dir+"/new"); code == 0 {
			t.Errorf("%s can write", w.Name)
		}
	}
	atOnce(t, len(bed.Workers), func(n int) { must(t, bed.Detach(ctx, v, bed.Workers[n], "pod-0")) })
	if after := sh(ctx, t, bed.Array.Guest, content); after != before {
		t.Errorf("the volume was written to; its blocks and a checksum were\n%s\nand are\n%s", before, after)
	}
}
