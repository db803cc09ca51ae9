package topology_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/topology"
)

func TestSegmentsAreReadAndWritten(t *testing.T) {
	for text, want := range map[string]topology.Segments{
		"":                                 {},
		"zone=a":                           {"zone": "a"},
		"rack=r-1 , zone=A_1":              {"zone": "A_1", "rack": "r-1"},
		"topology.kubernetes.io/zone=east": {"topology.kubernetes.io/zone": "east"},
	} {
		got, err := topology.Parse(text)
		if diff := cmp.Diff(got, want); err != nil || diff != "" {
			t.Errorf("%q: error %v (-got +want):\n%s", text, err, diff)
			continue
		}
		again, err := topology.Parse(got.String())
		if diff := cmp.Diff(again, got); err != nil || diff != "" {
			t.Errorf("%q written and read: error %v (-got +want):\n%s", text, err, diff)
		}
	}
}

func TestSegmentsThatNoNodeCanCarryAreRefused(t *testing.T) {
	for text, says := range map[string]string{
		"zone":                              "key=value",
		"zone=":                             "value",
		"=a":                                "key",
		"zone=a b":                          "value",
		"zone=-a":                           "value",
		"zone=a,zone=b":                     "twice",
		"Example.com/zone=a":                "DNS name",
		"a/b/c=d":                           "name",
		"zone=" + strings.Repeat("x", 64):   "value",
		strings.Repeat("k", 64) + "=a":      "name",
		strings.Repeat("k", 254) + "/z=a":   "DNS name",
		"topology.kubernetes.io/zone\x00=a": "name",
	} {
		if got, err := topology.Parse(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %v, error %v; want an error that says %q", text, got, err, says)
		}
	}
}

func TestASetIsReachedFromItsPlaces(t *testing.T) {
	set, err := topology.ParseSet("# two racks of the east\nzone=east,rack=1\n\nzone=east,rack=2\nzone=east,rack=2\n")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := set.String(), "rack=1,zone=east or rack=2,zone=east"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, c := range []struct {
		from topology.Segments
		want bool
	}{
		{topology.Segments{"zone": "east", "rack": "1"}, true},
		{topology.Segments{"zone": "east", "rack": "2", "host": "h"}, true},
		{topology.Segments{"zone": "east", "rack": "3"}, false},
		{topology.Segments{"zone": "west", "rack": "1"}, false},
		{topology.Segments{"zone": "east"}, true},  // some of its nodes
		{topology.Segments{"host": "h"}, false},    // nothing says that it is near
		{topology.Segments{}, false},               // neither does this
		{topology.Segments{"ZONE": "east"}, false}, // keys are told apart by case
	} {
		if got := set.Meets(c.from); got != c.want {
			t.Errorf("from %s: got %t, want %t", c.from, got, c.want)
		}
	}
	if !(topology.Set)(nil).Meets(topology.Segments{"zone": "west"}) {
		t.Error("what has no place is not reached from everywhere")
	}
}

func TestAnEmptySetIsAMistake(t *testing.T) {
	for _, text := range []string{"", "\n", "# zone=a\n", ","} {
		if got, err := topology.ParseSet(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}
