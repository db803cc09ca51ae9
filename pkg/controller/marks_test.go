package controller

import (
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

func TestMarksSurviveTheDescription(t *testing.T) {
	long := parameters{PVC: strings.Repeat("a", 253), Namespace: strings.Repeat("b", 63), PV: "pvc-" + strings.Repeat("c", 36)}
	for _, m := range []marks{
		{}, {Source: hash16("x")}, {IOPS: rate{7, 0}}, {IOPS: rate{maxIOPS, maxIOPS}, Bandwidth: rate{1, maxBandwidth}}, {Retain: true},
		{Source: hash16("y"), IOPS: rate{1, 2}, Bandwidth: rate{3, 4}, Retain: true},
	} {
		for _, p := range []parameters{{}, {PVC: "data", Namespace: "prod", PV: "pvc-1"}, long, {PVC: "x -- from-0123456789abcdef"}} {
			text := description(p, m)
			if len(text) > maxDescription || text != "" && (text[0] < 'A' || strings.ContainsAny(text, ":,()")) {
				t.Errorf("%d characters, which the array does not take: %q", len(text), text)
			}
			if got := parseMarks(text); got != m {
				t.Errorf("got %+v, want %+v from %q", got, m, text)
			}
			again := remark(text, marks{Retain: true})
			if got := parseMarks(again); got != (marks{Retain: true}) || len(again) > maxDescription {
				t.Errorf("marked again: got %+v from %q", got, again)
			}
		}
	}
}

func TestWordsOfOthersAreNoMarks(t *testing.T) {
	for _, text := range []string{
		"", "retain-offline", "a -- b", "PVC retain-offline", "x -- iops-per-GiB-1", "x -- from-zz", "x -- iops-per-GiB-123456789-most-1",
	} {
		if got := parseMarks(text); got != (marks{}) {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

func TestRetiredNamesFitAndDiffer(t *testing.T) {
	pvc := "CSI-pvc-5f0c6e4e-1f6f-4b77-9a0e-2f5d2b1c0001"
	if got, want := retiredName(pvc, 1_763_898_300), "RETAINED-1763898300-"+pvc; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	seen := map[string]bool{}
	for _, end := range []string{"a", "b", "c"} {
		name := retiredName("CSI-"+strings.Repeat("x", 58)+end, 1_763_898_300)
		if len(name) > maxArrayName || !objectPattern.MatchString(name) || seen[name] {
			t.Errorf("%s (%d characters) is too long, no name or not the only one", name, len(name))
		}
		seen[name] = true
	}
}

func TestLimitsFollowTheSize(t *testing.T) {
	m := marks{IOPS: rate{100, 5000}, Bandwidth: rate{1024, 0}}
	for size, want := range map[dateraclient.GiB]dateraclient.QoS{
		1:       {ReadIOPS: 9, TotalIOPS: 100, TotalBandwidth: 1024},
		49:      {ReadIOPS: 9, TotalIOPS: 4900, TotalBandwidth: 49 * 1024},
		1000:    {ReadIOPS: 9, TotalIOPS: 5000, TotalBandwidth: 1_024_000},
		262_144: {ReadIOPS: 9, TotalIOPS: 5000, TotalBandwidth: maxBandwidth},
	} {
		if got := m.apply(dateraclient.QoS{ReadIOPS: 9}, size); got != want {
			t.Errorf("%d GiB: got %+v, want %+v", size, got, want)
		}
	}
}
