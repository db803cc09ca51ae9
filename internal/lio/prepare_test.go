package lio_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/lio"
)

// host is a machine whose configfs is mounted on dir by mount and filled by
// modprobe, as far as it can.
type host struct {
	dir               string
	modules           []string
	mounts            int
	loadErr, mountErr error
	target            bool
}

func (h *host) config() lio.Config {
	return lio.Config{
		Root: filepath.Join(h.dir, "target"),
		Modprobe: func(_ context.Context, modules ...string) error {
			h.modules = append(h.modules, modules...)
			return h.loadErr
		},
		Mount: func(string) error {
			h.mounts++
			if h.mountErr == nil && h.target {
				return os.MkdirAll(filepath.Join(h.dir, "target", "core"), 0o755)
			}
			return h.mountErr
		},
	}
}

func TestNewMakesTheKernelReady(t *testing.T) {
	h := &host{dir: t.TempDir(), target: true}
	e, err := lio.New(t.Context(), h.config())
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	if diff := cmp.Diff([]string{"configfs", "target_core_mod", "target_core_file", "iscsi_target_mod"}, h.modules); diff != "" {
		t.Error(diff)
	}
	if h.mounts != 1 {
		t.Errorf("mounted %d times", h.mounts)
	}
	if _, err := os.Stat(filepath.Join(h.dir, "target", "iscsi")); err != nil {
		t.Error(err)
	}
}

// A container without modprobe works where the host has loaded the modules.
func TestNewNeedsNoModprobeWhenTheTargetIsThere(t *testing.T) {
	h := &host{dir: t.TempDir(), loadErr: errors.New("modprobe: not found")}
	must(t, os.MkdirAll(filepath.Join(h.dir, "target", "core"), 0o755))
	e, err := lio.New(t.Context(), h.config())
	must(t, err)
	must(t, e.Close())
	if h.mounts != 0 {
		t.Errorf("mounted %d times", h.mounts)
	}
}

func TestNewSaysWhatIsMissing(t *testing.T) {
	denied := errors.New("denied")
	for name, c := range map[string]struct {
		host host
		want []string
	}{
		"no configfs": {host{dir: filepath.Join(t.TempDir(), "none"), loadErr: denied}, []string{"configfs", "denied"}},
		"no mount":    {host{dir: t.TempDir(), mountErr: denied}, []string{"mount -t configfs", "denied"}},
		"no target":   {host{dir: t.TempDir(), loadErr: denied}, []string{"CONFIG_TARGET_CORE", "denied"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := lio.New(t.Context(), c.host.config())
			for _, w := range c.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("got %v, want %q in it", err, w)
				}
			}
		})
	}
}

// Two processes would take each other's targets for orphans.
func TestSecondProcessIsRefused(t *testing.T) {
	h := &host{dir: t.TempDir(), target: true}
	first, err := lio.New(t.Context(), h.config())
	must(t, err)
	if _, err = lio.New(t.Context(), h.config()); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second: got %v", err)
	}
	must(t, first.Close())
	third, err := lio.New(t.Context(), h.config())
	must(t, err)
	must(t, third.Close())
}
