//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
	"github.com/datera-csi/datera-csi/test/e2e/vm/command"
)

// TestPowerCutUnderWriters is FM 29: the node loses power while it writes. After
// the boot there is no session until a volume is staged again; then the journal is
// replayed, and all that was acknowledged is there.
func TestPowerCutUnderWriters(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the node loses power under writers")
	w := bed.Workers[0]
	kinds := []string{"xfs", "ext4"}
	volumes, said := make([]*testbed.Volume, len(kinds)), make([]*lastLine, len(kinds))
	atOnce(t, len(kinds), func(n int) {
		v, err := bed.Create(ctx, "power-"+kinds[n], giB, nil, testbed.Mount(kinds[n]))
		must(t, err)
		must(t, bed.Attach(ctx, v, w, "pod-"+kinds[n]))
		volumes[n] = v
	})
	sh(ctx, t, w.Guest, "sync") // the worker's own disk: the record is synced by the plugin itself
	var running sync.WaitGroup
	for n, v := range volumes {
		s := newStream(ctx, t, w, testbed.TargetPath(v, "pod-"+kinds[n]))
		said[n] = &lastLine{}
		running.Go(func() {
			_, _ = w.Exec(ctx, command.Program{Argv: []string{"/bin/sh", s.script(), s.file, s.note}}, command.Streams{Out: said[n]}) // ends with the guest
		})
	}
	for _, out := range said {
		must(t, eventually(ctx, out.some))
	}
	must(t, w.Reboot(ctx))
	running.Wait()
	if n := sh(ctx, t, w.Guest, "ls /sys/class/iscsi_session | wc -l"); n != "0" {
		t.Errorf("%s sessions after the boot, want none", n)
	}
	atOnce(t, len(kinds), func(n int) {
		pod, v := "pod-"+kinds[n], volumes[n]
		must(t, bed.Attach(ctx, v, w, pod))
		expectStream(ctx, t, w, testbed.TargetPath(v, pod), said[n].whole())
		must(t, bed.Detach(ctx, v, w, pod))
		must(t, bed.Delete(ctx, v))
	})
}

// TestArrayKeepsWhatItAcknowledged is FM 20 and the ground of every other test here: a
// write is on the array's disk when it is acknowledged, though nobody flushes it and the
// array loses power at once. An initiator could not make up for a loss: it sends again
// what was not acknowledged, and a flush to an array that has forgotten succeeds.
func TestArrayKeepsWhatItAcknowledged(t *testing.T) {
	ctx, bed := useBed(t)
	fault(t, "the array loses power after a write that nobody flushed")
	w := bed.Workers[0]
	v, device := attached(ctx, t, bed, "acknowledged", testbed.Block(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	scatter(ctx, t, w, device) // at places of the file that were holes, without a sync
	sum := samples(ctx, t, w, device)
	must(t, bed.Array.Restart(ctx))
	if got := samples(ctx, t, w, device); got != sum {
		t.Error("what the array acknowledged is gone")
	}
	gone(ctx, t, bed, v)
}

// lastLine keeps the last whole line that was written to it.
type lastLine struct {
	mu   sync.Mutex
	line []byte
	rest []byte
}

func (l *lastLine) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, b...)
	if end := bytes.LastIndexByte(l.rest, '\n'); end >= 0 {
		all := bytes.Split(l.rest[:end], []byte("\n"))
		l.line, l.rest = all[len(all)-1], l.rest[end+1:]
	}
	return len(b), nil
}

func (l *lastLine) whole() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(string(l.line))
}

// some is nil when ten blocks were acknowledged.
func (l *lastLine) some() error {
	if len(l.whole()) < 2 {
		return context.DeadlineExceeded
	}
	return nil
}
