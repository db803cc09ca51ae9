// Command report prints what a run of the laboratory has shown, as a table of
// promise, fault, result and seconds. It reads the events of `go test -json`.
//
//	go run ./test/e2e/report [-markdown] FILE
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"unicode"
)

func main() {
	markdown := flag.Bool("markdown", false, "print the table for docs/laboratory.md")
	flag.Parse()
	if err := run(flag.Arg(0), *markdown, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(file string, markdown bool, out io.Writer) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	rows, err := read(in)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if len(rows) == 0 {
		return errors.New(file + " has no test")
	}
	if markdown {
		return printMarkdown(out, rows)
	}
	return printTable(out, rows)
}

// row is a test that has no tests beneath it.
type row struct {
	test    string
	fault   string
	result  string
	tries   int // it was run, by gotestsum --rerun-fails
	seconds float64
}

// outcome is the result, and that it was not the first.
func (r *row) outcome() string {
	if r.result != "pass" || r.tries < 2 {
		return r.result
	}
	nth := map[int]string{2: "2nd", 3: "3rd"}[r.tries]
	return "pass at the " + or(nth, fmt.Sprintf("%dth", r.tries)) + " try"
}

// event is one line of `go test -json`.
type event struct {
	Action  string
	Package string
	Test    string
	Key     string // of an attribute
	Value   string
	Elapsed float64
}

// read makes a row of each test, in the order of their beginnings; what has
// subtests is no row, for they are. A test that ran twice counts as it ended last, and
// says so.
func read(in io.Reader) ([]*row, error) {
	var order []string
	rows, parents := map[string]*row{}, map[string]bool{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("%w in %.200q", err, lines.Text())
		}
		if e.Test == "" || !strings.HasSuffix(e.Package, "/test/e2e") {
			continue
		}
		r := rows[e.Test]
		if r == nil {
			r = &row{test: e.Test, result: "unfinished"}
			rows[e.Test], order = r, append(order, e.Test)
			if i := strings.LastIndexByte(e.Test, '/'); i >= 0 {
				parents[e.Test[:i]] = true
			}
		}
		switch e.Action {
		case "run":
			r.tries++
		case "attr":
			if e.Key == "fault" {
				r.fault = e.Value
			}
		case "pass", "fail", "skip":
			r.result, r.seconds = e.Action, e.Elapsed
		}
	}
	var all []*row
	for _, name := range order {
		if r := rows[name]; !parents[name] || r.result == "fail" {
			if i := strings.LastIndexByte(name, '/'); r.fault == "" && i >= 0 && rows[name[:i]] != nil {
				r.fault = rows[name[:i]].fault
			}
			all = append(all, r)
		}
	}
	return all, lines.Err()
}

func printTable(out io.Writer, rows []*row) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "\nPROMISE\tFAULT\tRESULT\tSECONDS") // Flush tells
	failed, again, sum := 0, 0, 0.0
	for _, r := range rows {
		switch {
		case r.result != "pass":
			failed++
		case r.tries > 1:
			again++
		}
		sum += r.seconds
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%.1f\n", promise(r.test), or(r.fault, "none"), r.outcome(), r.seconds)
	}
	_, _ = fmt.Fprintf(w, "%d promises\t\t%d not kept, %d not at the 1st try\t%.1f\n", len(rows), failed, again, sum)
	return w.Flush()
}

// head begins docs/laboratory.md, and the table of what takes longer.
const head = `# What the laboratory has shown

Each row is a test that ran on real kernels: an array with the Linux kernel's iSCSI target and two workers
with iscsid, multipathd and the plugin, in QEMU guests. After each, no session, map, record, node-database
entry, mount or admission is left, and all data that was acknowledged before the fault is there.

Made by ` + "`make e2e TABLE=docs/laboratory.md`" + `; what takes longer, such as fifty volumes at once, accidents at every moment and
ten minutes without the array, by ` + "`make e2e-long TABLE=docs/laboratory-long.md`" + `. The faults are in [test/e2e](../test/e2e); which failure mode a test proves is in [failure-modes.md](failure-modes.md).

| promise | fault | result | seconds | test |
|---|---|---|---|---|
`

func printMarkdown(out io.Writer, rows []*row) error {
	var b strings.Builder
	b.WriteString(head)
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %.1f | `%s` |\n", promise(r.test), or(r.fault, "none"), r.outcome(), r.seconds, strings.Split(r.test, "/")[0])
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// promise is a test's name as a sentence: tests are named by what they promise.
func promise(test string) string {
	name, rest, _ := strings.Cut(strings.TrimPrefix(test, "Test"), "/")
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		lowerNext := i+1 < len(runes) && unicode.IsLower(runes[i+1])
		begins := unicode.IsUpper(r) && i > 0 && (unicode.IsLower(runes[i-1]) || lowerNext)
		if begins {
			b.WriteByte(' ')
		}
		article := (i == 0 || unicode.IsLower(runes[i-1])) && i+2 < len(runes) && unicode.IsUpper(runes[i+1]) && unicode.IsLower(runes[i+2])
		if article || unicode.IsUpper(r) && (lowerNext || i+1 == len(runes) || !unicode.IsUpper(runes[i+1])) && (i == 0 || lowerNext) {
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	if rest != "" {
		rest = strings.Replace(rest, "moments/", "", 1) // only a group of what runs at once
		b.WriteString(": " + strings.NewReplacer("_", " ", "/", ": ").Replace(rest))
	}
	return b.String()
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
