// Package layers_test holds the shape of the module: who may import whom, what
// a package may be called, how long an RPC may be. docs/design.md gives the
// reasons.
package layers_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/tools/txtar"
)

const module = "github.com/datera-csi/datera-csi"

// Names of external modules in the table of arrows.
const (
	csiSpec    = "github.com/container-storage-interface/spec"
	cobra      = "github.com/spf13/cobra"
	csiLib     = "github.com/kubernetes-csi/csi-lib-utils"
	grpcModule = "google.golang.org/grpc"
	klog       = "k8s.io/klog/v2"
	mountUtils = "k8s.io/mount-utils"
	pflag      = "github.com/spf13/pflag"
	protobuf   = "google.golang.org/protobuf"
	xSync      = "golang.org/x/sync"
	xSys       = "golang.org/x/sys"
)

// arrows says what the non-test code of a package may import besides the
// standard library: packages of this module by their directory, others by their
// module. A package that is not here fails the test, so that a new one gets its
// arrows on purpose, and so does an arrow that nothing uses. docs/design.md has
// those between packages of this module.
func arrows() map[string][]string {
	return map[string][]string{
		"cmd/datera-csi": {
			"pkg/identity", "pkg/controller", "pkg/node", "pkg/dateraclient", "pkg/iscsi", "internal/durable", "internal/kube", "internal/mountinfo", "internal/namesakes", "internal/rpc", "internal/topology",
			csiSpec, cobra, pflag, grpcModule, klog, mountUtils,
		},
		"cmd/datera-sim":             {"internal/sim", "internal/lio", "internal/durable", cobra},
		"pkg/identity":               {csiSpec, klog, protobuf},
		"pkg/controller":             {"pkg/dateraclient", "pkg/iscsi", "internal/chap", "internal/filesystem", "internal/publishctx", "internal/health", "internal/keylock", "internal/topology", csiSpec, grpcModule, klog, protobuf},
		"pkg/node":                   {"pkg/iscsi", "internal/chap", "internal/durable", "internal/filesystem", "internal/faultpoint", "internal/mountinfo", "internal/publishctx", "internal/health", csiSpec, grpcModule, klog, mountUtils, xSync, xSys},
		"pkg/node/nodetest":          {"pkg/node", "pkg/iscsi", mountUtils}, // test support
		"pkg/dateraclient":           {},
		"pkg/iscsi":                  {"internal/durable", "internal/faultpoint", "internal/keylock", "internal/mountinfo", klog, xSys},
		"internal/chap":              {},
		"internal/durable":           {},
		"internal/faultpoint":        {},
		"internal/faultpoint/points": {}, // test support
		"internal/health":            {csiSpec},
		"internal/keylock":           {},
		"internal/mountinfo":         {},
		"internal/namesakes":         {"internal/durable", klog},
		"internal/kube":              {"internal/namesakes", klog},
		"internal/filesystem":        {"internal/mountinfo"},
		"internal/publishctx":        {"internal/filesystem", "pkg/iscsi"},
		"internal/topology":          {},
		"internal/rpc":               {csiSpec, csiLib, grpcModule, klog, protobuf},
		"internal/sim":               {"internal/durable"}, // never dateraclient: wire names are written twice, on purpose
		"internal/sim/simtest":       {"internal/sim"},
		"internal/lio":               {"internal/sim", "internal/keylock", xSys},
	}
}

// source is a parsed file.
type source struct {
	path string // from the module's root, e.g. pkg/node/stage.go
	ast  *ast.File
	fset *token.FileSet
}

func (s source) dir() string { return path.Dir(s.path) }
func (s source) test() bool  { return strings.HasSuffix(s.path, "_test.go") }
func (s source) under(dir string) bool {
	return s.dir() == dir || strings.HasPrefix(s.path, dir+"/")
}

func (s source) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", s.path, s.fset.Position(n.Pos()).Line)
}

// imports are the file's imports, in its order, with the node to point at.
func (s source) imports() map[string]ast.Node {
	all := make(map[string]ast.Node)
	for _, spec := range s.ast.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			all[p] = spec
		}
	}
	return all
}

