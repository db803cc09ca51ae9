// Command demo tells what the driver is for, on a real cluster and by kubectl, as the article of 2016 did:
// volumes come to life for a StatefulSet, one more when it grows, a pod that moves takes its data along, and
// a node that dies can write no more. Every line of output is the real thing's.
package main

import (
	"context"
	"os"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
	"github.com/datera-csi/datera-csi/test/e2e/kubernetes/walkthrough"
	"github.com/datera-csi/datera-csi/test/e2e/tell"
	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

func main() {
	vm.Main(`demo shows the driver on a Kubernetes cluster of two workers and an array in QEMU guests.
It needs root or sudo, and installs the Debian packages that it lacks. KEEP=1 keeps the cluster afterwards.`, run)
}

func run(ctx context.Context) error {
	teller := tell.New(os.Stdout)
	teller.Title("datera-csi: StatefulSets on a Datera array, with kubectl",
		"A real Kubernetes "+kubernetes.Version+" on a private network: etcd and the control plane are processes of this",
		"host, two workers (containerd, kubelet, open-iscsi, multipathd) and an array (datera-sim and",
		"the Linux kernel's iSCSI target) are QEMU guests. Driver and sidecars run from the shipped manifests,",
		"with one replica of the controller and less patience for what a dead node keeps.")
	teller.Step("The cluster starts")
	return kubernetes.With(ctx, "demo", kubernetes.Config{Progress: teller}, func(ctx context.Context, c *kubernetes.Cluster) error {
		return walkthrough.Play(ctx, teller, c)
	})
}
