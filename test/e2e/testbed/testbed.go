// Package testbed is the whole product on four machines: an array (datera-sim
// with the Linux kernel's iSCSI target) and workers (iscsid, multipathd and
// `datera-csi node`) in QEMU guests, and `datera-csi controller` as a process of
// this host inside their private network. The demonstration, the tests and the
// benchmarks all drive it as an orchestrator would, by CSI's own calls.
package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

// Config says what to set up; its zero value is an array and two workers with multipath.
type Config struct {
	Workers     int       // 0 means 2
	SinglePath  bool      // workers run no multipathd, and the array shows one portal
	ArrayFlags  []string  // more flags of datera-sim
	NodeFlags   []string  // more flags of `datera-csi node`
	FaultPoints bool      // the plugin can be killed and held at its steps, see Worker.KillAt
	Progress    io.Writer // hears what takes long; may be nil
}

// Bed is a running test bed.
type Bed struct {
	VM         *vm.Lab
	Array      *Array
	Workers    []*Worker
	Controller *Controller

	cfg Config
	bin string // directory of the built binaries
}

// Start builds the binaries, boots the guests and returns when every service answers.
func Start(ctx context.Context, lab *vm.Lab, cfg Config) (*Bed, error) {
	if cfg.Workers == 0 {
		cfg.Workers = 2
	}
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	b := &Bed{VM: lab, cfg: cfg, bin: filepath.Join(lab.Dir, "bin")}
	specs := []vm.Spec{ArraySpec()}
	for i := range cfg.Workers {
		specs = append(specs, workerSpec(i+1))
	}
	var guests []*vm.Guest
	both, bothCtx := errgroup.WithContext(ctx)
	both.Go(func() error { return b.build(bothCtx) })
	both.Go(func() (err error) {
		guests, err = lab.Start(bothCtx, specs...)
		return err
	})
	if err := both.Wait(); err != nil {
		return nil, err
	}
	for _, g := range guests[1:] {
		b.Workers = append(b.Workers, &Worker{Guest: g, bed: b})
	}
	services, servicesCtx := errgroup.WithContext(ctx)
	services.Go(func() error {
		var err error
		if b.Array, err = StartArray(servicesCtx, lab, guests[0], filepath.Join(b.bin, "datera-sim"), cfg); err != nil {
			return err
		}
		b.Controller, err = b.startController(servicesCtx)
		return err
	})
	for _, w := range b.Workers {
		services.Go(func() error { return w.install(servicesCtx) })
	}
	if err := services.Wait(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *Bed) build(ctx context.Context) error {
	var tags string
	if b.cfg.FaultPoints {
		tags = "faultpoints"
	}
	return Build(ctx, b.bin, "./cmd/...", tags)
}

// Build makes static binaries of this checkout in a directory, with build tags.
func Build(ctx context.Context, dir, packages, tags string) error {
	root, err := ModuleRoot()
	if err != nil {
		return err
	}
	flags := fmt.Sprintf("-s -w -X main.version=%s -X main.commit=%s",
		git(ctx, root, "describe", "--tags", "--always", "--dirty"), git(ctx, root, "rev-parse", "HEAD"))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", tags,
		"-ldflags", flags, "-o", dir+string(filepath.Separator), packages)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the binaries: %w\n%s", err, out)
	}
	return nil
}

// git asks about the checkout; where there is none, the answer is "unknown".
func git(ctx context.Context, root string, args ...string) string {
	out, err := exec.CommandContext(ctx, "git", append([]string{"-C", root}, args...)...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// ModuleRoot is the directory of go.mod, wherever in the checkout this process runs.
func ModuleRoot() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if root := filepath.Join(filepath.Dir(file), "..", "..", ".."); ok && filepath.IsAbs(file) {
		return root, nil
	}
	out, err := exec.Command("go", "env", "GOMOD").Output() // built with -trimpath
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// Close ends the controller; the guests end with their lab.
func (b *Bed) Close() error {
	if b.Controller == nil {
		return nil
	}
	return b.Controller.stop()
}

// CollectLogs writes the guests' logs and the controller's to dir.
func (b *Bed) CollectLogs(ctx context.Context, dir string) error {
	err := b.VM.CollectLogs(ctx, dir)
	if b.Controller == nil {
		return err
	}
	content, readErr := os.ReadFile(b.Controller.log)
	if readErr == nil {
		readErr = os.WriteFile(filepath.Join(dir, "controller.log"), content, 0o600)
	}
	return errors.Join(err, readErr)
}

// Leftovers says what is left of volumes on the array and on every worker: nothing, after all were deleted.
func (b *Bed) Leftovers(ctx context.Context) ([]string, error) {
	left, err := b.Array.Leftovers(ctx)
	if err != nil {
		return nil, err
	}
	for _, w := range b.Workers {
		more, err := w.Leftovers(ctx)
		if err != nil {
			return nil, err
		}
		left = append(left, more...)
	}
	return left, nil
}
