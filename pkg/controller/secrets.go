package controller

import (
	"fmt"
	"slices"
	"strings"

	"github.com/datera-csi/datera-csi/internal/chap"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// parseCHAP reads the provisioner's secrets; none is nil. Errors name keys and
// never hold a value.
func parseCHAP(secrets map[string]string) (*dateraclient.CHAP, error) {
	if len(secrets) == 0 {
		return nil, nil //nolint:nilnil // no secrets, no CHAP: nothing is missing
	}
	keys := []string{chap.User, chap.Password, chap.UserIn, chap.PasswordIn}
	for key := range secrets {
		if !slices.Contains(keys, key) {
			return nil, fmt.Errorf("secrets: a key is not known; the known ones are %s", strings.Join(keys, ", "))
		}
	}
	s := chap.Of(secrets)
	if err := s.Check(); err != nil {
		return nil, err
	}
	for key, user := range map[string]string{chap.User: s.User, chap.UserIn: s.UserIn} {
		if user != "" && checkObjectName(user) != nil {
			return nil, fmt.Errorf("secrets: %s is not a user name the array takes: a letter or '_', then letters, digits, '_', '-' and '.', 3 to 64 in all", key)
		}
	}
	c := dateraclient.CHAP(s)
	return &c, nil
}
