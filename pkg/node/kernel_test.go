package node_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	mount "k8s.io/mount-utils"

	"github.com/datera-csi/datera-csi/internal/mountinfo"
	"github.com/datera-csi/datera-csi/internal/publishctx"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

// loops is an Attacher whose LUNs are loop devices over files: everything above
// it, devices, tools, file systems and mounts, is real.
type loops struct {
	node.Devices
	dir string

	mu       sync.Mutex
	attached map[string]iscsi.Device // by IQN
}

func (l *loops) file(t iscsi.Target) string { return filepath.Join(l.dir, filepath.Base(t.Serial)) }

func (l *loops) Complete(context.Context, iscsi.Target, iscsi.Device) error { return nil }

func (l *loops) Attach(ctx context.Context, t iscsi.Target, _ *iscsi.CHAP) (iscsi.Device, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d, known := l.attached[t.IQN]; known {
		return d, nil
	}
	if _, err := os.Stat(l.file(t)); err != nil {
		if err := errors.Join(os.WriteFile(l.file(t), nil, 0o600), os.Truncate(l.file(t), t.Bytes)); err != nil {
			return iscsi.Device{}, err
		}
	}
	out, err := exec.CommandContext(ctx, "losetup", "-f", "--show", l.file(t)).Output()
	if err != nil {
		return iscsi.Device{}, fmt.Errorf("losetup: %w", err)
	}
	path := strings.TrimSpace(string(out))
	info, err := os.Stat(l.file(t))
	if err != nil {
		return iscsi.Device{}, err
	}
	l.attached[t.IQN] = iscsi.Device{Path: path, Paths: []string{path}, Bytes: info.Size()}
	return l.attached[t.IQN], nil
}

func (l *loops) Detach(ctx context.Context, t iscsi.Target) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	d, known := l.attached[t.IQN]
	if !known {
		return nil
	}
	delete(l.attached, t.IQN)
	return exec.CommandContext(ctx, "losetup", "-d", d.Path).Run()
}

func (l *loops) Find(_ context.Context, t iscsi.Target) (iscsi.Device, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d, known := l.attached[t.IQN]
	if !known {
		return iscsi.Device{}, iscsi.ErrNotAttached
	}
	return d, nil
}

func (l *loops) Prove(ctx context.Context, t iscsi.Target) (iscsi.Device, error) {
	return l.Find(ctx, t)
}

func (l *loops) Condition(ctx context.Context, t iscsi.Target) (iscsi.Condition, error) {
	d, err := l.Find(ctx, t)
	if err != nil {
		return iscsi.Condition{OnePath: true}, nil //nolint:nilerr // not attached is a condition
	}
	n, err := l.Number(d.Path)
	return iscsi.Condition{OnePath: true, Paths: []iscsi.PathCondition{
		{Portal: t.Portals[0], Session: "LOGGED_IN", State: "running", Disk: filepath.Base(d.Path), Number: n.String(), Bytes: d.Bytes},
	}}, err
}

func (l *loops) FailRefusedIO(context.Context, iscsi.Target) error { return nil }
func (l *loops) Resume(context.Context, iscsi.Target) error        { return nil }
func (l *loops) Sever(context.Context, iscsi.Target) error         { return nil }
func (l *loops) Rejoin(context.Context, iscsi.Target) error        { return nil }

func (l *loops) Fabric(context.Context) (iscsi.Fabric, error) { return iscsi.Fabric{}, nil }

func (l *loops) Rescan(ctx context.Context, t iscsi.Target) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.attached[t.IQN]
	if err := exec.CommandContext(ctx, "losetup", "-c", d.Path).Run(); err != nil {
		return 0, err
	}
	n, err := l.Number(d.Path)
	if err != nil {
		return 0, err
	}
	d.Bytes, err = l.Size(n)
	l.attached[t.IQN] = d
	return d.Bytes, err
}

