package bootline_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/test/e2e/vm/bootline"
)

func TestLineSurvivesTheKernel(t *testing.T) {
	machines := map[string]bootline.Machine{
		"a worker": {
			Name:      "worker1",
			Initiator: "iqn.2016-04.com.open-iscsi:worker1",
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.88.1.2/24"), netip.MustParsePrefix("10.88.2.2/24")},
		},
		"no network": {Name: "alone", Initiator: "iqn.2016-04.com.open-iscsi:alone"},
		"a probe":    {Probe: true},
	}
	for name, want := range machines {
		t.Run(name, func(t *testing.T) {
			got, err := bootline.Parse("console=ttyS0 quiet " + want.String() + " rdinit=/init\n")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestLineWithoutNameOrWithBadAddressIsRefused(t *testing.T) {
	for _, line := range []string{"", "quiet", "vm.name=", "vm.name=a vm.address=10.88.1.2", "vm.name=a vm.address="} {
		if m, err := bootline.Parse(line); err == nil {
			t.Errorf("Parse(%q) = %+v, want an error", line, m)
		}
	}
}
