//go:build e2e

package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

// vendorsDriver is the object of a driver whose nodes edit the access lists themselves, without an attach.
const vendorsDriver = `{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: dsp.csi.daterainc.io}, spec: {attachRequired: false, podInfoOnMount: true}}`

// vendorsVolume is a PersistentVolume as the vendor's provisioner left it, bound to a claim. It names no file
// system where its class did not, and the vendor's node made ext4 then.
func vendorsVolume(name, namespace, claim string, gib int) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: PersistentVolume, metadata: {name: %[1]s, annotations: {pv.kubernetes.io/provisioned-by: dsp.csi.daterainc.io}},
  spec: {capacity: {storage: %[4]dGi}, accessModes: [ReadWriteOnce], persistentVolumeReclaimPolicy: Delete, storageClassName: datera,
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: %[2]s, name: %[3]s},
  csi: {driver: dsp.csi.daterainc.io, volumeHandle: CSI-%[1]s, volumeAttributes: {storage.kubernetes.io/csiProvisionerIdentity: "1600000000000-8081-dsp.csi.daterainc.io"}}}}`,
		name, namespace, claim, gib)
}

// vendorsNode does by hand on a worker what the vendor's node plugin does: log in, format, write. Nothing of it
// goes through this driver, and the data is on the array before this driver is asked for the volume.
func (r *room) vendorsNode(w *vm.Guest, access kubernetes.Access, portal netip.Addr) (sum string) {
	r.Helper()
	out, err := w.Shell(r.ctx, fmt.Sprintf(`N='iscsiadm -m node -T %s -p %s:3260'
$N -o new >/dev/null; $N --login >/dev/null
for i in $(seq 100); do map=$(ls /dev/mapper/3* 2>/dev/null) && break; sleep 0.3; done
mkfs.ext4 -q -F $map >/dev/null; mkdir -p /mnt; mount $map /mnt
dd if=/dev/urandom of=/mnt/rows bs=64k count=32 2>/dev/null; sync; sha256sum </mnt/rows
umount /mnt; multipath -f $map >/dev/null; $N --logout >/dev/null; $N -o delete >/dev/null`, access.IQN, portal))
	if err != nil {
		r.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// The vendor's driver leaves, this one comes: its PersistentVolumes are attached, hold what they held, grow, and
// are deleted with their claims. The steps are those of docs/upgrade-from-vendor.md.
func TestVolumesOfTheVendorsDriverAreTakenOver(t *testing.T) {
	r := useCluster(t)
	const name = "pvc-0a1b2c3d-0000-4000-8000-00000000feed"
	if err := r.MakeApp(r.ctx, "CSI-"+name, 2); err != nil {
		t.Fatal(err)
	}
	host := r.Workers[0]
	if err := r.Admit(r.ctx, "CSI-"+name, host.Initiator, host.Name); err != nil {
		t.Fatal(err)
	}
	access, err := r.AccessOf(r.ctx, "CSI-"+name)
	if err != nil {
		t.Fatal(err)
	}
	sum := r.vendorsNode(host, access, r.Array.Addr(0))
	r.kubectl("delete", "csidriver", kubernetes.Driver)
	if err := r.Apply(r.ctx, vendorsDriver); err != nil {
		t.Fatal(err)
	}
	if err := r.Apply(r.ctx, vendorsVolume(name, r.namespace, "data", 2)); err != nil {
		t.Fatal(err)
	}
	r.apply(claim("data", 2, once+", volumeName: "+name))
	r.expect("Bound", "{.status.phase}", "pvc", "data")

	r.kubectl("delete", "csidriver", kubernetes.Driver, "--ignore-not-found")
	r.deploy("")
	// The vendor's node is still in the access list: it may have the volume, and no other.
	r.apply(pod("elsewhere", "data", "nodeName: "+r.Other(host.Name)+","))
	r.eventually("the other node to be refused", func() error {
		why := r.field("{.items[*].status.attachError.message}", "volumeattachments")
		if !strings.Contains(why, host.Initiator) {
			return fmt.Errorf("the attachments say %q", why)
		}
		return nil
	})
	// Kubernetes takes a volume for mounted until the node's next status, and a kubelet that never had it has none
	// to send for five minutes.
	r.eventually("the kubelet to report the volume", func() error {
		if used := r.field("{.status.volumesInUse}", "node", r.Other(host.Name)); !strings.Contains(used, "CSI-"+name) {
			return fmt.Errorf("it reports %q", used)
		}
		return nil
	})
	r.kubectl("delete", "pod", "elsewhere")
	r.expect("", "{.items[*].metadata.name}", "volumeattachments")
	r.apply(pod("here", "data", "nodeName: "+host.Name+","))
	r.ready("here")
	r.expectRows("here", sum)
	r.kubectl("patch", "pvc", "data", "-p", `{"spec":{"resources":{"requests":{"storage":"3Gi"}}}}`)
	r.eventually("the file system to grow", func() error {
		if got := r.gib("here"); got != "3" {
			return fmt.Errorf("it has %s GiB", got)
		}
		return nil
	})
	r.kubectl("delete", "pod", "here")
	// Detached, it is anybody's.
	r.apply(pod("anywhere", "data", "nodeName: "+r.Other(host.Name)+","))
	r.ready("anywhere")
	r.expectRows("anywhere", sum)
	r.kubectl("delete", "pod", "anywhere")
	r.kubectl("delete", "pvc", "data")
	r.emptied(4 * time.Minute)
}

// A node is emptied to be switched off, and its plugin is told to end before the last volume has left: it stays
// until then, because nobody else could unmount.
func TestPluginOutlivesTheVolumesOfANodeThatLeaves(t *testing.T) {
	r := useCluster(t)
	r.apply(claim("data", 2, once), pod("writer", "data", ""))
	r.ready("writer")
	sum := r.fill("writer")
	node := r.node("writer").Name
	plugin := r.field("{.items[0].metadata.name}", "pods", "--namespace="+kubernetes.Namespace, "--selector=app.kubernetes.io/component=node", "--field-selector=spec.nodeName="+node)
	r.kubectl("cordon", node)
	t.Cleanup(func() {
		if _, err := r.Kubectl(context.WithoutCancel(r.ctx), "uncordon", node); err != nil {
			t.Error(err)
		}
	})
	r.kubectl("delete", "pod", plugin, "--namespace="+kubernetes.Namespace, "--wait=false")
	r.eventually("the guard to wait", func() error {
		said, err := r.Kubectl(r.ctx, "logs", plugin, "--namespace="+kubernetes.Namespace, "--container=guard")
		if err == nil && !strings.Contains(said, "Waiting for volumes to leave this node") {
			err = errors.New("it says " + said)
		}
		return err
	})
	r.kubectl("delete", "pod", "writer")
	r.expect("", "{.items[*].metadata.name}", "volumeattachments")
	r.eventually("the plugin to end", func() error {
		if still := r.field("{.metadata.name}", "pod", plugin, "--namespace="+kubernetes.Namespace); still != "" {
			return errors.New(still + " is still there")
		}
		return nil
	})
	if err := r.AwaitReady(r.ctx); err != nil { // the DaemonSet's next pod
		t.Fatal(err)
	}
	r.apply(pod("reader", "data", ""))
	r.ready("reader")
	if got := r.node("reader").Name; got == node {
		t.Errorf("the reader is on %s, which is cordoned", got)
	}
	r.expectRows("reader", sum)
}
