package iscsi

import (
	"context"
	"strings"
	"testing"
)

// What fails for one volume must not end the process that serves all.
func TestAPanicAsideIsTheCallers(t *testing.T) {
	t.Parallel()
	said := func() (v any) {
		defer func() { v = recover() }()
		eachOf([]int{1, 2, 3}, func(n int) int {
			if n == 2 {
				panic("two")
			}
			return n
		})
		return nil
	}()
	if text, _ := said.(string); !strings.HasPrefix(text, "two\n") || !strings.Contains(text, "panic_test.go") {
		t.Errorf("the caller heard %v", said)
	}
}

func TestAPanicOfABoundedStepIsAnError(t *testing.T) {
	t.Parallel()
	var b bounds
	for range 2 { // the step counts as over
		_, err := bounded(context.Background(), &b, "step", func() (int, error) { panic("a surprise") })
		if err == nil || !strings.HasPrefix(err.Error(), "step: panic: a surprise") {
			t.Errorf("got %v", err)
		}
	}
}
