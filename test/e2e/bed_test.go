//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
	"github.com/datera-csi/datera-csi/test/e2e/vm"
	"github.com/datera-csi/datera-csi/test/e2e/vm/vmtest"
)

const (
	giB     = 1 << 30
	patient = 10 * time.Minute // for one test; guests are slow under emulation
)

// sharedBed is a test bed that tests use one after the other.
type sharedBed struct {
	lab *vm.Lab
	bed *testbed.Bed
}

// beds are the shared test beds that no test uses now. A test that finds none gets
// a new one, so there come to be as many as tests run at once; one that fails gives
// its bed up.
var beds struct {
	mu   sync.Mutex
	idle []*sharedBed
}

func takeBed() *sharedBed {
	beds.mu.Lock()
	defer beds.mu.Unlock()
	if n := len(beds.idle); n > 0 {
		s := beds.idle[n-1]
		beds.idle = beds.idle[:n-1]
		return s
	}
	return &sharedBed{}
}

func (s *sharedBed) giveBack() {
	beds.mu.Lock()
	defer beds.mu.Unlock()
	beds.idle = append(beds.idle, s)
}

func endBeds() {
	for _, s := range beds.idle {
		s.end()
	}
}

func (s *sharedBed) start(ctx context.Context, faultPoints bool) (err error) {
	if s.bed != nil {
		return nil
	}
	if s.lab, err = vm.Open(ctx, vm.Config{Progress: os.Stderr}); err != nil {
		return err
	}
	s.bed, err = testbed.Start(ctx, s.lab, testbed.Config{FaultPoints: faultPoints, Progress: os.Stderr})
	return err
}

// end may be called at any time.
func (s *sharedBed) end() {
	if s.bed != nil {
		if err := s.bed.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if s.lab != nil {
		if err := s.lab.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	*s = sharedBed{}
}

// useBed hands out a shared test bed, for this test alone, which runs beside others
// from here on. When it ends, nothing may be left of its volumes on the array or on
// any worker.
func useBed(t testing.TB) (context.Context, *testbed.Bed) {
	t.Helper()
	vmtest.Require(t)
	test, isTest := t.(*testing.T)
	if isTest {
		test.Parallel()
	}
	s := takeBed()
	if err := s.start(context.WithoutCancel(t.Context()), isTest); err != nil { // faults are not for what is measured
		if s.lab != nil {
			vmtest.SaveLogs(t, s.lab.CollectLogs)
		}
		s.end()
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	t.Cleanup(func() {
		cancel()
		expectNothingLeft(t, s.bed)
		if t.Failed() {
			vmtest.SaveLogs(t, s.bed.CollectLogs)
			s.end()
		}
		s.giveBack()
	})
	return ctx, s.bed
}

func expectNothingLeft(t testing.TB, bed *testbed.Bed) {
	t.Helper()
	if t.Failed() || t.Skipped() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's own has ended
	defer cancel()
	left, err := bed.Leftovers(ctx)
	if err != nil {
		t.Error(err)
	}
	if len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// fault notes what a test makes happen, for the table at the end of `make e2e`.
func fault(t testing.TB, what string) {
	t.Helper()
	t.Attr("fault", what)
}

// must ends the test at an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sh runs a script on a guest and returns its output, trimmed.
func sh(ctx context.Context, t testing.TB, g *vm.Guest, script string) string {
	t.Helper()
	out, err := g.Shell(ctx, script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// exitCode runs a script on a guest and returns its exit status.
func exitCode(ctx context.Context, t testing.TB, g *vm.Guest, script string) int {
	t.Helper()
	_, err := g.Shell(ctx, script)
	var exit *vm.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit == nil {
		return 0
	}
	return exit.Code
}

// expectCode checks the code of a refused call and that its message names a thing.
func expectCode(t testing.TB, err error, want codes.Code, named ...string) {
	t.Helper()
	for e := err; e != nil; e = errors.Unwrap(e) {
		if s, ok := status.FromError(e); ok && s.Code() == want {
			for _, word := range named {
				if !strings.Contains(s.Message(), word) {
					t.Errorf("the message does not name %q: %s", word, s.Message())
				}
			}
			return
		}
	}
	t.Fatalf("answered %v, want %v", err, want)
}

// write puts bytes of random data into a file of a pod, syncs it and returns its checksum.
func write(ctx context.Context, t testing.TB, w *testbed.Worker, path string, kib int) string {
	t.Helper()
	return sh(ctx, t, w.Guest, fmt.Sprintf("dd if=/dev/urandom of=%[1]s bs=1k count=%[2]d conv=fsync status=none; sha256sum < %[1]s", path, kib))
}

func checksum(ctx context.Context, t testing.TB, w *testbed.Worker, path string) string {
	t.Helper()
	return sh(ctx, t, w.Guest, "echo 3 > /proc/sys/vm/drop_caches; sha256sum < "+path)
}
