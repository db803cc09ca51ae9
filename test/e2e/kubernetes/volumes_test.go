//go:build e2e

package kubernetes_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// fill writes data into a pod's volume, synced, and returns its checksum.
func (r *room) fill(pod string) string {
	r.Helper()
	return r.exec(pod, "dd if=/dev/urandom of=/data/rows bs=64k count=32 2>/dev/null; sync; sha256sum </data/rows")
}

func (r *room) expectRows(pod, want string) {
	r.Helper()
	if got := r.exec(pod, "sha256sum </data/rows"); got != want {
		r.Errorf("%s reads other data: %s, want %s", pod, got, want)
	}
}

// gib is the size of the file system at /data of a pod.
func (r *room) gib(pod string) string {
	r.Helper()
	return r.exec(pod, "df -Pk /data | awk 'END {printf \"%.0f\", $2/1048576}'")
}

func snapshot(name, claim string) string {
	return fmt.Sprintf(`{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshot, metadata: {name: %s},
  spec: {volumeSnapshotClassName: datera, source: {persistentVolumeClaimName: %s}}}`, name, claim)
}

const snapshotClass = `{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshotClass, metadata: {name: datera}, driver: dsp.csi.daterainc.io, deletionPolicy: Delete}`

// A snapshot keeps what was there, and a volume of it may be larger from the start.
func TestSnapshotRestoresLarger(t *testing.T) {
	r := useCluster(t)
	if err := r.Apply(r.ctx, snapshotClass); err != nil {
		t.Fatal(err)
	}
	r.apply(claim("data", 2, once), pod("writer", "data", ""))
	r.ready("writer")
	sum := r.fill("writer")
	r.apply(snapshot("today", "data"))
	r.expect("true", "{.status.readyToUse}", "volumesnapshot", "today")
	r.exec("writer", "rm /data/rows; sync")
	r.apply(claim("restored", 4, once+", dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: today}"), pod("reader", "restored", ""))
	r.ready("reader")
	r.expectRows("reader", sum)
	if got := r.gib("reader"); got != "4" {
		t.Errorf("the restored file system has %s GiB, want 4", got)
	}
	r.kubectl("delete", "pod", "reader", "writer")
	r.kubectl("delete", "pvc", "restored")
	r.kubectl("delete", "volumesnapshot", "today")
}

// A clone is a volume of its own, whatever becomes of its source.
func TestCloneIsIndependent(t *testing.T) {
	r := useCluster(t)
	r.apply(claim("data", 2, once), pod("writer", "data", ""))
	r.ready("writer")
	sum := r.fill("writer")
	r.apply(claim("copy", 2, once+", dataSource: {kind: PersistentVolumeClaim, name: data}"), pod("reader", "copy", ""))
	r.ready("reader")
	r.expectRows("reader", sum)
	r.exec("reader", "echo other >/data/rows; sync")
	r.expectRows("writer", sum)
}

// A volume grows while a pod writes to it, and the pod sees the space without a restart.
func TestVolumeGrowsUnderLoad(t *testing.T) {
	r := useCluster(t)
	r.apply(claim("data", 2, once), pod("writer", "data", ""))
	r.ready("writer")
	r.exec("writer", loop)
	r.kubectl("patch", "pvc", "data", "-p", `{"spec":{"resources":{"requests":{"storage":"5Gi"}}}}`)
	r.expect("5Gi", "{.status.capacity.storage}", "pvc", "data")
	if got := r.gib("writer"); got != "5" {
		t.Errorf("the pod sees %s GiB, want 5", got)
	}
	r.expectUnbroken("writer", 30)
	if n := r.field("{.status.containerStatuses[0].restartCount}", "pod", "writer"); n != "0" {
		t.Errorf("the pod was restarted %s times", n)
	}
}

// loop appends a line a moment to /data/log, each synced, and notes the longest wait and any error. It outlives
// the call that starts it; busybox has no nohup.
const loop = `sh -c '
  trap "" HUP
  worst=0
  while :; do
    before=$(date +%s)
    date +%s >>/data/log && sync -d /data/log || { date >>/tmp/failed; break; }
    took=$(( $(date +%s) - before )); [ $took -le $worst ] || { worst=$took; echo $worst >/tmp/worst; }
    sleep 0.2
  done' >/dev/null 2>&1 &`

// expectUnbroken checks that the loop is still writing, had no error and no stall longer than some seconds.
func (r *room) expectUnbroken(pod string, seconds int) {
	r.Helper()
	lines := func() string { return r.exec(pod, "wc -l </data/log") }
	before := lines()
	r.eventually("the writer to go on", func() error {
		if lines() == before {
			return errors.New("no line was added")
		}
		return nil
	})
	got := r.exec(pod, fmt.Sprintf("cat /tmp/failed 2>/dev/null || :; w=$(cat /tmp/worst 2>/dev/null || echo 0); [ $w -le %d ] || echo a write took $w s", seconds))
	if got != "" {
		r.Errorf("the writer says: %s", got)
	}
}

