package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/datera-csi/datera-csi/internal/rpc"
)

func probeCommand() *cobra.Command {
	endpoint, timeout, live := defaultEndpoint, 5*time.Second, false
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Ask the plugin on its socket whether it is ready",
		Long: `Ask the plugin that serves on a socket whether it is ready, and exit with 0 if
it is. With --live any answer will do: a host without iscsid is not ready, but
a restart of the plugin would not mend that. Neither depends on the array.

The plugin's --health-address answers the same over HTTP, at a fraction of the
cost: prefer it for probes of Kubernetes.`,
		Example: `  datera-csi probe --endpoint=unix:///csi/csi.sock
  datera-csi probe --live --timeout=10s`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := rpc.CheckEndpoint(endpoint); err != nil {
				return fmt.Errorf("--endpoint: %w", err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if live {
				return probeLive(ctx, endpoint)
			}
			return probeReady(ctx, endpoint)
		},
	}
	cmd.Flags().StringVar(&endpoint, "endpoint", endpoint, "unix socket that the plugin serves on")
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "how long to wait for the answer")
	cmd.Flags().BoolVar(&live, "live", live, "be content with any answer")
	return cmd
}

// probeReady returns an error unless the plugin answers that it is ready.
func probeReady(ctx context.Context, endpoint string) error {
	ready, err := probe(ctx, endpoint)
	if err == nil && !ready {
		err = errors.New("the plugin is not ready; its log says what is missing")
	}
	return err
}

// probe asks the plugin on its socket whether it is ready.
func probe(ctx context.Context, endpoint string) (ready bool, err error) {
	var resp *csi.ProbeResponse
	err = ask(endpoint, func(plugin csi.IdentityClient) (failed error) {
		resp, failed = plugin.Probe(ctx, &csi.ProbeRequest{})
		return failed
	})
	return err == nil && (resp.GetReady() == nil || resp.GetReady().GetValue()), err // CSI: absent means ready
}

// probeLive returns an error unless the plugin answers. It asks for the name, which
// costs nothing: whether it is ready it may have to look for, and on a host that is
// short of processor time that is no reason to end it.
func probeLive(ctx context.Context, endpoint string) error {
	return ask(endpoint, func(plugin csi.IdentityClient) error {
		_, err := plugin.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
		return err
	})
}

// ask puts one question to the plugin on its socket.
func ask(endpoint string, question func(csi.IdentityClient) error) error {
	path, err := filepath.Abs(strings.TrimPrefix(strings.TrimPrefix(endpoint, "unix:"), "//"))
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := question(csi.NewIdentityClient(conn)); err != nil {
		return fmt.Errorf("no answer at %s: %w", endpoint, err)
	}
	return nil
}
