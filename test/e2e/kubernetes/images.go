package kubernetes

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Images of the laboratory's own.
const (
	PauseImage = "registry.k8s.io/pause:3.10"     // for pods that only hold a volume
	ShellImage = "docker.io/library/busybox:1.37" // for pods that run commands
)

// packed is an image as the program "images" reads it.
type packed struct {
	Names         []string
	Program, Path string
	Args          []string
	Busybox       string
	Tools         []string
}

// images makes the archives of all images and from them the workers' disk.
func (b builder) images(ctx context.Context, p *Parts) error {
	wanted, err := b.shippedImages(ctx, p.Programs)
	if err != nil {
		return err
	}
	p.Images = map[string]string{"snapshot-controller": "registry.k8s.io/sig-storage/snapshot-controller:lab"}
	work, err := os.MkdirTemp(b.cache, ".build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work) //nolint:errcheck // swept later
	list := []packed{
		{Names: []string{PauseImage}, Program: filepath.Join(p.Programs, "pause"), Path: "/pause"},
		{Names: []string{p.Images["snapshot-controller"]}, Program: filepath.Join(p.Programs, "snapshot-controller"), Path: "/snapshot-controller"},
	}
	var own []string
	for _, ref := range wanted {
		var program string
		if program, err = programOf(ref); err != nil {
			return err
		}
		if strings.HasPrefix(program, "datera-") {
			archive := filepath.Join(work, program+".tar")
			if err = b.own(ctx, program, ref, archive); err != nil {
				return err
			}
			own = append(own, archive)
		} else {
			list = append(list, packed{Names: []string{ref}, Program: filepath.Join(p.Programs, program), Path: "/" + program})
		}
		p.Images[program] = ref
	}
	shell, err := b.shell(ctx, work)
	if err != nil {
		return err
	}
	list = append(list, shell)
	if p.Suite != "" {
		var more []packed
		if more, err = suiteImages(ctx, p.Suite, shell); err != nil {
			return err
		}
		list = append(list, more...)
	}
	return b.nodeDisk(ctx, p, work, list, own)
}

// shippedImages are those that the shipped manifests name, so that the cluster runs them unchanged.
func (b builder) shippedImages(ctx context.Context, programs string) ([]string, error) {
	render := exec.CommandContext(ctx, filepath.Join(programs, "kubectl"), "kustomize", filepath.Join(b.root, manifests, "simulator")) // it has them all
	out, err := render.Output()
	if err != nil {
		return nil, fmt.Errorf("render the manifests in %s: %w", manifests, explain(err))
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		if ref, ok := strings.CutPrefix(strings.TrimPrefix(strings.TrimSpace(line), "- "), "image: "); ok {
			all = append(all, strings.Trim(ref, `"`))
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// programOf is the program that stands for an image of the manifests.
func programOf(ref string) (string, error) {
	name, _, _ := strings.Cut(filepath.Base(ref), ":")
	switch name {
	case "datera-csi", "datera-sim", "csi-attacher", "csi-provisioner", "csi-resizer", "csi-snapshotter":
		return name, nil
	case "csi-node-driver-registrar":
		return "registrar", nil
	}
	return "", fmt.Errorf("the manifests name the image %s, which the laboratory does not have", ref)
}

// shell is the guests' own busybox as an image.
func (b builder) shell(ctx context.Context, work string) (packed, error) {
	busybox := filepath.Join(work, "busybox")
	if err := b.lab.ImageFile(ctx, "/usr/bin/busybox", busybox); err != nil {
		return packed{}, err
	}
	applets, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return packed{}, fmt.Errorf("ask busybox for its applets: %w", err)
	}
	tools := slices.DeleteFunc(strings.Fields(string(applets)), func(name string) bool { return name == "busybox" })
	return packed{Names: []string{ShellImage}, Busybox: busybox, Tools: tools}, nil
}

// own makes an image of this project as it is shipped.
func (b builder) own(ctx context.Context, program, ref, out string) error {
	build := exec.CommandContext(ctx, "go", "run", "./hack/image", "-program="+program, "-arch=amd64", "-name="+ref, "-version="+ref[strings.LastIndex(ref, ":")+1:],
		"-cache="+b.cache, "-o="+out)
	build.Dir = b.root
	if words, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("make the image of %s: %w: %s", program, err, bytes.TrimSpace(words))
	}
	return nil
}

// nodeDisk makes the workers' disk: containerd's directory with every image unpacked. To import them in a
// guest would take a minute each under emulation.
func (b builder) nodeDisk(ctx context.Context, p *Parts, work string, list []packed, own []string) error {
	description, err := json.Marshal(list)
	if err != nil {
		return err
	}
	hash := sha256.New()
	_, _ = fmt.Fprintf(hash, "%s\n%s\n", filepath.Base(p.Programs), bytes.ReplaceAll(description, []byte(work), nil))
	for _, archive := range own {
		content, err := os.ReadFile(archive)
		if err != nil {
			return err
		}
		_, _ = hash.Write(content)
	}
	p.NodeDisk = filepath.Join(b.cache, "node-"+hex.EncodeToString(hash.Sum(nil))[:16]+".ext4")
	if used(p.NodeDisk) {
		return nil
	}
	if err := checkDisk(b.cache, 3<<30); err != nil {
		return err
	}
	began := time.Now()
	b.tell("Unpacking the images for the workers")
	others := filepath.Join(work, "images.tar")
	if err := tool(ctx, bytes.NewReader(description), filepath.Join(p.Programs, "images"), "-o="+others); err != nil {
		return err
	}
	tree := filepath.Join(work, "tree")
	if err := b.unpack(ctx, p.Programs, work, tree, append(own, others)...); err != nil {
		return err
	}
	// With a journal: a worker that is killed comes back on this disk.
	disk := filepath.Join(work, "node.ext4")
	if err := tool(ctx, nil, "mke2fs", "-q", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", "-d", tree, disk, "8G"); err != nil {
		return err
	}
	b.tell("Unpacked them in %.0f s", time.Since(began).Seconds())
	return os.Rename(disk, p.NodeDisk)
}

// unpack runs a containerd of its own, in a mount namespace, that imports archives into a directory.
func (b builder) unpack(ctx context.Context, programs, work, tree string, archives ...string) error {
	for _, dir := range []string{"containerd", "kubelet"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	socket := filepath.Join(work, "c.sock")
	config := fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri", "io.containerd.podsandbox.controller.v1.podsandbox"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`, filepath.Join(tree, "containerd"), filepath.Join(work, "state"), socket, socket+".ttrpc")
	if err := os.WriteFile(filepath.Join(work, "containerd.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	var words bytes.Buffer
	daemon := exec.Command(filepath.Join(programs, "containerd"), "--config", filepath.Join(work, "containerd.toml"))
	daemon.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	daemon.Stdout, daemon.Stderr = &words, &words
	if err := b.lab.Net.Start(daemon); err != nil { // it ends with the lab at the latest
		return err
	}
	ctr := func(args ...string) ([]byte, error) {
		out, err := exec.CommandContext(ctx, filepath.Join(programs, "ctr"), append([]string{"--address", socket, "--namespace", "k8s.io"}, args...)...).Output()
		return out, explain(err)
	}
	err := Eventually(ctx, "containerd to answer", 30*time.Second, func() error {
		_, err := ctr("version")
		return err
	})
	for _, archive := range archives {
		if err == nil {
			_, err = ctr("images", "import", "--local", "--snapshotter", "overlayfs", archive)
		}
	}
	if err == nil {
		err = markManaged(ctr)
	}
	stop := daemon.Process.Signal(syscall.SIGTERM)
	_ = daemon.Wait() // told to end
	if err = errors.Join(err, stop); err != nil {
		return fmt.Errorf("unpack the images: %w; containerd says:\n%s", err, tail(words.String(), 1000))
	}
	return nil
}

// markManaged sets the label by which the kubelet's side of containerd knows images as its own.
func markManaged(ctr func(args ...string) ([]byte, error)) error {
	names, err := ctr("images", "list", "--quiet")
	for _, name := range strings.Fields(string(names)) {
		if err == nil {
			_, err = ctr("images", "label", name, "io.cri-containerd.image=managed")
		}
	}
	return err
}

// explain adds what a program said to its exit status.
func explain(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, tail(strings.TrimSpace(string(exit.Stderr)), 2000))
	}
	return err
}

func tail(s string, size int) string { return s[max(0, len(s)-size):] }
