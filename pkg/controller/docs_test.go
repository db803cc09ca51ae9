package controller_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/pkg/controller"
)

var update = flag.Bool("update", false, "write docs/parameters.md anew")

func TestDocsListEveryParameter(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "parameters.md")
	want := controller.ParameterDocs()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), want); diff != "" {
		t.Errorf("%s is out of date; run go test ./pkg/controller -run Docs -update (-got +want):\n%s", path, diff)
	}
}
