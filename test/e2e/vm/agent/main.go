// Command agent is the first process of a guest and its command channel.
//
// As PID 1 it makes the machine usable (boot.go), starts itself again as the server of the command
// channel, and reaps orphans. Everything it is told comes on the kernel command line (package bootline).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/datera-csi/datera-csi/test/e2e/vm/bootline"
	"github.com/datera-csi/datera-csi/test/e2e/vm/command"
)

// environment is what every command of the guest starts with.
var environment = map[string]string{
	"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME": "/root",
	"LANG": "C.UTF-8",
}

func main() {
	if os.Getpid() != 1 {
		fail("serve commands", serve(context.Background(), os.Args[1]))
		return
	}
	line, err := os.ReadFile("/proc/cmdline")
	if errors.Is(err, os.ErrNotExist) {
		fail("mount /proc", unix.Mount("proc", "/proc", "proc", 0, ""))
		line, err = os.ReadFile("/proc/cmdline")
	}
	fail("read the command line", err)
	machine, err := bootline.Parse(string(line))
	fail("read the command line", err)
	if machine.Probe {
		fmt.Println(bootline.ProbeMark)
		powerOff()
	}
	for key, value := range environment {
		fail("set the environment", os.Setenv(key, value))
	}
	port, err := boot(machine)
	fail("boot", err)
	fail("run", superviseAgent(port))
}

// fail ends the machine, so that the harness sees the channel break and shows this last line.
func fail(what string, err error) {
	if err == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "agent: %s: %v\n", what, err)
	if os.Getpid() == 1 {
		powerOff()
	}
	os.Exit(1)
}

func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// superviseAgent runs the server as a child, because PID 1 takes the exit status of every process that
// nobody waits for, and would take those of the commands too.
func superviseAgent(port string) error {
	server := exec.Command("/proc/self/exe", port) // lives as long as the machine
	server.Args[0] = "agent"
	server.Stdout, server.Stderr = os.Stdout, os.Stderr
	if err := server.Start(); err != nil {
		return fmt.Errorf("start the command server: %w", err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for children: %w", err)
		}
		if pid == server.Process.Pid {
			return fmt.Errorf("the command server ended with status %#x", status)
		}
	}
}

// serve answers on the virtio-serial port until the harness closes its side.
func serve(ctx context.Context, path string) error {
	port, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := command.Serve(ctx, &portConn{File: port}); err != nil {
		return err
	}
	return errors.New("the harness closed the channel")
}

// portConn makes a connection of a virtio-serial port.
type portConn struct {
	*os.File
	heard bool // bytes have come from the harness
}

// Read takes the end of input for what it is only after something came: until the kernel learns that the
// harness holds the other side, a port reads as empty.
func (p *portConn) Read(b []byte) (int, error) {
	for deadline := time.Now().Add(deviceTimeout); ; time.Sleep(5 * time.Millisecond) {
		n, err := p.File.Read(b)
		if n > 0 {
			p.heard = true
		}
		if !errors.Is(err, io.EOF) || p.heard || time.Now().After(deadline) {
			return n, err
		}
	}
}

func (p *portConn) LocalAddr() net.Addr  { return portAddr(p.Name()) }
func (p *portConn) RemoteAddr() net.Addr { return portAddr("harness") }

type portAddr string

func (portAddr) Network() string  { return "virtio-serial" }
func (a portAddr) String() string { return string(a) }
