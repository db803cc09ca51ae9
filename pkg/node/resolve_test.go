package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestResolveFollowsDirectoriesOnly(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "real/sub"), 0o750), os.Symlink("real", filepath.Join(dir, "link")),
		os.Symlink("nowhere", filepath.Join(dir, "real/dangling")), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"link/sub": "real/sub", "link/new": "real/new", "real/sub/": "real/sub", "file": "file",
		"link": "", "real/dangling": "", "none/x": "", "file/x": "", "real/dangling/x": "",
	} {
		got, err := resolve(dir + "/" + path)
		if want == "" {
			if err == nil {
				t.Errorf("%s: got %s, want an error", path, got)
			}
			continue
		}
		if got != filepath.Join(dir, want) || err != nil {
			t.Errorf("%s: got %s, %v, want %s", path, got, err, want)
		}
	}
}

func TestEveryErrorKindHasACode(t *testing.T) {
	seen := map[error]bool{}
	for _, line := range codeOf {
		if seen[line.kind] {
			t.Errorf("%v is listed twice", line.kind)
		}
		seen[line.kind] = true
	}
	for _, kind := range []error{errPending, errNotFound, errNotStaged, errIncompatible, errForeign, errPath, errInUse, errUnhealthy, errRefused, errOtherFS, errUnreadable, errNotGrown, errRecord, errNoAnswer, errNoTable} {
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
