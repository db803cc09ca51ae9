package main

import (
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
		{"TestA/x", "the power fails", "pass", 1.5},
		{"TestB", "", "fail", 2},
		{"TestB/y", "", "pass", 1},
		{"TestC", "", "unfinished", 0},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(row{})); diff != "" {
		t.Error(diff)
	}
}
