package node

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// Keys of the node stage secret, as in /etc/iscsi/iscsid.conf.
//
//nolint:gosec // the keys, not the secrets
const (
	secretUser       = "node.session.auth.username"
	secretPassword   = "node.session.auth.password"
	secretUserIn     = "node.session.auth.username_in"
	secretPasswordIn = "node.session.auth.password_in"
)

// parseCHAP returns nil when there is no secret. Its errors name keys and
// lengths, never values (FM 40). Keys that it does not know belong to others: one
// Kubernetes Secret often serves several purposes.
func parseCHAP(secrets map[string]string) (*iscsi.CHAP, error) {
	c := iscsi.CHAP{User: secrets[secretUser], Password: secrets[secretPassword], UserIn: secrets[secretUserIn], PasswordIn: secrets[secretPasswordIn]}
	if c == (iscsi.CHAP{}) {
		return nil, nil //nolint:nilnil // no CHAP is an answer: Attacher takes nil for it
	}
	if err := checkPair(secretUser, c.User, secretPassword, c.Password); err != nil {
		return nil, err
	}
	if c.UserIn != "" || c.PasswordIn != "" {
		if err := checkPair(secretUserIn, c.UserIn, secretPasswordIn, c.PasswordIn); err != nil {
			return nil, err
		}
		if c.Password == c.PasswordIn {
			return nil, fmt.Errorf("secrets: %s and %s are the same; a target refuses that, because it would prove nothing", secretPassword, secretPasswordIn)
		}
	}
	return &c, nil
}

func checkPair(userKey, user, passwordKey, password string) error {
	switch {
	case user == "" || password == "":
		return fmt.Errorf("secrets: %s and %s come together, one is empty", userKey, passwordKey)
	case len(user) > maxName || strings.ContainsFunc(user, unicode.IsControl):
		return fmt.Errorf("secrets: %s is longer than %d bytes or holds a control character", userKey, maxName)
	case len(password) < 12 || len(password) > 16:
		return fmt.Errorf("secrets: %s has %d bytes; CHAP takes 12 to 16", passwordKey, len(password))
	case strings.ContainsFunc(password, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("secrets: %s holds a space or a character beyond ASCII; initiators and targets disagree on those", passwordKey)
	}
	return nil
}
