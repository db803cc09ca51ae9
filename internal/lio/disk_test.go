package lio_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/lio"
	"github.com/datera-csi/datera-csi/internal/sim"
)

// A disk is never exchanged beneath an initiator that is logged in.
func TestDiskInUseIsNotExchanged(t *testing.T) {
	for name, spoil := range map[string]func(*sim.LUN){
		"file":   func(l *sim.LUN) { l.File = file(t, "other", l.Bytes) },
		"serial": func(l *sim.LUN) { l.Serial = "0c0ffee0-0000-4000-8000-000000000002" },
		"size":   func(l *sim.LUN) { l.Bytes /= 2 },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t)
			e := k.restart(t)
			want := target(t)
			apply(t, e, want)
			logIn(t, k, hostA)
			before := k.dump()

			want.LUNs = slices.Clone(want.LUNs)
			spoil(&want.LUNs[0])
			if err := e.Apply(t.Context(), want); !errors.Is(err, lio.ErrInUse) || !strings.Contains(err.Error(), hostA) {
				t.Errorf("in use: got %v", err)
			}
			if diff := cmp.Diff(before, k.dump()); diff != "" {
				t.Error(diff)
			}
			k.end(func(*session) bool { return true })
			apply(t, e, want)
			info, err := k.Read(under(disk + "/info"))
			must(t, err)
			if !strings.Contains(info, fmt.Sprintf("File: %s  Size: %d ", want.LUNs[0].File, want.LUNs[0].Bytes)) {
				t.Errorf("rebuilt as %q", info)
			}
		})
	}
}

func TestGrowthReachesTheLiveDisk(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	want := target(t)
	apply(t, e, want)
	logIn(t, k, hostA)
	k.writes = nil

	want.LUNs[0].Bytes *= 2
	if err := e.Apply(t.Context(), want); !errors.Is(err, lio.ErrInvalid) {
		t.Errorf("a backing file that is too short: got %v", err)
	}
	must(t, os.Truncate(want.LUNs[0].File, want.LUNs[0].Bytes))
	apply(t, e, want)
	if diff := cmp.Diff([]string{"write " + disk + "/control"}, k.writes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{hostA}, k.loggedIn(iqn)); diff != "" {
		t.Errorf("sessions: %s", diff)
	}
}

// Attributes that an older kernel does not have cost a feature, not the target.
func TestKernelWithoutUnmapServesAnyway(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	k.fail[under(disk+"/attrib/emulate_tpu")] = syscall.ENOSYS
	apply(t, e, target(t))
	logIn(t, k, hostA)
}
