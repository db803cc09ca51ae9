package sim

import (
	"fmt"
	"net/http"
	"time"
)

// apiError is an error as the array's REST API words it.
type apiError struct {
	name    string
	code    int
	http    int
	message string
	errors  []string
}

func (e *apiError) Error() string { return e.name + ": " + e.message }

// Numeric sub-codes. 15 and 99 are the array's own; the others are ours, because
// its catalogue is not public.
const (
	codeNotFound          = 3
	codeConflict          = 4
	codeRefused           = 5
	codeValidation        = 6
	codeAuth              = 7
	codePermission        = 8
	codeInternal          = 9
	codeMethod            = 10
	codeDuplicateSnapshot = 15
	codeLimit             = 28
	codeInvalidRoute      = 99
)

func errNotFound(kind, id string) *apiError {
	return &apiError{"NotFoundError", codeNotFound, http.StatusNotFound, fmt.Sprintf("%s %s does not exist", kind, id), nil}
}

func errConflict(kind, id string) *apiError {
	return &apiError{"ConflictError", codeConflict, http.StatusConflict, fmt.Sprintf("%s %s already exists", kind, id), nil}
}

// errRefused is a request that is well formed and makes no sense now.
func errRefused(format string, args ...any) *apiError {
	return &apiError{"InvalidRequestError", codeRefused, http.StatusBadRequest, fmt.Sprintf(format, args...), nil}
}

func errLimit(what string, limit int) *apiError {
	return &apiError{"InvalidRequestError", codeLimit, http.StatusBadRequest,
		fmt.Sprintf("the limit of %d %s is reached", limit, what), nil}
}

func errValidation(details ...string) *apiError {
	return &apiError{"ValidationFailedError", codeValidation, http.StatusUnprocessableEntity, "request validation failed", details}
}

func errAuth() *apiError {
	return &apiError{"AuthFailedError", codeAuth, http.StatusUnauthorized, "authentication failed: wrong name or password, or no key", nil}
}

func errSession() *apiError {
	return &apiError{"InvalidSessionKeyError", codeAuth, http.StatusUnauthorized,
		"The key provided with the request does not correspond to a valid session.", nil}
}

func errPermission(format string, args ...any) *apiError {
	return &apiError{"PermissionDeniedError", codePermission, http.StatusForbidden, fmt.Sprintf(format, args...), nil}
}

func errRoute(path string) *apiError {
	return &apiError{"InvalidRouteError", codeInvalidRoute, http.StatusNotFound, "no such route: " + path, nil}
}

func errMethod(method, path string) *apiError {
	return &apiError{"InvalidRequestError", codeMethod, http.StatusMethodNotAllowed, fmt.Sprintf("%s is not possible on %s", method, path), nil}
}

func errInternal(err error) *apiError {
	return &apiError{"InternalError", codeInternal, http.StatusInternalServerError, err.Error(), nil}
}

// render is the flat body that every failed request gets.
func (e *apiError) render(r *request, now time.Time) object {
	details := e.errors
	if details == nil {
		details = []string{}
	}
	return object{
		{"name", e.name},
		{"code", e.code},
		{"http", e.http},
		{"message", e.message},
		{"errors", details},
		{"ts", now.UTC().Format(time.RFC3339Nano)},
		{"version", r.version.String()},
		{"op", r.operation()},
		{"tenant", r.tenant},
		{"path", r.path},
		{"params", r.echo()},
		{"connInfo", object{{"remoteAddress", r.http.RemoteAddr}}},
		{"client_id", r.client()},
		{"client_type", "rest"},
		{"tenancy_class", r.tenancyClass()},
		{"api_req_id", int64(r.id)},
	}
}
