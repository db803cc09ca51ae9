package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// The kinds of failure that are born in this package.
var (
	errPending      = errors.New("the volume is busy with another call")
	errNotFound     = errors.New("no such volume on this node")
	errNotStaged    = errors.New("the volume is not staged")
	errIncompatible = errors.New("exists, but not as asked")
	errForeign      = errors.New("not this volume's")
	errPath         = errors.New("unsuitable path")
	errInUse        = errors.New("the volume is in use")
	errStopped      = errors.New("the file system has stopped")
	errRefused      = errors.New("refused to make a file system")
	errOtherFS      = errors.New("another file system")
	errUnreadable   = errors.New("the device cannot be read")
	errNotGrown     = errors.New("the volume has not grown here yet")
	errUngrowable   = errors.New("the file system cannot be grown")
	errRecord       = errors.New("bad record")
	errUnwritten    = errors.New("what was written last may be lost")
	errNoAnswer     = errors.New("the device does not answer")
	errNoTable      = errors.New("the mount table cannot be read")
	errLeft         = errors.New("and what was begun is not taken down yet")
)

// codeOf is the one table from error to code, first match wins.
//
//nolint:gochecknoglobals // a constant table
var codeOf = []struct {
	kind error
	code codes.Code
}{
	{errPending, codes.Aborted},
	{errLeft, codes.Unavailable}, // before the kinds that it comes with: it must not be final
	{errUnwritten, codes.DataLoss},
	{errUnfit, codes.FailedPrecondition},
	{errNotFound, codes.NotFound},
	{errIncompatible, codes.AlreadyExists},
	{errNotStaged, codes.FailedPrecondition},
	{errForeign, codes.FailedPrecondition},
	{errPath, codes.FailedPrecondition},
	{errInUse, codes.FailedPrecondition},
	{errStopped, codes.FailedPrecondition},
	{ErrDamaged, codes.FailedPrecondition},
	{ErrMountRead, codes.Unavailable},
	{errRefused, codes.FailedPrecondition},
	{errOtherFS, codes.FailedPrecondition},
	{errRecord, codes.Internal},
	{errUnreadable, codes.Unavailable},
	{errNotGrown, codes.Unavailable},
	{errUngrowable, codes.FailedPrecondition},
	{errNoAnswer, codes.Unavailable},
	{errNoTable, codes.Unavailable},
	{iscsi.ErrForeign, codes.FailedPrecondition},
	{iscsi.ErrBusy, codes.FailedPrecondition},
	{ErrHeld, codes.FailedPrecondition},
	{iscsi.ErrNotAttached, codes.FailedPrecondition},
	{iscsi.ErrNoRecord, codes.FailedPrecondition},
	{iscsi.ErrAuth, codes.Unauthenticated},
	{iscsi.ErrNotReady, codes.Unavailable},
	{iscsi.ErrUnavailable, codes.Unavailable},
	{iscsi.ErrStuck, codes.Unavailable},
	{iscsi.ErrOutput, codes.Unavailable},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
}

// statusOf gives err its code. What no line of the table knows is a surprise:
// Internal.
func statusOf(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	for _, line := range codeOf {
		if errors.Is(err, line.kind) {
			return status.Error(line.code, err.Error())
		}
	}
	return status.Error(codes.Internal, fmt.Sprintf("unexpected: %v", err))
}

// final says whether the caller takes a call that failed like this to be over and
// to have left nothing. These are the codes of which Kubernetes does not: after
// them it asks again, or unstages.
func final(err error) bool {
	return !slices.Contains(
		[]codes.Code{codes.Canceled, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Unavailable},
		status.Code(statusOf(err)))
}
