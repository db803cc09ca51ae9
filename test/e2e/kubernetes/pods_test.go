//go:build e2e

package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
)

// ReadWriteOncePod admits one pod of the whole cluster; the next waits until it is gone.
func TestReadWriteOncePod(t *testing.T) {
	r := useCluster(t)
	r.apply(claim("data", 2, "accessModes: [ReadWriteOncePod]"), pod("one", "data", ""))
	r.ready("one")
	sum := r.fill("one")
	r.apply(pod("two", "data", ""))
	r.expect("False", `{.status.conditions[?(@.type=="PodScheduled")].status}`, "pod", "two")
	if why := r.field(`{.status.conditions[?(@.type=="PodScheduled")].message}`, "pod", "two"); !strings.Contains(why, "ReadWriteOncePod") {
		t.Errorf("the second pod waits because: %s", why)
	}
	r.kubectl("delete", "pod", "one")
	r.ready("two")
	r.expectRows("two", sum)
}

// The volume belongs to the pod's group, and a read-only mount of it cannot be written.
func TestGroupAndReadOnly(t *testing.T) {
	r := useCluster(t)
	r.apply(claim("data", 2, once), pod("writer", "data", "securityContext: {runAsUser: 1234, runAsGroup: 1234, fsGroup: 4321},"))
	r.ready("writer")
	if got := r.exec("writer", "stat -c %g /data; echo mine >/data/file; stat -c %g /data/file"); got != "4321\n4321" {
		t.Errorf("groups of the volume and of a new file: %q, want 4321", got)
	}
	r.kubectl("delete", "pod", "writer")
	r.apply(strings.Replace(pod("reader", "data", ""), "claimName: data", "claimName: data, readOnly: true", 1))
	r.ready("reader")
	got := r.exec("reader", "cat /data/file; touch /data/other 2>&1 || echo refused; grep -o ' /data xfs [rw][ow]' /proc/mounts")
	if !strings.HasPrefix(got, "mine\n") || !strings.Contains(got, "refused") || !strings.HasSuffix(got, " ro") {
		t.Errorf("the reader says %q", got)
	}
}

// The claim is let go, the volume stays, and an administrator gives it to another claim.
func TestStaticVolumeIsRetained(t *testing.T) {
	r := useCluster(t)
	const app = "CSI-by-hand"
	if err := r.MakeApp(r.ctx, app, 3); err != nil {
		t.Fatal(err)
	}
	volume := `{apiVersion: v1, kind: PersistentVolume, metadata: {name: by-hand}, spec: {capacity: {storage: 3Gi}, accessModes: [ReadWriteOnce],
  persistentVolumeReclaimPolicy: Retain, storageClassName: "", csi: {driver: dsp.csi.daterainc.io, volumeHandle: ` + app + `, fsType: ext4}}}`
	if err := r.Apply(r.ctx, volume); err != nil {
		t.Fatal(err)
	}
	static := strings.Replace(claim("data", 3, once+", volumeName: by-hand"), "storageClassName: datera", `storageClassName: ""`, 1)
	r.apply(static, pod("writer", "data", ""))
	r.ready("writer")
	sum := r.fill("writer")
	r.kubectl("delete", "pod", "writer")
	r.kubectl("delete", "pvc", "data")
	r.expect("Released", "{.status.phase}", "pv", "by-hand")
	r.kubectl("patch", "pv", "by-hand", "-p", `{"spec":{"claimRef":null}}`)
	r.apply(static, pod("reader", "data", ""))
	r.ready("reader")
	r.expectRows("reader", sum)
	r.kubectl("delete", "pod", "reader")
	r.kubectl("delete", "pvc", "data")
	r.kubectl("delete", "pv", "by-hand")
	r.eventually("the array to take the volume", func() error { return r.DeleteApp(r.ctx, app) })
}

