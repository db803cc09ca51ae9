package kubernetes

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

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
