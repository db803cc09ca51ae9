package controller

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

func TestNamesOfTheVendorsDriverAreKept(t *testing.T) {
	for csiName, want := range map[string]string{
		"pvc-0f4c6f3e-9a3c-4a53-8a5e-6b1d1e0a4f77": "CSI-pvc-0f4c6f3e-9a3c-4a53-8a5e-6b1d1e0a4f77",
		"a":                     "CSI-a",
		"data_1.b":              "CSI-data_1.b",
		strings.Repeat("n", 60): "CSI-" + strings.Repeat("n", 60),
	} {
		if got := appInstanceName(csiName); got != want {
			t.Errorf("%q: got %q, want %q", csiName, got, want)
		}
	}
}

// What does not fit is hashed as a whole: names that agree in all that is left of
// them still differ.
func TestNamesNeverCollide(t *testing.T) {
	long := strings.Repeat("x", 60)
	names := []string{
		long, long + "1", long + "2", long + "11", strings.Repeat("x", 128),
		"a b", "a-b", "a  b", "a\u00e9b", "\u00e9", "\u00e8", "-", "--", ".",
		appInstanceName("a b")[len(namePrefix):],      // a name that looks hashed
		appInstanceName(long + "1")[len(namePrefix):], // and a second one
	}
	for i := range 2000 {
		names = append(names, fmt.Sprintf("%s-%d", long, i))
	}
	seen := make(map[string]string)
	valid := regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_\-\.]{2,63}$`)
	for _, name := range names {
		got := appInstanceName(name)
		if other, taken := seen[got]; taken {
			t.Errorf("%q and %q are both %q", other, name, got)
		}
		seen[got] = name
		if !valid.MatchString(got) || strings.Contains(got, "..") {
			t.Errorf("%q: the array does not take %q", name, got)
		}
		if again := appInstanceName(name); again != got {
			t.Errorf("%q: first %q, then %q", name, got, again)
		}
		id := volumeID{Backend: strings.Repeat("b", 40), Name: got}
		if back, err := parseVolumeID(id.String()); err != nil || back != id {
			t.Errorf("id %s comes back as %v, %v", id, back, err)
		}
	}
}

func TestHashedNamesStayReadable(t *testing.T) {
	got := appInstanceName("shop/orders of " + strings.Repeat("y", 90))
	if !strings.HasPrefix(got, "CSI-shop-orders-of-yyy") {
		t.Errorf("got %q, want the beginning of the CSI name in it", got)
	}
}

func TestVolumeIDsOfAnyAppInstance(t *testing.T) {
	for s, want := range map[string]volumeID{
		"CSI-pvc-1":                            {"default", "CSI-pvc-1"},
		"kube-pv-datera-0":                     {"default", "kube-pv-datera-0"},
		"OS-IMAGE-1":                           {"default", "OS-IMAGE-1"},
		"east/CSI-pvc-1":                       {"east", "CSI-pvc-1"},
		"9f4c6f3e-9a3c-4a53-8a5e-6b1d1e0a4f77": {"default", "9f4c6f3e-9a3c-4a53-8a5e-6b1d1e0a4f77"},
	} {
		got, err := parseVolumeID(s)
		if err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", s, got, err, want)
		}
		if got.String() != s {
			t.Errorf("%q: written as %q", s, got)
		}
	}
}

func TestHostileVolumeIDsAreRefused(t *testing.T) {
	for _, s := range []string{
		"", "..", "../x", "a/../b", "a/b/c", "/abc", "abc/", "a..b", "a\x00b", "a\nb", "abc\x7f",
		"default/CSI-x", "East/CSI-x", "ea st/CSI-x", "CSI-x?force=true", "CSI-x#f", "CSI x", "CSI-%2e%2e",
		"ab", "\xff\xfe\xfd", "CSI-é", strings.Repeat("x", 65), strings.Repeat("x", 129), "-abc", "abc:1.2",
	} {
		if id, err := parseVolumeID(s); err == nil {
			t.Errorf("%q: got %v, want an error", s, id)
		}
	}
}

// Whatever is answered as an id or a token is taken again: the longest of each.
func TestTheLongestIDsAreTakenBack(t *testing.T) {
	volume := volumeID{Backend: strings.Repeat("b", 40), Name: "CSI-" + strings.Repeat("n", 60)}
	if err := checkBackendName(volume.Backend + "b"); err == nil || !strings.Contains(err.Error(), "1 to 40") {
		t.Errorf("a longer backend: got %v, want an error that says how long it may be", err)
	}
	if back, err := parseVolumeID(volume.String()); err != nil || back != volume {
		t.Errorf("got %v, %v", back, err)
	}
	snapshot := snapshotID{Volume: volume, UTCTS: "12345678901.123456789"}
	if back, err := parseSnapshotID(snapshot.String()); err != nil || back != snapshot {
		t.Errorf("%s of %d bytes: got %v, %v", snapshot, len(snapshot.String()), back, err)
	}
	for _, digit := range []string{"1" + snapshot.UTCTS, snapshot.UTCTS + "1"} {
		if _, err := parseSnapshotID("CSI-a:" + digit); err == nil {
			t.Errorf("%s is taken, and would not be in a longer id", digit)
		}
	}
	place := position{Backend: volume.Backend, Place: dateraclient.Place{After: volume.Name, Offset: 1<<31 - 1}}
	if back, err := parseToken(place.String()); err != nil || back != place {
		t.Errorf("token %s: got %v, %v", place, back, err)
	}
	within := snapshotPosition{place, snapshot.UTCTS}
	if back, err := parseSnapshotToken(within.String()); err != nil || back.UTCTS != within.UTCTS || back.Place.After != place.Place.After || len(within.String()) > maxID {
		t.Errorf("token %s of %d bytes: got %v, %v", within, len(within.String()), back, err)
	}
}

func TestDescriptionsFitTheArray(t *testing.T) {
	valid := regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_\-\s\.]{2,127}$`)
	for _, c := range []struct {
		give parameters
		want string
	}{
		{parameters{PVC: "data-web-0", Namespace: "shop", PV: "pvc-1"}, "PVC data-web-0 namespace shop PV pvc-1"},
		{parameters{PVC: "a\"b{}\nc"}, "PVC a-b-c"},
		{parameters{PVC: strings.Repeat("p", 200), Namespace: "n"}, "PVC " + strings.Repeat("p", 124)},
		{parameters{}, ""},
	} {
		got := description(c.give, marks{})
		if got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
		if got != "" && !valid.MatchString(got) {
			t.Errorf("the array does not take %q", got)
		}
	}
}
