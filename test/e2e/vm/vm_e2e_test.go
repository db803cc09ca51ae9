//go:build e2e

package vm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/vm"
	"github.com/datera-csi/datera-csi/test/e2e/vm/command"
	"github.com/datera-csi/datera-csi/test/e2e/vm/vmtest"
)

// TestLab boots two guests once and tries every promise of the harness on them.
func TestLab(t *testing.T) {
	began := time.Now()
	lab, guests := vmtest.Start(t,
		vm.Spec{Name: "one", Disks: []vm.Disk{{Name: "data", Bytes: 1 << 30}}, OnBoot: "date > /run/booted"},
		vm.Spec{Name: "two"})
	t.Logf("two guests were ready after %.1f s", time.Since(began).Seconds())
	one, two := guests[0], guests[1]

	t.Run("exit code 7 arrives as 7", func(t *testing.T) {
		_, err := one.Shell(t.Context(), "echo why >&2; exit 7")
		var exit *vm.ExitError
		if !errors.As(err, &exit) || exit.Code != 7 || exit.Stderr != "why" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("guests have their identity", func(t *testing.T) {
		got := vmtest.Sh(t, two, "hostname; cat /etc/iscsi/initiatorname.iscsi; findmnt -no PROPAGATION /")
		if want := "two\nInitiatorName=" + two.Initiator + "\nshared"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("a guest's clock goes like the host's", func(t *testing.T) {
		for _, g := range guests {
			clock := func() (time.Duration, time.Time) {
				ns, err := strconv.ParseInt(vmtest.Sh(t, g, "date +%s%N"), 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return time.Duration(ns), time.Now()
			}
			from, began := clock()
			time.Sleep(5 * time.Second)
			to, ended := clock()
			if guest, host := to-from, ended.Sub(began); guest < host*9/10 || guest > host*11/10 {
				t.Errorf("%v went by in %s while %v did here", guest, g.Name, host)
			}
		}
	})
	t.Run("both networks connect", func(t *testing.T) {
		for network := range vm.Networks {
			vmtest.Sh(t, one, fmt.Sprintf("busybox ping -c1 -W5 %s", two.Addr(network)))
			vmtest.Sh(t, one, fmt.Sprintf("busybox ping -c1 -W5 %s", lab.Net.HostAddr(network)))
		}
	})
	t.Run("the host speaks TCP with a guest", func(t *testing.T) { hostReachesGuest(t, lab, one) })
	t.Run("a cut cable cuts one network only", func(t *testing.T) { cutCable(t, one, two) })
	t.Run("lost packets are lost", func(t *testing.T) { losePackets(t, one, two) })
	t.Run("5 MB go there and back", func(t *testing.T) {
		want := make([]byte, 5<<20)
		_, _ = rand.Read(want)
		if err := one.Put(t.Context(), bytes.NewReader(want), "/root/new/blob", 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := one.Get(t.Context(), "/root/new/blob"); err != nil || !bytes.Equal(got, want) {
			t.Errorf("got back %d bytes, %v", len(got), err)
		}
	})
	t.Run("many commands at once", func(t *testing.T) { manyCommands(t, one) })
	t.Run("a unix socket of the guest answers", func(t *testing.T) { dialGuestSocket(t, one) })
	t.Run("an extra disk is there by name", func(t *testing.T) {
		if got := vmtest.Sh(t, one, "blockdev --getsize64 /dev/disk/by-id/virtio-data"); got != "1073741824" {
			t.Errorf("size %s", got)
		}
	})
	t.Run("iSCSI and multipath are in the image", func(t *testing.T) {
		vmtest.Sh(t, one, `modprobe -a target_core_file target_core_iblock iscsi_target_mod iscsi_tcp dm_round_robin dm_flakey dm_snapshot loop xfs sch_netem
mkdir /sys/kernel/config/target/iscsi
iscsid; multipathd; iscsiadm --version; mkfs.xfs -V; mkfs.ext4 -V; lsscsi --version; sg_inq --version; nft --version; strace -V`)
	})
	t.Run("a power cut keeps what was synced", func(t *testing.T) {
		vmtest.Sh(t, one, "echo kept > /root/kept; sync; ! ls /root/gone")
		if err := one.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := vmtest.Sh(t, one, "cat /root/kept; pgrep -c iscsid || :; test -s /run/booted"); got != "kept\n0" {
			t.Errorf("after the restart: %q", got)
		}
	})
	t.Run("an orderly shutdown", func(t *testing.T) {
		vmtest.Sh(t, one, "echo unsynced > /root/kept")
		if err := one.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := one.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := vmtest.Sh(t, one, "cat /root/kept"); got != "unsynced" {
			t.Errorf("after the shutdown: %q", got)
		}
	})
	t.Run("a guest that dies is an error with its console", func(t *testing.T) {
		_, err := two.Shell(t.Context(), "echo c > /proc/sysrq-trigger; sleep 60")
		if !errors.Is(err, command.ErrLost) || !strings.Contains(err.Error(), "sysrq triggered crash") {
			t.Errorf("got %v", err)
		}
	})
}

func hostReachesGuest(t *testing.T, lab *vm.Lab, guest *vm.Guest) {
	t.Helper()
	if _, err := guest.Daemon(t.Context(), "echo", "socat", "TCP-LISTEN:7000,fork,reuseaddr", "EXEC:cat"); err != nil {
		t.Fatal(err)
	}
	for network := range vm.Networks {
		conn := dialUntil(t, func(ctx context.Context) (net.Conn, error) {
			return lab.Net.DialContext(ctx, "tcp", netip.AddrPortFrom(guest.Addr(network), 7000).String())
		})
		echo(t, conn)
	}
	listener, err := lab.Net.Listen(t.Context(), "tcp", netip.AddrPortFrom(lab.Net.HostAddr(0), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			_, _ = io.WriteString(conn, "from the host")
			conn.Close()
		}
	}()
	port := listener.Addr().(*net.TCPAddr).Port
	if got := vmtest.Sh(t, guest, fmt.Sprintf("busybox nc %s %d < /dev/null", lab.Net.HostAddr(0), port)); got != "from the host" {
		t.Errorf("the guest heard %q", got)
	}
}

func cutCable(t *testing.T, one, two *vm.Guest) {
	t.Helper()
	if err := two.SetLink(t.Context(), 1, false); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Shell(t.Context(), fmt.Sprintf("busybox ping -c1 -W1 %s", two.Addr(1))); err == nil {
		t.Error("the cut network still connects")
	}
	vmtest.Sh(t, one, fmt.Sprintf("busybox ping -c1 -W5 %s", two.Addr(0)))
	if err := two.SetLink(t.Context(), 1, true); err != nil {
		t.Fatal(err)
	}
	vmtest.Sh(t, one, fmt.Sprintf("for i in $(seq 20); do busybox ping -c1 -W1 %s && exit; done; exit 1", two.Addr(1)))
}

func losePackets(t *testing.T, one, two *vm.Guest) {
	t.Helper()
	for _, percent := range []int{100, 0} {
		if err := two.SetLoss(t.Context(), 0, percent); err != nil {
			t.Fatal(err)
		}
		_, err := one.Shell(t.Context(), fmt.Sprintf("busybox ping -c2 -W1 %s", two.Addr(0)))
		if lost := err != nil; lost != (percent == 100) {
			t.Errorf("with %d %% loss: %v", percent, err)
		}
	}
}

func manyCommands(t *testing.T, guest *vm.Guest) {
	t.Helper()
	results := make(chan error)
	const commands = 20
	for i := range commands {
		go func() {
			out, err := guest.Shell(t.Context(), fmt.Sprintf("head -c 300000 /dev/zero; exit %d", i))
			var exit *vm.ExitError
			if i > 0 && errors.As(err, &exit) && exit.Code == i {
				err = nil
			}
			if err == nil && len(out) != 300000 {
				err = fmt.Errorf("command %d: %d bytes", i, len(out))
			}
			results <- err
		}()
	}
	for range commands {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func dialGuestSocket(t *testing.T, guest *vm.Guest) {
	t.Helper()
	if _, err := guest.Daemon(t.Context(), "unix-echo", "socat", "UNIX-LISTEN:/run/echo.sock,fork", "EXEC:cat"); err != nil {
		t.Fatal(err)
	}
	echo(t, dialUntil(t, func(ctx context.Context) (net.Conn, error) { return guest.DialUnix(ctx, "/run/echo.sock") }))
}

func dialUntil(t *testing.T, dial func(context.Context) (net.Conn, error)) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		conn, err := dial(ctx)
		if err == nil {
			return conn
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func echo(t *testing.T, conn net.Conn) {
	t.Helper()
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 5)
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "hello" {
		t.Errorf("heard %q, %v", answer, err)
	}
}
