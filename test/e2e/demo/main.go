// Command demo tells what the driver is for, on three machines: volumes come to
// life for a StatefulSet, one more when it grows, and a pod that moves takes its
// data along, while the node it left can write no more. Every line of output is
// the real thing's.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/tell"
	"github.com/datera-csi/datera-csi/test/e2e/testbed"
	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

func main() {
	vm.Main(`demo runs the driver's main job on an array and two workers in QEMU guests.
It needs root or sudo, and installs the Debian packages that it lacks.`, run)
}

func run(ctx context.Context) (err error) {
	teller := tell.New(os.Stdout)
	teller.Title("datera-csi: a PersistentVolume on a Datera array, from CreateVolume to a mounted xfs",
		"Three QEMU guests on a private network: an array (datera-sim and the Linux kernel's",
		"iSCSI target) and two workers (open-iscsi, multipathd and the plugin).")
	teller.Step("The machines boot")
	lab, err := vm.Open(ctx, vm.Config{Progress: teller})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	bed, err := testbed.Start(ctx, lab, testbed.Config{Progress: teller})
	if err != nil {
		return errors.Join(err, saveLogs(ctx, lab.CollectLogs))
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	s := &story{tell: teller, bed: bed, one: bed.Workers[0], two: bed.Workers[1]}
	if err = s.play(ctx); err != nil {
		return errors.Join(err, saveLogs(ctx, bed.CollectLogs))
	}
	return nil
}

// saveLogs keeps the guests' logs for the reader of a failure.
func saveLogs(ctx context.Context, collect func(context.Context, string) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	dir := filepath.Join(os.TempDir(), "datera-csi-demo-"+time.Now().Format("20060102-150405"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "demo: the guests' logs are in %s\n", dir)
	return collect(ctx, dir)
}
