package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/internal/kube"
	"github.com/datera-csi/datera-csi/internal/namesakes"
	"github.com/datera-csi/datera-csi/pkg/identity"
)

// initiatorsFlags are the flags of initiators.
type initiatorsFlags struct {
	api    kubeFlags
	driver string
	file   string
	every  time.Duration
}

func (f *initiatorsFlags) add(flags *pflag.FlagSet) {
	f.api.add(flags)
	flags.StringVar(&f.driver, "driver-name", defaultName, "name of the driver whose nodes count")
	flags.StringVar(&f.file, "file", "", "file to write, in a directory of its own that the controller can read; required")
	flags.DurationVar(&f.every, "interval", 30*time.Second, "how often to ask the API")
}

func (f *initiatorsFlags) check() error {
	var errs []error
	if err := identity.CheckName(f.driver); err != nil {
		errs = append(errs, fmt.Errorf("--driver-name: %w", err))
	}
	if f.file == "" {
		errs = append(errs, errors.New("--file: say which file the controller's --shared-initiators-file is"))
	}
	if most := namesakes.MaxAge / 2; f.every <= 0 || f.every > most {
		errs = append(errs, fmt.Errorf("--interval: %v: must be above 0, and %v at most: the controller believes no file older than %v", f.every, most, namesakes.MaxAge))
	}
	return errors.Join(errs...)
}

func initiatorsCommand() *cobra.Command {
	var flags initiatorsFlags
	cmd := &cobra.Command{
		Use:   "initiators",
		Short: "Tell the controller which nodes have one initiator name",
		Long: `Stand beside the controller and do for it what needs the Kubernetes API, so that
it needs none: look for initiator names that more than one node has, and write
them to a file that the controller reads (--shared-initiators-file there).

To the array such nodes, made from one image, are one host: what one may use the
other may, too. So the controller publishes no volume to them until each has a
name of its own. Each shared name is logged when it appears and when it is gone.
While the API does not answer the file stays as it is.`,
		Example: `  datera-csi initiators --file=/initiators/shared.json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.check(); err != nil {
				return err
			}
			api, err := flags.api.open()
			if err != nil {
				return err
			}
			klog.FromContext(cmd.Context()).Info("Looking for shared initiator names", "driver", flags.driver, "every", flags.every, "version", readVersion().Version)
			look := kube.Namesakes{API: api, Driver: flags.driver, Every: flags.every, Path: flags.file}
			look.Run(cmd.Context())
			return nil
		},
	}
	flags.add(cmd.Flags())
	return cmd
}
