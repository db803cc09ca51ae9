// Package chap holds what CHAP secrets must be, for the controller, which gives them to
// the array, and the node, which logs in by them: what one takes the other takes too.
package chap

import (
	"errors"
	"fmt"
	"strings"
)

// Keys of a Secret, as in iscsid.conf and in the vendor's driver.
//
//nolint:gosec // the keys, not the secrets
const (
	User       = "node.session.auth.username"
	Password   = "node.session.auth.password"
	UserIn     = "node.session.auth.username_in"
	PasswordIn = "node.session.auth.password_in"
)

// Secrets are the values of these keys. The two of In are empty for one-way CHAP, and
// all four without CHAP.
type Secrets struct {
	User, Password     string // what the initiator presents
	UserIn, PasswordIn string // what the target presents back
}

// Of takes them out of a Secret, which may have other keys.
func Of(secret map[string]string) Secrets {
	return Secrets{User: secret[User], Password: secret[Password], UserIn: secret[UserIn], PasswordIn: secret[PasswordIn]}
}

// Format keeps the secrets out of logs and errors whatever verb prints them.
func (Secrets) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("CHAP(redacted)")) }

// Check refuses what no array or initiator could use, but for the names of users. Its
// errors name keys and lengths, never values (FM 40).
func (s Secrets) Check() error {
	mutual := s.UserIn != "" || s.PasswordIn != ""
	switch {
	case s.User == "" || s.Password == "":
		return apart(User, Password)
	case mutual && (s.UserIn == "" || s.PasswordIn == ""):
		return apart(UserIn, PasswordIn)
	case mutual && s.Password == s.PasswordIn:
		return fmt.Errorf("secrets: %s and %s are the same; a target refuses that, because it would prove nothing (RFC 7143, 9.2.1)", Password, PasswordIn)
	case mutual:
		return errors.Join(checkPassword(Password, s.Password), checkPassword(PasswordIn, s.PasswordIn))
	}
	return checkPassword(Password, s.Password)
}

func apart(user, password string) error {
	return fmt.Errorf("secrets: %s and %s come together, one is empty", user, password)
}

// checkPassword holds for what the array takes and every initiator writes alike.
func checkPassword(key, password string) error {
	switch {
	case len(password) < 12 || len(password) > 16:
		return fmt.Errorf("secrets: %s has %d bytes; CHAP takes 12 to 16", key, len(password))
	case strings.ContainsFunc(password, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("secrets: %s holds a space or a character beyond ASCII; initiators and targets disagree on those", key)
	}
	return nil
}
