package main

import (
	"errors"
	goflag "flag"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

func rootCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "datera-csi",
		Short: "CSI plugin for Datera block storage",
		Long: `datera-csi serves the Container Storage Interface for Datera arrays.

The controller makes, deletes, grows and fences volumes over the array's REST
API; run it once or twice in a cluster. The node attaches, formats and mounts
volumes; run it on every host. Nodes hold no array credentials and never call
the array. "all" serves both on one socket, for a single host and for tests.
"probe", "guard" and "initiators" are for the pods of a deployment.`,
		Example: `  datera-csi controller --backends-dir=/etc/datera-csi/backends
  datera-csi node --host-exec=nsenter
  datera-csi version --output=json`,
		Args:              cobra.NoArgs,
		SilenceUsage:      true,
		SilenceErrors:     true, // main prints the error, once
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return errors.Join(cmd.Help(), errors.New("say what to run: controller, node, all, probe, guard, initiators or version"))
		},
	}
	addLogFlags(cmd.PersistentFlags())
	cmd.AddCommand(controllerCommand(), nodeCommand(), allCommand(), probeCommand(), guardCommand(), initiatorsCommand(), versionCommand())
	return cmd
}

// addLogFlags offers the flags of klog that are of use when the log goes to
// stderr and a collector takes it from there.
func addLogFlags(flags *pflag.FlagSet) {
	all := goflag.NewFlagSet("klog", goflag.ContinueOnError)
	klog.InitFlags(all)
	flags.VarPF(flagValue{all.Lookup("v").Value, "level"}, "v", "v",
		"how much to log: 0 failed calls and changes of state, 4 every call with its request, 5 answers too; never secrets")
	flags.VarPF(flagValue{all.Lookup("vmodule").Value, "file=level,..."}, "vmodule", "",
		"the same for single source files, e.g. intercept=5,stage=4")
}

// flagValue makes a flag of the standard library one of pflag.
type flagValue struct {
	goflag.Value
	kind string
}

func (v flagValue) Type() string { return v.kind }
