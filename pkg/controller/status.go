package controller

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/internal/health"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// What this package knows and the array does not say.
var (
	errHeld           = errors.New("another call for this volume is under way")
	errLeaving        = errors.New("the array is still deleting a volume of this name; ask again when it is gone")
	errIncompatible   = errors.New("exists, but not as asked")
	errPublished      = errors.New("is published")
	errNamesakes      = errors.New("several nodes have this initiator name")
	errSnapshots      = errors.New("has snapshots")
	errRemade         = errors.New("the volume changed while it was being made")
	errUnexported     = errors.New("the array does not export the volume")
	errUnknownBackend = errors.New("unknown backend")
	errNoTemplate     = errors.New("there is no such template")
	errTemplateSize   = errors.New("the template's size is not the one asked for")
	errTooLarge       = errors.New("is larger than the limit")
	errUndecided      = errors.New("it is not known whether there is a volume of this name")
	errBackend        = errors.New("the backend's files are unfit")
	errNoSnapshot     = errors.New("there is no such snapshot")
	errLower          = errors.New("the array does not take that back")
	errToken          = errors.New("the token is not valid")
	errPlace          = errors.New("no backend can be reached from there")
	errPlaceless      = errors.New("this driver does not offer VOLUME_ACCESSIBILITY_CONSTRAINTS, as no backend has a topology: every node reaches every volume")
)

// row says which code an error has.
type row struct {
	kind error
	code codes.Code
}

// table is searched from the top: what is nearer to the caller comes first.
func table() []row {
	return []row{
		{context.Canceled, codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded},

		{errHeld, codes.Aborted},
		{errUndecided, codes.Unavailable},
		{errRemade, codes.Aborted},
		{errLeaving, codes.Aborted},
		{errIncompatible, codes.AlreadyExists},
		{errTooLarge, codes.OutOfRange},
		{errTemplateSize, codes.OutOfRange},
		{errNoTemplate, codes.InvalidArgument},
		{errPublished, codes.FailedPrecondition},
		{errNamesakes, codes.FailedPrecondition},
		{errSnapshots, codes.FailedPrecondition},
		{errUnexported, codes.Unavailable},
		{errNoSnapshot, codes.NotFound},
		{errLower, codes.InvalidArgument},
		{errToken, codes.Aborted}, // CSI v1.13, "ListVolumes Errors"
		{errPlace, codes.ResourceExhausted},
		{errPlaceless, codes.InvalidArgument},

		// A volume of a backend that is not there is not a volume that is gone:
		// NotFound would tell DeleteVolume's caller to forget it.
		{errUnknownBackend, codes.FailedPrecondition},
		{errBackend, codes.Unavailable},

		{dateraclient.ErrLarger, codes.OutOfRange},
		{dateraclient.ErrHosts, codes.FailedPrecondition}, // ResourceExhausted would mean that the node is full
		{dateraclient.ErrShape, codes.FailedPrecondition},
		{dateraclient.ErrInUse, codes.FailedPrecondition},
		{dateraclient.ErrNotFound, codes.NotFound},
		{dateraclient.ErrConflict, codes.Aborted}, // somebody else was faster; the next call sees what is
		{dateraclient.ErrNoSpace, codes.ResourceExhausted},
		{dateraclient.ErrAuth, codes.Unauthenticated},
		{dateraclient.ErrPermission, codes.PermissionDenied},
		{dateraclient.ErrInvalid, codes.FailedPrecondition},
		{dateraclient.ErrUntrusted, codes.Unavailable},
		{dateraclient.ErrUnavailable, codes.Unavailable},
		{dateraclient.ErrUnreachable, codes.Unavailable},
		{dateraclient.ErrNotDatera, codes.Unavailable},
		{dateraclient.ErrFault, codes.Internal},
	}
}

