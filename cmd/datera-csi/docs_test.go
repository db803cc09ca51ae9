package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write the flags in docs/configure.md anew")

// TestConfigureHasEveryFlag keeps the tables at the end of docs/configure.md.
func TestConfigureHasEveryFlag(t *testing.T) {
	const doc, mark = "../../docs/configure.md", "-update writes it anew. -->\n"
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	head, _, found := strings.Cut(string(text), mark)
	if !found {
		t.Fatalf("%s has no mark", doc)
	}
	want := head + mark + flagTables(rootCommand())
	if string(text) == want {
		return
	}
	if !*update {
		t.Fatalf("the flags in %s are out of date: go test ./cmd/datera-csi -run Configure -update", doc)
	}
	if err := os.WriteFile(doc, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestEveryFileOfABackendIsTold by the help, by docs/configure.md and by the chart.
func TestEveryFileOfABackendIsTold(t *testing.T) {
	told := map[string]string{"controller --help": backendsHelp}
	for _, path := range []string{"../../docs/configure.md", "../../deploy/charts/datera-csi/templates/backends.yaml"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		told[path] = string(text)
	}
	files := 0
	for _, source := range []string{"backends.go", "topology.go"} {
		text, err := os.ReadFile("../../pkg/controller/" + source)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range regexp.MustCompile(`(?m)^(?:const |\t)file[A-Z]\w* *= "(.+?)"`).FindAllStringSubmatch(string(text), -1) {
			files++
			for where, what := range told {
				if !strings.Contains(what, file[1]) {
					t.Errorf("%s does not tell of %s", where, file[1])
				}
			}
		}
	}
	if files < 8 {
		t.Errorf("only %d files found", files)
	}
}

// flagTables is a table for each command that has flags of its own. "all" has those
// of controller and node.
func flagTables(root *cobra.Command) string {
	var b strings.Builder
	table := func(title string, flags *pflag.FlagSet) {
		fmt.Fprintf(&b, "\n### %s\n\n| flag | default | meaning |\n|---|---|---|\n", title)
		flags.VisitAll(func(f *pflag.Flag) {
			if f.Name == "help" {
				return
			}
			dashes := "--"
			if len(f.Name) == 1 {
				dashes = "-"
			}
			preset := f.DefValue
			if preset != "" && preset != "[]" {
				preset = "`" + preset + "`"
			} else {
				preset = ""
			}
			fmt.Fprintf(&b, "| `%s%s` | %s | %s |\n", dashes, f.Name, preset, strings.ReplaceAll(f.Usage, "|", `\|`))
		})
	}
	for _, cmd := range root.Commands() {
		if cmd.Name() != "all" && cmd.LocalNonPersistentFlags().HasFlags() {
			table("datera-csi "+cmd.Name(), cmd.LocalNonPersistentFlags())
		}
	}
	table("all commands", root.PersistentFlags())
	return b.String()
}
