package dateraclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// The kinds of failure, to be asked for with errors.Is. What the array itself
// said travels beside the kind in an *Error.
var (
	ErrNotFound    = errors.New("not found")                          // the array has no such object
	ErrConflict    = errors.New("exists already")                     // the name, id or uuid is taken
	ErrInUse       = errors.New("in use")                             // snapshots, sessions or access rules forbid it
	ErrNoSpace     = errors.New("no space left on the array")         // or in the tenant's quota
	ErrAuth        = errors.New("the array refuses the credentials")  // also after one new login
	ErrPermission  = errors.New("permission denied by the array")     // the user's role or tenant does not allow it
	ErrInvalid     = errors.New("the array refuses the request")      // final: nothing was done, unless it is ErrHalfway, too
	ErrHalfway     = errors.New("only a part of the change was made") // an ErrInvalid of what was to follow
	ErrFault       = errors.New("the array failed")                   // 500: its words are all there is to know
	ErrUnavailable = errors.New("the array is unavailable")           // 503, refused, reset or still starting, after retries
	ErrUnreachable = errors.New("the array cannot be reached")        // no route, no address, no answer to a dial
	ErrNotDatera   = errors.New("not a Datera array that we know")    // HTML, empty or half answers, no API version in common
	ErrShape       = errors.New("not one volume in one app instance") // an app instance that is not ours to handle
	ErrLarger      = errors.New("the source is larger")               // than the clone may be
	ErrHosts       = errors.New("no room for another initiator")      // the array knows as many as it can

	// ErrAnswerLost is an ErrUnavailable with more to it: the request may have
	// been carried out, or may be so later.
	ErrAnswerLost = fmt.Errorf("%w: the answer was lost", ErrUnavailable)

	// ErrUntrusted is an ErrUnreachable: somebody answered, with a certificate
	// that proves nothing. It is never retried.
	ErrUntrusted = fmt.Errorf("%w: its certificate is not trusted", ErrUnreachable)
)

// Error is a failed request. It unwraps to its kind and to the transport's own
// error if there is one. It never holds passwords, tokens or CHAP secrets: what
// the array echoes of them is blanked.
type Error struct {
	Op, Path string // method and resource path, without API version

	HTTP    int      // status; 0 when there was no answer
	Name    string   // the array's class of error, e.g. ConflictError
	Code    int      // the array's sub-code
	Message string   // the array's words, or ours where it had none
	Errors  []string // the array's details, one for each fault it found

	kind  error
	cause error
	fate  fate
}

// fate is what became of a request that failed, as far as the client can know.
type fate int

const (
	final   fate = iota // the array has refused it, or it can never work
	refused             // surely not carried out; may work later
	lost                // perhaps carried out
	garbled             // as lost; the answer arrived, but cut short or unintelligible
	faulted             // as lost, but the array itself reported the failure: not replayed
	smudged             // surely not carried out, but why was cut short
)

func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		fmt.Fprintf(&b, "%s %s: ", e.Op, e.Path)
	}
	b.WriteString(e.kind.Error())
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if len(e.Errors) > 0 {
		b.WriteString(": " + strings.Join(e.Errors, "; "))
	}
	if e.cause != nil {
		b.WriteString(": " + e.cause.Error())
	}
	switch {
	case e.Name != "" && e.Code != 0:
		fmt.Fprintf(&b, " (%s %d, HTTP %d)", e.Name, e.Code, e.HTTP)
	case e.Name != "":
		fmt.Fprintf(&b, " (%s, HTTP %d)", e.Name, e.HTTP)
	case e.HTTP != 0:
		fmt.Fprintf(&b, " (HTTP %d)", e.HTTP)
	}
	return b.String()
}

// Unwrap gives the kind and, if a transport failed, the transport's error.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.kind}
	}
	return []error{e.kind, e.cause}
}

// kinds is the only place that knows how the array names its failures. The first
// row that fits decides; a zero field fits anything. Of the codes only 15 has a
// meaning that is known, so that some things must be told by the array's words.
func kinds() []kindRow {
	return []kindRow{
		{name: "AuthFailedError", kind: ErrAuth},
		{name: "InvalidSessionKeyError", kind: ErrAuth},
		{http: http.StatusUnauthorized, kind: ErrAuth},
		{http: http.StatusServiceUnavailable, kind: ErrUnavailable, fate: refused},
		{http: http.StatusTooManyRequests, kind: ErrUnavailable, fate: refused},
		{http: http.StatusBadGateway, kind: ErrUnavailable, fate: lost},
		{http: http.StatusGatewayTimeout, kind: ErrUnavailable, fate: lost},
		{http: http.StatusInternalServerError, says: "still initializing", kind: ErrUnavailable, fate: refused},
		{name: "PermissionDeniedError", kind: ErrPermission},
		{name: "NotFoundError", kind: ErrNotFound},
		{name: "ConflictError", kind: ErrConflict},
		{name: "InvalidRequestError", code: 15, kind: ErrConflict}, // a snapshot with that uuid exists
		{http: http.StatusInsufficientStorage, named: true, kind: ErrNoSpace},
		{http: http.StatusForbidden, named: true, kind: ErrPermission},
		{http: http.StatusConflict, named: true, kind: ErrConflict},
		{name: "InvalidRequestError", says: "limit", kind: ErrNoSpace}, // of app instances, of the tenant's quota…
		{name: "InvalidRequestError", says: "quota", kind: ErrNoSpace},
		{name: "InvalidRequestError", says: " space", kind: ErrNoSpace},
		{name: "InvalidRequestError", kind: ErrInvalid},
		{name: "ValidationFailedError", kind: ErrInvalid},
		{name: "InvalidRouteError", kind: ErrInvalid},
	}
}

