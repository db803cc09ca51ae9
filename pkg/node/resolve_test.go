package node

import (
	"os"
	"path/filepath"
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
