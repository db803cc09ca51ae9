package main

import (
	"flag"
	"fmt"
	"os"
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
