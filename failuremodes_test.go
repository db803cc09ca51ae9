package layers_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the table of tests in docs/failure-modes.md")

// modes is how many failure modes there are, from FM 1 on.
const modes = 40

// TestEveryFailureModeHasItsTest keeps the table at the end of
// docs/failure-modes.md: a test says in its comment which FM it proves.
func TestEveryFailureModeHasItsTest(t *testing.T) {
	tests := citations(t)
	for mode := 1; mode <= modes; mode++ {
		if len(tests[mode]) == 0 {
			t.Errorf("no test cites FM %d", mode)
		}
	}
	const doc, mark = "docs/failure-modes.md", "## Which test proves what\n"
	content, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	head, _, found := bytes.Cut(content, []byte(mark))
	if !found {
		t.Fatalf("%s has no section %q", doc, strings.TrimSpace(mark))
	}
	want := append(bytes.Clone(head), mark+table(tests)...)
	if bytes.Equal(content, want) {
		return
	}
	if !*update {
		t.Fatalf("the table in %s is out of date: go test . -run FailureMode -update", doc)
	}
	if err := os.WriteFile(doc, want, 0o644); err != nil {
		t.Fatal(err)
	}
}

func table(tests map[int][]string) string {
	var b strings.Builder
	b.WriteString("\nMade from the tests themselves by `go test . -run FailureMode -update`. Those below `test/e2e`, those that begin\n" +
		"with `TestGuest`, and `TestOnAKernel` run in QEMU guests by `make e2e`, all others by `make test`, and `TestOnAKernel`\n" +
		"also there where the machine has loop devices and the tools.\n\n| FM | tests |\n|---|---|\n")
	for mode := 1; mode <= modes; mode++ {
		if len(tests[mode]) > 0 {
			fmt.Fprintf(&b, "| %d | %s |\n", mode, strings.Join(tests[mode], "<br>"))
		}
	}
	return b.String()
}

// citations are the tests that cite each failure mode, as "`Test` (package)".
func citations(t *testing.T) map[int][]string {
	t.Helper()
	all := map[int][]string{}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != ".":
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go") || filepath.Dir(path) == ".":
			return nil
		}
		return cited(path, all)
	})
	if err != nil {
		t.Fatal(err)
	}
	for mode := range all {
		slices.Sort(all[mode])
		all[mode] = slices.Compact(all[mode])
	}
	return all
}

var (
	citation = regexp.MustCompile(`FM (\d+(?:(?:, | and )\d+)*)`)
	number   = regexp.MustCompile(`\d+`)
)

// cited adds the citations of one file: in the comment above a test or in its body.
func cited(path string, all map[int][]string) error {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Recv != nil || !regexp.MustCompile(`^(Test|Fuzz|Benchmark)`).MatchString(f.Name.Name) {
			continue
		}
		start := f.Pos()
		if f.Doc != nil {
			start = f.Doc.Pos()
		}
		for _, group := range file.Comments {
			if group.Pos() < start || group.End() > f.End() {
				continue
			}
			for _, found := range citation.FindAllStringSubmatch(strings.ReplaceAll(group.Text(), "\n", " "), -1) {
				for _, n := range number.FindAllString(found[1], -1) {
					mode, err := strconv.Atoi(n)
					if err != nil {
						return err
					}
					all[mode] = append(all[mode], fmt.Sprintf("`%s` (%s)", f.Name.Name, filepath.ToSlash(filepath.Dir(path))))
				}
			}
		}
	}
	return nil
}
