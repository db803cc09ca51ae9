package identity_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/datera-csi/datera-csi/pkg/identity"
)

func TestPluginInfo(t *testing.T) {
	s := identity.New(identity.Config{Name: "dsp.csi.daterainc.io", Version: "v2.0.0"})
	got, err := s.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &csi.GetPluginInfoResponse{Name: "dsp.csi.daterainc.io", VendorVersion: "v2.0.0"}
	if d := cmp.Diff(got, want, protocmp.Transform()); d != "" {
		t.Error(d)
	}
}

func TestPlacesAreAdvertisedWhenTheyMatter(t *testing.T) {
	matter := false
	s := identity.New(identity.Config{Placed: func() bool { return matter }})
	for _, matter = range []bool{false, true, false} {
		got, err := s.GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		advertised := false
		for _, c := range got.GetCapabilities() {
			advertised = advertised || c.GetService().GetType() == csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS
		}
		if advertised != matter {
			t.Errorf("places matter: %t; advertised: %t", matter, advertised)
		}
	}
}

func TestControllerServiceIsAdvertisedWhereItIsServed(t *testing.T) {
	expansion := &csi.PluginCapability{Type: &csi.PluginCapability_VolumeExpansion_{
		VolumeExpansion: &csi.PluginCapability_VolumeExpansion{Type: csi.PluginCapability_VolumeExpansion_ONLINE},
	}}
	controller := &csi.PluginCapability{Type: &csi.PluginCapability_Service_{
		Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE},
	}}
	for name, c := range map[string]struct {
		controller bool
		want       []*csi.PluginCapability
	}{
		"controller": {true, []*csi.PluginCapability{expansion, controller}},
		"node":       {false, []*csi.PluginCapability{expansion}},
	} {
		t.Run(name, func(t *testing.T) {
			s := identity.New(identity.Config{Controller: c.controller})
			got, err := s.GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(got.GetCapabilities(), c.want, protocmp.Transform()); d != "" {
				t.Error(d)
			}
		})
	}
}

func probe(ctx context.Context, t *testing.T, s *identity.Server) bool {
	t.Helper()
	resp, err := s.Probe(ctx, &csi.ProbeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetReady() == nil {
		t.Fatal("Probe leaves readiness open")
	}
	return resp.GetReady().GetValue()
}

func TestProbeTellsReadinessAndLogsTheReasonOnce(t *testing.T) {
	var log bytes.Buffer
	ctx := klog.NewContext(t.Context(), textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&log))))
	var missing error
	s := identity.New(identity.Config{Ready: func(context.Context) error { return missing }})
	if !probe(ctx, t, s) {
		t.Error("not ready, want ready")
	}
	if log.Len() > 0 {
		t.Errorf("readiness from the start is not news: %s", &log)
	}
	missing = errors.New("iscsid is not running: systemctl start iscsid")
	for range 3 {
		if probe(ctx, t, s) {
			t.Error("ready, want not ready")
		}
	}
	if n := strings.Count(log.String(), "iscsid is not running"); n != 1 {
		t.Errorf("the reason is in the log %d times, want once:\n%s", n, &log)
	}
	missing = nil
	if !probe(ctx, t, s) {
		t.Error("not ready, want ready again")
	}
	if !strings.Contains(log.String(), "Ready again") {
		t.Errorf("the log does not tell the recovery:\n%s", &log)
	}
}

func TestProbeWithoutAConditionIsReady(t *testing.T) {
	if !probe(t.Context(), t, identity.New(identity.Config{})) {
		t.Error("not ready, want ready")
	}
}

func TestAHangingLookCostsOneGoroutineAndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		s := identity.New(identity.Config{Ready: func(ctx context.Context) error {
			looks.Add(1)
			<-ctx.Done()
			return ctx.Err()
		}})
		for range 4 { // livenessprobe: each gives up after a second
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := s.Probe(ctx, &csi.ProbeRequest{}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the caller's deadline", err)
			}
			cancel()
		}
		if n := looks.Load(); n != 1 {
			t.Errorf("%d looks at once, want 1", n)
		}
		start := time.Now()
		if probe(t.Context(), t, s) {
			t.Error("ready, want not ready: the look did not end in time")
		}
		if got := time.Since(start); got > 5*time.Second {
			t.Errorf("Probe took %v without a deadline of the caller", got)
		}
	})
}

func TestAPanicInReadyIsNotReady(t *testing.T) {
	s := identity.New(identity.Config{Ready: func(context.Context) error { panic("no such map") }})
	if probe(t.Context(), t, s) {
		t.Error("ready, want not ready")
	}
}

func TestDriverNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"dsp.csi.daterainc.io":     true,
		"Datera":                   true,
		"a":                        true,
		"a-1.b":                    true,
		strings.Repeat("a", 63):    true,
		strings.Repeat("a", 64):    false,
		"":                         false,
		".io":                      false,
		"io.":                      false,
		"a..b":                     false,
		"-a.io":                    false,
		"a.io-":                    false,
		"a-.io":                    false,
		"dsp/csi":                  false,
		"dsp csi":                  false,
		"dsp_csi":                  false,
		"dätera.io":                false,
		"dsp.csi.daterainc.io\x00": false,
	} {
		if err := identity.CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v, want ok %v", name, err, ok)
		}
	}
}
