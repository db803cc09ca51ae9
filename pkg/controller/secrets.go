package controller

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// Keys of the CHAP secrets, as in iscsid.conf and in the vendor's driver.
//
//nolint:gosec // the keys, not the secrets
const (
	secretUser       = "node.session.auth.username"
	secretPassword   = "node.session.auth.password"
	secretUserIn     = "node.session.auth.username_in"
	secretPasswordIn = "node.session.auth.password_in"
)

// What the array and every initiator accept: 12 to 16 printable characters
// without spaces.
var chapPasswordPattern = regexp.MustCompile(`^[!-~]{12,16}$`)

// parseCHAP reads the provisioner's secrets; none is nil. Errors name keys and
// never hold a value.
func parseCHAP(secrets map[string]string) (*dateraclient.CHAP, error) {
	if len(secrets) == 0 {
		return nil, nil //nolint:nilnil // no secrets, no CHAP: nothing is missing
	}
	keys := []string{secretUser, secretPassword, secretUserIn, secretPasswordIn}
	for key := range secrets {
		if !slices.Contains(keys, key) {
			return nil, fmt.Errorf("secrets: a key is not known; the known ones are %s", strings.Join(keys, ", "))
		}
	}
	chap := &dateraclient.CHAP{
		User: secrets[secretUser], Password: secrets[secretPassword],
		UserIn: secrets[secretUserIn], PasswordIn: secrets[secretPasswordIn],
	}
	if err := checkCHAPPair(secretUser, chap.User, secretPassword, chap.Password); err != nil {
		return nil, err
	}
	if chap.UserIn == "" && chap.PasswordIn == "" {
		return chap, nil
	}
	if err := checkCHAPPair(secretUserIn, chap.UserIn, secretPasswordIn, chap.PasswordIn); err != nil {
		return nil, err
	}
	if chap.Password == chap.PasswordIn {
		return nil, fmt.Errorf("secrets: %s and %s are equal; the two directions need two passwords (RFC 7143, 9.2.1)", secretPassword, secretPasswordIn)
	}
	return chap, nil
}

func checkCHAPPair(userKey, user, passwordKey, password string) error {
	switch {
	case user == "" || password == "":
		return fmt.Errorf("secrets: %s and %s belong together, and one is missing", userKey, passwordKey)
	case checkObjectName(user) != nil:
		return fmt.Errorf("secrets: %s is not a user name the array takes: a letter or '_', then letters, digits, '_', '-' and '.', 3 to 64 in all", userKey)
	case !chapPasswordPattern.MatchString(password):
		return fmt.Errorf("secrets: %s is not a password the array takes: 12 to 16 printable ASCII characters without spaces", passwordKey)
	}
	return nil
}