func (l *loops) Origin(n node.Number) (iscsi.Target, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for iqn, d := range l.attached {
		if got, err := l.Number(d.Path); err == nil && got == n {
			return iscsi.Target{IQN: iqn}, nil
		}
	}
	return l.Devices.Origin(n)
}

// TestOnAKernel is FM 1, 5, 7, 8, 13, 16, 17, 18, 19, 28, 34, 35 and 36 with the
// kernel and the tools of the machine it runs on: this one, where it has what is
// needed, and a guest of test/e2e. It runs in a mount namespace of its own, in a
// process of its own, so that whatever goes wrong, nothing stays mounted here.
func TestOnAKernel(t *testing.T) {
	const inside = "NODE_TEST_IN_NAMESPACE"
	if os.Getenv(inside) == "" {
		inNamespace(t, inside)
		return
	}
	for _, fs := range []string{"xfs", "ext4"} {
		t.Run(fs, func(t *testing.T) {
			t.Run("a whole life", func(t *testing.T) { kernelLife(t, fs) })
			t.Run("busy", func(t *testing.T) { kernelBusy(t, fs) })
			t.Run("a clone beside its source", func(t *testing.T) { kernelClone(t, fs) })
			t.Run("a mkfs at work", func(t *testing.T) { kernelHeld(t, fs) })
			t.Run("a mkfs killed", func(t *testing.T) { kernelKilled(t, fs) })
			t.Run("64 TiB", func(t *testing.T) { kernelHuge(t, fs) })
			t.Run("damaged", func(t *testing.T) { kernelDamaged(t, fs) })
			t.Run("readers", func(t *testing.T) { kernelReaders(t, fs) })
			t.Run("a dirty copy", func(t *testing.T) { kernelDirty(t, fs) })
			t.Run("broken", func(t *testing.T) { kernelBroken(t, fs) })
		})
	}
	t.Run("block", kernelBlock)
	t.Run("block, readers", kernelRawReaders)
	t.Run("a part only", kernelPart)
	t.Run("strange mounts", kernelStrange)
	t.Run("shut down", kernelShutdown)
}

