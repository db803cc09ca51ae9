package rpc

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime/debug"
	"time"

	"github.com/kubernetes-csi/csi-lib-utils/protosanitizer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
)

// intercept surrounds every call. It is the only place that logs a failed call.
func (s *Server) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	call, done := s.calls.begin(info.FullMethod, time.Now())
	defer done()
	log := s.log.WithValues("method", info.FullMethod, "call", call.ID)
	log.V(4).Info("Call", "request", protosanitizer.StripSecrets(req))

	resp, err := protect(klog.NewContext(ctx, log), req, info, handler)
	took := time.Since(call.Since).Round(time.Microsecond)
	if err == nil {
		log.V(4).Info("Answered", "took", took)
		log.V(5).Info("Answer", "response", protosanitizer.StripSecrets(resp))
		return resp, nil
	}
	st := withoutSecrets(asStatus(err), secretsOf(req))
	var p *panicError
	if errors.As(err, &p) {
		log.Error(nil, "Panic", "stack", string(p.stack))
	}
	log.Error(nil, "Call failed", "code", st.Code(), "error", st.Message(), "took", took)
	return nil, st.Err()
}

// protect calls the handler and turns a panic into an error: one bad request
// must not end the calls of every other volume.
func protect(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if v := recover(); v != nil {
			resp, err = nil, &panicError{method: path.Base(info.FullMethod), value: v, stack: debug.Stack()}
		}
	}()
	return handler(ctx, req)
}

type panicError struct {
	method string
	value  any
	stack  []byte
}

func (e *panicError) Error() string {
	return fmt.Sprintf("%s panicked: %v; the plugin's log has the stack", e.method, e.value)
}

// asStatus gives an error its code. Handlers have mapped what they know; what
// is left is the caller's patience, or a surprise.
func asStatus(err error) *status.Status {
	if st, ok := status.FromError(err); ok {
		return st
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return status.New(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, err.Error())
	}
	return status.New(codes.Internal, err.Error())
}
