package dateraclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"
)

// patience bounds a call whose ctx has no deadline, so that nobody waits for a
// dead array for ever.
const patience = 2 * time.Minute

// errImpatient is the cause of a ctx that ended by our own patience, not by the
// caller's.
var errImpatient = errors.New("no answer for " + patience.String())

// patiently gives ctx a deadline if it has none.
func patiently(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, patience, errImpatient)
}

// Delays between attempts, and between looks at a state that should change.
const (
	retryFirst, retryMost = 100 * time.Millisecond, 5 * time.Second
	pollFirst, pollMost   = 50 * time.Millisecond, time.Second
)

// garbledRetries is how often an unintelligible answer is asked for again. A
// cut connection explains one or two of them; more is not an array.
const garbledRetries = 2

// backoff grows and jitters the waits between attempts, so that callers that
// failed together do not come back together.
type backoff struct{ next, most time.Duration }

// wait returns false, at once, when ctx would end first: the caller then knows
// the last failure instead of hearing of a deadline only.
func (b *backoff) wait(ctx context.Context) bool {
	d := b.next/2 + rand.N(b.next/2+1) //nolint:gosec // jitter is no secret
	b.next = min(2*b.next, b.most)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// replay tells whether a request that ended with err should be sent again. garbled
// counts the unintelligible answers so far.
func (r request) replay(err *Error, garbledSoFar int) bool {
	switch err.fate {
	case refused:
		return true
	case lost:
		return !r.once
	case garbled:
		return !r.once && garbledSoFar < garbledRetries
	case smudged:
		return garbledSoFar < garbledRetries
	default:
		return false
	}
}

// transportError makes the error of a request that got no answer. wrote tells
// whether any of it may have left this host.
func transportError(r request, err error, wrote bool) *Error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // the path is in our own error already
	}
	found := diagnose(err, wrote)
	return &Error{Op: r.method, Path: r.path, Message: found.message, kind: found.kind, fate: found.fate, cause: err}
}

// diagnose finds out what a transport's error says about the array.
func diagnose(err error, wrote bool) verdict {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return verdict{ErrUntrusted, final, untrusted(err)}
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return verdict{ErrNotDatera, final, "it does not speak TLS: is the endpoint's scheme http, or its port 7718?"}
	}
	op := ""
	if e, ok := errors.AsType[*net.OpError](err); ok {
		op = e.Op
	}
	switch {
	case op == "remote error", op == "local error":
		return verdict{ErrUnreachable, final, "the TLS handshake failed"}
	case op == "dial" && !dropped(err):
		return verdict{ErrUnreachable, final, ""}
	case !wrote && isTimeout(err):
		return verdict{ErrUnreachable, final, ""}
	case !wrote:
		return verdict{ErrUnavailable, refused, ""}
	case dropped(err), isTimeout(err):
		return verdict{ErrUnavailable, lost, ""}
	default:
		return verdict{ErrNotDatera, garbled, ""}
	}
}

// untrusted is what to do about a certificate that was refused.
func untrusted(err error) string {
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "write a name that it has into the backend's endpoint, or give the array a certificate for the name that is there"
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return "renew it on the array, or set the clock of the node that this controller runs on"
	}
	return "put the certificate of the authority that signed it into the backend's ca.crt"
}

// dropped tells whether the other side refused or cut the connection.
func dropped(err error) bool {
	for _, e := range []error{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE,
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// poll looks until a state is reached, at first after a moment, later less often.
// what completes the sentence "waited for".
func poll(ctx context.Context, what string, look func(context.Context) (bool, error)) error {
	ctx, cancel := patiently(ctx)
	defer cancel()
	wait := backoff{pollFirst, pollMost}
	for {
		done, err := look(ctx)
		if err != nil || done {
			return err
		}
		if !wait.wait(ctx) {
			return &Error{kind: ErrUnavailable, Message: "waited in vain for " + what, cause: context.Cause(ctx)}
		}
	}
}
