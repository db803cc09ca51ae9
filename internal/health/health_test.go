package health_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/health"
)

// told is what f says, as STATUS/Reason: message.
func told(f health.Findings) []string {
	var all []string
	for _, e := range f.Entries() {
		all = append(all, fmt.Sprintf("%s/%s: %s", e.GetStatus(), e.GetReason(), e.GetMessage()))
	}
	return all
}

func TestAStatusAndReasonIsToldOnce(t *testing.T) {
	var f health.Findings
	if got := told(f); got != nil {
		t.Errorf("the zero value finds %q", got)
	}
	f.Add(health.Degraded, "PathsLost", "one")
	f.Add(health.Inaccessible, "PathsLost", "two")
	f.Add(health.Degraded, "PathsLost", "three")
	if diff := cmp.Diff([]string{"DEGRADED/PathsLost: one; three", "INACCESSIBLE/PathsLost: two"}, told(f)); diff != "" {
		t.Error(diff)
	}
}

// What Kubernetes would refuse is never said: a pod whose status is refused shows nothing any more.
func TestFindingsKeepWithinTheBoundsOfTheAPI(t *testing.T) {
	var f health.Findings
	for range 3 {
		f.Add(health.Degraded, strings.Repeat("R", 300), strings.Repeat("ü", 600))
	}
	f.Add(health.Degraded, "Foreign", "named \xff by another")
	entries := f.Entries()
	if len(entries) != 2 {
		t.Fatalf("got %d entries, want 2", len(entries))
	}
	for _, e := range entries {
		if len(e.GetReason()) > 256 || len(e.GetMessage()) > 1024 || !utf8.ValidString(e.GetMessage()) {
			t.Errorf("reason of %d bytes, message of %d: %q", len(e.GetReason()), len(e.GetMessage()), e.GetMessage())
		}
	}
	if got := entries[0].GetMessage(); len(got) < 1020 || !strings.HasSuffix(got, "ü…") {
		t.Errorf("the message of %d bytes ends with %q", len(got), got[len(got)-8:])
	}
	if got := health.Message(strings.Repeat("x", 1024)); strings.Contains(got, "…") {
		t.Error("a message that fits was cut")
	}
}

func TestOfTooManyFindingsTheWorstAreTold(t *testing.T) {
	var f health.Findings
	for i := range 20 {
		f.Add(health.Degraded, fmt.Sprint("Slow", i), "")
	}
	f.Add(health.Inaccessible, "Gone", "")
	f.Add(health.DataLoss, "Lost", "")
	var status []csi.VolumeHealthErrorType
	for _, e := range f.Entries() {
		status = append(status, e.GetStatus())
	}
	want := append(slices.Repeat([]csi.VolumeHealthErrorType{health.Degraded}, 14), health.Inaccessible, health.DataLoss)
	if diff := cmp.Diff(want, status); diff != "" {
		t.Error(diff)
	}
}
