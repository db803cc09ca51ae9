package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/datera-csi/datera-csi/internal/lio"
	"github.com/datera-csi/datera-csi/internal/sim"
)

// openTargets takes hold of this host's Linux target.
func openTargets(ctx context.Context, ips []netip.Addr) (*lio.Exporter, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("--lio works the kernel's target and needs root: run it with sudo, or without --lio")
	}
	if err := checkLocal(ips); err != nil {
		return nil, err
	}
	exporter, err := lio.New(ctx, lio.Config{})
	if err != nil {
		return nil, fmt.Errorf("--lio: %w", err)
	}
	return exporter, nil
}

// checkLocal insists on portals being addresses of this host.
func checkLocal(ips []netip.Addr) error {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("read this host's addresses: %w", err)
	}
	for _, ip := range ips {
		if ip.IsUnspecified() || ip.IsLoopback() {
			continue
		}
		if !slices.ContainsFunc(addrs, func(a net.Addr) bool {
			prefix, err := netip.ParsePrefix(a.String())
			return err == nil && prefix.Addr() == ip
		}) {
			return fmt.Errorf("--access-ip: %s is not an address of this host; add it to an interface or choose another one", ip)
		}
	}
	return nil
}

var _ sim.Exporter = (*lio.Exporter)(nil)
