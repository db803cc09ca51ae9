// Package kubernetes is a real cluster on one machine: etcd, API server, controller manager and scheduler as
// processes of this host inside a lab's private network, two workers with containerd, kubelet, iscsid and
// multipathd and an array (datera-sim with the Linux kernel's target) in QEMU guests, the real sidecars, and
// the driver by the image and, but for replicas and some times, the manifests that are shipped. What drives it,
// does it with kubectl.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

// Driver is the driver's name in the cluster, and Namespace where it is.
const (
	Driver    = "dsp.csi.daterainc.io"
	Namespace = "datera-csi"
)

// Config says what to set up; its zero value is good.
type Config struct {
	WorkerMB int       // memory of a worker; 0 means 2560
	Suite    bool      // with what Kubernetes' own storage tests need
	Helm     bool      // with the program helm, for Shell
	Progress io.Writer // hears what takes long; may be nil
}

// Cluster is a running cluster with the driver in it.
type Cluster struct {
	VM      *vm.Lab
	Array   *testbed.Array
	Workers []*vm.Guest

	cfg   Config
	parts *Parts
	plane *controlPlane
}

// Start brings a cluster up and returns when its nodes are ready and the driver serves. The lab is without
// guests; it and the cluster's processes end with lab.Close.
func Start(ctx context.Context, lab *vm.Lab, cfg Config) (*Cluster, error) {
	if cfg.WorkerMB == 0 {
		cfg.WorkerMB = 2560
	}
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	c := &Cluster{VM: lab, cfg: cfg}
	if err := checkMemory(2*cfg.WorkerMB + testbed.ArraySpec().MemoryMB); err != nil {
		return nil, err
	}
	var err error
	if c.parts, err = EnsureParts(ctx, lab, cfg); err != nil {
		return nil, err
	}
	if c.plane, err = newControlPlane(lab, c.parts.Programs); err != nil {
		return nil, err
	}
	c.tell("The control plane and the machines start")
	machines, machinesCtx := errgroup.WithContext(ctx)
	machines.Go(func() error { return c.startArray(machinesCtx) })
	machines.Go(func() error { return c.startWorkers(machinesCtx) })
	machines.Go(func() error { return c.startPlane(machinesCtx) })
	if err := machines.Wait(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := c.deploy(ctx); err != nil {
		return c, err // with it, for its logs
	}
	return c, nil
}

func (c *Cluster) tell(format string, args ...any) {
	_, _ = fmt.Fprintf(c.cfg.Progress, format+"\n", args...)
}

func (c *Cluster) startArray(ctx context.Context) error {
	spec := testbed.ArraySpec()
	spec.OnBoot = fmt.Sprintf("ip route replace default via %s\n%s", c.VM.Net.HostAddr(0), spec.OnBoot)
	guests, err := c.VM.Start(ctx, spec)
	if err != nil {
		return err
	}
	if err = testbed.Build(ctx, filepath.Join(c.VM.Dir, "bin"), "./cmd/datera-sim", ""); err != nil {
		return err
	}
	c.Array, err = testbed.StartArray(ctx, c.VM, guests[0], filepath.Join(c.VM.Dir, "bin", "datera-sim"), testbed.Config{})
	return err
}

func (c *Cluster) startPlane(ctx context.Context) error {
	if err := c.plane.start(ctx); err != nil {
		return err
	}
	// The claim protection and the class of a pod's priority, and what a driver with snapshots needs.
	if _, err := c.Kubectl(ctx, "apply", "-k", c.parts.CRDs); err != nil {
		return fmt.Errorf("install the snapshot types: %w", err)
	}
	return c.Apply(ctx, snapshotController(c.parts.Images["snapshot-controller"]))
}

// Close ends the control plane; the guests end with their lab.
func (c *Cluster) Close() error {
	if c.plane == nil {
		return nil
	}
	return c.plane.stop()
}

// Worker is the guest of a node.
func (c *Cluster) Worker(node string) (*vm.Guest, error) { return c.VM.Guest(node) }

// Other is a node that is not that one.
func (c *Cluster) Other(node string) string {
	for _, w := range c.Workers {
		if w.Name != node {
			return w.Name
		}
	}
	return ""
}

// Eventually tries until it succeeds or the time is up; the error is that of the last try.
func Eventually(ctx context.Context, what string, limit time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w", what, errors.Join(context.Cause(ctx), err))
		case <-tick.C:
		}
	}
}
