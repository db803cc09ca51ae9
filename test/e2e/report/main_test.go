package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPromiseIsTheNameAsASentence(t *testing.T) {
	for test, want := range map[string]string{
		"TestADiskThatFailsIsNeverFormatted/at_mkfs":                    "a disk that fails is never formatted: at mkfs",
		"TestRawBlockIsADeviceFile":                                     "raw block is a device file",
		"TestBusyVolumeIsNotUnstaged":                                   "busy volume is not unstaged",
		"TestXFSThatShutDownIsNotTakenForStaged":                        "XFS that shut down is not taken for staged",
		"TestLUNThatNowIsAnotherVolumeIsRefused":                        "LUN that now is another volume is refused",
		"TestNoAccidentLosesData/one_portal_is_lost/moments/at_unstage": "no accident loses data: one portal is lost: at unstage",
		"TestCHAP/mutual":                                               "CHAP: mutual",
	} {
		if got := promise(test); got != want {
			t.Errorf("%s: %q, want %q", test, got, want)
		}
	}
}

// TestEveryTestIsARow is also about those that never ended, that failed above
// their subtests, and that inherit their fault.
func TestEveryTestIsARow(t *testing.T) {
	rows, err := read(strings.NewReader(`{"Action":"run","Package":"m/test/e2e","Test":"TestA"}
{"Action":"attr","Package":"m/test/e2e","Test":"TestA","Key":"fault","Value":"the power fails"}
{"Action":"run","Package":"m/test/e2e","Test":"TestA/x"}
{"Action":"pass","Package":"m/test/e2e","Test":"TestA/x","Elapsed":1.5}
{"Action":"pass","Package":"m/test/e2e","Test":"TestA","Elapsed":2}
{"Action":"run","Package":"m/test/e2e","Test":"TestB"}
{"Action":"run","Package":"m/test/e2e","Test":"TestB/y"}
{"Action":"pass","Package":"m/test/e2e","Test":"TestB/y","Elapsed":1}
{"Action":"fail","Package":"m/test/e2e","Test":"TestB","Elapsed":2}
{"Action":"run","Package":"m/test/e2e","Test":"TestC"}
{"Action":"pass","Package":"m/test/e2e/vm","Test":"TestOfTheHarness","Elapsed":2}
{"Action":"output","Package":"m/test/e2e","Output":"FAIL\n"}
`))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]row, len(rows))
	for i, r := range rows {
		got[i] = *r
	}
	want := []row{
		{"TestA/x", "the power fails", "pass", 1, 1.5},
		{"TestB", "", "fail", 1, 2},
		{"TestB/y", "", "pass", 1, 1},
		{"TestC", "", "unfinished", 1, 0},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(row{})); diff != "" {
		t.Error(diff)
	}
}

// What passed when it was run once more shows as that, in both tables.
func TestATestThatFailedAtFirstIsToldFromOneThatPassed(t *testing.T) {
	const twice = `{"Action":"run","Package":"m/test/e2e","Test":"TestA"}
{"Action":"run","Package":"m/test/e2e","Test":"TestA/x"}
{"Action":"fail","Package":"m/test/e2e","Test":"TestA/x","Elapsed":9}
{"Action":"run","Package":"m/test/e2e","Test":"TestA/y"}
{"Action":"pass","Package":"m/test/e2e","Test":"TestA/y","Elapsed":1}
{"Action":"fail","Package":"m/test/e2e","Test":"TestA","Elapsed":10}
{"Action":"run","Package":"m/test/e2e","Test":"TestB"}
{"Action":"fail","Package":"m/test/e2e","Test":"TestB","Elapsed":1}
{"Action":"run","Package":"m/test/e2e","Test":"TestA"}
{"Action":"run","Package":"m/test/e2e","Test":"TestA/x"}
{"Action":"pass","Package":"m/test/e2e","Test":"TestA/x","Elapsed":2}
{"Action":"pass","Package":"m/test/e2e","Test":"TestA","Elapsed":2}
{"Action":"run","Package":"m/test/e2e","Test":"TestB"}
{"Action":"fail","Package":"m/test/e2e","Test":"TestB","Elapsed":1}
`
	file := filepath.Join(t.TempDir(), "events")
	if err := os.WriteFile(file, []byte(twice), 0o600); err != nil {
		t.Fatal(err)
	}
	for markdown, want := range map[bool][]string{
		true:  {"| a: x | none | pass at the 2nd try | 2.0 | `TestA` |", "| a: y | none | pass | 1.0 | `TestA` |", "| b | none | fail | 1.0 | `TestB` |"},
		false: {"a: x none pass at the 2nd try 2.0", "a: y none pass 1.0", "b none fail 1.0", "3 promises 1 not kept, 1 not at the 1st try 4.0"},
	} {
		var out strings.Builder
		if err := run(file, markdown, &out); err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(out.String()) {
			got = append(got, strings.Join(strings.Fields(line), " "))
		}
		for _, line := range want {
			if !slices.Contains(got, line) {
				t.Errorf("no line %q in:\n%s", line, out.String())
			}
		}
	}
}