// Pods and their volumes go on while the kubelet is away, and the next one knows them.
func TestKubeletRestarts(t *testing.T) {
	r := useCluster(t)
	r.apply(claim("data", 2, once), pod("writer", "data", ""))
	r.ready("writer")
	r.exec("writer", loop)
	node := r.node("writer")
	if _, err := node.Shell(r.ctx, "pkill -KILL -x kubelet; sleep 3; sed -n '/^setsid kubelet/,$p' /etc/worker >/run/kubelet.sh; PATH=/programs:$PATH sh -e /run/kubelet.sh"); err != nil {
		t.Fatal(err)
	}
	r.eventually("the kubelet to answer", func() error {
		_, err := r.Kubectl(r.ctx, "--namespace="+r.namespace, "exec", "writer", "--", "true")
		return err
	})
	r.expectUnbroken("writer", 30)
	r.kubectl("delete", "pod", "writer")
	r.eventually("the volume to leave the node", func() error {
		out, err := node.Shell(r.ctx, "ls /sys/class/iscsi_session")
		if err == nil && len(out) > 0 {
			err = fmt.Errorf("sessions: %s", out)
		}
		return err
	})
}

// A new plugin takes over from the old one under a pod that writes, which notices nothing; and what the old
// one has staged, the new one unstages.
func TestPluginIsRolledUnderAWriter(t *testing.T) {
	r := useCluster(t)
	r.apply(claim("data", 2, once), pod("writer", "data", ""))
	r.ready("writer")
	r.exec("writer", loop)
	before := r.field("{.items[*].metadata.uid}", "pods", "--namespace=datera-csi", "--selector=app.kubernetes.io/component=node")
	r.kubectl("rollout", "restart", "daemonset/datera-csi-node", "--namespace=datera-csi")
	r.kubectl("rollout", "status", "daemonset/datera-csi-node", "--namespace=datera-csi", "--timeout=5m")
	after := r.field("{.items[*].metadata.uid}", "pods", "--namespace=datera-csi", "--selector=app.kubernetes.io/component=node")
	for _, uid := range strings.Fields(before) {
		if strings.Contains(after, uid) {
			t.Error("a pod of the DaemonSet was not replaced")
		}
	}
	r.expectUnbroken("writer", 30)
	r.eventually("the driver to be registered", func() error {
		names, err := r.Field(r.ctx, "{.items[*].spec.drivers[*].name}", "csinodes")
		if err == nil && len(strings.Fields(names)) != len(r.Workers) {
			err = errors.New("it is on " + names)
		}
		return err
	})
}

// What the driver finds wrong with a volume is in the status of the pod that uses it, what it finds wrong with the
// way to the array in that of the node, and both are gone when it is mended. (Gate CSIVolumeHealth.)
func TestHealthIsInThePodsStatus(t *testing.T) {
	r := useCluster(t)
	r.apply(claim("data", 2, once), pod("app", "data", ""))
	r.ready("app")
	node := r.node("app")
	const (
		ofPod  = `{range .status.volumeHealth[?(@.name=="data")].healthConditions[*]}{.status} {.reason}{end}`
		ofNode = `{range .status.storageHealth[?(@.name=="` + kubernetes.Driver + `")].healthConditions[*]}{.status} {.reason}{end}`
	)
	r.expect("", ofPod, "pod", "app")
	r.expect("", ofNode, "csinode", node.Name)
	if err := node.SetLink(r.ctx, 1, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(r.ctx)
		if err := node.SetLink(ctx, 1, true); err != nil {
			t.Error(err)
		}
	})
	r.expect("Degraded PathsLost", ofPod, "pod", "app")
	t.Log(r.field(`{.status.volumeHealth}`, "pod", "app"))
	r.expect("StorageDegraded PortalUnreachable", ofNode, "csinode", node.Name)
	r.fill("app") // by the other path
	if err := node.SetLink(r.ctx, 1, true); err != nil {
		t.Fatal(err)
	}
	r.expect("", ofPod, "pod", "app")
	r.expect("", ofNode, "csinode", node.Name)
}
