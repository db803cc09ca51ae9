package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

// With gives a program a cluster of its own, which ends with it. When it fails, the cluster's logs are kept under
// name; KEEP=1 keeps the cluster itself until ctx ends.
func With(ctx context.Context, name string, cfg Config, use func(context.Context, *Cluster) error) (err error) {
	lab, err := vm.Open(ctx, vm.Config{Progress: cfg.Progress})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	cluster, err := Start(ctx, lab, cfg)
	if cluster != nil {
		defer func() { err = errors.Join(err, cluster.Close()) }()
	}
	if err == nil {
		err = use(ctx, cluster)
	}
	if err != nil && ctx.Err() == nil {
		err = errors.Join(err, cluster.SaveLogs(name))
		fmt.Fprintf(os.Stderr, "\n%s ended early: %v\n", name, err) // before the cluster is kept to look at
	}
	if cluster != nil && os.Getenv("KEEP") != "" && ctx.Err() == nil {
		cluster.Keep(ctx, os.Stdout)
	}
	return err
}

// Keep says how to use the cluster and returns when ctx ends.
func (c *Cluster) Keep(ctx context.Context, w io.Writer) {
	_, _ = fmt.Fprintf(w, `
The cluster stays up until this ends (Ctrl-C). In another shell, as root:

  export KUBECONFIG=%s PATH=%s:$PATH
  %s kubectl get nodes

The guests' commands and logs: %s
`, c.Kubeconfig(), c.parts.Programs, c.Enter(), c.VM.Dir)
	<-ctx.Done()
}

// SaveLogs keeps what is known of the cluster for the reader of a failure.
func (c *Cluster) SaveLogs(name string) error {
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // the caller's own may have ended
	defer cancel()
	dir := filepath.Join(os.TempDir(), "datera-csi-"+name+time.Now().Format("-20060102-150405"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	c.tell("The cluster's logs are in %s", dir)
	return c.CollectLogs(ctx, dir)
}
