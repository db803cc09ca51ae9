package controller

import (
	"crypto/rand"
	"strings"
	"time"
)

// admission is what publishctx.Context calls one, as this process gave it a name.
type admission struct {
	name  string
	until time.Time // a repeat of its call may still ask for it
}

// admissionAsked is for how long a call that admitted a node is repeated because its
// answer was lost. Later the node may have been let out and in again by another
// controller, and then the name would be another's.
const admissionAsked = 2 * time.Minute

func (r publishRequest) admissionKey() string { return r.ID.String() + " " + strings.ToLower(r.Node) }

// admit gives a new admission its name before the array hears of it; one that was there
// already has the name that it got a moment ago, or "": none is known.
func (s *Server) admit(want publishRequest, known bool) string {
	if !known {
		return s.remember(want, rand.Text())
	}
	a, _ := s.admitted.find(want.admissionKey())
	if s.clock().After(a.until) {
		return ""
	}
	return a.name
}

// remember keeps the name of an admission for a repeat of its call, from now on.
func (s *Server) remember(want publishRequest, name string) string {
	if name != "" {
		s.admitted.note(want.admissionKey(), admission{name: name, until: s.clock().Add(admissionAsked)})
	}
	return name
}
