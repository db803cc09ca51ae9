package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/internal/kube"
	"github.com/datera-csi/datera-csi/pkg/identity"
)

// guardFlags are the flags of the guard.
type guardFlags struct {
	api          kubeFlags
	node         string
	driver       string
	taints       []string
	startupTaint string
	timeout      time.Duration
	every        time.Duration
}

func (f *guardFlags) add(flags *pflag.FlagSet) {
	f.api.add(flags)
	flags.StringVar(&f.node, "node-name", "", "name of this pod's node; required")
	flags.StringVar(&f.driver, "driver-name", defaultName, "name of the driver whose volumes count")
	flags.StringSliceVar(&f.taints, "leaving-taints", []string{"ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted", "karpenter.sh/disruption"},
		"keys of taints that announce a node's end, besides cordoning it")
	flags.StringVar(&f.startupTaint, "startup-taint", "",
		"key of a taint to remove from this node once the driver is registered on it; needs the right to patch nodes")
	flags.DurationVar(&f.timeout, "timeout", 90*time.Second,
		"how long to hold the plugin up, at most; keep it 30 s below the pod's termination grace period")
	flags.DurationVar(&f.every, "interval", 2*time.Second, "how often to ask the API meanwhile")
}

func (f *guardFlags) check() error {
	var errs []error
	if f.node == "" {
		errs = append(errs, errors.New("--node-name: say which node this is: the downward API has it as spec.nodeName"))
	}
	if err := identity.CheckName(f.driver); err != nil {
		errs = append(errs, fmt.Errorf("--driver-name: %w", err))
	}
	if f.timeout <= 0 {
		errs = append(errs, fmt.Errorf("--timeout: %v leaves no time to wait", f.timeout))
	}
	if f.every <= 0 {
		errs = append(errs, fmt.Errorf("--interval: %v is no time between two looks", f.every))
	}
	return errors.Join(errs...)
}

func (f *guardFlags) build() (kube.Guard, error) {
	api, err := f.api.open()
	if err != nil {
		return kube.Guard{}, err
	}
	return kube.Guard{API: api, Node: f.node, Driver: f.driver, Taints: f.taints, Every: f.every}, nil
}

func guardCommand() *cobra.Command {
	var flags guardFlags
	cmd := &cobra.Command{
		Use:   "guard",
		Short: "Hold the node plugin up until the volumes of a node that leaves are gone",
		Long: `Stand beside the node plugin and do the two things that need the Kubernetes API,
so that the plugin needs none. The plugin and the registrar are sidecars
(init containers with restartPolicy Always): Kubernetes ends them after this.

Told to end, it returns at once when the node stays, as in an upgrade of the
plugin: volumes go on without it. When the node is cordoned, shut down or being
deleted, and still there, it waits until the kubelet has given back the last
volume of the driver.

With --startup-taint it first waits until the driver is registered and removes
that taint, so that pods come to a new node only when their volumes can.`,
		Example: `  datera-csi guard --node-name=$(NODE_NAME)
  datera-csi guard --node-name=$(NODE_NAME) --startup-taint=dsp.csi.daterainc.io/starting`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.check(); err != nil {
				return err
			}
			g, err := flags.build()
			if err != nil {
				return err
			}
			return stand(cmd.Context(), g, flags.startupTaint, flags.timeout)
		},
	}
	flags.add(cmd.Flags())
	return cmd
}

// stand admits pods to the node, waits to be told to end and holds the plugin up.
func stand(ctx context.Context, g kube.Guard, taint string, timeout time.Duration) error {
	log := klog.FromContext(ctx)
	log.Info("Standing guard", "node", g.Node, "driver", g.Driver, "version", readVersion().Version)
	if taint != "" {
		if err := g.Admit(ctx, taint); err != nil && ctx.Err() == nil {
			return err
		}
	}
	<-ctx.Done()
	log.Info("Told to end")
	hold, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	return g.Hold(hold)
}
