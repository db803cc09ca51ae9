package kubernetes

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
	"github.com/datera-csi/datera-csi/test/e2e/vm"
	"github.com/datera-csi/datera-csi/test/e2e/vm/image"
)

// Version is the Kubernetes that the cluster runs.
const Version = "v1.37.2"

// Parts are the files that a cluster is made of, kept in the cache under names that are hashes of what they
// are made from.
type Parts struct {
	Programs string            // directory with the control plane's programs and kubectl
	Disk     string            // file system with the workers' programs
	CRDs     string            // directory of the snapshot types, for kubectl apply -k
	Images   map[string]string // program to its image's name, of the sidecars and the pods' own
	NodeDisk string            // file system with all images unpacked, of which each worker gets a copy
	Suite    string            // directory with Kubernetes' own storage tests; empty unless asked for
	Helm     string            // directory with the program helm; empty unless asked for

	root string // of the checkout
}

// EnsureParts returns the parts from the cache, and makes what is missing.
func EnsureParts(ctx context.Context, lab *vm.Lab, cfg Config) (*Parts, error) {
	cache, err := image.Cache()
	if err != nil {
		return nil, err
	}
	b := builder{cache: filepath.Join(filepath.Dir(cache), "kubernetes"), lab: lab, progress: cfg.Progress}
	if err = os.MkdirAll(b.cache, 0o755); err != nil {
		return nil, err
	}
	if b.root, err = testbed.ModuleRoot(); err != nil {
		return nil, err
	}
	unlock, err := image.Lock(ctx, filepath.Join(b.cache, "lock")) // one builds, others wait
	if err != nil {
		return nil, err
	}
	defer unlock()
	key, err := b.programsKey(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := b.part("programs-"+key, 9<<30, func(tmp string) error { return b.programs(ctx, tmp) })
	if err != nil {
		return nil, err
	}
	p := &Parts{Programs: dir, Disk: filepath.Join(dir, "programs.ext4"), CRDs: filepath.Join(dir, "crds"), root: b.root}
	if cfg.Suite {
		if p.Suite, err = b.part("suite-"+key, 2<<30, func(tmp string) error { return b.suite(ctx, tmp) }); err != nil {
			return nil, err
		}
	}
	if cfg.Helm {
		if p.Helm, err = b.helm(ctx); err != nil {
			return nil, err
		}
	}
	if err = b.images(ctx, p); err != nil {
		return nil, err
	}
	return p, b.sweep()
}

// builder makes parts.
type builder struct {
	cache, root string
	lab         *vm.Lab
	progress    io.Writer
}

func (b builder) module() string {
	return filepath.Join(b.root, "test", "e2e", "kubernetes", "binaries")
}

func (b builder) tell(format string, args ...any) {
	_, _ = fmt.Fprintf(b.progress, format+"\n", args...)
}

// packages are the programs that are built, most of them others' commands.
func packages() []string {
	const csi = "github.com/kubernetes-csi/external-"
	return []string{
		"./hyperkube", "./images", "./kubectl", "./pause", "./registrar",
		"github.com/containerd/containerd/v2/cmd/containerd",
		"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
		"github.com/containerd/containerd/v2/cmd/ctr",
		csi + "attacher/v4/cmd/csi-attacher", csi + "provisioner/v6/cmd/csi-provisioner", csi + "resizer/v2/cmd/csi-resizer",
		csi + "snapshotter/v8/cmd/csi-snapshotter", csi + "snapshotter/v8/cmd/snapshot-controller",
	}
}

// buildFlags leave out what debuggers need: it doubles the time and the memory of linking.
func buildFlags() []string {
	return []string{
		"-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false",
		"-ldflags", "-s -w -X k8s.io/component-base/version.gitVersion=" + Version,
	}
}

// part returns a directory of the cache. When it is not there, fill makes its content, for which the disk needs as
// many bytes; half of it is never seen.
func (b builder) part(name string, need uint64, fill func(dir string) error) (string, error) {
	dir := filepath.Join(b.cache, name)
	if used(dir) {
		return dir, nil
	}
	if err := checkDisk(b.cache, need); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(b.cache, ".build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // swept later
	if err = fill(tmp); err != nil {
		return "", err
	}
	return dir, os.Rename(tmp, dir)
}

// programs builds the binaries, and a disk with those that run on workers.
func (b builder) programs(ctx context.Context, dir string) error {
	if err := b.compile(ctx, dir); err != nil {
		return err
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"} {
		if err := os.Symlink("hyperkube", filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := b.copyCRDs(ctx, filepath.Join(dir, "crds")); err != nil {
		return err
	}
	worker := filepath.Join(dir, "worker")
	if err := os.Mkdir(worker, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"hyperkube", "kubelet", "containerd", "containerd-shim-runc-v2", "ctr"} {
		if err := tool(ctx, nil, "cp", "-a", "--reflink=auto", filepath.Join(dir, name), worker); err != nil {
			return err
		}
	}
	disk := filepath.Join(dir, "programs.ext4")
	if err := tool(ctx, nil, "mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-d", worker, disk, "320M"); err != nil {
		return err
	}
	return os.RemoveAll(worker)
}

func (b builder) programsKey(ctx context.Context) (string, error) {
	return keyOf(ctx, b.module(), packages()...)
}

// keyOf names what programs are made from: the files of a module that pins them, the compiler and its flags.
func keyOf(ctx context.Context, module string, packages ...string) (string, error) {
	hash := sha256.New()
	version := exec.CommandContext(ctx, "go", "version")
	version.Dir = module // whose toolchain line counts
	out, err := version.Output()
	if err != nil {
		return "", fmt.Errorf("ask go for its version: %w", explain(err))
	}
	_, _ = fmt.Fprintf(hash, "%s%q%q\n", out, packages, buildFlags())
	err = filepath.WalkDir(module, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		_, _ = fmt.Fprintf(hash, "%s %d\n%s", strings.TrimPrefix(path, module), len(content), content)
		return err
	})
	return hex.EncodeToString(hash.Sum(nil))[:16], err
}

// compile builds all programs into dir: the first time takes ten minutes.
func (b builder) compile(ctx context.Context, dir string) error {
	began := time.Now()
	b.tell("Building Kubernetes %s, etcd, containerd and the sidecars (the first time: 10 to 20 minutes)", Version)
	if err := b.goTool(ctx, b.module(), []string{"build", "-v", "-o", dir + string(filepath.Separator)}, packages()...); err != nil {
		return fmt.Errorf("build the cluster's programs: %w", err)
	}
	b.tell("Built them in %.0f s", time.Since(began).Seconds())
	return nil
}

// goTool runs go in a module that pins others' programs, and says now and then how far it is.
func (b builder) goTool(ctx context.Context, module string, command []string, packages ...string) error {
	began := time.Now()
	cmd := exec.CommandContext(ctx, "go", slices.Concat(command, buildFlags(), packages)...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	pipe, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err = cmd.Start(); err != nil {
		return err
	}
	var words []string
	compiled, told := 0, began
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		if words = append(words, lines.Text()); len(words) > 20 {
			words = words[1:]
		}
		if compiled++; time.Since(told) > 20*time.Second {
			told = time.Now()
			b.tell("  %.0f s: %d packages compiled", time.Since(began).Seconds(), compiled)
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w\n%s", err, strings.Join(words, "\n"))
	}
	return nil
}

// copyCRDs takes the snapshot types from the module that defines them.
func (b builder) copyCRDs(ctx context.Context, dir string) error {
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/kubernetes-csi/external-snapshotter/client/v8")
	list.Dir = b.module()
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("find the snapshot types: %w", explain(err))
	}
	return os.CopyFS(dir, os.DirFS(filepath.Join(strings.TrimSpace(string(out)), "config", "crd")))
}

// used tells whether a part is in the cache, and notes that it is wanted.
func used(path string) bool {
	now := time.Now()
	return os.Chtimes(path, now, now) == nil
}

// sweep removes what crashed builders left, and all but the two newest of each kind: a part is a gigabyte.
func (b builder) sweep() error {
	stale, err := filepath.Glob(filepath.Join(b.cache, ".build-*"))
	if err != nil {
		return err
	}
	for _, kind := range []string{"programs-*", "node-*", "suite-*", "helm-*"} {
		all, err := filepath.Glob(filepath.Join(b.cache, kind))
		if err != nil {
			return err
		}
		slices.SortFunc(all, func(x, y string) int { return modified(y).Compare(modified(x)) })
		stale = append(stale, all[min(2, len(all)):]...)
	}
	for _, path := range stale {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// checkDisk says early that a build will not fit.
func checkDisk(dir string, need uint64) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return err
	}
	if free := stat.Bavail * uint64(stat.Bsize); free < need {
		return fmt.Errorf("%s has %d GiB free, building the cluster's parts takes %d: free some (as root, go clean -cache gives back what old builds left)", dir, free>>30, need>>30)
	}
	return nil
}

// checkMemory says early that the machines will not fit; the control plane takes about 1 GiB beside them.
func checkMemory(guestsMB int) error {
	const planeMB = 1200
	content, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(content)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 && kib/1024 < guestsMB+planeMB {
			return fmt.Errorf("%d MiB of memory are free, the cluster takes %d on %d processors: end other programs or labs",
				kib/1024, guestsMB+planeMB, runtime.NumCPU())
		}
	}
	return nil
}

// tool runs a program of this host; its last words are the error.
func tool(ctx context.Context, in io.Reader, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		words := strings.TrimSpace(string(out))
		return fmt.Errorf("%s: %w: %s", filepath.Base(argv[0]), err, words[max(0, len(words)-2000):])
	}
	return nil
}
