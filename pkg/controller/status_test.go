package controller

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

func TestCodesOfErrors(t *testing.T) {
	for _, c := range []struct {
		err          error
		code, create codes.Code
	}{
		{context.Canceled, codes.Canceled, codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded, codes.DeadlineExceeded},
		{errHeld, codes.Aborted, codes.Aborted},
		{errRemade, codes.Aborted, codes.Aborted},
		{errIncompatible, codes.AlreadyExists, codes.AlreadyExists},
		{fmt.Errorf("%w: %w", errIncompatible, dateraclient.ErrShape), codes.AlreadyExists, codes.AlreadyExists},
		{fmt.Errorf("%w: %w", errUndecided, dateraclient.ErrInvalid), codes.Unavailable, codes.Unavailable},
		{errPublished, codes.FailedPrecondition, codes.FailedPrecondition},
		{fmt.Errorf("%w; %w", errPublished, dateraclient.ErrUnavailable), codes.FailedPrecondition, codes.FailedPrecondition},
		{errSnapshots, codes.FailedPrecondition, codes.FailedPrecondition},
		{errTooLarge, codes.OutOfRange, codes.OutOfRange},
		{errTemplateSize, codes.OutOfRange, codes.OutOfRange},
		{errNoTemplate, codes.InvalidArgument, codes.InvalidArgument},
		{errUnexported, codes.Unavailable, codes.Unavailable},
		{errUnknownBackend, codes.FailedPrecondition, codes.InvalidArgument},
		{errBackend, codes.Unavailable, codes.Unavailable},
		{fmt.Errorf("%w: %w", dateraclient.ErrAuth, errBackend), codes.Unavailable, codes.Unavailable},
		{errNoSnapshot, codes.NotFound, codes.NotFound},
		{errLower, codes.InvalidArgument, codes.InvalidArgument},
		{dateraclient.ErrLarger, codes.OutOfRange, codes.OutOfRange},
		{dateraclient.ErrHosts, codes.FailedPrecondition, codes.FailedPrecondition},
		{dateraclient.ErrShape, codes.FailedPrecondition, codes.InvalidArgument},
		{dateraclient.ErrInUse, codes.FailedPrecondition, codes.FailedPrecondition},
		{dateraclient.ErrNotFound, codes.NotFound, codes.NotFound},
		{dateraclient.ErrConflict, codes.Aborted, codes.Aborted},
		{dateraclient.ErrNoSpace, codes.ResourceExhausted, codes.ResourceExhausted},
		{dateraclient.ErrAuth, codes.Unauthenticated, codes.Unauthenticated},
		{dateraclient.ErrPermission, codes.PermissionDenied, codes.PermissionDenied},
		{dateraclient.ErrInvalid, codes.FailedPrecondition, codes.InvalidArgument},
		{dateraclient.ErrFault, codes.Internal, codes.Unavailable},
		{dateraclient.ErrUntrusted, codes.Unavailable, codes.Unavailable},
		{dateraclient.ErrUnavailable, codes.Unavailable, codes.Unavailable},
		{dateraclient.ErrAnswerLost, codes.Unavailable, codes.Unavailable},
		{dateraclient.ErrUnreachable, codes.Unavailable, codes.Unavailable},
		{dateraclient.ErrNotDatera, codes.Unavailable, codes.Unavailable},
		{errors.New("a surprise"), codes.Internal, codes.Unavailable},
	} {
		wrapped := fmt.Errorf("volume x: %w", c.err)
		if got := status.Convert(withStatus(wrapped)); got.Code() != c.code || got.Message() != wrapped.Error() {
			t.Errorf("%v: got %s %q, want %s and the whole error", c.err, got.Code(), got.Message(), c.code)
		}
		if got := status.Code(withCreateStatus(wrapped)); got != c.create {
			t.Errorf("%v in CreateVolume: got %s, want %s", c.err, got, c.create)
		}
	}
	if got := status.Code(withAttachStatus(fmt.Errorf("publish: %w", dateraclient.ErrNoSpace))); got != codes.FailedPrecondition {
		t.Errorf("an array without room is %s at an attach, where the kubelet takes ResourceExhausted for a full node", got)
	}
}
