package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What ginkgo reports is told test by test; those of others than the driver are left out.
func TestReportIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	const content = `[{"SpecReports": [
  {"LeafNodeType": "BeforeSuite", "State": "passed"},
  {"ContainerHierarchyTexts": ["[sig-node] Pods", "x"], "LeafNodeType": "It", "LeafNodeText": "run", "State": "skipped"},
  {"ContainerHierarchyTexts": ["External Storage [Driver: d]", "subPath"], "LeafNodeType": "It", "LeafNodeText": "works", "State": "passed", "RunTime": 2400000000},
  {"ContainerHierarchyTexts": ["External Storage [Driver: d]", "limits"], "LeafNodeType": "It", "LeafNodeText": "hold", "State": "timedout", "RunTime": 61000000000},
  {"ContainerHierarchyTexts": ["External Storage [Driver: d]", "xfs [Slow]"], "LeafNodeType": "It", "LeafNodeText": "works", "State": "skipped"},
  {"ContainerHierarchyTexts": ["External Storage [Driver: d]", "block"], "LeafNodeType": "It", "LeafNodeText": "mounts", "State": "skipped", "Failure": {"Message": "not for block\nat line 1"}},
  {"ContainerHierarchyTexts": ["External Storage [Driver: d]", "ext4"], "LeafNodeType": "It", "LeafNodeText": "works", "State": "skipped"}]}]`
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := read(path)
	if err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	r.print(&told)
	const want = `
test                       result    
[Driver: d] limits hold    timedout  61 s
[Driver: d] subPath works  passed    2 s

1 passed, 1 failed of 5 tests; not run:
    1  \[Slow\]: an emulated machine takes hours for them
    1  not chosen by FOCUS
    1  not for block
`
	if diff := cmp.Diff(want, told.String()); diff != "" {
		t.Error(diff)
	}
}

func TestAReportThatIsNoneIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(path, []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := read(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}
