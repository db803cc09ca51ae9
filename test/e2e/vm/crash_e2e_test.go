//go:build e2e

package vm_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/datera-csi/datera-csi/test/e2e/vm"
	"github.com/datera-csi/datera-csi/test/e2e/vm/vmtest"
)

// envHold makes this test binary hold a lab until it is killed.
const envHold = "DATERA_CSI_VM_TEST_HOLD"

func TestMain(m *testing.M) {
	if os.Getenv(envHold) != "" {
		hold()
	}
	vmtest.Main(m)
}

func hold() {
	ctx := context.Background()
	lab, err := vm.Open(ctx, vm.Config{Progress: os.Stderr})
	if err == nil {
		_, err = lab.Start(ctx, vm.Spec{Name: "held", MemoryMB: 512})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("dir", lab.Dir)
	select {}
}

// TestNothingOutlivesAKilledHarness kills a process that has a lab, and looks for what it made.
func TestNothingOutlivesAKilledHarness(t *testing.T) {
	if err := vm.Check(); err != nil {
		vmtest.Open(t) // skips or fails
	}
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), envHold+"=1")
	holder.Stderr = os.Stderr
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = holder.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	dir, ok := strings.CutPrefix(strings.TrimSpace(line), "dir ")
	if err != nil || !ok {
		_ = holder.Process.Kill()
		t.Fatalf("the holder says %q, %v", line, err)
	}
	qemu, namespace := findQEMU(t, holder.Process.Pid)
	if err = holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()

	await(t, "QEMU to end", func() bool { return errors.Is(unix.Kill(qemu, 0), unix.ESRCH) })
	await(t, "the network namespace to be without processes", func() bool { return len(inNamespace(t, namespace)) == 0 })
	vmtest.Open(t)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there after the next lab was opened: %v", dir, err)
	}
}

// findQEMU returns the QEMU that a process started, and its network namespace.
func findQEMU(t *testing.T, parent int) (pid int, namespace string) {
	t.Helper()
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range children {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that has ended
		}
		for _, word := range strings.Fields(string(content)) {
			program, err := os.ReadFile("/proc/" + word + "/comm")
			if err != nil || !strings.HasPrefix(string(program), "qemu") {
				continue
			}
			pid, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			namespace, err := os.Readlink("/proc/" + word + "/ns/net")
			if err != nil {
				t.Fatal(err)
			}
			return pid, namespace
		}
	}
	t.Fatalf("process %d has no QEMU", parent)
	return 0, ""
}

func inNamespace(t *testing.T, namespace string) []string {
	t.Helper()
	var found []string
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == namespace {
			found = append(found, link)
		}
	}
	return found
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestLabsDoNotMeet runs two labs with the same names and addresses side by side.
func TestLabsDoNotMeet(t *testing.T) {
	var labs [2]*vm.Lab
	for i := range labs {
		labs[i] = vmtest.Open(t)
	}
	for i, lab := range labs {
		guests, err := lab.Start(t.Context(), vm.Spec{Name: "same", MemoryMB: 512})
		if err != nil {
			t.Fatal(err)
		}
		vmtest.Sh(t, guests[0], fmt.Sprintf("echo %d > /root/lab; sync", i))
	}
	for i, lab := range labs {
		guest, err := lab.Guest("same")
		if err != nil {
			t.Fatal(err)
		}
		if got := vmtest.Sh(t, guest, "cat /root/lab"); got != strconv.Itoa(i) {
			t.Errorf("the guest of lab %d has the file of lab %s", i, got)
		}
	}
	if err := labs[0].Close(); err != nil {
		t.Error(err)
	}
	guest, err := labs[1].Guest("same")
	if err != nil {
		t.Fatal(err)
	}
	vmtest.Sh(t, guest, "busybox ping -c1 -W5 "+labs[1].Net.HostAddr(0).String())
	if addresses, err := exec.Command("ip", "address").Output(); err != nil || strings.Contains(string(addresses), "10.88.") {
		t.Errorf("the host's own network shows the lab's addresses: %s, %v", addresses, err)
	}
}

// TestGuestThatCannotBootTellsWhy boots on a disk that is no file system.
func TestGuestThatCannotBootTellsWhy(t *testing.T) {
	lab, guests := vmtest.Start(t, vm.Spec{Name: "victim", MemoryMB: 512})
	victim := guests[0]
	if err := victim.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := victim.Run(t.Context(), "true"); err == nil || !strings.Contains(err.Error(), "victim is off") {
		t.Errorf("a command for a guest that is off: %v", err)
	}
	if err := os.WriteFile(filepath.Join(lab.Dir, "victim", "state.disk"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	err := victim.Boot(t.Context())
	if err == nil || !strings.Contains(err.Error(), "mount /dev/vdb on /state") {
		t.Errorf("got %v, want the console's last words", err)
	}
}
