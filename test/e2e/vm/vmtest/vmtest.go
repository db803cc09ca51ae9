// Package vmtest opens labs for tests.
package vmtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

// EnvLogs names the directory that the logs of failed tests go to; by default one in the temporary directory.
const EnvLogs = "E2E_LOGS"

// Main runs a package's tests, as root: a user with sudo that asks for no password becomes root here. Use it in TestMain.
func Main(m *testing.M) {
	if err := vm.BecomeRoot(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err) // tests that need guests will say so again
	}
	os.Exit(m.Run())
}

// Open opens a lab that closes with the test, after the logs of a failed one are saved. Where guests cannot
// run, the test is skipped; in CI (CI=true) it fails.
func Open(t testing.TB) *vm.Lab {
	t.Helper()
	if err := vm.Check(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v; in CI this is a failure", err)
		}
		t.Skip(err)
	}
	lab, err := vm.Open(t.Context(), vm.Config{Progress: progress{t}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			saveLogs(t, lab)
		}
		if err := lab.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	return lab
}

// Start opens a lab with guests.
func Start(t testing.TB, specs ...vm.Spec) (*vm.Lab, []*vm.Guest) {
	t.Helper()
	lab := Open(t)
	guests, err := lab.Start(t.Context(), specs...)
	if err != nil {
		t.Fatal(err)
	}
	return lab, guests
}

func saveLogs(t testing.TB, lab *vm.Lab) {
	t.Helper()
	base := os.Getenv(EnvLogs)
	if base == "" {
		base = filepath.Join(os.TempDir(), "datera-csi-e2e")
	}
	dir := filepath.Join(base, strings.ReplaceAll(t.Name(), "/", "_")+time.Now().Format("-20060102-150405"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's own has ended
	defer cancel()
	if err := lab.CollectLogs(ctx, dir); err != nil {
		t.Logf("collect logs: %v", err)
	}
	t.Logf("logs of the guests are in %s", dir)
}

// Sh runs a script in a guest and returns its output without the last newline; failure ends the test.
func Sh(t testing.TB, g *vm.Guest, script string) string {
	t.Helper()
	out, err := g.Shell(t.Context(), script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// progress logs to a test.
type progress struct{ t testing.TB }

var _ io.Writer = progress{}

func (p progress) Write(b []byte) (int, error) {
	p.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}
