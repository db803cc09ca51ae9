package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
)

func allCommand() *cobra.Command {
	var (
		common serveFlags
		array  controllerFlags
		host   nodeFlags
	)
	cmd := &cobra.Command{
		Use:   "all",
		Short: "Serve the controller and the node service on one socket",
		Long: `Serve CSI's identity, controller and node services on one socket, for a single
host and for tests. In a cluster run the controller and the nodes apart: then the
nodes hold no array credentials.

` + backendsHelp + "\n\n" + hostHelp,
		Example: `  datera-csi all --host-exec=direct --endpoint=unix:///run/datera-csi/csi.sock`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(common.check(), array.check(), host.check()); err != nil {
				return err
			}
			node, initiator, err := host.build()
			if err != nil {
				return err
			}
			controller, backends := array.build()
			usable := backendsReady(backends)
			return serve(cmd.Context(), &common, services{
				controller: controller,
				node:       node,
				background: host.background(node),
				drain:      node.Drain,
				placed:     func() bool { return host.placed() || backends.Placed() },
				ready: func(ctx context.Context) error {
					return errors.Join(usable(ctx), initiator.Ready(ctx))
				},
			})
		},
	}
	common.add(cmd.Flags())
	array.add(cmd.Flags())
	host.add(cmd.Flags())
	return cmd
}
