package iscsi_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// FM 6 and 21: a pod has a network of its own, from which the array may be out of
// reach, or closed by a policy. Iscsid logs in from the host's, so that is where the
// array must be asked.
func TestAdmissionIsAskedFromTheHostsNetwork(t *testing.T) {
	asRoot(t)
	mine := ownNetwork(t)
	target := targetA()
	target.Portals = nil
	network := inNewNetwork(t, func() { target.Portals = []netip.AddrPort{serveLogin(t, loginAnswer(2, 2))} })
	h := newHost(t)
	if got, err := h.initiator().AskAdmission(t.Context(), target); err != nil || got.Final() {
		t.Fatalf("the portal is seen from this namespace too, so the test proves nothing: %+v, %v", got, err)
	}
	got, err := h.initiator(in(network)).AskAdmission(t.Context(), target)
	if err != nil || !got.Final() {
		t.Errorf("got %+v, %v, want the portal's refusal", got, err)
	}
	expectAllThreadsIn(t, mine)
}

// A namespace that cannot be entered is silence, which is evidence of nothing.
func TestAdmissionThatCannotBeAskedIsSilence(t *testing.T) {
	t.Parallel()
	target := targetA()
	target.Portals = []netip.AddrPort{serveLogin(t, loginAnswer(2, 2))}
	got, err := newHost(t).initiator(in(filepath.Join(t.TempDir(), "net"))).AskAdmission(t.Context(), target)
	if err != nil || got.Final() || got.Admits() {
		t.Errorf("got %+v, %v", got, err)
	}
}

func in(network string) func(*iscsi.Config) {
	return func(cfg *iscsi.Config) { cfg.Network = network }
}

func ownNetwork(t *testing.T) string {
	t.Helper()
	mine, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return mine
}

// inNewNetwork runs fn in a network namespace of its own, with a loopback, and returns
// the file that shows it. It lasts until the test ends.
func inNewNetwork(t *testing.T, fn func()) (network string) {
	t.Helper()
	ready, done := make(chan error, 1), make(chan struct{})
	t.Cleanup(func() { close(done) })
	go onLostThread(func() {
		network = fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		strayed.Store(network, true)
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = raiseLoopback()
		}
		if err == nil {
			fn()
		}
		ready <- err
		<-done // the namespace is named by its thread
	})
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	return network
}

func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	loopback, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	loopback.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, loopback)
}

// onLostThread runs fn on a thread that no other goroutine gets afterwards.
func onLostThread(fn func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(done)
		fn()
	}()
	<-done
}

// strayed are the threads of inNewNetwork, which end some time after their tests.
var strayed sync.Map

// expectAllThreadsIn says which other threads of this process did not come back.
func expectAllThreadsIn(t *testing.T, mine string) {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		if _, known := strayed.Load(thread); known {
			continue
		}
		if ns, err := os.Readlink(thread); err == nil && ns != mine {
			t.Errorf("%s stayed in %s", thread, ns)
		}
	}
}