// lacks ends a test for which this machine lacks something. In a guest, which
// test/e2e tells by NODE_GUEST, that is a failure: what is skipped proves nothing.
func lacks(t *testing.T, format string, args ...any) {
	t.Helper()
	if inGuest() {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func inGuest() bool { return os.Getenv("NODE_GUEST") != "" }

func inNamespace(t *testing.T, inside string) {
	t.Helper()
	if os.Getuid() != 0 {
		lacks(t, "mounting needs root")
	}
	for _, tool := range []string{"losetup", "mkfs.xfs", "mke2fs", "xfs_growfs", "resize2fs", "xfs_io", "xfs_repair", "e2fsck", "blkid", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			lacks(t, "%s is not installed", tool)
		}
	}
	if inGuest() {
		if out, err := exec.Command("modprobe", "loop").CombinedOutput(); err != nil {
			t.Fatalf("modprobe loop: %v: %s", err, out)
		}
	}
	if out, err := exec.Command("losetup", "-f").CombinedOutput(); err != nil {
		lacks(t, "no loop devices here: %s", out)
	}
	cmd := exec.Command(os.Args[0], insideFlags(t)...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) {
		lacks(t, "no mount namespace may be made here")
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// insideFlags runs the same test with the same choice of its parts, and lets it
// tell what hangs before this process has to.
func insideFlags(t *testing.T) []string {
	t.Helper()
	const this = "^TestOnAKernel$"
	given := func(name string) string { return flag.Lookup(name).Value.String() }
	run := this
	if parts, some := strings.CutPrefix(given("test.run"), this+"/"); some {
		run += "/" + parts
	}
	timeout, err := time.ParseDuration(given("test.timeout"))
	ok(t, err)
	return []string{"-test.v", "-test.run=" + run, "-test.skip=" + given("test.skip"), "-test.short=" + given("test.short"), "-test.timeout=" + (timeout / 2).String()}
}

// newKernel returns a machine whose server is on the real kernel.
func newKernel(t *testing.T) (*machine, *loops) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	ok(t, err)
	m := &machine{t: t, dir: dir, log: t.Output()}
	if inGuest() {
		m.patience = time.Minute // its processor is emulated
	}
	l := &loops{Devices: node.NewDevices("/sys"), dir: dir, attached: map[string]iscsi.Device{}}
	m.server, err = node.New(m.kernelConfig(l))
	ok(t, err)
	t.Cleanup(func() {
		for iqn := range l.attached {
			_ = l.Detach(context.Background(), iscsi.Target{IQN: iqn})
		}
	})
	return m, l
}

func (m *machine) kernelConfig(l *loops) node.Config {
	return node.Config{
		NodeID: "iqn.1993-08.org.debian:01:kernel", Attacher: l, Devices: l, Runner: iscsi.Direct(), Clock: time.Now,
		Mounts: node.NewMounts(mount.NewWithoutSystemd(""), mountinfo.File("/proc/self/mountinfo")), RecordDir: filepath.Join(m.dir, "records"), ParallelStages: 8,
	}
}

func (m *machine) kernelVolume(name, fs string) *volume {
	t := iscsi.Target{IQN: "iqn.x:" + name, Portals: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:3260")}, Serial: name, Bytes: gib}
	return &volume{
		m: m, id: name, target: t, context: publishctx.Context{Target: t}, cap: mountCap(fs, writer),
		staging: filepath.Join(m.dir, name+" staged"), path: filepath.Join(m.dir, name+" target"),
	}
}

func kernelLife(t *testing.T, fs string) {
	m, l := newKernel(t)
	v := m.kernelVolume("a", fs)
	ok(t, v.stage(), v.stage(), v.publish(), v.publish())
	file := filepath.Join(v.path, "file")
	ok(t, os.WriteFile(file, []byte("kept"), 0o600))

	ro := *v
	ro.path, ro.ro = v.path+" ro", true
	ok(t, ro.publish(), ro.publish())
	if err := os.WriteFile(filepath.Join(ro.path, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing through the read-only target: got %v, want EROFS", err)
	}
	want(t, v.publishAt(ro.path), codes.AlreadyExists)
	want(t, v.unstage(), codes.FailedPrecondition, v.path, ro.path)

	if fs == "xfs" || mayGrowExt4(t) {
		kernelGrow(t, v, l)
	}
	ok(t, v.unpublish(), ro.unpublish(), v.unpublish(), v.unstage(), v.unstage())
	if exists(v.path) || len(m.recordsOf()) > 0 || len(l.attached) > 0 {
		t.Errorf("left: target %v, records %v, devices %v", exists(v.path), m.recordsOf(), l.attached)
	}

	v.context.UsedBytes = 1 // and now never again a mkfs
	ok(t, v.stage(), v.publish())
	if data, err := os.ReadFile(file); err != nil || string(data) != "kept" {
		t.Errorf("got %q, %v, want what was written", data, err)
	}
	other := *v
	other.cap = mountCap(map[string]string{"xfs": "ext4", "ext4": "xfs"}[fs], writer)
	want(t, other.stage(), codes.AlreadyExists)
	ok(t, v.unpublish(), v.unstage())
	want(t, other.stage(), codes.FailedPrecondition, "xfs", "ext4")
	ok(t, other.unstage())
}

// mayGrowExt4 says whether this process has CAP_SYS_RESOURCE, without which the
// kernel does not resize a mounted ext4, root or not.
func mayGrowExt4(t *testing.T) bool {
	t.Helper()
	data, err := os.ReadFile("/proc/self/status")
	ok(t, err)
	_, rest, _ := strings.Cut(string(data), "CapEff:")
	caps, err := strconv.ParseUint(strings.Fields(rest)[0], 16, 64)
	ok(t, err)
	return caps&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func kernelGrow(t *testing.T, v *volume, l *loops) {
	before, err := v.stats(v.path)
	ok(t, err)
	ok(t, os.Truncate(l.file(v.target), 3*gib))
	got, err := v.expand(v.path, 3*gib)
	ok(t, err)
	after, err := v.stats(v.path)
	ok(t, err)
	if got != 3*gib || before[0].GetTotal() > gib || after[0].GetTotal() < 5*gib/2 || after[1].GetTotal() == 0 {
		t.Errorf("expand answered %d; usage before %v, after %v", got, before, after)
	}
	again, err := v.expand(v.staging, 3*gib)
	ok(t, err)
	if again != got {
		t.Errorf("the second expand answered %d", again)
	}
}

func (m *machine) recordsOf() []string {
	names, _ := filepath.Glob(filepath.Join(m.dir, "records", "*.json"))
	return names
}

// FM 5, 13
func kernelBusy(t *testing.T, fs string) {
	m, l := newKernel(t)
	v := m.kernelVolume("a", fs)
	ok(t, v.stage(), v.publish())
	f, err := os.Create(filepath.Join(v.path, "open"))
	ok(t, err)
	want(t, v.unpublish(), codes.FailedPrecondition, "in use")
	_, err = f.WriteString("still written")
	ok(t, err, f.Close(), v.unpublish())

	g, err := os.Open(v.staging)
	ok(t, err)
	want(t, v.unstage(), codes.FailedPrecondition, "in use")
	if len(m.recordsOf()) != 1 || len(l.attached) != 1 {
		t.Errorf("records %v, devices %v", m.recordsOf(), l.attached)
	}
	ok(t, g.Close(), v.unstage())
}

// FM 17, 34
func kernelClone(t *testing.T, fs string) {
	if fs == "ext4" && !mayGrowExt4(t) {
		lacks(t, "growing a mounted ext4 needs CAP_SYS_RESOURCE")
	}
	m, l := newKernel(t)
	source, clone := m.kernelVolume("source", fs), m.kernelVolume("clone", fs)
	clone.context.FromSource, clone.context.Target.Bytes = true, 2*gib
	clone.target = clone.context.Target
	ok(t, source.stage(), os.WriteFile(filepath.Join(source.staging, "file"), []byte("x"), 0o600), source.unstage())
	ok(t, exec.Command("cp", "--sparse=always", l.file(source.target), l.file(clone.target)).Run(), os.Truncate(l.file(clone.target), 2*gib))
	ok(t, source.stage(), clone.stage())
	usage, err := clone.stats(clone.staging)
	ok(t, err)
	if !exists(filepath.Join(clone.staging, "file")) || usage[0].GetTotal() < 3*gib/2 {
		t.Errorf("the clone has %v", usage)
	}
	ok(t, clone.unstage(), source.unstage())
}

// FM 1, 28
func kernelHeld(t *testing.T, fs string) {
	m, l := newKernel(t)
	v := m.kernelVolume("a", fs)
	d, err := l.Attach(m.ctx(), v.target, nil)
	ok(t, err)
	fd, err := unix.Open(d.Path, unix.O_RDWR|unix.O_EXCL, 0) // as a mkfs does
	ok(t, err)
	want(t, v.stage(), codes.FailedPrecondition, "held by")
	ok(t, unix.Close(fd), v.stage())
	if _, err := l.Claim(l.attached[v.target.IQN].Path); !errors.Is(err, node.ErrHeld) {
		t.Errorf("a mounted device: got %v, want ErrHeld", err)
	}
	ok(t, v.unstage())
}

// FM 36
func kernelBlock(t *testing.T) {
	m, l := newKernel(t)
	v := m.kernelVolume("a", "")
	v.cap = blockCap(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
	for range 10 {
		ok(t, v.stage(), v.publish(), v.publish())
		device, err := l.Number(l.attached[v.target.IQN].Path)
		ok(t, err)
		got, err := l.Number(v.path)
		ok(t, err)
		if got != device {
			t.Fatalf("the target is device %v, want %v", got, device)
		}
		usage, err := v.stats(v.path)
		ok(t, err)
		if usage[0].GetTotal() != gib {
			t.Errorf("usage %v", usage)
		}
		want(t, v.unstage(), codes.FailedPrecondition, v.path)
		ok(t, v.unpublish(), v.unpublish(), v.unstage())
		if exists(v.path) || len(l.attached) > 0 {
			t.Fatal("something is left")
		}
	}
}

// FM 7, 8
func kernelPart(t *testing.T) {
	m, l := newKernel(t)
	v := m.kernelVolume("a", "xfs")
	ok(t, v.stage(), os.Mkdir(filepath.Join(v.staging, "sub"), 0o750))
	elsewhere := filepath.Join(m.dir, "elsewhere")
	mkdir(t, elsewhere)
	mounts := m.kernelConfig(l).Mounts
	ok(t, mounts.Mount(v.staging, elsewhere, "", []string{"bind"}), mounts.Unmount(v.staging))
	ok(t, mounts.Mount(filepath.Join(elsewhere, "sub"), v.staging, "", []string{"bind"}), mounts.Unmount(elsewhere))
	want(t, v.publish(), codes.FailedPrecondition, "a mount of /sub within the file system")
	want(t, v.stage(), codes.FailedPrecondition, "a mount of /sub within the file system")
	ok(t, v.unstage())
}

// FM 7
func kernelShutdown(t *testing.T) {
	m, _ := newKernel(t)
	v := m.kernelVolume("a", "xfs")
	ok(t, v.stage())
	for _, again := range []func() error{v.publish, v.stage} {
		ok(t, exec.Command("xfs_io", "-x", "-c", "shutdown", v.staging).Run())
		if _, err := os.ReadDir(v.staging); err == nil {
			t.Fatal("the file system still answers")
		}
		want(t, again(), codes.DataLoss) // once: what was not synced before is lost
		ok(t, again(), os.WriteFile(filepath.Join(v.staging, "file"), nil, 0o600), v.unpublish())
	}
	ok(t, v.unstage())
}

// killer lets the kernel kill every mkfs at its nth write.
type killer struct {
	runner iscsi.Runner
	write  int
}

func (k killer) Run(ctx context.Context, argv ...string) ([]byte, error) {
	if strings.HasPrefix(argv[0], "mk") {
		argv = append([]string{"strace", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", fmt.Sprintf("inject=pwrite64:signal=KILL:when=%d", k.write)}, argv...)
	}
	return k.runner.Run(ctx, argv...)
}

// FM 1, 19: the real tools, killed at their writes, leave what the proof takes for
// an interrupted mkfs and nothing else.
func kernelKilled(t *testing.T, fs string) {
	if _, err := exec.LookPath("strace"); err != nil {
		lacks(t, "strace is not installed")
	}
	for _, write := range []int{1, 2, 3, 4, 5, 7, 11, 19, 31, 43, 55, 60, 70, 80} {
		m, l := newKernel(t)
		v := m.kernelVolume("a", fs)
		cfg := m.kernelConfig(l)
		cfg.Runner = killer{cfg.Runner, write}
		s, err := node.New(cfg)
		ok(t, err)
		whole := m.server
		m.server = s
		if err := v.stage(); err == nil {
			if write < 20 {
				t.Errorf("the mkfs survived its write %d", write)
			}
			ok(t, v.unstage())
			return
		}
		m.server = whole
		if err := v.stage(); err != nil {
			t.Errorf("killed at write %d: %v", write, err)
			continue
		}
		ok(t, v.unstage())
	}
}