// A change of VolumeAttributesClass reaches the array while the volume is used.
func TestAttributesClassChangesLimitsOnTheArray(t *testing.T) {
	r := useCluster(t)
	r.apply(claim("data", 2, once+", volumeAttributesClassName: datera-slow"), pod("writer", "data", ""))
	r.ready("writer")
	limits := func() string {
		var volume struct {
			Policy struct {
				IOPS      int `json:"total_iops_max"`
				Bandwidth int `json:"total_bandwidth_max"`
			} `json:"performance_policy"`
		}
		if err := r.Array.REST(r.ctx, http.MethodGet, "/app_instances/"+r.app("data")+"/storage_instances/storage-1/volumes/volume-1", nil, &volume); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(volume.Policy.IOPS, volume.Policy.Bandwidth)
	}
	if got := limits(); got != "500 20480" {
		t.Errorf("made with limits %s, want those of datera-slow", got)
	}
	r.kubectl("patch", "pvc", "data", "-p", `{"spec":{"volumeAttributesClassName":"datera-fast"}}`)
	r.expect("datera-fast", "{.status.currentVolumeAttributesClassName}", "pvc", "data")
	if got := limits(); got != "50000 1024000" {
		t.Errorf("the array has limits %s, want those of datera-fast", got)
	}
	r.exec("writer", "echo still >/data/there; sync")
}

// A block claim is a bare device: nothing is written to it that the pod did not write, and it grows, too.
func TestRawBlock(t *testing.T) {
	r := useCluster(t)
	device := strings.NewReplacer("volumeMounts", "volumeDevices", "mountPath: /data", "devicePath: /dev/data").
		Replace(pod("disk", "disk", ""))
	device = strings.Replace(device, "name: shell,", "name: shell, securityContext: {privileged: false},", 1)
	r.apply(claim("disk", 2, once+", volumeMode: Block"), device)
	r.ready("disk")
	if got := r.exec("disk", "blockdev --getsize64 /dev/data; head -c 1048576 /dev/data | tr -d '\\000' | wc -c"); got != "2147483648\n0" {
		t.Errorf("size and bytes that are not zero: %q", got)
	}
	sum := r.exec("disk", "dd if=/dev/urandom of=/tmp/rows bs=64k count=16 2>/dev/null; dd if=/tmp/rows of=/dev/data bs=64k conv=fsync 2>/dev/null; sha256sum </tmp/rows")
	r.kubectl("delete", "pod", "disk")
	r.apply(device)
	r.ready("disk")
	if got := r.exec("disk", "head -c 1048576 /dev/data | sha256sum"); got != sum {
		t.Errorf("read back %s, wrote %s", got, sum)
	}
	r.kubectl("patch", "pvc", "disk", "-p", `{"spec":{"resources":{"requests":{"storage":"3Gi"}}}}`)
	r.eventually("the device to grow", func() error {
		if got := r.exec("disk", "blockdev --getsize64 /dev/data"); got != "3221225472" {
			return fmt.Errorf("it has %s bytes", got)
		}
		return nil
	})
}

// A generic ephemeral volume lives as long as its pod.
func TestEphemeralVolumeGoesWithItsPod(t *testing.T) {
	r := useCluster(t)
	r.kubectl("apply", "-f", examples("claims.yaml"), "--selector=!app", "--dry-run=server")
	scratch := strings.Replace(pod("scratch", "none", ""), "persistentVolumeClaim: {claimName: none}",
		"ephemeral: {volumeClaimTemplate: {spec: {storageClassName: datera, accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Gi}}}}}", 1)
	r.apply(scratch)
	r.ready("scratch")
	r.fill("scratch")
	r.kubectl("delete", "pod", "scratch")
	r.expect("", "{.items[*].metadata.name}", "pvc")
	r.emptied(4 * time.Minute)
}

// A file system that the kernel stopped is mounted anew for the pod that follows on the same node, although that
// waited before the first was gone, as a Deployment's does: the kubelet neither unstages nor stages the volume then.
func TestAStoppedFileSystemIsMountedAnewForTheNextPod(t *testing.T) {
	r := useCluster(t)
	r.apply(claim("data", 2, once), pod("first", "data", ""))
	r.ready("first")
	sum := r.fill("first")
	node := r.node("first")
	if _, err := node.Shell(r.ctx, "xfs_io -x -c shutdown $(findmnt -rno TARGET -t xfs | grep globalmount)"); err != nil {
		t.Fatal(err)
	}
	r.apply(pod("second", "data", "nodeName: "+node.Name+","))
	r.eventually("the second pod to be told why it waits", func() error {
		events := r.field("{.items[*].message}", "events", "--field-selector=involvedObject.name=second")
		if !strings.Contains(events, "delete the volume's pods") {
			return errors.New("its events are: " + events)
		}
		return nil
	})
	r.kubectl("delete", "pod", "first")
	r.ready("second")
	r.expectRows("second", sum)
	r.exec("second", "echo more >/data/more; sync")
}