// parse reads every Go file of the module, whatever its build tags, without
// nested modules, test data and hidden directories.
func parse(t *testing.T, fsys fs.FS) []source {
	t.Helper()
	var sources []source
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skip(fsys, p, d.Name())
		}
		if path.Ext(p) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(fsys, p)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, p, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		sources = append(sources, source{path: p, ast: file, fset: fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

func skip(fsys fs.FS, dir, name string) error {
	if dir == "." {
		return nil
	}
	if strings.HasPrefix(name, ".") || name == "testdata" {
		return fs.SkipDir
	}
	if _, err := fs.Stat(fsys, path.Join(dir, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

// rule looks at every source and says what is wrong, one finding a line.
type rule struct {
	name  string
	check func([]source) []string
}

func rules() []rule {
	return []rule{
		{"imports follow the arrows", followArrows},
		{"codes are made in request*.go, status.go and internal/rpc", codesInTheirPlace},
		{"controller takes only Target from iscsi", targetOnly},
		{"every package has a doc comment", docComments},
		{"packages are nouns that say something", packageNames},
		{"an RPC has at most 40 lines", shortRPCs},
		{"SafeFormatAndMount is not used", noSafeFormat},
	}
}

func TestLayers(t *testing.T) {
	sources := parse(t, os.DirFS("."))
	if len(sources) < 10 {
		t.Fatalf("only %d Go files found: is this the root of the module?", len(sources))
	}
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			for _, finding := range r.check(sources) {
				t.Error(finding)
			}
		})
	}
}

func TestArrowsAreUsed(t *testing.T) {
	sources := parse(t, os.DirFS("."))
	for dir, may := range arrows() {
		for _, entry := range may {
			used := slices.ContainsFunc(sources, func(s source) bool {
				return s.dir() == dir && !s.test() && slices.ContainsFunc(slices.Collect(maps.Keys(s.imports())), func(i string) bool { return covers(entry, i) })
			})
			if !used {
				t.Errorf("%s does not import %s: delete the arrow", dir, entry)
			}
		}
	}
}

// TestDesignShowsArrows compares the table in docs/design.md with arrows.
func TestDesignShowsArrows(t *testing.T) {
	text, err := os.ReadFile("docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string][]string)
	for line := range strings.Lines(string(text)) {
		if from, to, ok := strings.Cut(strings.TrimSpace(line), " ─► "); ok {
			shown[strings.TrimSpace(from)] = strings.Split(to, ", ")
		}
	}
	want := make(map[string][]string)
	for dir, may := range arrows() {
		for _, entry := range may {
			if !external(entry) {
				want[short(dir)] = append(want[short(dir)], short(entry))
			}
		}
	}
	if d := cmp.Diff(shown, want, cmpopts.SortSlices(strings.Compare)); d != "" {
		t.Errorf("docs/design.md, who may import whom: got (-), want (+):\n%s", d)
	}
}

// TestDesignShowsSignatures looks for the functions that docs/design.md declares.
func TestDesignShowsSignatures(t *testing.T) {
	text, err := os.ReadFile("docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	pkg, seen := "", 0
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "package" {
			pkg = fields[1]
		}
		if !strings.HasPrefix(line, "func ") {
			continue
		}
		seen++
		signature, _, _ := strings.Cut(line, " //")
		signature = strings.TrimRight(signature, " {\n") + " {\n"
		if !declares(t, path.Join("pkg", pkg), signature) {
			t.Errorf("docs/design.md: package %s has no %s", pkg, signature)
		}
	}
	if seen < 10 {
		t.Errorf("only %d functions found", seen)
	}
}

func declares(t *testing.T, dir, signature string) bool {
	t.Helper()
	files, err := fs.Glob(os.DirFS("."), path.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(text), signature)
	})
}

// short is how docs/design.md calls a package.
func short(dir string) string {
	return strings.TrimPrefix(strings.TrimPrefix(dir, "pkg/"), "internal/")
}

func followArrows(sources []source) []string {
	var found []string
	allowed := arrows()
	missing := make(map[string]bool)
	for _, s := range sources {
		if s.test() || s.under("test") || s.under("hack") {
			continue
		}
		may, known := allowed[s.dir()]
		if !known {
			if !missing[s.dir()] {
				found = append(found, fmt.Sprintf("package %s has no arrows: add what it may import to arrows() in layers_test.go", s.dir()))
			}
			missing[s.dir()] = true
			continue
		}
		for imported, node := range s.imports() {
			if external(imported) && !slices.ContainsFunc(may, func(m string) bool { return covers(m, imported) }) {
				found = append(found, fmt.Sprintf("%s: %s must not import %s; it may import the standard library%s",
					s.at(node), s.dir(), strings.TrimPrefix(imported, module+"/"), list(may)))
			}
		}
	}
	slices.Sort(found)
	return found
}

// external says whether an import is not of the standard library: its first
// element has a dot.
func external(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return strings.Contains(first, ".")
}

// covers says whether the entry of the table admits the import. Packages of this
// module are admitted one by one, others with everything beneath.
func covers(entry, imported string) bool {
	if ours, ok := strings.CutPrefix(imported, module+"/"); ok {
		return ours == entry
	}
	return imported == entry || strings.HasPrefix(imported, entry+"/")
}

func list(names []string) string {
	if len(names) == 0 {
		return " only"
	}
	return ", " + strings.Join(names, ", ")
}

func codesInTheirPlace(sources []source) []string {
	var found []string
	for _, s := range sources {
		name := path.Base(s.path)
		if s.test() || s.under("test") || s.dir() == "internal/rpc" || parsesRequests(name) || name == "status.go" {
			continue
		}
		for _, p := range []string{grpcModule + "/codes", grpcModule + "/status"} {
			if node, ok := s.imports()[p]; ok {
				found = append(found, fmt.Sprintf("%s: imports %s: return a plain error and map it in status.go", s.at(node), p))
			}
		}
	}
	return found
}

// parsesRequests recognises request.go, and request_volume.go and the like where
// there is more than one noun to parse.
func parsesRequests(name string) bool {
	return name == "request.go" || strings.HasPrefix(name, "request_")
}

func targetOnly(sources []source) []string {
	var found []string
	for _, s := range sources {
		if s.dir() != "pkg/controller" || s.test() {
			continue
		}
		if _, ok := s.imports()[module+"/pkg/iscsi"]; !ok {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, isIdent := sel.X.(*ast.Ident); isIdent && x.Name == "iscsi" && sel.Sel.Name != "Target" {
				found = append(found, fmt.Sprintf("%s: iscsi.%s: the controller attaches nothing", s.at(n), sel.Sel.Name))
			}
			return true
		})
	}
	return found
}

