package faultpoint_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/datera-csi/datera-csi/internal/faultpoint/points"
)

const root = "../.."

// TestTheShippedBuildHasNoFaultPoint looks for the points' names in what the
// Makefile builds, and, so that this proves something, in a build that has them.
func TestTheShippedBuildHasNoFaultPoint(t *testing.T) {
	if testing.Short() {
		t.Skip("it links the plugin")
	}
	names, err := points.Named(root, "pkg/node", "pkg/iscsi")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 20 {
		t.Fatalf("only %d fault points are named: %q", len(names), names)
	}
	shipped := build(t, "./cmd/datera-csi", "-ldflags=-s -w")
	armed := append(build(t, "./pkg/node", "-tags=faultpoints"), build(t, "./pkg/iscsi", "-tags=faultpoints")...)
	for _, name := range names {
		if bytes.Contains(shipped, []byte(name)) {
			t.Errorf("the shipped plugin has the fault point %q", name)
		}
		if !bytes.Contains(armed, []byte(name)) {
			t.Errorf("a build for the laboratory lacks the fault point %q", name)
		}
	}
}

// build compiles a package of this module, and links it when it is a program.
func build(t *testing.T, dir string, flags ...string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "built")
	cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"build", "-trimpath"}, flags...), "-o", file, dir)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", dir, err, out)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
