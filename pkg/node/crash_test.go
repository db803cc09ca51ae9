package node_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/pkg/node/nodetest"
)

// lives are ways to use a volume.
func lives() map[string]func(v *volume) {
	return map[string]func(v *volume){
		"xfs":       func(*volume) {},
		"ext4":      func(v *volume) { v.cap = mountCap("ext4", writer) },
		"block":     func(v *volume) { v.cap = blockCap(writer) },
		"read-only": func(v *volume) { v.ro = true },
		"single":    func(v *volume) { v.cap = mountCap("xfs", csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER) },
	}
}

// FM 19: the plugin is killed before each step of a whole life, in every way to
// live, and the caller repeats the call that failed.
func TestKilledAnywhereTheRetryConverges(t *testing.T) {
	for name, shape := range lives() {
		t.Run(name, func(t *testing.T) {
			steps := 0
			for crash := 1; crash == 1 || crash <= steps; crash++ {
				m := newMachine(t)
				v := m.volume("a")
				shape(v)
				m.CrashAt(crash)
				for _, call := range []func() error{v.stage, v.publish, v.unpublish, v.unstage} {
					err := call()
					if m.Crashed() {
						if err == nil {
							t.Fatalf("crash at step %d: the call still answered OK", crash)
						}
						steps = max(steps, crash+1)
						m.Revive()
						m.restart()
						err = call()
					}
					if err != nil {
						t.Fatalf("crash at step %d: %v", crash, err)
					}
					ok(t, call())
				}
				m.nothingLeft()
				if got := len(m.calls("mkfs", "mke2fs")); got > 2 || got > 1 && crash == steps {
					t.Errorf("crash at step %d: %d file systems made", crash, got)
				}
			}
			if steps < 12 {
				t.Errorf("only %d steps were seen", steps)
			}
		})
	}
}

// The caller may give up instead (CSI v1.13, NodeStageVolume): then nothing stays.
func TestKilledAnywhereUnstageLeavesNothing(t *testing.T) {
	for name, shape := range lives() {
		t.Run(name, func(t *testing.T) {
			for crash := 1; ; crash++ {
				m := newMachine(t)
				v := m.volume("a")
				shape(v)
				m.CrashAt(crash)
				if err := v.stage(); err == nil {
					_ = v.publish()
				}
				if !m.Crashed() {
					return
				}
				m.Revive()
				m.restart()
				ok(t, v.unpublish(), v.unstage())
				m.nothingLeft()
				if exists(v.path) {
					t.Errorf("crash at step %d: %s is left", crash, v.path)
				}
				if v.disk().Path() != "" {
					t.Errorf("crash at step %d: the volume is still attached", crash)
				}
			}
		})
	}
}

// FM 1: whatever fails, in whatever order calls, crashes, reboots and lost records
// come, a mkfs never meets data.
func TestNoSequenceOfFaultsFormatsData(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			randomLife(t, rand.New(rand.NewPCG(seed, 1)))
		})
	}
}

func randomLife(t *testing.T, r *rand.Rand) {
	m := newMachine(t)
	v := m.volume("a")
	v.cap = mountCap([]string{"xfs", "ext4"}[r.IntN(2)], writer)
	written := false
	var story []string
	check := func(what string, err error) {
		story = append(story, fmt.Sprintf("%s: %v", what, err))
		if err != nil && strings.Contains(err.Error(), nodetest.ErrLost.Error()) {
			t.Fatalf("data was lost:\n%s", strings.Join(story, "\n"))
		}
	}
	ops := []string{"claim", "list", "mount", "unmount", "blkid", "mkfs.xfs", "mke2fs", "mkfs write", "record", "format", "attach", "login", "find", "logout", "forget done", "record done", "format done", "mounted"}
	for range 40 {
		switch r.IntN(14) {
		case 0, 1, 2, 3:
			err := v.stage()
			check("stage", err)
			if err == nil {
				if name, _, err := v.disk().Filesystem(); err != nil || name != v.cap.GetMount().GetFsType() {
					t.Fatalf("staged, and the disk holds %q, %v:\n%s", name, err, strings.Join(story, "\n"))
				}
				if !written && r.IntN(2) == 0 {
					check("write", v.disk().Write([]byte("precious"), 200<<20))
					written = true
				}
			}
		case 4:
			check("publish", v.publish())
		case 5:
			check("unpublish", v.unpublish())
		case 6, 7:
			check("unstage", v.unstage())
		case 8:
			m.CrashAt(1 + r.IntN(12))
		case 9:
			m.Reboot()
			m.restart()
			check("reboot", nil)
		case 10:
			m.Fail(ops[r.IntN(len(ops))], errDevice)
		case 11:
			at := r.Int64N(gib)
			v.disk().FailReads([]func(int64) error{nil, func(offset int64) error {
				if offset >= at {
					return errDevice
				}
				return nil
			}}[r.IntN(2)])
		case 12:
			v.disk().Blank(r.IntN(2) == 0)
		case 13: // the attacher tells the array's state of now; until then a stage hears the old one
			if written {
				v.context.UsedBytes = 8
			}
		}
		if m.Crashed() {
			check("killed", nil)
			m.Revive()
			m.restart()
		}
	}
	if errors.Is(t.Context().Err(), nil) && written {
		m.Reboot()
		m.restart()
		v.disk().FailReads(nil)
		v.disk().Blank(false)
		for range len(ops) * 3 { // use up the faults that are left
			if v.stage() == nil {
				return
			}
		}
		t.Errorf("the volume never came back:\n%s\nlast: %v", strings.Join(story, "\n"), v.stage())
	}
}
