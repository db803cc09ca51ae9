package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/datera-csi/datera-csi/test/e2e/vm/bootline"
	"github.com/datera-csi/datera-csi/test/e2e/vm/command"
)

// bootLimit bounds a boot. It takes three seconds under emulation on an idle host.
const bootLimit = 3 * time.Minute

// stateBytes is the size of a guest's own disk. It is sparse: only what the guest writes is used.
const stateBytes = 16 << 30

// Spec describes a guest.
type Spec struct {
	Name     string // host name
	MemoryMB int    // 0 means 1024
	CPUs     int    // 0 means 1
	Disks    []Disk
	OnBoot   string // shell script that ends each boot, such as the start of daemons
}

// Disk is a disk of a guest, /dev/disk/by-id/virtio-NAME in it. It is empty and sparse, or what File is, and
// survives restarts.
type Disk struct {
	Name     string // at most 20 characters
	Bytes    int64  // of an empty one
	File     string // a file of the host that the guest gets a copy of
	ReadOnly bool   // the guest gets File itself and cannot change it
}

// Guest is one machine. Its file system survives Kill and Restart as that of a real machine does: what was
// synced stays.
type Guest struct {
	Name      string
	Initiator string // IQN that its open-iscsi uses

	lab   *Lab
	spec  Spec
	index int // from 1; the last byte of its addresses
	dir   string

	booted atomic.Bool // once, at least
	log    transcript

	mu      sync.Mutex
	machine *machine // nil while it is off
}

// machine is one life of a guest, from power on to power off.
type machine struct {
	qemu   *exec.Cmd
	client *command.Client
	ended  chan struct{} // closed when QEMU has exited
}

var guestName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// add makes a guest's disks and plugs its cables.
func (l *Lab) add(ctx context.Context, spec Spec) (*Guest, error) {
	if !guestName.MatchString(spec.Name) {
		return nil, fmt.Errorf("guest name %q must be a lower-case host name", spec.Name)
	}
	if _, err := l.Guest(spec.Name); err == nil {
		return nil, fmt.Errorf("a guest named %q exists already", spec.Name)
	}
	if spec.MemoryMB == 0 {
		spec.MemoryMB = 1024
	}
	if spec.CPUs == 0 {
		spec.CPUs = 1
	}
	l.mu.Lock()
	g := &Guest{
		Name:      spec.Name,
		Initiator: "iqn.2016-04.com.open-iscsi:" + spec.Name,
		lab:       l,
		spec:      spec,
		index:     len(l.guests) + 1,
		dir:       filepath.Join(l.Dir, spec.Name),
	}
	l.guests = append(l.guests, g)
	l.mu.Unlock()

	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, err
	}
	g.log.path = filepath.Join(g.dir, "commands.log")
	if err := g.makeDisks(ctx); err != nil {
		return nil, fmt.Errorf("make the disks of %s: %w", g.Name, err)
	}
	script := ""
	for nic := range Networks {
		script += fmt.Sprintf("tuntap add %s mode tap\nlink set %s master br%d up\n", g.tap(nic), g.tap(nic), nic)
	}
	return g, l.Net.ip(ctx, script)
}

func (g *Guest) makeDisks(ctx context.Context) error {
	for _, disk := range append([]Disk{{Name: bootline.StateDisk, Bytes: stateBytes}}, g.spec.Disks...) {
		if err := disk.make(ctx, g.diskFile(disk.Name)); err != nil {
			return err
		}
	}
	format := exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", g.diskFile(bootline.StateDisk))
	if out, err := format.CombinedOutput(); err != nil {
		return fmt.Errorf("mke2fs: %w: %s", err, out)
	}
	return nil
}

// make makes the file of a disk, unless that is one of the host's own.
func (d Disk) make(ctx context.Context, path string) error {
	switch {
	case d.ReadOnly:
		return nil
	case d.File != "":
		if out, err := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", d.File, path).CombinedOutput(); err != nil {
			return fmt.Errorf("cp: %w: %s", err, out)
		}
		return nil
	default:
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		return os.Truncate(path, d.Bytes)
	}
}

func (g *Guest) diskFile(name string) string { return filepath.Join(g.dir, name+".disk") }
func (g *Guest) consoleFile() string         { return filepath.Join(g.dir, "console.log") }
func (g *Guest) tap(nic int) string          { return fmt.Sprintf("tap%d-%d", g.index, nic) }

// Addr is the guest's address in an access network (0 or 1).
func (g *Guest) Addr(network int) netip.Addr { return address(network, g.index) }

