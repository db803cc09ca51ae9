package testbed

import (
	"context"
	"strings"

	"github.com/datera-csi/datera-csi/internal/faultpoint/points"
)

// where the plugin looks, see internal/faultpoint.
const faultPoints = "/run/faultpoints"

// FaultPoints are the steps of the node's work at which it can be killed or held.
func FaultPoints() ([]string, error) {
	root, err := ModuleRoot()
	if err != nil {
		return nil, err
	}
	return points.Named(root, "pkg/node", "pkg/iscsi")
}

// KillAt ends the plugin with SIGKILL when it comes to each of these points, once.
func (w *Worker) KillAt(ctx context.Context, names ...string) error {
	_, err := w.Shell(ctx, "mkdir -p "+faultPoints+"/kill; cd "+faultPoints+"/kill; touch '"+strings.Join(names, "' '")+"'")
	return err
}
