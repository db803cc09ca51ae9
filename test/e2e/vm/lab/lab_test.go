package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

func TestSpecsOfGuests(t *testing.T) {
	got, err := parseSpecs([]string{"array:2048:10", "worker:512", "plain"})
	if err != nil {
		t.Fatal(err)
	}
	want := []vm.Spec{
		{Name: "array", MemoryMB: 2048, Disks: []vm.Disk{{Name: "data", Bytes: 10 << 30}}},
		{Name: "worker", MemoryMB: 512},
		{Name: "plain"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if all, err := parseSpecs(nil); err != nil || len(all) != 3 {
		t.Errorf("without arguments: %v, %v", all, err)
	}
	for _, bad := range []string{"a:b", "a:0", "a:-1", "a:1:2:3", "a:"} {
		if specs, err := parseSpecs([]string{bad}); err == nil {
			t.Errorf("%q: %v, want an error", bad, specs)
		}
	}
}
