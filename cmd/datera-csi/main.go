// Command datera-csi is the CSI plugin of Datera arrays. It runs beside the
// orchestrator's sidecars, as a controller, as a node or as both, and serves
// CSI on a unix socket. `datera-csi --help` explains itself.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version and commit are set when the binary is linked:
//
//	go build -ldflags "-X main.version=v2.0.0 -X main.commit=0123abc" ./cmd/datera-csi
//
// What is left empty is taken from the build information that Go embeds.
var version, commit string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "datera-csi: %v\n", err)
		os.Exit(1)
	}
}
