package vm

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// Main is the main function of a program that opens a lab and takes no arguments:
// it installs what is missing, becomes root, and runs until run is over or the user
// ends it. The process exits with 1 at an error.
func Main(usage string, run func(context.Context) error) {
	flag.Usage = func() { fmt.Fprintln(flag.CommandLine.Output(), usage) }
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := prepared(ctx, run)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

func prepared(ctx context.Context, run func(context.Context) error) error {
	if flag.NArg() > 0 {
		return errors.New("it takes no arguments; see -help")
	}
	if err := InstallDependencies(ctx, os.Stderr); err != nil {
		return err
	}
	if err := BecomeRoot(ctx); err != nil {
		return err
	}
	return run(ctx)
}
