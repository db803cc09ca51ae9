//go:build e2e

package e2e

import (
	"context"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// TestPluginInAContainerUsesTheHostsTools is FM 26: the plugin runs in a mount
// namespace that has neither iscsiadm nor multipathd nor a node database, as in a
// pod whose only shared directory is kubelet's, and in a network namespace from which
// nothing is reached; the host's own tools do the work, and it is the host's network
// from which the array is asked whether it admits this node (FM 21). The file systems'
// tools are those of the pod, even where the host has none.
func TestPluginInAContainerUsesTheHostsTools(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the plugin sees no tool of the host and no network, and is killed")
	w := bed.Workers[0]
	must(t, w.KillPlugin(ctx))
	sh(ctx, t, w.Guest, `
mkdir -p /var/lib/kubelet
mountpoint -q /var/lib/kubelet || mount --bind /var/lib/kubelet /var/lib/kubelet
mount --make-shared /var/lib/kubelet
cat > /run/pod.sh <<'END'
mount --make-private /
for tool in iscsiadm iscsid multipath multipathd; do mount --bind /dev/null $(command -v $tool); done
mount -t tmpfs none /etc/iscsi
mkdir -p /run/pod-tools
for tool in blkid mkfs.xfs xfs_growfs; do cp $(command -v $tool) /run/pod-tools/$tool; done
export PATH=/run/pod-tools:$PATH
exec datera-csi node --endpoint=unix:///run/datera-csi/csi.sock -v=4
END
setsid unshare --mount --net --propagation unchanged sh -e /run/pod.sh </dev/null >>`+testbed.NodeLog+` 2>&1 &`)
	must(t, w.Connect(ctx))
	hideFSTools(ctx, t, w)
	v, dir := attached(ctx, t, bed, "container", testbed.Mount("xfs"))
	sum := write(ctx, t, w, dir+"/data", 64)
	if n := sh(ctx, t, w.Guest, "find /etc/iscsi/nodes -type f | wc -l"); n != "2" {
		t.Errorf("%s entries in the host's node database, want 2", n)
	}
	growControllerSide(ctx, t, bed, v, 2*giB)
	growNodeSide(ctx, t, w, v, 2*giB)
	expectBytes(ctx, t, w, v, 2*giB)
	t.Run("an unmount that waits ends when the array refuses", func(t *testing.T) { expectUnmountEndsWhenRefused(ctx, t, bed) })
	// The volume outlives its plugin, and the next one takes over.
	must(t, w.KillPlugin(ctx))
	must(t, w.StartPlugin(ctx))
	if got := checksum(ctx, t, w, dir+"/data"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	gone(ctx, t, bed, v)
	sh(ctx, t, w.Guest, "umount /var/lib/kubelet")
}

// TestPluginEntersTheContainerOfIscsid is FM 26 on a host such as Talos Linux: iscsid,
// iscsiadm and the node database are in a container of the host's own, PID 1 has none
// of them but the initiator's name, nobody runs multipathd, and what the plugin must
// read of the host is mounted below one directory.
func TestPluginEntersTheContainerOfIscsid(t *testing.T) {
	ctx, bed := useBed(t)
	w := bed.Workers[0]
	must(t, w.KillPlugin(ctx))
	sh(ctx, t, w.Guest, `
pkill -x multipathd || true; pkill -x iscsid || true
while pgrep -x multipathd || pgrep -x iscsid; do sleep 0.1; done
mkdir -p /run/iscsid/nodes /var/lib/iscsi/nodes /var/lib/kubelet && cp -a /etc/iscsi/. /run/iscsid
setsid unshare --mount --propagation private sh -ec 'mount --bind /run/iscsid /etc/iscsi; mount --bind /var/lib/iscsi/nodes /etc/iscsi/nodes; exec iscsid -f' </dev/null >/var/log/iscsid.log 2>&1 &
until grep -q ISCSIADM_ABSTRACT_NAMESPACE /proc/net/unix; do sleep 0.1; done
for tool in iscsiadm iscsid multipath multipathd; do mount --bind /dev/null $(command -v $tool); done
mount -t tmpfs none /etc/iscsi; cp /run/iscsid/initiatorname.iscsi /etc/iscsi
mountpoint -q /var/lib/kubelet || mount --bind /var/lib/kubelet /var/lib/kubelet
mount --make-shared /var/lib/kubelet
cat > /run/pod.sh <<'END'
mount --make-private /
mkdir -p /run/host/etc/iscsi /run/host/var/lib/iscsi /run/host/proc /run/host/run/udev
mount --bind -o ro /etc/iscsi /run/host/etc/iscsi
mount --bind /var/lib/iscsi /run/host/var/lib/iscsi
mount --rbind /proc /run/host/proc
mount --bind /run/udev /run/host/run/udev
exec datera-csi node --endpoint=unix:///run/datera-csi/csi.sock --host-exec=iscsid --host-root=/run/host --multipath=off -v=4
END
rm /run/datera-csi/csi.sock
setsid unshare --mount --net --propagation unchanged sh -e /run/pod.sh </dev/null >>`+testbed.NodeLog+` 2>&1 &
until [ -S /run/datera-csi/csi.sock ]; do sleep 0.2; done`)
	must(t, w.Connect(ctx))
	v, dir := attached(ctx, t, bed, "talos", testbed.Mount("xfs"))
	sum := write(ctx, t, w, dir+"/data", 16)
	if n := sh(ctx, t, w.Guest, "find /var/lib/iscsi/nodes -type f | wc -l; find /etc/iscsi -type f | wc -l"); n != "1\n1" {
		t.Errorf("files of the node database and of PID 1's /etc/iscsi: %q, want one record and the initiator's name", n)
	}
	if got := checksum(ctx, t, w, dir+"/data"); got != sum {
		t.Errorf("checksum %s, was %s", got, sum)
	}
	gone(ctx, t, bed, v)
	must(t, w.KillPlugin(ctx))
	sh(ctx, t, w.Guest, `
pkill -x iscsid; while pgrep -x iscsid; do sleep 0.1; done
for tool in $(awk '$4 == "/null" { print $5 }' /proc/self/mountinfo); do umount $tool; done
umount /etc/iscsi /var/lib/kubelet; rm -r /var/lib/iscsi /run/iscsid`)
	must(t, w.StartPlugin(ctx))
}

// hideFSTools takes the tools that make, probe and grow file systems from the
// host, but not from namespaces that exist already.
func hideFSTools(ctx context.Context, t testing.TB, w *testbed.Worker) {
	t.Helper()
	tools := strings.ReplaceAll(sh(ctx, t, w.Guest, "command -v blkid mkfs.xfs xfs_growfs mke2fs resize2fs"), "\n", " ")
	sh(ctx, t, w.Guest, "for tool in "+tools+"; do mount --bind /dev/null $tool; done")
	t.Cleanup(func() { sh(context.WithoutCancel(ctx), t, w.Guest, "umount "+tools) })
}
