// Command lab keeps a lab of guests in the background, to try things in by hand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/vm"
	"github.com/datera-csi/datera-csi/test/e2e/vm/command"
)

const usage = `lab: guests in the background, to try things in by hand

  lab up [SPEC...]              start a lab; SPEC is NAME[:MEMORY_MB[:DISK_GB]], by default array:2048 worker1 worker2
  lab status                    guests, addresses, where the logs are
  lab run GUEST PROGRAM ARG...  run a program: its output, its exit code; input is passed on
  lab sh GUEST SCRIPT           run a script with /bin/sh -e
  lab put GUEST LOCAL REMOTE    copy a file in, with its mode
  lab get GUEST REMOTE LOCAL    copy a file out
  lab host PROGRAM ARG...       run a program of this host in the lab's network (addresses 10.88.1.254, 10.88.2.254)
  lab link GUEST 0|1 up|down    plug or pull a cable
  lab loss GUEST 0|1 PERCENT    lose packets
  lab kill|boot|restart GUEST   cut the power; power on; both
  lab console GUEST             the console so far
  lab down                      end it all
  lab install                   install the Debian packages that labs need, and build the image

Several labs can run: -lab NAME, or LAB=NAME in the environment, chooses one.
`

// errUsage asks main to print the usage.
var errUsage = errors.New("wrong usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, errUsage) {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string) (int, error) {
	flags := flag.NewFlagSet("lab", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	name := flags.String("lab", os.Getenv("LAB"), "")
	if err := flags.Parse(args); err != nil || flags.NArg() == 0 {
		return 0, errUsage
	}
	if err := vm.BecomeRoot(ctx); err != nil {
		return 0, err
	}
	if flags.Arg(0) == "install" {
		return 0, install(ctx)
	}
	if *name == "" {
		*name = "default"
	}
	place := place{dir: filepath.Join(os.TempDir(), "datera-csi-lab", filepath.Base(*name))}
	verb, args := flags.Arg(0), flags.Args()[1:]
	switch verb {
	case "up":
		return 0, up(ctx, *name, place, args)
	case "serve":
		return 0, serve(ctx, place, args)
	case "run", "sh", "put", "get":
		return inGuest(ctx, place, verb, args)
	case "host":
		return 0, inNetwork(ctx, place, args)
	case "down":
		return 0, down(ctx, place, args)
	default:
		answer, err := place.ask(ctx, append([]string{verb}, args...))
		fmt.Print(answer)
		return 0, err
	}
}

// install leaves nothing for the first lab to wait for.
func install(ctx context.Context) error {
	if err := vm.InstallDependencies(ctx, os.Stderr); err != nil {
		return err
	}
	lab, err := vm.Open(ctx, vm.Config{Progress: os.Stderr})
	if err != nil {
		return err
	}
	return lab.Close()
}

// up starts the process that holds the lab and waits until it is ready.
func up(ctx context.Context, name string, p place, specs []string) error {
	if _, err := p.ask(ctx, []string{"status"}); err == nil {
		return fmt.Errorf("the lab %s is up already", name)
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	log, err := os.Create(p.log())
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own
	self, err := os.Executable()
	if err != nil {
		return err
	}
	holder := exec.Command(self, append([]string{"-lab", name, "serve"}, specs...)...) // outlives this one
	holder.Stdout, holder.Stderr = log, log
	holder.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := holder.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- holder.Wait() }()
	poll := time.NewTicker(200 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), holder.Process.Signal(syscall.SIGTERM))
		case err := <-ended:
			words, logErr := os.ReadFile(p.log())
			return errors.Join(fmt.Errorf("the lab did not start (%w): %s", err, words), logErr)
		case <-poll.C:
		}
		if answer, err := p.ask(ctx, []string{"status"}); err == nil {
			fmt.Print(answer)
			return nil
		}
	}
}

// down ends the lab and waits until it no longer answers, so that the next may come up.
func down(ctx context.Context, p place, args []string) error {
	if _, err := p.ask(ctx, append([]string{"down"}, args...)); err != nil {
		return err
	}
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		if _, err := p.ask(ctx, []string{"status"}); err != nil {
			return nil // nobody there
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-poll.C:
		}
	}
}

func inGuest(ctx context.Context, p place, verb string, args []string) (int, error) {
	if len(args) < 2 || verb != "run" && len(args) != map[string]int{"sh": 2, "put": 3, "get": 3}[verb] {
		return 0, errUsage
	}
	guest := command.NewProxiedClient("/guest/"+args[0], p.dial)
	switch verb {
	case "put":
		file, err := os.Open(args[1])
		if err != nil {
			return 0, err
		}
		info, err := file.Stat()
		if err != nil {
			return 0, err
		}
		return 0, guest.Put(ctx, file, args[2], info.Mode().Perm())
	case "get":
		content, err := guest.Get(ctx, args[1])
		if err != nil {
			return 0, err
		}
		file, err := os.Create(args[2])
		if err != nil {
			return 0, err
		}
		_, err = io.Copy(file, content)
		return 0, errors.Join(err, file.Close())
	}
	argv := args[1:]
	if verb == "sh" {
		argv = []string{"/bin/sh", "-ec", args[1]}
	}
	var input io.Reader
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&os.ModeCharDevice == 0 {
		input = os.Stdin
	}
	return guest.Run(ctx, command.Program{Argv: argv}, command.Streams{In: input, Out: os.Stdout, Err: os.Stderr})
}

// inNetwork becomes a program in the lab's network namespace.
func inNetwork(ctx context.Context, p place, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	path, err := p.ask(ctx, []string{"network"})
	if err != nil {
		return err
	}
	network, err := os.Open(path)
	if err != nil {
		return err
	}
	program, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	return vm.EnterAndExec(network, program, args, os.Environ())
}
