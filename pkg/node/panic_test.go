package node

import (
	"context"
	"strings"
	"testing"
	"time"
)

// What fails for one volume must not end the process that serves all.
func TestAPanicOfAMeasurementIsAnError(t *testing.T) {
	var m measurements[int]
	for range 2 {
		_, err := m.do(context.Background(), "a", time.Second, func(context.Context) (int, error) { panic("a surprise") })
		if err == nil || !strings.HasPrefix(err.Error(), "panic: a surprise") || strings.Contains(err.Error(), "goroutine") {
			t.Errorf("got %v", err)
		}
	}
}