// creation is looked at before table by CreateVolume. There the array's refusal
// is about the class: a template, pool or policy that is not there, a value out
// of range.
func creation() []row {
	return []row{
		{errUndecided, codes.Unavailable}, // before what it wraps
		{errRemade, codes.Aborted},
		{errIncompatible, codes.AlreadyExists},
		{errUnknownBackend, codes.InvalidArgument},
		{dateraclient.ErrShape, codes.InvalidArgument},
		{dateraclient.ErrFault, codes.Unavailable}, // it may have failed after the work
		{dateraclient.ErrInvalid, codes.InvalidArgument},
	}
}

// modification is looked at before table by ControllerModifyVolume, where the
// array's refusal is about the parameters. Upon InvalidArgument the resizer takes
// nothing to have changed, and the claim to be as before.
func modification() []row {
	return []row{{dateraclient.ErrHalfway, codes.FailedPrecondition}, {dateraclient.ErrInvalid, codes.InvalidArgument}}
}

// snapshotting is looked at before table by CreateSnapshot.
func snapshotting() []row {
	return []row{
		{errUndecided, codes.Unavailable},
		{dateraclient.ErrConflict, codes.AlreadyExists}, // the uuid, which is the name, is of another volume
		{dateraclient.ErrFault, codes.Unavailable},
	}
}

// withStatus gives the error of an RPC its code. Errors of parsing do not come
// here; request.go and its siblings have given them theirs.
func withStatus(err error) error {
	return search(err, table(), codes.Internal)
}

// mostAttachWords is how long a message may be, in bytes, that ends up in a
// VolumeAttachment: external-attacher stores it whole and with what gRPC puts before
// it, and Kubernetes refuses more than 1024 bytes. All that a pod shows then is that
// it waits.
const mostAttachWords = 1024 - 64

// attachment is looked at before table by ControllerPublishVolume and
// ControllerUnpublishVolume, where ResourceExhausted means that the node takes no
// more volumes: upon it the kubelet fails the pod.
func attachment() []row {
	return []row{{dateraclient.ErrNoSpace, codes.FailedPrecondition}}
}

// withAttachStatus is withStatus for ControllerPublishVolume and
// ControllerUnpublishVolume.
func withAttachStatus(err error) error {
	return brief(search(err, append(attachment(), table()...), codes.Internal))
}

// brief cuts a status that would be too long for a VolumeAttachment.
func brief(err error) error {
	s := status.Convert(err)
	if len(s.Message()) <= mostAttachWords {
		return err
	}
	return status.Error(s.Code(), health.Cut(s.Message(), mostAttachWords))
}

// withModifyStatus is withStatus for ControllerModifyVolume.
func withModifyStatus(err error) error {
	return search(err, append(modification(), table()...), codes.Internal)
}

// withCreateStatus is withStatus for CreateVolume. The provisioner forgets a
// volume on every code but Unavailable, Aborted, DeadlineExceeded and Canceled; on
// ResourceExhausted, with late binding, it also has another node chosen. These codes
// are final: they are given only when the array has shown that there is no volume of
// this name, or one that is not ours. So an error that is not understood, credentials
// that the array refuses and a backend that was there before are Unavailable: an
// earlier call may have made a volume and not have heard of it.
func withCreateStatus(err error) error {
	return search(err, append(creation(), table()...), codes.Unavailable)
}

// withSnapshotStatus is withStatus for CreateSnapshot, to which the same applies:
// the snapshotter never deletes what a final code says was not made.
func withSnapshotStatus(err error) error {
	return search(err, append(snapshotting(), table()...), codes.Unavailable)
}

// passing tells the errors of a creation whose code is not final in any case.
func passing(err error) bool {
	switch status.Code(withCreateStatus(err)) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.Aborted:
		return true
	default:
		return false
	}
}

func search(err error, rows []row, otherwise codes.Code) error {
	for _, r := range rows {
		if errors.Is(err, r.kind) {
			return status.Error(r.code, err.Error())
		}
	}
	return status.Error(otherwise, err.Error())
}
