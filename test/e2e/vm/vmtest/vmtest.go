// Package vmtest opens labs for tests.
package vmtest

import (
	"bytes"
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

// Main runs a package's tests, as root: a user with sudo that asks for no password becomes root here. Use it
// in TestMain. What the tests share is ended by the given functions.
func Main(m *testing.M, end ...func()) {
	if err := vm.BecomeRoot(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err) // tests that need guests will say so again
	}
	code := m.Run()
	for _, f := range end {
		f()
	}
	os.Exit(code)
}

// Require skips the test where guests cannot run; in CI (CI=true) it fails there.
func Require(tb testing.TB) {
	tb.Helper()
	if err := vm.Check(); err != nil {
		unavailable(tb, err, os.Getenv("CI"))
	}
}

// Open opens a lab that closes with the test, after the logs of a failed one are saved. Where guests cannot
// run, the test is skipped; in CI (CI=true) it fails.
func Open(tb testing.TB) *vm.Lab {
	tb.Helper()
	Require(tb)
	lab, err := vm.Open(tb.Context(), vm.Config{Progress: progress{tb}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			SaveLogs(tb, lab.CollectLogs)
		}
		if err := lab.Close(); err != nil {
			tb.Errorf("close the lab: %v", err)
		}
	})
	return lab
}

func unavailable(tb testing.TB, reason error, ci string) {
	tb.Helper()
	if ci == "true" {
		tb.Fatalf("%v; in CI this is a failure", reason)
	}
	tb.Skip(reason)
}

// Start opens a lab with guests.
func Start(tb testing.TB, specs ...vm.Spec) (*vm.Lab, []*vm.Guest) {
	tb.Helper()
	lab := Open(tb)
	guests, err := lab.Start(tb.Context(), specs...)
	if err != nil {
		tb.Fatal(err)
	}
	return lab, guests
}

// SaveLogs collects logs into a directory named after the test, and says where.
func SaveLogs(tb testing.TB, collect func(ctx context.Context, dir string) error) {
	tb.Helper()
	base := os.Getenv(EnvLogs)
	if base == "" {
		base = filepath.Join(os.TempDir(), "datera-csi-e2e")
	}
	dir := filepath.Join(base, strings.ReplaceAll(tb.Name(), "/", "_")+time.Now().Format("-20060102-150405"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's own has ended
	defer cancel()
	if err := collect(ctx, dir); err != nil {
		tb.Logf("collect logs: %v", err)
	}
	tb.Logf("logs of the guests are in %s", dir)
	for _, guest := range stalled(dir) {
		tb.Logf("a network card of %s took nothing more from its guest: the emulator's fault, which shows as a dead network", guest)
	}
}

// stalled names the guests whose kernel says in its log that a network card hangs.
func stalled(dir string) []string {
	var guests []string
	logs, _ := filepath.Glob(filepath.Join(dir, "*", "dmesg.log")) // fails for a bad pattern only
	for _, path := range logs {
		if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte("NETDEV WATCHDOG")) {
			guests = append(guests, filepath.Base(filepath.Dir(path)))
		}
	}
	return guests
}

// Sh runs a script in a guest and returns its output without the last newline; failure ends the test.
func Sh(tb testing.TB, g *vm.Guest, script string) string {
	tb.Helper()
	out, err := g.Shell(tb.Context(), script)
	if err != nil {
		tb.Fatal(err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// progress logs to a test.
type progress struct{ tb testing.TB }

var _ io.Writer = progress{}

func (p progress) Write(b []byte) (int, error) {
	p.tb.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}
