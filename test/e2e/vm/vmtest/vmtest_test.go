package vmtest

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// recorder notes how a test would have ended.
type recorder struct {
	testing.TB
	end string
}

func (r *recorder) Helper() {}

func (r *recorder) Skip(args ...any) {
	r.end = "skip: " + fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.end = "fail: " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestWithoutQEMUTestsSkipAndFailInCI(t *testing.T) {
	for ci, want := range map[string]string{"": "skip: ", "false": "skip: ", "true": "fail: "} {
		r := &recorder{TB: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			unavailable(r, errors.New("no QEMU: apt-get install qemu-system-x86"), ci)
		}()
		<-done
		if !strings.HasPrefix(r.end, want) || !strings.Contains(r.end, "apt-get install qemu-system-x86") {
			t.Errorf("CI=%q: %q, want %q and the remedy", ci, r.end, want)
		}
	}
}
