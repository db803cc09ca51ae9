package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/klog/v2"
)

// probeTimeout bounds one answer of the health server. The manifests' probes of the node's liveness wait a little
// longer, 30 s: a busy node is slow, and a restart of its plugin would not make it faster.
const probeTimeout = 25 * time.Second

// health answers the kubelet's probes over HTTP, which costs a node nothing, where starting a program in the
// container every few seconds does.
type health struct {
	listener net.Listener
	server   *http.Server
}

// listenHealth listens on an address; nothing is answered before serve. An empty address is no server at all.
func listenHealth(ctx context.Context, address, endpoint string) (*health, error) {
	if address == "" {
		return &health{}, nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w (give another address, such as :9809, or an empty one for none)", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", answer(func(ctx context.Context) error { return probeLive(ctx, endpoint) }))
	mux.HandleFunc("GET /readyz", answer(func(ctx context.Context) error { return probeReady(ctx, endpoint) }))
	return &health{listener: l, server: &http.Server{Handler: mux, ReadHeaderTimeout: probeTimeout}}, nil
}

// answer is 200 for a probe without an error, and 503 with the error otherwise.
func answer(probe func(context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
		defer cancel()
		if err := probe(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	}
}

// serve answers until close.
func (h *health) serve(ctx context.Context) {
	if h.listener == nil {
		return
	}
	klog.FromContext(ctx).Info("Answering probes", "address", h.listener.Addr().String())
	if err := h.server.Serve(h.listener); !errors.Is(err, http.ErrServerClosed) {
		klog.FromContext(ctx).Error(err, "Probes are no longer answered")
	}
}

func (h *health) close() error {
	if h.listener == nil {
		return nil
	}
	return h.server.Close()
}
