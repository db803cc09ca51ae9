//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/vm"
	"github.com/datera-csi/datera-csi/test/e2e/vm/command"
	"github.com/datera-csi/datera-csi/test/e2e/vm/vmtest"
)

// TestLIO runs the guest tests of internal/lio where they may change the
// kernel's target: on the kernel of a guest, with its open-iscsi as initiator.
func TestLIO(t *testing.T) {
	runInGuest(t, "internal/lio", "^TestGuest", "LIO_GUEST=1", vm.Spec{Name: "lio", MemoryMB: 1536, CPUs: 2})
}

// TestISCSI runs the guest tests of pkg/iscsi in a guest that is both array and
// worker: real targets, the real initiator, a real multipathd.
func TestISCSI(t *testing.T) {
	runInGuest(t, "pkg/iscsi", "^TestGuest", "ISCSI_GUEST=1", vm.Spec{Name: "iscsi", MemoryMB: 2048, CPUs: 2})
}

// TestNode runs the test of pkg/node that wants a real kernel and real tools in a
// guest, where nothing that it needs is missing. LUNs are loop devices in memory there. What
// it does with 64 TiB is left out: it writes gigabytes, through an emulated disk.
func TestNode(t *testing.T) {
	runInGuest(t, "pkg/node", "^TestOnAKernel$", "NODE_GUEST=1", vm.Spec{Name: "node", MemoryMB: 4096, CPUs: 2},
		"-test.timeout=24m", "-test.skip=^TestOnAKernel$/^(xfs|ext4)$/^64_TiB$")
}

// runInGuest runs tests of a package of this module in a guest, one process a
// test. The variable tells them that they may change the machine, and that it lacks
// nothing: one that skips, or skips a part of it, fails.
func runInGuest(t *testing.T, dir, tests, variable string, spec vm.Spec, flags ...string) {
	t.Parallel()
	_, guests := vmtest.Start(t, spec)
	g, program := guests[0], "/root/"+filepath.Base(dir)+".test"
	if err := g.PutFile(t.Context(), compileTests(t, dir), program); err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(vmtest.Sh(t, g, program+" -test.list '"+tests+"'"))
	if len(names) == 0 {
		t.Fatalf("%s has no test %s", dir, tests)
	}
	for _, name := range names {
		t.Run(strings.TrimPrefix(strings.TrimPrefix(name, "Test"), "Guest"), func(t *testing.T) {
			var out bytes.Buffer
			argv := append([]string{program, "-test.v", "-test.timeout=8m", "-test.run=^" + name + "$"}, flags...)
			code, err := g.Exec(t.Context(),
				command.Program{Argv: argv, Env: []string{variable}},
				command.Streams{Out: &out, Err: &out})
			if err != nil {
				t.Fatal(err)
			}
			if code != 0 || !strings.Contains(out.String(), "--- PASS: "+name) || strings.Contains(out.String(), "--- SKIP: ") { // a skipped test has proven nothing
				t.Errorf("exit status %d:\n%s", code, out.String())
			}
		})
	}
}

// compileTests builds the tests of a package of this module as a program that
// needs nothing of the machine it runs on.
func compileTests(t *testing.T, dir string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), filepath.Base(dir)+".test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags=e2e", "-o", program, "./"+dir)
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("compile the tests of %s: %v: %s", dir, err, out)
	}
	return program
}
