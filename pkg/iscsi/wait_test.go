package iscsi_test

import (
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

func TestWaitingLeavesTheHostToOthers(t *testing.T) {
	t.Parallel()
	const look, total = 50 * time.Millisecond, 600 * time.Millisecond
	looks := 0
	ok, err := iscsi.Until(t.Context(), total, func() (bool, error) {
		looks++
		time.Sleep(look)
		return false, nil
	})
	if ok || err != nil {
		t.Errorf("got %v, %v, want the time to have passed", ok, err)
	}
	if most := int(total/(5*look)) + 2; looks > most { // the first and the last look besides
		t.Errorf("%d looks of %v in %v, want %d at most", looks, look, total, most)
	}
}
