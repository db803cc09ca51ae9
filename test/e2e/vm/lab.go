// Package vm runs small Linux machines in QEMU for tests and demonstrations of what needs real kernels:
// iSCSI targets and initiators, multipath maps, mounts, power cuts.
//
// A Lab is a private network and the guests on it. Nothing of it is visible on the host's own network,
// several labs run side by side, and all of it vanishes with the process that opened it.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/datera-csi/datera-csi/test/e2e/vm/image"
)

// Config says how to open a Lab; its zero value is good.
type Config struct {
	Cache    string    // directory of images, and of the lab while it is open; empty means image.Cache()
	Accel    string    // "kvm" or "tcg"; empty means KVM where a guest boots under it
	Progress io.Writer // hears what takes long; may be nil
}

// Lab is a private network and its guests.
type Lab struct {
	Net *Net
	Dir string // disks and logs, removed by Close

	image     *image.Image
	initramfs string
	accel     string
	progress  io.Writer
	release   []func() error // in the order of acquisition

	mu     sync.Mutex
	guests []*Guest
}

// Open prepares a lab without guests: the image (built when missing), the network, a directory.
func Open(ctx context.Context, cfg Config) (*Lab, error) {
	if err := Check(); err != nil {
		return nil, err
	}
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	if cfg.Cache == "" {
		cache, err := image.Cache()
		if err != nil {
			return nil, err
		}
		cfg.Cache = cache
	}
	l := &Lab{progress: cfg.Progress}
	if err := l.open(ctx, cfg); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) open(ctx context.Context, cfg Config) (err error) {
	if l.image, err = image.Ensure(ctx, cfg.Cache, cfg.Progress); err != nil {
		return err
	}
	leave, err := takeSlot(ctx, cfg.Cache, 3*runtime.NumCPU(), cfg.Progress)
	if err != nil {
		return err
	}
	l.release = append(l.release, leave)
	if err = l.makeDir(ctx, cfg.Cache); err != nil {
		return err
	}
	agent := filepath.Join(l.Dir, "agent")
	if err = image.BuildAgent(ctx, agent); err != nil {
		return err
	}
	l.initramfs = filepath.Join(l.Dir, "initramfs")
	if err = l.image.WriteInitramfs(agent, l.initramfs); err != nil {
		return err
	}
	if l.accel = cfg.Accel; l.accel == "" {
		if l.accel, err = probeAccel(ctx, cfg.Cache, l.image, l.initramfs); err != nil {
			return err
		}
	}
	if l.Net, err = openNet(ctx); err != nil {
		return err
	}
	l.release = append(l.release, l.Net.Close)
	return nil
}

// dirPrefix begins the names of labs' directories.
const dirPrefix = "lab-"

// makeDir makes the lab's directory, and removes those of labs whose process was killed. It is in the cache because
// the temporary directory may be in memory, which the disks of the guests would take from them.
func (l *Lab) makeDir(ctx context.Context, cache string) error {
	done, err := image.Lock(ctx, filepath.Join(cache, "labs.lock")) // or another would take a new one for dead
	if err != nil {
		return err
	}
	defer done()
	if err = removeDead(filepath.Join(cache, dirPrefix+"*")); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(cache, dirPrefix)
	if err != nil {
		return err
	}
	l.Dir = dir
	l.release = append(l.release, func() error { return os.RemoveAll(dir) })
	unlock, err := image.Lock(ctx, filepath.Join(dir, lockFile))
	if err != nil {
		return err
	}
	l.release = append(l.release, func() error { unlock(); return nil })
	return nil
}

// lockFile in a lab's directory is locked while the lab lives.
const lockFile = "lock"

func removeDead(pattern string) error {
	dirs, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		unlock, err := tryLock(filepath.Join(dir, lockFile))
		if err != nil {
			continue // alive
		}
		if err := errors.Join(os.RemoveAll(dir), unlock()); err != nil {
			return fmt.Errorf("remove what a killed lab left: %w", err)
		}
	}
	return nil
}

// Start boots guests side by side and returns when all are ready, in the order of the specs.
func (l *Lab) Start(ctx context.Context, specs ...Spec) ([]*Guest, error) {
	guests := make([]*Guest, 0, len(specs))
	for _, spec := range specs {
		g, err := l.add(ctx, spec)
		if err != nil {
			return nil, err
		}
		guests = append(guests, g)
	}
	booting, bootCtx := errgroup.WithContext(ctx)
	for _, g := range guests {
		booting.Go(func() error { return g.Boot(bootCtx) })
	}
	if err := booting.Wait(); err != nil {
		return nil, err
	}
	return guests, nil
}

// Guests are all guests in the order of their start.
func (l *Lab) Guests() []*Guest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.guests)
}

// Guest finds a guest by name.
func (l *Lab) Guest(name string) (*Guest, error) {
	for _, g := range l.Guests() {
		if g.Name == name {
			return g, nil
		}
	}
	return nil, fmt.Errorf("no guest is named %q", name)
}

// ImageFile copies a file of the guests' image to a path of this host.
func (l *Lab) ImageFile(ctx context.Context, name, path string) error {
	return l.image.Extract(ctx, name, path)
}

// CollectLogs writes what is known of each guest to a directory of its own beneath dir.
func (l *Lab) CollectLogs(ctx context.Context, dir string) error {
	var all []error
	for _, g := range l.Guests() {
		all = append(all, g.collectLogs(ctx, filepath.Join(dir, g.Name)))
	}
	return errors.Join(all...)
}

// Close powers all guests off without ceremony and removes everything the lab made. It may be called twice.
func (l *Lab) Close() error {
	var all []error
	for _, g := range l.Guests() {
		all = append(all, g.Kill())
	}
	for _, release := range slices.Backward(l.release) {
		all = append(all, release())
	}
	l.release = nil
	return errors.Join(all...)
}