func docComments(sources []source) []string {
	documented := make(map[string]bool)
	for _, s := range sources {
		doc := strings.TrimSpace(s.ast.Doc.Text())
		documented[s.dir()] = documented[s.dir()] || doc != ""
	}
	var found []string
	for dir, ok := range documented {
		if !ok {
			found = append(found, fmt.Sprintf("package %s has no doc comment: say in one sentence what it is for", dir))
		}
	}
	slices.Sort(found)
	return found
}

func packageNames(sources []source) []string {
	forbidden := []string{"util", "utils", "common", "helper", "helpers", "mock", "mocks", "types", "manager", "misc", "base"}
	seen := make(map[string]bool)
	var found []string
	for _, s := range sources {
		for _, name := range []string{strings.TrimSuffix(s.ast.Name.Name, "_test"), path.Base(s.dir())} {
			if slices.Contains(forbidden, name) && !seen[s.dir()] {
				seen[s.dir()] = true
				found = append(found, fmt.Sprintf("package %s is called %s: name it after what it holds", s.dir(), name))
			}
		}
	}
	return found
}

const maxRPC = 40

func shortRPCs(sources []source) []string {
	var found []string
	for _, s := range sources {
		for _, decl := range s.ast.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || !isRPC(f) || s.test() {
				continue
			}
			lines := s.fset.Position(f.Body.Rbrace).Line - s.fset.Position(f.Body.Lbrace).Line - 1
			if lines > maxRPC {
				found = append(found, fmt.Sprintf("%s: %s has %d lines, at most %d: parse, lock, ensure, answer", s.at(f), f.Name.Name, lines, maxRPC))
			}
		}
	}
	return found
}

