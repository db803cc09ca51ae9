// Package image makes what guests boot: a Debian root file system, its kernel, and the initial RAM file
// system that carries the agent.
//
// The root file system takes half a minute and some network to make. So it is kept in a cache directory,
// under a name that is a hash of all it is made from.
package image

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// keepUnused is how long an image that nobody starts stays in the cache.
const keepUnused = 14 * 24 * time.Hour

// recipe is the source of everything that decides what is in an image.
//
//go:embed recipe.go build.go modules.go
var recipe embed.FS

// Image is a built image.
type Image struct {
	Key    string // names the contents
	Kernel string // path of the kernel
	Root   string // path of the root file system, ext4, never written after it is built

	modules string // directory of the boot modules
}

// longestCache leaves room for the names of the unix sockets in labs and beside them, whose paths have 107 bytes at most.
const longestCache = 65

// Cache is the directory where this user's images are kept.
func Cache() (string, error) {
	user, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache directory: %w", err)
	}
	dir := filepath.Join(user, "datera-csi", "vm")
	if len(dir) > longestCache {
		return "", fmt.Errorf("the path %s is too long for the sockets that come to be in there: set XDG_CACHE_HOME to one of at most %d bytes",
			dir, longestCache-len(dir)+len(user))
	}
	return dir, nil
}

// Ensure returns the image from the cache, and builds it first when it is missing. Any number of processes
// may ask at once: one builds, the others wait. It needs root, for the files in an image belong to root.
// Progress, when not nil, hears what takes long.
func Ensure(ctx context.Context, cache string, progress io.Writer) (*Image, error) {
	if progress == nil {
		progress = io.Discard
	}
	name, err := key(archiveKernel(ctx))
	if err != nil {
		return nil, err
	}
	return ensure(ctx, cache, name, progress, build)
}

// ensure is Ensure with a builder that makes image in the directory it is given.
func ensure(ctx context.Context, cache, key string, progress io.Writer, build func(ctx context.Context, dir string) error) (*Image, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("make the image cache: %w", err)
	}
	dir := filepath.Join(cache, "image-"+key)
	found, err := open(dir, key)
	if !errors.Is(err, os.ErrNotExist) {
		return found, err
	}
	unlock, err := Lock(ctx, filepath.Join(cache, "image.lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if found, err = open(dir, key); !errors.Is(err, os.ErrNotExist) {
		return found, err // another process built it while we waited
	}
	if err = sweep(ctx, cache); err != nil {
		return nil, err
	}
	began := time.Now()
	_, _ = fmt.Fprintf(progress, "Building the guest image from Debian %s (kept in %s)\n", Suite, dir)
	tmp, err := os.MkdirTemp(cache, ".build-")
	if err != nil {
		return nil, err
	}
	err = build(ctx, tmp)
	if err == nil {
		err = os.Rename(filepath.Join(tmp, "image"), dir)
	}
	if err = errors.Join(err, os.RemoveAll(tmp)); err != nil {
		return nil, fmt.Errorf("build the guest image: %w", err)
	}
	_, _ = fmt.Fprintf(progress, "Built the guest image in %.0f s\n", time.Since(began).Seconds())
	return open(dir, key)
}

// open finds an image and notes that it is in use. A directory in the cache is whole: it got its name last.
func open(dir, key string) (*Image, error) {
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err != nil {
		return nil, err
	}
	return &Image{
		Key:     key,
		Kernel:  filepath.Join(dir, "vmlinuz"),
		Root:    filepath.Join(dir, "root.ext4"),
		modules: filepath.Join(dir, "modules"),
	}, nil
}

// Extract copies a file out of the root file system.
func (i *Image) Extract(ctx context.Context, name, path string) error {
	if _, err := run(ctx, "debugfs", "-R", "dump -p "+name+" "+path, i.Root); err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil { // debugfs ends well whatever it did
		return fmt.Errorf("the image has no %s: %w", name, err)
	}
	return nil
}

// sweep removes what killed builders left (the caller holds the lock, so none is alive) and images that
// nobody has used for long. What is mounted in there is not removed with it.
func sweep(ctx context.Context, cache string) error {
	stale, err := filepath.Glob(filepath.Join(cache, ".build-*"))
	if err != nil {
		return err
	}
	images, err := filepath.Glob(filepath.Join(cache, "image-*"))
	if err != nil {
		return err
	}
	for _, dir := range images {
		if info, statErr := os.Stat(dir); statErr == nil && time.Since(info.ModTime()) > keepUnused {
			stale = append(stale, dir)
		}
	}
	_, err = run(ctx, append([]string{"rm", "-rf", "--one-file-system", "--"}, stale...)...)
	if err != nil {
		return fmt.Errorf("remove what a killed build left (unmount what is mounted in there): %w", err)
	}
	return nil
}

// key names what an image made now, with this kernel, would contain.
func key(kernel string) (string, error) {
	hash := sha256.New()
	files, err := recipe.ReadDir(".")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		content, err := recipe.ReadFile(file.Name())
		if err != nil {
			return "", err
		}
		_, _ = fmt.Fprintf(hash, "%s %d\n%s", file.Name(), len(content), content)
	}
	_, _ = fmt.Fprintf(hash, "kernel %s\n", kernel)
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

// archiveKernel is the newest kernel that this host's package lists know, or "newest" on a host that is not
// of the guests' release or has no lists: there, a new kernel in the archive alone does not make a new image.
func archiveKernel(ctx context.Context) string {
	const newest = "newest"
	if hostSuite() != Suite {
		return newest
	}
	show := exec.CommandContext(ctx, "apt-cache", "--no-all-versions", "show", kernelPackage)
	show.Env = append(os.Environ(), "LC_ALL=C")
	out, err := show.Output()
	if err != nil {
		return newest
	}
	fields := regexp.MustCompile(`(?m)^(?:Version|Depends): (.*)$`).FindAllStringSubmatch(string(out), -1)
	var words []string
	for _, field := range fields {
		words = append(words, field[1])
	}
	if len(words) == 0 {
		return newest
	}
	return strings.Join(words, " ")
}

// Lock takes an exclusive lock that ends with the process at the latest, and waits for it until ctx ends.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open a lock: %w", err)
	}
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for the lock %s: %w", path, context.Cause(ctx)), file.Close())
		case <-poll.C:
		}
	}
}
