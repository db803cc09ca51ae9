package dateraclient

import (
	"context"
	"iter"
	"strings"
)

// Initiator is a host that the array knows.
type Initiator struct {
	IQN    string
	Name   string
	Tenant string // may be a parent of the client's own
}

type initiatorWire struct {
	ID     text `json:"id"`
	Name   text `json:"name"`
	Tenant text `json:"tenant"`
	Path   text `json:"path"`
}

// Initiators lists the hosts that the tenant knows, those of its parents included.
func (c *Client) Initiators(ctx context.Context) iter.Seq2[*Initiator, error] {
	return func(yield func(*Initiator, error) bool) {
		for w, err := range pages[initiatorWire](ctx, c, "/initiators", nil, 0) {
			if !yield(&Initiator{IQN: w.iqn(), Name: string(w.Name), Tenant: string(w.Tenant)}, err) {
				return
			}
		}
	}
}

// iqn is the initiator's name, from its id or else from its path.
func (w initiatorWire) iqn() string {
	if w.ID != "" {
		return string(w.ID)
	}
	return (&ref{Path: string(w.Path)}).name()
}

// isInitiator tells whether s has the form of an iSCSI name, and so can be part of
// a path.
func isInitiator(s string) bool {
	if len(s) < 16 || len(s) > 223 || !strings.HasPrefix(s, "iqn.") && !strings.HasPrefix(s, "eui.") {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r != ':' && (r == '_' || !isNameRune(r)) })
}
