// Command demo tells what the driver is for, on a real cluster and by kubectl, as the article of 2016 did:
// volumes come to life for a StatefulSet, one more when it grows, a pod that moves takes its data along, and
// a node that dies can write no more. Every line of output is the real thing's.
package main

import (
	"context"
	"errors"
	"fmt"
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

func run(ctx context.Context) (err error) {
	teller := tell.New(os.Stdout)
	teller.Title("datera-csi: StatefulSets on a Datera array, with kubectl",
		"A real Kubernetes "+kubernetes.Version+" on a private network: etcd and the control plane are processes of this",
		"host, two workers (containerd, kubelet, open-iscsi, multipathd) and an array (datera-sim and",
		"the Linux kernel's iSCSI target) are QEMU guests. Driver and sidecars run from the shipped manifests.")
	teller.Step("The cluster starts")
	lab, err := vm.Open(ctx, vm.Config{Progress: teller})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	cluster, err := kubernetes.Start(ctx, lab, kubernetes.Config{Progress: teller})
	if cluster != nil {
		defer func() { err = errors.Join(err, cluster.Close()) }()
	}
	if err == nil {
		err = walkthrough.Play(ctx, teller, cluster)
	}
	if err != nil && ctx.Err() == nil {
		err = errors.Join(err, cluster.SaveLogs("demo"))
		fmt.Fprintf(os.Stderr, "\nThe story ended early: %v\n", err) // before the cluster is kept to look at
	}
	if cluster != nil && os.Getenv("KEEP") != "" && ctx.Err() == nil {
		cluster.Keep(ctx, os.Stdout)
	}
	return err
}
