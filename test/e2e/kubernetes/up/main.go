// Command up brings the laboratory's cluster up and keeps it until it is told to end.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

func main() {
	vm.Main(`up starts a Kubernetes cluster of two workers and an array in QEMU guests, with the driver in it.
It needs root or sudo, and installs the Debian packages that it lacks. Ctrl-C ends it.`, run)
}

func run(ctx context.Context) (err error) {
	lab, err := vm.Open(ctx, vm.Config{Progress: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	cluster, err := kubernetes.Start(ctx, lab, kubernetes.Config{Progress: os.Stderr})
	if cluster != nil {
		defer func() { err = errors.Join(err, cluster.Close()) }()
	}
	if err != nil {
		return errors.Join(err, cluster.SaveLogs("up"))
	}
	cluster.Keep(ctx, os.Stdout)
	return nil
}
