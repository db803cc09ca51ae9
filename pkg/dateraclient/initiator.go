package dateraclient

import "regexp"

type initiatorWire struct {
	ID   text `json:"id"`
	Path text `json:"path"`
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
