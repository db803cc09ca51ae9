package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/internal/namesakes"
	"github.com/datera-csi/datera-csi/pkg/controller"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// controllerFlags are the flags of the controller service.
type controllerFlags struct {
	backends    string
	concurrency int
	shared      string
}

func (f *controllerFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.backends, "backends-dir", "/etc/datera-csi/backends",
		"directory with one directory a backend, see above; files that change are picked up without a restart")
	flags.IntVar(&f.concurrency, "array-concurrency", dateraclient.DefaultConcurrency,
		"requests under way to one array at any moment, at most")
	flags.StringVar(&f.shared, "shared-initiators-file", "",
		"file that \"datera-csi initiators\" writes: nodes that share an initiator name get no volumes; empty: that is not checked")
}

func (f *controllerFlags) check() error {
	if f.concurrency < 1 {
		return fmt.Errorf("--array-concurrency: %d: at least one request must be allowed", f.concurrency)
	}
	info, err := os.Stat(f.backends)
	if err != nil {
		return fmt.Errorf("--backends-dir: %w: is the Secret mounted?", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("--backends-dir: %s is not a directory", f.backends)
	}
	return nil
}

// build makes the controller service and the backends beneath it.
func (f *controllerFlags) build() (*controller.Server, *controller.Backends) {
	backends := controller.OpenBackends(controller.BackendsConfig{
		Dir:         f.backends,
		Concurrency: f.concurrency,
		Agent:       "datera-csi-" + readVersion().Version,
	})
	cfg := controller.Config{Backends: backends}
	if f.shared != "" {
		cfg.Namesakes = namesakes.Open(f.shared, time.Now).Nodes
	}
	return controller.New(cfg), backends
}

// backendsReady says that there is a backend to work with. What is wrong with others
// is told once. It never calls an array (FM 32).
func backendsReady(b *controller.Backends) func(context.Context) error {
	var once sync.Once
	return func(ctx context.Context) error {
		once.Do(func() {
			if err := b.Check(); err != nil {
				klog.FromContext(ctx).Info("Some backends cannot be used", "reason", err)
			}
		})
		return b.Ready()
	}
}

const backendsHelp = `A backend is an array, a tenant on it and the credentials to use: a directory of
small files, as a Kubernetes Secret mounts. --backends-dir holds one such
directory a backend; the StorageClass parameter "backend" names one, and
"default" is the default.

  default/endpoint    https://10.0.0.5:7718, the array's management address
  default/tenant      /root/prod; absent means /root
  default/username    read again at every login, so a rotated Secret just works
  default/password
  default/ca.crt      PEM; absent means that the system's roots must know the array
  default/insecure-skip-tls-verify
                      true: any certificate will do, so whoever is between takes the
                      password; for laboratories only; absent means false
  default/proxy       http://HOST:PORT or https://HOST:PORT; absent means none,
                      whatever the environment says
  default/topology    from where the array is reached, one place a line, such as
                      topology.kubernetes.io/zone=east; absent means from everywhere

Volumes are made where they are reached once a backend has a topology. Then the
nodes need --topology, and the provisioner a restart, as it asks when it starts.`

func controllerCommand() *cobra.Command {
	var (
		common serveFlags
		flags  controllerFlags
	)
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Serve CSI's controller service: make, delete, grow and fence volumes",
		Long: `Serve CSI's identity and controller services. Run it beside the external
provisioner, attacher and resizer. Two replicas do each other no harm.

` + backendsHelp,
		Example: `  # in a pod, with the Secret mounted at /etc/datera-csi/backends/default
  datera-csi controller

  # on this machine, against the simulator
  datera-csi controller --endpoint=unix:///tmp/csi/csi.sock --backends-dir=/tmp/backends`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(common.check(), flags.check()); err != nil {
				return err
			}
			service, backends := flags.build()
			return serve(cmd.Context(), &common, services{controller: service, ready: backendsReady(backends), placed: backends.Placed})
		},
	}
	common.add(cmd.Flags())
	flags.add(cmd.Flags())
	return cmd
}