// isRPC recognises func (s *Server) Name(ctx, req *csi.NameRequest) …
func isRPC(f *ast.FuncDecl) bool {
	if f.Body == nil || f.Recv == nil || baseName(f.Recv.List[0].Type) != "Server" {
		return false
	}
	params := f.Type.Params.List
	last := len(params) - 1
	return last >= 0 && strings.HasPrefix(baseName(params[last].Type), "csi.") && strings.HasSuffix(baseName(params[last].Type), "Request")
}

// baseName is T of T and *T, and pkg.T of pkg.T and *pkg.T.
func baseName(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.StarExpr:
		return baseName(x.X)
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return baseName(x.X) + "." + x.Sel.Name
	}
	return ""
}

func noSafeFormat(sources []source) []string {
	var found []string
	for _, s := range sources {
		if s.test() {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok && strings.Contains(id.Name, "SafeFormatAndMount") {
				found = append(found, fmt.Sprintf("%s: %s takes a failed probe for an empty disk: use the proof of pkg/node (FM 1)", s.at(n), id.Name))
			}
			return true
		})
	}
	return found
}

// TestRulesCatchOffenders runs every rule against a module that breaks it.
func TestRulesCatchOffenders(t *testing.T) {
	const offenders = `
-- pkg/node/stage.go --
// Package node offends.
package node

import (
	"context"

	"google.golang.org/grpc/codes"
	mount "k8s.io/mount-utils"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
	"github.com/datera-csi/datera-csi/internal/publishctx"
)

var f mount.SafeFormatAndMount
-- pkg/node/status.go --
package node

import "google.golang.org/grpc/codes"
-- pkg/node/request_volume.go --
package node

import "google.golang.org/grpc/codes"
-- pkg/node/requests.go --
package node

import "google.golang.org/grpc/codes"
-- pkg/node/stage_test.go --
package node

import (
	"google.golang.org/grpc/status"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)
-- pkg/controller/publish.go --
// Package controller offends.
package controller

import "github.com/datera-csi/datera-csi/pkg/iscsi"

var i iscsi.Target
var j iscsi.Initiator
-- pkg/dateraclient/util/x.go --
package util
-- pkg/identity/identity.go --
// Package identity offends.
package identity

func (s *Server) Probe(ctx context.Context, req *csi.ProbeRequest) (*csi.ProbeResponse, error) {
LINES}

func (s *Server) GetPluginInfo(ctx context.Context, _ *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
LINES
}

func (s *Server) other(ctx context.Context, n int) {
LINES
}
-- pkg/identity/testdata/broken.go --
not Go
-- test/e2e/kubernetes/go.mod --
module other
-- test/e2e/kubernetes/x.go --
package common
`
	text := strings.ReplaceAll(offenders, "LINES", strings.Repeat("\t_ = 1\n", 40))
	fsys, err := txtar.FS(txtar.Parse([]byte(text)))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"imports follow the arrows": {
			"package pkg/dateraclient/util has no arrows: add what it may import to arrows() in layers_test.go",
			"pkg/node/stage.go:10: pkg/node must not import pkg/dateraclient; it may import the standard library" + list(arrows()["pkg/node"]),
		},
		"codes are made in request*.go, status.go and internal/rpc": {
			"pkg/node/requests.go:3: imports google.golang.org/grpc/codes: return a plain error and map it in status.go",
			"pkg/node/stage.go:7: imports google.golang.org/grpc/codes: return a plain error and map it in status.go",
		},
		"controller takes only Target from iscsi": {
			"pkg/controller/publish.go:7: iscsi.Initiator: the controller attaches nothing",
		},
		"every package has a doc comment": {
			"package pkg/dateraclient/util has no doc comment: say in one sentence what it is for",
		},
		"packages are nouns that say something": {
			"package pkg/dateraclient/util is called util: name it after what it holds",
		},
		"an RPC has at most 40 lines": {
			"pkg/identity/identity.go:47: GetPluginInfo has 41 lines, at most 40: parse, lock, ensure, answer",
		},
		"SafeFormatAndMount is not used": {
			"pkg/node/stage.go:14: SafeFormatAndMount takes a failed probe for an empty disk: use the proof of pkg/node (FM 1)",
		},
	}
	sources := parse(t, fsys)
	for _, r := range rules() {
		if d := cmp.Diff(r.check(sources), want[r.name]); d != "" {
			t.Errorf("%s: got (-), want (+):\n%s", r.name, d)
		}
	}
}
