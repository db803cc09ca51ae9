package iscsi_test

import (
	"testing"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// It takes several threads, and the race detector's pace, to see otherwise.
func TestABoundedCallThatIsOverIsNotInTheWay(t *testing.T) {
	t.Parallel()
	var b iscsi.Bounds
	for range 20000 {
		if _, err := iscsi.Bounded(t.Context(), &b, "look", func() (int, error) { return 0, nil }); err != nil {
			t.Fatal(err)
		}
	}
}
