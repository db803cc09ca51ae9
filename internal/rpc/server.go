// Package rpc serves CSI: it opens the unix socket, gives every call an id,
// logs a failed call once, turns what is left of errors into gRPC codes, turns a
// panic into an error, and stops gracefully.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"k8s.io/klog/v2"
)

// Server is a gRPC server of CSI services. It is a grpc.ServiceRegistrar, so
// csi.RegisterIdentityServer and its like take it.
type Server struct {
	grpc  *grpc.Server
	calls *calls
	log   klog.Logger
	grace time.Duration
	abort time.Duration
}

// Config is what New needs.
type Config struct {
	// Log gets one line for every failed call, and requests and answers at V(4).
	// Handlers find it, with method and call id, by klog.FromContext.
	Log klog.Logger

	// Grace is how long Serve lets running calls end once it is told to stop.
	// After that they are cancelled and have Abort to return.
	Grace, Abort time.Duration
}

// New returns a Server without services.
func New(cfg Config) *Server {
	s := &Server{calls: newCalls(), log: cfg.Log, grace: cfg.Grace, abort: cfg.Abort}
	s.grpc = grpc.NewServer(grpc.UnaryInterceptor(s.intercept))
	return s
}

// RegisterService implements grpc.ServiceRegistrar. Call it before Serve.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.grpc.RegisterService(desc, impl)
}

// Running lists the calls being answered now, oldest first.
func (s *Server) Running() []Call { return s.calls.list() }

// Serve answers calls on l until ctx is done. It then takes no more calls,
// waits Grace for the running ones, cancels those that are left and waits Abort
// for them. It returns nil when every call came to its end, and an error that
// names the abandoned ones otherwise. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(l) }()
	s.log.Info("Serving", "endpoint", l.Addr().String())
	select {
	case err := <-served:
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stopErr := s.stop()
	serveErr := <-served
	if errors.Is(serveErr, grpc.ErrServerStopped) { // told to stop before it had begun; l is closed all the same
		serveErr = nil
	}
	return errors.Join(stopErr, serveErr)
}

func (s *Server) stop() error {
	s.log.Info("Stopping", "calls", len(s.Running()), "grace", s.grace)
	graceful := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(graceful)
	}()
	select {
	case <-graceful:
		return nil
	case <-time.After(s.grace):
	}
	s.log.Info("Cancelling calls that outlasted the grace period", "calls", describe(s.Running()))
	s.grpc.Stop()
	select {
	case <-s.calls.idle():
		return nil
	case <-time.After(s.abort):
	}
	return fmt.Errorf("stopped with calls unfinished: %s", describe(s.Running()))
}

func describe(running []Call) string {
	parts := make([]string, len(running))
	for i, c := range running {
		parts[i] = fmt.Sprintf("%s (call %d, for %s)", c.Method, c.ID, time.Since(c.Since).Round(time.Millisecond))
	}
	return strings.Join(parts, ", ")
}
