package dateraclient

import (
	"crypto/sha256"
	"errors"
	"time"
)

// How long credentials are not tried again after the array has refused them, at
// first and, twice as long each time, at most.
const (
	refusalFirst = 30 * time.Second
	refusalMost  = 5 * time.Minute
)

// refusal is the memory of a refused login. Every caller would try it again, and
// arrays lock accounts for that. The zero refusal is of nobody.
type refusal struct {
	of    [sha256.Size]byte // the user and the password, of which nothing else is kept
	err   error             // what the array said
	pause time.Duration
	until time.Time
}

// fingerprint tells credentials apart.
func fingerprint(user, password string) [sha256.Size]byte {
	return sha256.Sum256([]byte(user + "\x00" + password))
}

// refused is the error of credentials that the array has just refused; nil if it may
// be asked.
func (c *Client) refused(user, password string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusal.of == fingerprint(user, password) && c.clock().Before(c.refusal.until) {
		return c.refusal.err
	}
	return nil
}

// learn keeps what a login with these credentials came to. An array that did not
// answer has not judged them.
func (c *Client) learn(user, password string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of, pause := fingerprint(user, password), refusalFirst
	switch {
	case err == nil:
		c.refusal = refusal{}
	case errors.Is(err, ErrAuth):
		if c.refusal.of == of {
			pause = min(2*c.refusal.pause, refusalMost)
		}
		c.refusal = refusal{of: of, err: err, pause: pause, until: c.clock().Add(pause)}
	}
}