type kindRow struct {
	name  string
	http  int
	code  int
	says  string // part of the array's message, in lower case
	named bool   // only when the body is an error of the array, by any name
	kind  error
	fate  fate
}

// verdict is what a failure means.
type verdict struct {
	kind    error
	fate    fate
	message string // what to do about it, if anything can be
}

// classify finds the meaning of an answer that is not a success. A status alone is
// believed where a half-started array may send nothing more; 404 never is: only
// the array's own NotFoundError means that an object is gone, not some proxy's
// idea of a path.
func classify(status int, body errorBody) verdict {
	for _, k := range kinds() {
		if (k.name == "" || k.name == string(body.Name)) && (k.http == 0 || k.http == status) &&
			(k.code == 0 || k.code == int(body.Code)) && (!k.named || body.isError()) &&
			strings.Contains(strings.ToLower(string(body.Message)), k.says) {
			return verdict{kind: k.kind, fate: k.fate}
		}
	}
	switch {
	case !body.isError():
		return verdict{kind: ErrNotDatera}
	case status >= http.StatusInternalServerError:
		return verdict{kind: ErrFault, fate: faulted}
	default:
		return verdict{kind: ErrInvalid}
	}
}

// errorBody is what the array sends beside a status that is not a success.
type errorBody struct {
	Name    text            `json:"name"`
	Code    number          `json:"code"`
	Message text            `json:"message"`
	Errors  json.RawMessage `json:"errors"`
}

// isError tells an array's error from any other JSON.
func (b errorBody) isError() bool { return strings.HasSuffix(string(b.Name), "Error") }

// details reads the list of faults, whatever its elements are.
func (b errorBody) details(secrets []string) []string {
	var items []json.RawMessage
	if json.Unmarshal(b.Errors, &items) != nil {
		return nil
	}
	var out []string
	for _, item := range items[:min(len(items), mostDetails)] {
		var s string
		if json.Unmarshal(item, &s) != nil {
			s = string(item)
		}
		out = append(out, clip(blank(s, secrets), mostWords))
	}
	return out
}

// answerError makes the error of an answer with a status that is not a success.
func answerError(r request, status int, raw []byte, secrets []string) *Error {
	var body errorBody
	err := json.Unmarshal(raw, &body)
	if err != nil {
		body = errorBody{}
	}
	found := classify(status, body)
	if isCut(err, raw) && errors.Is(found.kind, ErrNotDatera) {
		found.fate = smudged
		if status >= http.StatusInternalServerError {
			found.fate = garbled
		}
	}
	e := &Error{
		Op: r.method, Path: r.path, HTTP: status, Name: clip(string(body.Name), excerptBytes), Code: int(body.Code),
		Message: clip(blank(string(body.Message), secrets), mostWords), kind: found.kind, fate: found.fate,
	}
	if e.Message == "" && !body.isError() {
		e.Message = "it answered " + excerpt(raw, secrets)
	}
	e.Errors = body.details(secrets)
	return e
}

// invalid is a request that is refused before it is sent.
func invalid(format string, args ...any) error {
	return &Error{kind: ErrInvalid, Message: fmt.Sprintf(format, args...)}
}

// inUse says what forbids an operation, and should say what to do about it.
func inUse(format string, args ...any) error {
	return &Error{kind: ErrInUse, Message: fmt.Sprintf(format, args...)}
}

// unanswered tells whether a failed request may nevertheless have been carried
// out.
func unanswered(err error) bool {
	var e *Error
	return errors.As(err, &e) && slices.Contains([]fate{lost, garbled, faulted}, e.fate)
}

// How much of what an array, or whatever answers in its place, says an error
// repeats: bytes of an unintelligible answer, bytes of a message or of one detail,
// and details.
const (
	excerptBytes = 120
	mostWords    = 500
	mostDetails  = 10
)

// clip shortens a text that nobody would read to its end.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// Few names the first of what may be hundreds of hosts or groups, for an error that goes
// on to say what to do.
func Few(names []string) string {
	const most = 8
	words := strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		words += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return words
}

// excerpt quotes the beginning of an answer on one line, without secrets.
func excerpt(raw []byte, secrets []string) string {
	// Secrets go first: of one that is cut in half no half must stay.
	s := blank(string(raw[:min(len(raw), 1<<16)]), secrets)
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s[:min(len(s), 4*excerptBytes)], "?")), " ")
	if s == "" {
		return "nothing"
	}
	return strconv.Quote(clip(s, excerptBytes))
}

// blank takes secrets out of what the array sent: it may echo what it refuses,
// in its own words or as JSON.
func blank(s string, secrets []string) string {
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		inJSON, err := json.Marshal(secret)
		if err != nil {
			inJSON = nil
		}
		for _, form := range []string{secret, strings.Trim(string(inJSON), `"`), strings.Trim(strconv.Quote(secret), `"`)} {
			if form != "" {
				s = strings.ReplaceAll(s, form, "(hidden)")
			}
		}
	}
	return s
}
