// Package identity answers the three RPCs of CSI's identity service. None of
// them calls the array: an outage of the array must not restart the plugin
// (FM 32).
package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"k8s.io/klog/v2"
)

// readyTimeout bounds one look at readiness. livenessprobe gives up sooner by
// default (1 s); a look that takes longer goes on and answers the next Probe.
const readyTimeout = 5 * time.Second

// Config is what the service tells about the plugin.
type Config struct {
	Name    string // driver name; CheckName says whether it is one
	Version string // vendor_version

	// Controller says the controller service is served on the same socket.
	Controller bool

	// Placed says that not every node reaches every volume: a backend of this
	// controller, or this node, is told where it is. Nil means that none is.
	Placed func() bool

	// Ready looks at this process and this host only, and says what is missing.
	// Nil means always ready. It runs at most once at a time.
	Ready func(context.Context) error
}

// Server implements csi.IdentityServer.
type Server struct {
	csi.UnimplementedIdentityServer
	cfg Config

	mu      sync.Mutex
	looking *look  // the look at readiness that is under way, or nil
	last    string // why the plugin was not ready at the last look; "" when it was
}

// New returns the service of cfg.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// GetPluginInfo answers the driver name and version.
func (s *Server) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: s.cfg.Name, VendorVersion: s.cfg.Version}, nil
}

// GetPluginCapabilities answers the controller service where it is served, that
// volumes grow while they are in use, and whether places matter. Sidecars ask once,
// when they start.
func (s *Server) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	resp := &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{
		Type: &csi.PluginCapability_VolumeExpansion_{
			VolumeExpansion: &csi.PluginCapability_VolumeExpansion{Type: csi.PluginCapability_VolumeExpansion_ONLINE},
		},
	}}}
	if s.cfg.Controller {
		resp.Capabilities = append(resp.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_Service_{
				Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE},
			},
		})
	}
	if s.cfg.Placed != nil && s.cfg.Placed() {
		resp.Capabilities = append(resp.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_Service_{
				Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS},
			},
		})
	}
	return resp, nil
}

// Probe says whether the plugin can work on this host. Not ready is an answer,
// not an error: the sidecars end at an error and wait for readiness otherwise
// (CSI v1.13, "Probe"). The reason goes to the log when it changes.
func (s *Server) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	l := s.look(ctx)
	select {
	case <-l.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("look whether the plugin is ready: %w", ctx.Err())
	}
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(l.err == nil)}, nil
}

// look is one look at readiness; err is set when done is closed.
type look struct {
	done chan struct{}
	err  error
}

// look joins the look that is under way or begins one. It outlives the caller,
// so that a Ready which hangs costs one goroutine, however often Probe is
// called, and gives its answer to whoever asks next.
func (s *Server) look(ctx context.Context) *look {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looking != nil {
		return s.looking
	}
	l := &look{done: make(chan struct{})}
	s.looking = l
	go s.finish(context.WithoutCancel(ctx), l)
	return l
}

func (s *Server) finish(ctx context.Context, l *look) {
	l.err = s.ready(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looking = nil
	s.report(ctx, l.err)
	close(l.done)
}

func (s *Server) ready(ctx context.Context) (err error) {
	if s.cfg.Ready == nil {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the look at readiness panicked: %v", v)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return s.cfg.Ready(ctx)
}

// report logs a change of readiness; s.mu is held.
func (s *Server) report(ctx context.Context, err error) {
	var reason string
	if err != nil {
		reason = err.Error()
	}
	if reason == s.last {
		return
	}
	s.last = reason
	if err != nil {
		klog.FromContext(ctx).Error(err, "Not ready")
		return
	}
	klog.FromContext(ctx).Info("Ready again")
}

const maxName = 63

// CheckName says whether name can be a driver name: domain name notation, at
// most 63 characters (CSI v1.13, "GetPluginInfo").
func CheckName(name string) error {
	if name == "" {
		return errors.New("driver name is empty")
	}
	if len(name) > maxName {
		return fmt.Errorf("driver name %q has %d characters, CSI allows %d", name, len(name), maxName)
	}
	for label := range strings.SplitSeq(name, ".") {
		if !isLabel(label) {
			return fmt.Errorf("driver name %q is not in domain name notation: "+
				"labels of letters, digits and inner dashes, separated by dots, as in dsp.csi.daterainc.io", name)
		}
	}
	return nil
}

func isLabel(s string) bool {
	if s == "" || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
}
