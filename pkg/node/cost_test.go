package node_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is done to the machine for a healthy volume, besides the attach: each is a
// process of mount-utils or of the host's, and their number is a promise.
func TestToolsThatAVolumeCosts(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	seen := 0
	for _, step := range []struct {
		name string
		do   func() error
		want []string
	}{
		{"stage, fresh", v.stage, []string{"attach", "mkfs.xfs", "mount"}},
		{"stage again", v.stage, nil},
		{"publish", v.publish, []string{"mount"}},
		{"publish again", v.publish, nil},
		{"unpublish", v.unpublish, []string{"umount"}},
		{"unstage", v.unstage, []string{"umount", "detach"}},
		{"unstage again", v.unstage, nil},
		{"stage, formatted", v.stage, []string{"attach", "mount"}},
	} {
		ok(t, step.do())
		var did []string
		calls := m.Calls()
		for _, c := range calls[seen:] {
			did = append(did, strings.Fields(c)[0])
		}
		seen = len(calls)
		if diff := cmp.Diff(step.want, did); diff != "" {
			t.Errorf("%s (-want +did):\n%s", step.name, diff)
		}
	}
}
