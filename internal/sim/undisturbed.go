package sim

import "net/http"

// Undisturbed is the same array as one sees it who stands beside it: no planned
// fault hits, nothing waits, nothing is recorded. A test looks through it while it
// disturbs what the driver sees.
func (a *Array) Undisturbed() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		prefix, path := splitVersion(req.URL.EscapedPath())
		write(w, a.answer(req, prefix, path))
	})
}
