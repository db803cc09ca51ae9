package node

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestEveryErrorKindHasACode(t *testing.T) {
	seen := map[error]bool{}
	for _, line := range codeOf {
		if seen[line.kind] {
			t.Errorf("%v is listed twice", line.kind)
		}
		seen[line.kind] = true
	}
	for _, kind := range []error{errPending, errNotFound, errNotStaged, errIncompatible, errForeign, errPath, errInUse, errStopped, errRefused, errOtherFS, errUnreadable, errNotGrown, errRecord, errNoAnswer, errNoTable} {
		if !seen[kind] {
			t.Errorf("%v is not in the table", kind)
		}
		if wrapped := statusOf(fmt.Errorf("x: %w", kind)); !strings.Contains(wrapped.Error(), "x: "+kind.Error()) {
			t.Errorf("got %v, want the words of %v", wrapped, kind)
		}
	}
	if got := statusOf(errors.New("boom")).Error(); !strings.Contains(got, "Internal") || !strings.Contains(got, "boom") {
		t.Errorf("a surprise: got %s", got)
	}
}
