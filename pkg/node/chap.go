package node

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/datera-csi/datera-csi/internal/chap"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// parseCHAP returns nil when there is no secret. Its errors name keys and
// lengths, never values (FM 40). Keys that it does not know belong to others: one
// Kubernetes Secret often serves several purposes. Names that the array does not take
// today are not refused: the volume may be older.
func parseCHAP(secrets map[string]string) (*iscsi.CHAP, error) {
	s := chap.Of(secrets)
	if s == (chap.Secrets{}) {
		return nil, nil //nolint:nilnil // no CHAP is an answer: Attacher takes nil for it
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	for key, user := range map[string]string{chap.User: s.User, chap.UserIn: s.UserIn} {
		if len(user) > maxName || strings.ContainsFunc(user, unicode.IsControl) {
			return nil, fmt.Errorf("secrets: %s is longer than %d bytes or holds a control character", key, maxName)
		}
	}
	c := iscsi.CHAP(s)
	return &c, nil
}
