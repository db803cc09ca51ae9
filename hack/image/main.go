// Command image builds the container images of this project without a container
// engine: from Debian packages, of which it keeps the few files that are needed,
// and a Go binary. The same packages and the same commit give the same digest.
//
//	go run ./hack/image -o datera-csi.tar                      # for this machine
//	go run ./hack/image -arch=amd64,arm64 -o datera-csi.tar    # an index of two
//	go run ./hack/image -program=datera-sim -o datera-sim.tar  # the simulator
//	go run ./hack/image -root=DIR                              # the files instead, for a Dockerfile
//
// The archive is an OCI layout that "docker load", "ctr images import" and skopeo read.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const repository = "ghcr.io/datera-csi/"

// sources decide what is unpacked.
//
//go:embed recipe.go root.go
var sources embed.FS

type options struct {
	program, arch, out, rootDir, name, version, commit, cache string
	created                                                   time.Time
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.StringVar(&o.program, "program", plugin, "datera-csi or datera-sim")
	flags.StringVar(&o.arch, "arch", runtime.GOARCH, "architectures, with commas between")
	flags.StringVar(&o.out, "o", "", "archive to write")
	flags.StringVar(&o.rootDir, "root", "", "write the files of the one architecture into this directory instead")
	flags.StringVar(&o.version, "version", "unknown", "version to link in, and the default tag")
	flags.StringVar(&o.commit, "commit", "unknown", "commit to link in")
	flags.StringVar(&o.name, "name", "", "repository:tag (default "+repository+"PROGRAM:VERSION)")
	flags.StringVar(&o.cache, "cache", "", "directory to keep unpacked packages in for a week; without it they are always the newest")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if (o.out == "") == (o.rootDir == "") {
		return o, errors.New("say -o FILE or -root DIR")
	}
	if o.name == "" {
		o.name = repository + o.program + ":" + o.version
	}
	epoch, err := strconv.ParseInt("0"+os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	o.created = time.Unix(epoch, 0).UTC()
	return o, err
}

func run(ctx context.Context, args []string, report io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	image := &archive{name: o.name, created: o.created, blobs: map[string][]byte{}}
	for arch := range strings.SplitSeq(o.arch, ",") {
		base, program, layersErr := o.layers(ctx, arch)
		if layersErr != nil {
			return fmt.Errorf("%s: %w", arch, layersErr)
		}
		if o.rootDir != "" {
			return errors.Join(base.write(ctx, o.rootDir), program.write(ctx, o.rootDir))
		}
		size, addErr := image.add(arch, o.settings(), base, program)
		if addErr != nil {
			return addErr
		}
		fmt.Fprintf(report, "%s %s: %.1f MiB to download, %.1f MiB on disk\n", o.name, arch, mib(size), mib(base.size()+program.size()))
	}
	file, err := os.Create(o.out)
	if err != nil {
		return err
	}
	id, err := image.write(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	fmt.Fprintf(report, "%s@%s in %s\n", o.name, id, o.out)
	return nil
}

func mib(n int) float64 { return float64(n) / (1 << 20) }

func (o options) settings() settings {
	return settings{
		Entrypoint: []string{"/usr/bin/" + o.program},
		Env:        []string{"PATH=/usr/sbin:/usr/bin"},
		User:       user + ":" + user,
		Labels: map[string]string{
			"org.opencontainers.image.title":       o.program,
			"org.opencontainers.image.description": "CSI driver for Datera block storage",
			"org.opencontainers.image.source":      "https://github.com/datera-csi/datera-csi",
			"org.opencontainers.image.licenses":    "Apache-2.0 AND GPL-2.0-or-later AND LGPL-2.1-or-later",
			"org.opencontainers.image.version":     o.version,
			"org.opencontainers.image.revision":    o.commit,
		},
	}
}

// layers are what changes with Debian and what changes with each commit.
func (o options) layers(ctx context.Context, arch string) (base, program tree, err error) {
	binary, err := o.compile(ctx, arch)
	if err != nil {
		return nil, nil, err
	}
	packed, err := o.packages(ctx, arch)
	if err != nil {
		return nil, nil, err
	}
	all, err := readTree(bytes.NewReader(packed))
	if err != nil {
		return nil, nil, err
	}
	if base, err = root(all, o.program); err != nil {
		return nil, nil, err
	}
	return base, tree{"usr/bin/" + o.program: {mode: 0o755, content: binary}}, nil
}

func (o options) compile(ctx context.Context, arch string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	out := filepath.Join(dir, o.program)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X main.version="+o.version+" -X main.commit="+o.commit,
		"-o", out, "github.com/datera-csi/datera-csi/cmd/"+o.program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=")
	if words, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile %s (run this within a checkout): %w: %s", o.program, err, words)
	}
	return os.ReadFile(out)
}

// packages unpacks the packages, or takes them from the cache.
func (o options) packages(ctx context.Context, arch string) ([]byte, error) {
	if o.cache == "" {
		var fresh bytes.Buffer
		err := unpack(ctx, arch, &fresh)
		return fresh.Bytes(), err
	}
	hash := sha256.New()
	for _, name := range []string{"recipe.go", "root.go"} {
		text, err := sources.ReadFile(name)
		if err != nil {
			return nil, err
		}
		_, _ = hash.Write(text)
	}
	path := filepath.Join(o.cache, fmt.Sprintf("packages-%s-%x.tar", arch, hash.Sum(nil)[:8]))
	const week = 7 * 24 * time.Hour
	if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) < week {
		return os.ReadFile(path)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var fresh bytes.Buffer
	if err := unpack(ctx, arch, &fresh); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.cache, 0o750); err != nil {
		return nil, err
	}
	part := path + "." + strconv.Itoa(os.Getpid())
	if err := os.WriteFile(part, fresh.Bytes(), 0o600); err != nil {
		return nil, err
	}
	return fresh.Bytes(), os.Rename(part, path)
}

func (t tree) size() int {
	n := 0
	for _, f := range t {
		n += len(f.content)
	}
	return n
}

// write makes the files of a tree below dir.
func (t tree) write(ctx context.Context, dir string) error {
	packed, err := t.tar(time.Unix(0, 0))
	if err != nil {
		return err
	}
	if err = os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // it becomes the root directory of an image
		return err
	}
	cmd := exec.CommandContext(ctx, "tar", "-x", "-p", "-C", dir)
	cmd.Stdin = bytes.NewReader(packed)
	if words, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("unpack into %s: %w: %s", dir, err, words)
	}
	return nil
}