// Boot powers the guest on and returns when it is ready and has run its OnBoot script. One
// that does not come up in time is switched off and on once: on a loaded host QEMU's
// emulation was seen to lose a timer of a guest, whose kernel then waits for ever.
func (g *Guest) Boot(ctx context.Context) error {
	if !g.booted.Load() { // or the memory was the guest's before
		if err := waitForMemory(ctx, g.spec.MemoryMB, memoryLimit, g.lab.progress); err != nil {
			return err
		}
		g.booted.Store(true)
	}
	late, err := g.comeUp(ctx)
	if late {
		_, _ = fmt.Fprintf(g.lab.progress, "Guest %s is switched off and on again: %v\n", g.Name, err)
		_, err = g.comeUp(ctx)
	}
	if err != nil || g.spec.OnBoot == "" {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if _, err := g.Shell(ctx, g.spec.OnBoot); err != nil {
		return fmt.Errorf("boot script of %s: %w", g.Name, err)
	}
	return nil
}

// comeUp powers the guest on and returns when it is ready, or off again; late is one that
// was not in time.
func (g *Guest) comeUp(ctx context.Context) (late bool, err error) {
	limited, cancel := context.WithTimeoutCause(ctx, bootLimit, fmt.Errorf("guest %s was not ready within %v", g.Name, bootLimit))
	defer cancel()
	m, err := g.powerOn()
	if err != nil {
		return false, fmt.Errorf("power on %s: %w", g.Name, err)
	}
	if err := m.client.Ping(limited); err != nil {
		late = limited.Err() != nil && ctx.Err() == nil
		return late, errors.Join(fmt.Errorf("boot %s: %w%s", g.Name, err, g.lastWords()), g.Kill())
	}
	return false, nil
}

func (g *Guest) powerOn() (*machine, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.machine != nil {
		return nil, errors.New("it is on already")
	}
	near, far, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("make the command channel: %w", err)
	}
	defer far.Close() //nolint:errcheck // QEMU has its own
	output, err := os.OpenFile(filepath.Join(g.dir, "qemu.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, errors.Join(err, near.Close())
	}
	defer output.Close() //nolint:errcheck // QEMU has its own
	argv := g.qemuArgs()
	qemu := exec.Command(argv[0], argv[1:]...)
	qemu.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is for the harness, which asks guests for their logs
	qemu.ExtraFiles = []*os.File{far}                     // becomes descriptor 3
	qemu.Stdout, qemu.Stderr = output, output
	if err := g.lab.Net.Start(qemu); err != nil {
		return nil, errors.Join(err, near.Close())
	}
	m := &machine{qemu: qemu, client: command.NewClient(near), ended: make(chan struct{})}
	go func() {
		_ = qemu.Wait() // its status is 0 even when the guest panicked; the lost channel tells
		_ = m.client.Close()
		close(m.ended)
	}()
	g.machine = m
	return m, nil
}

// socketPair makes the two ends of a command channel.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	near, far := os.NewFile(uintptr(fds[0]), "harness"), os.NewFile(uintptr(fds[1]), "guest")
	conn, err := net.FileConn(near)
	if err = errors.Join(err, near.Close()); err != nil {
		return nil, nil, errors.Join(err, far.Close())
	}
	return conn, far, nil
}

// Kill cuts the power: what the guest had not synced is lost. A guest that is off stays off.
func (g *Guest) Kill() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.machine
	if m == nil {
		return nil
	}
	if err := m.qemu.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("power off %s: %w", g.Name, err)
	}
	<-m.ended
	g.machine = nil
	return nil
}

// Restart cuts the power and boots again on the same disks.
func (g *Guest) Restart(ctx context.Context) error {
	if err := g.Kill(); err != nil {
		return err
	}
	return g.Boot(ctx)
}

// Shutdown syncs the disks and powers off.
func (g *Guest) Shutdown(ctx context.Context) error {
	m, err := g.running()
	if err != nil {
		return err
	}
	if _, err := g.Run(ctx, "busybox", "poweroff", "-f"); err != nil && !errors.Is(err, command.ErrLost) {
		return err
	}
	select {
	case <-m.ended:
		return g.Kill()
	case <-ctx.Done():
		return fmt.Errorf("shut down %s: %w", g.Name, context.Cause(ctx))
	}
}

// Console is what the guest's consoles of all its lives have shown.
func (g *Guest) Console() (string, error) {
	content, err := os.ReadFile(g.consoleFile())
	return string(content), err
}

func (g *Guest) running() (*machine, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.machine == nil {
		return nil, fmt.Errorf("guest %s is off", g.Name)
	}
	return g.machine, nil
}

// explain adds the console's last words to the error of a guest that died.
func (g *Guest) explain(err error) error {
	if err == nil || !errors.Is(err, command.ErrLost) {
		return err
	}
	return fmt.Errorf("guest %s is gone: %w%s", g.Name, err, g.lastWords())
}

// lastWords are what the guest and its QEMU said last, to end an error message.
func (g *Guest) lastWords() string {
	tail := "; its console ends with:\n" + lastWords(g.consoleFile())
	if words := lastWords(filepath.Join(g.dir, "qemu.log")); words != "" {
		tail += "\nQEMU says:\n" + words
	}
	return tail
}

// lastWords are the end of a log, or what follows the start of a kernel panic in it.
func lastWords(path string) string {
	const size = 2000
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if start := bytes.LastIndex(content, []byte("Kernel panic")); start >= 0 {
		content = content[start:min(len(content), start+size)]
	}
	return strings.TrimSpace(string(content[max(0, len(content)-size):]))
}
