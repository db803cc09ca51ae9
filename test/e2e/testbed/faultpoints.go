package testbed

import (
	"context"
	"fmt"
	"strings"
	"time"

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

// NotReached are the points of KillAt that the plugin has not come to. It forgets
// them.
func (w *Worker) NotReached(ctx context.Context) ([]string, error) {
	out, err := w.Shell(ctx, "mkdir -p "+faultPoints+"/kill; cd "+faultPoints+"/kill; ls; rm -f -- *")
	return lines("", out), err
}

// HoldAt keeps the plugin at a point until release is called.
func (w *Worker) HoldAt(ctx context.Context, name string) (release func(context.Context) error, _ error) {
	release = func(ctx context.Context) error {
		_, err := w.Shell(ctx, "rm -f '"+faultPoints+"/hold/"+name+"'")
		return err
	}
	_, err := w.Shell(ctx, fmt.Sprintf("mkdir -p %[1]s/hold %[1]s/held; rm -f '%[1]s/held/%[2]s'; touch '%[1]s/hold/%[2]s'", faultPoints, name))
	return release, err
}

// AwaitHeld waits until the plugin is held at a point.
func (w *Worker) AwaitHeld(ctx context.Context, name string) error {
	return eventually(ctx, "the plugin to come to "+name, time.Minute, func() error {
		_, err := w.Run(ctx, "test", "-e", faultPoints+"/held/"+name)
		return err
	})
}

// Alive says whether the plugin runs.
func (w *Worker) Alive(ctx context.Context) (bool, error) {
	out, err := w.Shell(ctx, "pgrep -x datera-csi || true")
	return len(out) > 0, err
}
