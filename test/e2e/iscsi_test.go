//go:build e2e

package e2e

import (
	"bytes"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/vm"
	"github.com/datera-csi/datera-csi/test/e2e/vm/command"
	"github.com/datera-csi/datera-csi/test/e2e/vm/vmtest"
)

// TestISCSI runs the guest tests of pkg/iscsi in a guest that is both array and
// worker: real targets, the real initiator, a real multipathd.
func TestISCSI(t *testing.T) {
	_, guests := vmtest.Start(t, vm.Spec{Name: "iscsi", MemoryMB: 2048, CPUs: 2})
	g := guests[0]
	const program = "/root/iscsi.test"
	if err := g.PutFile(t.Context(), compileTests(t, "pkg/iscsi"), program); err != nil {
		t.Fatal(err)
	}
	for name := range strings.Lines(vmtest.Sh(t, g, program+" -test.list ^TestGuest")) {
		name = strings.TrimSpace(name)
		t.Run(strings.TrimPrefix(name, "TestGuest"), func(t *testing.T) {
			var out bytes.Buffer
			code, err := g.Exec(t.Context(),
				command.Program{Argv: []string{program, "-test.v", "-test.timeout=8m", "-test.run=^" + name + "$"}, Env: []string{"ISCSI_GUEST=1"}},
				command.Streams{Out: &out, Err: &out})
			if err != nil {
				t.Fatal(err)
			}
			if code != 0 || !strings.Contains(out.String(), "--- PASS: "+name) { // a skipped test has proven nothing
				t.Errorf("exit status %d:\n%s", code, out.String())
				return
			}
			t.Log(out.String())
		})
	}
}
