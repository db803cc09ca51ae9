package vm

import (
	"context"
	"fmt"
)

// SetLink plugs or pulls the guest's cable to an access network (0 or 1), at the host's end: the guest's
// interface stays up and hears nothing any more.
func (g *Guest) SetLink(ctx context.Context, network int, up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	return g.lab.Net.ip(ctx, fmt.Sprintf("link set %s %s\n", g.tap(network), state))
}

// SetLoss drops this percentage of packets, each way, between the guest and an access network; 0 ends it.
// The guest's own nftables do it, before its IP stack and behind it, because not every host kernel has netem.
func (g *Guest) SetLoss(ctx context.Context, network, percent int) error {
	if percent < 0 || percent > 100 {
		return fmt.Errorf("set packet loss of %s: %d is no percentage", g.Name, percent)
	}
	drop := "drop"
	if percent < 100 {
		drop = fmt.Sprintf("numgen random mod 100 < %d drop", percent)
	}
	script := fmt.Sprintf("table netdev loss%d\ndelete table netdev loss%d\n", network, network)
	if percent > 0 {
		script += fmt.Sprintf(`table netdev loss%[1]d {
	chain in { type filter hook ingress device eth%[1]d priority 0; %[2]s; }
	chain out { type filter hook egress device eth%[1]d priority 0; %[2]s; }
}
`, network, drop)
	}
	if _, err := g.Run(ctx, "nft", script); err != nil {
		return fmt.Errorf("set packet loss: %w", err)
	}
	return nil
}
