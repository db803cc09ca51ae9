// Command datera-sim is a simulated Datera array: the REST API over HTTP and
// HTTPS and, with --lio, real iSCSI targets of the Linux kernel.
// `datera-sim --help` explains itself.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "datera-sim: %v\n", err)
		os.Exit(1)
	}
}
