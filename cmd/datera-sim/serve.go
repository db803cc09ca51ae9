package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/datera-csi/datera-csi/internal/sim"
)

const (
	stopTimeout   = 10 * time.Second
	headerTimeout = 10 * time.Second

	policyInterval = 15 * time.Second // a quarter of the shortest interval of a snapshot policy
)

// run is the process: everything that may fail early does so before anything is
// changed, then the array comes up, and it goes when ctx ends.
func run(ctx context.Context, o options, out, errOut io.Writer) (err error) {
	cfg, err := o.config()
	if err != nil {
		return err
	}
	p := process{options: o, out: out, errOut: errOut}
	defer func() { err = errors.Join(err, p.close()) }()
	if err = p.listen(ctx); err != nil {
		return err
	}
	if o.lio {
		if cfg.Exporter, err = p.openTargets(ctx, cfg.AccessIPs); err != nil {
			return err
		}
	}
	cfg.Report = func(err error) { fmt.Fprintf(errOut, "datera-sim: %v\n", err) }
	if p.array, err = sim.New(cfg); err != nil {
		return err
	}
	p.atClose(p.array.Close)
	if err = p.array.BringUp(ctx); err != nil {
		return err
	}
	if err = p.announce(cfg); err != nil {
		return err
	}
	return p.serve(ctx)
}

// process is what must be closed again.
type process struct {
	options
	out, errOut   io.Writer
	array         *sim.Array
	plain, secure net.Listener
	closers       []func() error
}

func (p *process) atClose(f func() error) { p.closers = append(p.closers, f) }

func (p *process) close() error {
	var err error
	for i := len(p.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, p.closers[i]())
	}
	return err
}

func (p *process) openTargets(ctx context.Context, portals []netip.Addr) (sim.Exporter, error) {
	targets, err := openTargets(ctx, portals)
	if err != nil {
		return nil, err
	}
	p.atClose(targets.Close)
	return targets, nil
}

func (p *process) listen(ctx context.Context) error {
	var err error
	if p.http != "" {
		if p.plain, err = listenOn(ctx, "--http", p.http); err != nil {
			return err
		}
		p.atClose(ignoreClosed(p.plain.Close))
	}
	if p.https == "" {
		return nil
	}
	if p.secure, err = listenOn(ctx, "--https", p.https); err != nil {
		return err
	}
	p.atClose(ignoreClosed(p.secure.Close))
	return nil
}

func listenOn(ctx context.Context, flag, address string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s=%s: %w; stop what uses the port or choose another one", flag, address, err)
	}
	return l, nil
}

// ignoreClosed is for listeners, which their server may have closed already.
func ignoreClosed(f func() error) func() error {
	return func() error {
		if err := f(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}

// serve answers requests until ctx ends.
func (p *process) serve(ctx context.Context) error {
	var handler http.Handler = p.array
	if p.logRequests {
		handler = logged(handler, p.errOut)
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // the array speaks HTTP/1.1
	}
	failed := make(chan error, 2)
	for _, l := range []net.Listener{p.plain, p.secure} {
		if l != nil {
			go func() { failed <- server.Serve(l) }()
		}
	}
	policies := time.NewTicker(policyInterval)
	defer policies.Stop()
	for {
		select {
		case err := <-failed:
			return fmt.Errorf("serve: %w", err)
		case <-policies.C:
			if err := p.array.RunPolicies(ctx); err != nil {
				fmt.Fprintf(p.errOut, "datera-sim: snapshot policies: %v\n", err)
			}
		case <-ctx.Done():
			return p.stop(context.WithoutCancel(ctx), server)
		}
	}
}

// stop lets running requests end and then takes the targets away, unless the
// next process is to take them over.
func (p *process) stop(ctx context.Context, server *http.Server) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	err := server.Shutdown(ctx)
	if !p.keepTargets {
		err = errors.Join(err, p.array.TakeDown(ctx))
	}
	fmt.Fprintln(p.out, "stopped")
	return err
}

// logged prints a line for every request.
func logged(next http.Handler, w io.Writer) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		start := time.Now()
		s := &statusWriter{ResponseWriter: rw}
		next.ServeHTTP(s, r)
		fmt.Fprintf(w, "%s %s %s %d %s\n", start.Format(time.TimeOnly), r.Method, r.URL.RequestURI(), s.status, time.Since(start).Round(time.Microsecond))
	})
}

type statusWriter struct {
	http.ResponseWriter

	status int
}

func (s *statusWriter) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController find what the writer beneath can do.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }
