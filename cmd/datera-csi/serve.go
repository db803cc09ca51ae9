package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/internal/rpc"
	"github.com/datera-csi/datera-csi/pkg/identity"
)

const (
	defaultName     = "dsp.csi.daterainc.io"
	defaultEndpoint = "unix:///csi/csi.sock"

	// What a stop may take: for running calls to end, for cancelled ones to
	// return, for what outlived its call. Together they stay below the 30 s that
	// Kubernetes gives a pod to end.
	stopGrace = 15 * time.Second
	stopAbort = 3 * time.Second
	stopDrain = 10 * time.Second
)

// serveFlags are the flags of every command that serves.
type serveFlags struct {
	endpoint string
	name     string
	health   string
}

func (f *serveFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.endpoint, "endpoint", defaultEndpoint, "unix socket to serve CSI on; its directory is made when missing")
	flags.StringVar(&f.name, "driver-name", defaultName, "name of this driver, the provisioner of its StorageClasses")
	flags.StringVar(&f.health, "health-address", "", "TCP address, such as :9808, that answers GET /livez and /readyz for probes; neither depends on the array")
}

func (f *serveFlags) check() error {
	if err := rpc.CheckEndpoint(f.endpoint); err != nil {
		return fmt.Errorf("--endpoint: %w", err)
	}
	if err := identity.CheckName(f.name); err != nil {
		return fmt.Errorf("--driver-name: %w", err)
	}
	return nil
}

// services is what a command serves. What is nil is not served.
type services struct {
	controller csi.ControllerServer
	node       csi.NodeServer
	ready      func(context.Context) error // looks at this host only; required
	placed     func() bool                 // whether places matter; nil: they do not
	drain      func(context.Context) error // waits for what outlives its call
	background func(context.Context)       // runs beside the service until ctx ends; may be nil
}

// serve serves until ctx is done and running calls have come to their end.
func serve(ctx context.Context, f *serveFlags, s services) error {
	l, err := rpc.Listen(ctx, f.endpoint)
	if err != nil {
		return fmt.Errorf("--endpoint: %w", err)
	}
	probes, err := listenHealth(ctx, f.health, f.endpoint)
	if err != nil {
		return errors.Join(fmt.Errorf("--health-address: %w", err), l.Close())
	}
	go probes.serve(ctx)
	v := readVersion()
	log := klog.FromContext(ctx)
	log.Info("Starting", "driver", f.name, "version", v.Version, "commit", v.Commit, "csi", v.CSISpec,
		"controller", s.controller != nil, "node", s.node != nil)
	if err = s.ready(ctx); err != nil { // not the end: Probe tells it until it is mended
		log.Error(err, "Not ready yet")
	}
	server := rpc.New(rpc.Config{Log: log, Grace: stopGrace, Abort: stopAbort})
	s.register(server, identity.Config{Name: f.name, Version: v.Version, Controller: s.controller != nil, Placed: s.placed, Ready: s.ready})
	quiet := s.startBackground(ctx)
	err = errors.Join(server.Serve(ctx, l), probes.close())
	drainCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopDrain)
	defer cancel()
	select {
	case <-quiet:
	case <-drainCtx.Done():
	}
	if s.drain == nil {
		return err
	}
	return errors.Join(err, s.drain(drainCtx))
}

// startBackground returns a channel that is closed when nothing runs any more.
func (s services) startBackground(ctx context.Context) <-chan struct{} {
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		if s.background != nil {
			s.background(ctx)
		}
	}()
	return quiet
}

func (s services) register(to grpc.ServiceRegistrar, id identity.Config) {
	csi.RegisterIdentityServer(to, identity.New(id))
	if s.controller != nil {
		csi.RegisterControllerServer(to, s.controller)
	}
	if s.node != nil {
		csi.RegisterNodeServer(to, s.node)
	}
}
