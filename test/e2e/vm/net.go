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
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Networks is the number of access networks. Each guest has one interface on each, eth0 on the first, so
// that a volume has as many paths.
const Networks = 2

// Net is a network of its own: a namespace without a name, which one thread of this process and an open
// file keep alive. When the process ends, however it ends, the kernel takes the namespace, its bridges and
// the processes started in it away.
type Net struct {
	file  *os.File
	calls chan func()
	stop  sync.Once
	done  chan struct{} // closed when the thread has ended
}

// HostAddr is this side's address in an access network (0 or 1).
func (n *Net) HostAddr(network int) netip.Addr { return address(network, 254) }

func address(network, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 88, byte(network + 1), byte(host)})
}

func openNet(ctx context.Context) (*Net, error) {
	n := &Net{calls: make(chan func()), done: make(chan struct{})}
	ready := make(chan error)
	onThread(func() {
		defer close(n.done)
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.file, err = os.Open("/proc/thread-self/ns/net")
		}
		ready <- err
		if err != nil {
			return
		}
		for call := range n.calls {
			call()
		}
	})
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	if err := n.setUp(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// onThread runs fn on a thread that ends with it. The process's first thread cannot end, so it is avoided.
func onThread(fn func()) {
	go func() {
		runtime.LockOSThread() // and never unlock: the thread has seen another namespace
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			fn()
		}()
		<-done
		runtime.UnlockOSThread()
	}()
}

func (n *Net) setUp(ctx context.Context) error {
	script := "link set lo up\n"
	for i := range Networks {
		script += fmt.Sprintf("link add br%d type bridge mcast_snooping 0\naddress add %s/24 dev br%d\nlink set br%d up\n",
			i, n.HostAddr(i), i, i)
	}
	return n.ip(ctx, script)
}

// ip runs lines of iproute2's batch language.
func (n *Net) ip(ctx context.Context, script string) error {
	cmd := exec.CommandContext(ctx, "ip", "-batch", "-")
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(script), &out, &out
	if err := n.Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("set up the network: ip: %w: %s", err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

// Start starts a process in the namespace, without the proxies of the environment, which are not reached from
// there. It is killed when the Net closes or this process ends. The caller waits for it, as after cmd.Start.
func (n *Net) Start(cmd *exec.Cmd) error {
	cmd.Env = withoutProxies(cmd.Environ())
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // of the thread that starts it, which is why that one lives on
	started := make(chan error, 1)
	select {
	case <-n.done:
		return fmt.Errorf("start %s: %w", cmd.Path, net.ErrClosed)
	case n.calls <- func() { started <- cmd.Start() }:
		return <-started
	}
}

func withoutProxies(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(pair string) bool {
		key, _, _ := strings.Cut(pair, "=")
		return strings.HasSuffix(strings.ToLower(key), "_proxy")
	})
}

// Do runs fn in the namespace: sockets that it opens belong there for as long as they live. Goroutines
// that fn starts do not.
func (n *Net) Do(fn func() error) error {
	result := make(chan error, 1)
	onThread(func() {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		result <- fn()
	})
	return <-result
}

// DialContext connects from this host's addresses in the namespace. It fits http.Transport. The address
// must be an IP literal: names would be resolved outside.
func (n *Net) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("dial into the guests' network: %w", err)
	}
	var conn net.Conn
	err := n.Do(func() error {
		var dialer net.Dialer
		var err error
		conn, err = dialer.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// Listen opens a listener of this process that guests reach at HostAddr.
func (n *Net) Listen(ctx context.Context, network, addr string) (net.Listener, error) {
	var listener net.Listener
	err := n.Do(func() error {
		var config net.ListenConfig
		var err error
		listener, err = config.Listen(ctx, network, addr)
		return err
	})
	return listener, err
}

// Path names the namespace for nsenter --net=PATH while this process lives.
func (n *Net) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// EnterAndExec makes this process a program in the namespace that file is, without proxies as Start does. It returns
// only to say why it could not.
func EnterAndExec(file *os.File, program string, argv, env []string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	return unix.Exec(program, argv, withoutProxies(env))
}

// Close kills what runs in the namespace and lets go of it.
func (n *Net) Close() error {
	var err error
	n.stop.Do(func() {
		close(n.calls)
		<-n.done
		err = n.file.Close()
	})
	return err
}
