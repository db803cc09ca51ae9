// Command up brings the laboratory's cluster up and keeps it until it is told to end.
package main

import (
	"context"
	"os"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

func main() {
	vm.Main(`up starts a Kubernetes cluster of two workers and an array in QEMU guests, with the driver in it.
It needs root or sudo, and installs the Debian packages that it lacks. Ctrl-C ends it.`, run)
}

func run(ctx context.Context) error {
	return kubernetes.With(ctx, "up", kubernetes.Config{Progress: os.Stderr}, func(ctx context.Context, c *kubernetes.Cluster) error {
		c.Keep(ctx, os.Stdout)
		return nil
	})
}
