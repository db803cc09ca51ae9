package dateraclient

import (
	"context"
	"iter"
	"regexp"
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

// initiatorPattern is what the array admits (RFC 7143, 4.2.7): a reversed domain
// with a date, 16 to 223 characters in all, or a 64-bit extended unique identifier.
var initiatorPattern = regexp.MustCompile(`^(iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[a-zA-Z0-9][a-zA-Z0-9.:_-]{3,210}|eui\.[0-9a-fA-F]{16})$`)

// IsInitiator tells whether s can be the name of an initiator to an array, and so a
// part of a path. No other was ever admitted by Grant.
func IsInitiator(s string) bool { return initiatorPattern.MatchString(s) }
