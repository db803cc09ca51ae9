package kubernetes

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"strings"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

func (c *Cluster) workerSpec(number int) vm.Spec {
	return vm.Spec{
		Name: fmt.Sprintf("worker-%d", number), MemoryMB: c.cfg.WorkerMB, CPUs: 2,
		Disks: []vm.Disk{
			{Name: "programs", File: c.parts.Disk, ReadOnly: true},
			{Name: "node", File: c.parts.NodeDisk},
		},
		OnBoot: "if [ -x /etc/worker ]; then /etc/worker; fi",
	}
}

// startWorkers boots the workers and starts what a node of the cluster runs: it joins when the API answers.
func (c *Cluster) startWorkers(ctx context.Context) error {
	var err error
	if c.Workers, err = c.VM.Start(ctx, c.workerSpec(1), c.workerSpec(2)); err != nil {
		return err
	}
	for i, w := range c.Workers {
		if err := c.join(ctx, w, i+1); err != nil {
			return fmt.Errorf("start %s: %w", w.Name, err)
		}
	}
	return nil
}

func (c *Cluster) join(ctx context.Context, w *vm.Guest, number int) error {
	pods := fmt.Sprintf(podNet, number)
	route := exec.CommandContext(ctx, "ip", "route", "replace", pods, "via", w.Addr(0).String())
	if err := c.VM.Net.Start(route); err != nil {
		return err
	}
	if err := route.Wait(); err != nil {
		return fmt.Errorf("route to its pods: %w", err)
	}
	files, err := testbed.MultipathFiles()
	if err != nil {
		return err
	}
	maps.Copy(files, map[string]string{
		"/etc/machine-id":                fmt.Sprintf("%032d\n", number),
		"/etc/cni/net.d/10-lab.conflist": fmt.Sprintf(cniConfig, pods),
		"/etc/containerd/config.toml":    fmt.Sprintf(containerdConfig, PauseImage),
		"/etc/kubernetes/crun":           crun,
		"/etc/kubernetes/kubelet.yaml":   kubeletConfig,
		"/etc/kubernetes/kubeconfig":     c.plane.kubeconfigOf("system:node:"+w.Name, "insecure-skip-tls-verify: true"),
		"/etc/worker":                    fmt.Sprintf(workerScript, c.VM.Net.HostAddr(0), w.Name, w.Addr(0)),
	})
	for path, content := range files {
		if err = w.Put(ctx, strings.NewReader(content), path, 0o755); err != nil {
			return err
		}
	}
	_, err = w.Run(ctx, "/etc/worker")
	return err
}

// workerScript is what a boot ends with: disks, the host's iSCSI, containerd, kubelet. Mounts are shared, and
// the kubelet's directory is on the disk that outlives a power cut, as on any node.
const workerScript = `#!/bin/sh -e
export PATH=/programs:$PATH
ip route replace default via %[1]s
echo 1 > /proc/sys/net/ipv4/ip_forward
for c in cpuset cpu io memory pids; do echo +$c > /sys/fs/cgroup/cgroup.subtree_control || true; done
mkdir -p /programs /node /var/lib/kubelet /var/lib/containerd /dev/mqueue
mountpoint -q /dev/mqueue || mount -t mqueue mqueue /dev/mqueue
mount -o ro /dev/disk/by-id/virtio-programs /programs
mount /dev/disk/by-id/virtio-node /node
mount --bind /node/kubelet /var/lib/kubelet
mount --bind /node/containerd /var/lib/containerd
modprobe -a iscsi_tcp sg dm_multipath overlay veth bridge loop
multipathd
iscsid
# Memory is cheaper than the processor of an emulated machine, where a switch between programs empties the
# emulator's caches: let each run for long.
export GOGC=400 GODEBUG=asyncpreemptoff=1
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
for ns in latency min_granularity wakeup_granularity; do echo 60000000 > /sys/kernel/debug/sched/${ns}_ns; done
setsid containerd -c /etc/containerd/config.toml </dev/null >>/var/log/containerd.log 2>&1 &
setsid kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig=/etc/kubernetes/kubeconfig \
	--hostname-override=%[2]s --node-ip=%[3]s --cert-dir=/var/lib/kubelet/pki --housekeeping-interval=60s </dev/null >>/var/log/kubelet.log 2>&1 &
`

const cniConfig = `{"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
 "ipMasq": false, "hairpinMode": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]],
 "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni"}}]}
`

// containerdConfig asks no container for its figures: by default containerd reads them all every second, which under
// emulation is a good part of a processor, and nobody here wants them.
const containerdConfig = `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = -999
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.blockfile"]
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = %q
[plugins.'io.containerd.cri.v1.runtime']
  stats_collect_period = "24h"
  stats_retention_period = "48h"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = "/etc/kubernetes/crun"
      SystemdCgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "/etc/cni/net.d"
`

// crun starts containers in C: emulation makes the start of a Go program dear, and runc starts several for each.
// That of Debian 12 knows the runtime specification's version 1.0 alone, which has all that is used here. And of a
// container that it has deleted before, on a machine so busy that containerd did not wait for the end of that, it
// says so in words that containerd does not know: the pod would be killed for ever.
const crun = `#!/bin/sh
last=
ends=
for arg; do
	[ "$last" != --bundle ] || sed -i 's/"ociVersion":"[^"]*"/"ociVersion":"1.0.2"/' "$arg/config.json"
	case $arg in kill|delete) ends=yes ;; esac
	last=$arg
done
[ "$ends" ] || exec /usr/bin/crun "$@"
words=$(/usr/bin/crun "$@" 2>&1) && exit
case $words in *"/run/containerd/runc/"*"No such file or directory"*) words="container does not exist" ;; esac
echo "$words" >&2
exit 1
`

// kubeletConfig lets anybody in the lab's network ask the kubelet, and evicts nothing: without a threshold it does
// not even ask containerd every ten seconds for the figures of each container, which under emulation is a good part
// of a processor. The gate shows the health of volumes in the status of pods and nodes.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failSwapOn: false
featureGates: {CSIVolumeHealth: true}
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
makeIPTablesUtilChains: false
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
`
