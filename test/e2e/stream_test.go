//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// stream is a process in a pod that writes numbered blocks, one after the other,
// each synced before the next, and notes outside the volume which the kernel has
// acknowledged. Any number may run.
type stream struct {
	w    *testbed.Worker
	file string // in the volume
	note string // directory beside it: script, acked, stop, end
}

// streamScript writes blocks of 4 KiB that hold their own number.
const streamScript = `n=0
while [ ! -e $2/stop ]; do
	printf %4096d $n | dd of=$1 bs=4k iflag=fullblock count=1 seek=$n conv=notrunc,fsync status=none || { echo "failed at $n" > $2/end; exit 1; }
	echo $n; echo $n > $2/acked.new; mv $2/acked.new $2/acked
	n=$((n+1))
done
echo "wrote $n" > $2/end
`

// script is a file of this stream alone: a shell that reads one which is just being
// written anew ends without a word.
func (s *stream) script() string { return s.note + "/script" }

// newStream prepares a stream into a directory of a pod.
func newStream(ctx context.Context, t testing.TB, w *testbed.Worker, dir string) *stream {
	t.Helper()
	s := &stream{w: w, file: dir + "/stream", note: "/run/stream" + strings.ReplaceAll(dir, "/", "_")}
	sh(ctx, t, w.Guest, "rm -rf "+s.note+"; mkdir "+s.note+"\ncat > "+s.script()+" <<'END'\n"+streamScript+"END")
	return s
}

// startStream starts one and waits for its first block.
func startStream(ctx context.Context, t testing.TB, w *testbed.Worker, dir string) *stream {
	t.Helper()
	s := newStream(ctx, t, w, dir)
	sh(ctx, t, w.Guest, fmt.Sprintf("setsid sh %s %s %s >/dev/null 2>%[3]s/err </dev/null &", s.script(), s.file, s.note))
	sh(ctx, t, w.Guest, "timeout 60 sh -c 'until [ -e "+s.note+"/acked ]; do sleep 0.2; done' || { cat "+s.note+"/err >&2; exit 1; }")
	return s
}

// stop ends the stream after one more block and says how it ended: "wrote N", or
// "failed at N".
func (s *stream) stop(ctx context.Context, t testing.TB) string {
	t.Helper()
	return sh(ctx, t, s.w.Guest, fmt.Sprintf(`n=$(cat %[1]s/acked)
timeout 120 sh -c 'until [ -s %[1]s/end ] || [ "$(cat %[1]s/acked)" != '$n' ]; do sleep 0.2; done' || true
touch %[1]s/stop; timeout 60 sh -c 'until [ -s %[1]s/end ]; do sleep 0.2; done'; cat %[1]s/end`, s.note))
}

// stopUnharmed ends a stream that must not have noticed anything.
func (s *stream) stopUnharmed(ctx context.Context, t testing.TB) {
	t.Helper()
	if end := s.stop(ctx, t); !strings.HasPrefix(end, "wrote ") {
		t.Errorf("the writer %s", end)
	}
}

// acked is the number of the last block that was acknowledged.
func (s *stream) acked(ctx context.Context, t testing.TB) string {
	t.Helper()
	return sh(ctx, t, s.w.Guest, "cat "+s.note+"/acked")
}

// expectStream reads a stream's file anew, on whatever worker: every block up to
// the acknowledged one holds its number.
func expectStream(ctx context.Context, t testing.TB, w *testbed.Worker, dir, acked string) {
	t.Helper()
	script := fmt.Sprintf(`echo 3 > /proc/sys/vm/drop_caches
for n in $(seq 0 %s); do printf %%4096d $n; done | cmp -n $(((%[1]s + 1) * 4096)) - %s/stream`, acked, dir)
	if _, err := w.Shell(ctx, script); err != nil {
		t.Errorf("an acknowledged block of %s is lost: %v", acked, err)
	}
}
