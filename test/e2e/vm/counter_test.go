package vm

import (
	"runtime"
	"testing"
)

func TestCounterIsMeasuredAlike(t *testing.T) {
	a, b := measureCounter(), measureCounter()
	if runtime.GOARCH == "amd64" && a == 0 && b == 0 {
		t.Skip("the counter of this machine does not count evenly")
	}
	if a != 0 && b != 0 && max(a, b)-min(a, b) > a/500 {
		t.Errorf("measured %d and %d kHz", a, b)
	}
}
