package controller

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

func defaults() parameters {
	return parameters{
		Backend: "default", Replicas: 3, PlacementMode: "hybrid", PlacementPolicy: "default", IPPool: "default",
	}
}

func TestEveryParameterArrives(t *testing.T) {
	with := func(change func(*parameters)) parameters {
		p := defaults()
		change(&p)
		return p
	}
	for _, c := range []struct {
		give map[string]string
		want parameters
	}{
		{nil, defaults()},
		{map[string]string{"backend": "east"}, with(func(p *parameters) { p.Backend, p.BackendNamed = "east", true })},
		{map[string]string{"replica_count": "1"}, with(func(p *parameters) { p.Replicas = 1 })},
		{map[string]string{"placement_mode": "all_flash"}, with(func(p *parameters) { p.PlacementMode, p.PlacementPolicy, p.PlacementNamed = "all_flash", "", true })},
		{map[string]string{"placement_policy": "all-flash"}, with(func(p *parameters) { p.PlacementMode, p.PlacementPolicy, p.PlacementNamed = "", "all-flash", true })},
		{map[string]string{"placement_mode": "all_flash", "placement_policy": "all-flash"}, with(func(p *parameters) {
			p.PlacementMode, p.PlacementPolicy, p.PlacementNamed = "all_flash", "all-flash", true
		})},
		{map[string]string{"ip_pool": "blue"}, with(func(p *parameters) { p.IPPool = "blue" })},
		{map[string]string{"template": "basic_small"}, with(func(p *parameters) { p.Template = "basic_small" })},
		{map[string]string{"template": ""}, defaults()}, // the vendor's default
		{map[string]string{"disable_template_override": "true"}, with(func(p *parameters) { p.DisableTemplateOverride = true })},
		{map[string]string{"round_robin": "True"}, with(func(p *parameters) { p.RoundRobin = true })},
		{map[string]string{"delete_on_unmount": "false"}, defaults()},
		{map[string]string{"deletionPolicy": "delete"}, defaults()},
		{map[string]string{"deletionPolicy": "retain-offline"}, with(func(p *parameters) { p.RetainOffline = true })},
		{map[string]string{"read_iops_max": "1", "write_iops_max": "2", "total_iops_max": "3", "read_bandwidth_max": "4", "write_bandwidth_max": "5", "total_bandwidth_max": "6"}, with(func(p *parameters) {
			p.QoS = dateraclient.QoS{ReadIOPS: 1, WriteIOPS: 2, TotalIOPS: 3, ReadBandwidth: 4, WriteBandwidth: 5, TotalBandwidth: 6}
		})},
		{map[string]string{"iops_per_gb": "7", "bandwidth_per_gb": "8"}, with(func(p *parameters) { p.IOPSPerGiB, p.BandwidthPerGiB = 7, 8 })},
		{map[string]string{"csi.storage.k8s.io/pvc/name": "a", "csi.storage.k8s.io/pvc/namespace": "b", "csi.storage.k8s.io/pv/name": "c"}, with(func(p *parameters) { p.PVC, p.Namespace, p.PV = "a", "b", "c" })},
	} {
		got, err := parseParameters(c.give)
		if err != nil {
			t.Errorf("%v: %v", c.give, err)
		}
		got.Named = nil
		if diff := cmp.Diff(got, c.want); diff != "" {
			t.Errorf("%v (-got +want):\n%s", c.give, diff)
		}
	}
}

func TestBadParametersAreNamed(t *testing.T) {
	for _, c := range []struct {
		key, value string
		says       []string
	}{
		{"replica_count", "0", []string{"1 to 5"}},
		{"replica_count", "6", []string{"1 to 5"}},
		{"replica_count", "three", []string{"whole number"}},
		{"replica_count", "", []string{"whole number"}},
		{"placement_mode", "tape", []string{"hybrid, single_flash, all_flash"}},
		{"placement_policy", "../x", []string{"is not a name"}},
		{"placement_policy", "", []string{"is not a name"}},
		{"ip_pool", "a/b", []string{"is not a name"}},
		{"ip_pool", "a..b", []string{"is not a name"}},
		{"template", "no spaces", []string{"is not a name"}},
		{"backend", "East", []string{"cannot be the name of a backend"}},
		{"backend", "../etc", []string{"cannot be the name of a backend"}},
		{"backend", "", []string{"cannot be the name of a backend"}},
		{"disable_template_override", "yes", []string{"neither true nor false"}},
		{"round_robin", "2", []string{"neither true nor false"}},
		{"read_iops_max", "-1", []string{"0 to 10000000"}},
		{"total_iops_max", "10000001", []string{"0 to 10000000"}},
		{"total_bandwidth_max", "10240001", []string{"0 to 10240000"}},
		{"iops_per_gb", "1.5", []string{"whole number"}},
		{"delete_on_unmount", "true", []string{"a node never deletes data", "reclaimPolicy"}},
		{"delete_on_unmount", "perhaps", []string{"neither true nor false"}},
		{"deletionPolicy", "retain", []string{"delete, retain-offline"}},
		{"fs_type", "xfs", []string{"never honoured", "csi.storage.k8s.io/fstype"}},
		{"fs_args", "-F", []string{"never honoured", "csi.storage.k8s.io/fstype"}},
		{"replicas", "3", []string{"not known", "replica_count", "backend", "iops_per_gb"}},
		{"Replica_Count", "3", []string{"not known"}},
	} {
		_, err := parseParameters(map[string]string{c.key: c.value})
		if err == nil {
			t.Errorf("%s=%q: got no error", c.key, c.value)
			continue
		}
		for _, s := range append(c.says, c.key) {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s=%q: error %q does not say %q", c.key, c.value, err, s)
			}
		}
	}
}

func TestAllBadParametersAreNamedAtOnce(t *testing.T) {
	_, err := parseParameters(map[string]string{"replica_count": "9", "ip_pool": "", "zebra": "1", "aardvark": "2", "fs_type": "xfs"})
	if err == nil {
		t.Fatal("got no error")
	}
	for _, key := range []string{"replica_count", "ip_pool", `"aardvark", "zebra"`, "fs_type"} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("error %q does not name %s", err, key)
		}
	}
}

func TestUnknownKeysListEveryKnownOne(t *testing.T) {
	_, err := parseParameters(map[string]string{"size": "3"})
	for _, param := range volumeParameters() {
		if err == nil || !strings.Contains(err.Error(), param.key) {
			t.Errorf("error %v does not list %s", err, param.key)
		}
	}
}

func TestLimitsPerGiBOnlyLower(t *testing.T) {
	for _, c := range []struct {
		total, perGiB int
		size          dateraclient.GiB
		want          int
	}{
		{0, 0, 10, 0}, {500, 0, 10, 500}, {500, 10, 10, 100}, {500, 100, 10, 500},
		{0, 10, 10, 100}, {0, maxIOPS, 262_144, maxIOPS}, {maxIOPS, maxIOPS, 1, maxIOPS},
	} {
		p, err := parseParameters(map[string]string{
			"iops_per_gb": strconv.Itoa(c.perGiB), "total_iops_max": strconv.Itoa(c.total), "read_iops_max": "3",
		})
		if err != nil {
			t.Fatal(err)
		}
		var m marks
		m.IOPS, m.Bandwidth = p.rates(dateraclient.QoS{})
		got := m.apply(p.limits(dateraclient.QoS{}), c.size)
		if want := (dateraclient.QoS{TotalIOPS: c.want, ReadIOPS: 3}); got != want {
			t.Errorf("total %d, %d a GiB, %d GiB: got %+v, want %+v", c.total, c.perGiB, c.size, got, want)
		}
	}
	m := marks{Bandwidth: rate{1024, 1 << 20}}
	if got := m.apply(dateraclient.QoS{}, 16).TotalBandwidth; got != 16<<10 {
		t.Errorf("got %d KiB/s, want %d", got, 16<<10)
	}
}

// A template decides about what the class leaves out, and about everything when it
// must not be overridden, except what was chosen for the one volume.
func TestWhatCountsBesideATemplate(t *testing.T) {
	class := map[string]string{"template": "gold", "replica_count": "2", "total_iops_max": "100"}
	fixed := map[string]string{"template": "gold", "replica_count": "2", "total_iops_max": "100", "disable_template_override": "true"}
	for name, c := range map[string]struct {
		class, attributes map[string]string
		named             []string
		qos               dateraclient.QoS // over a template with 900 IOPS and 50 reads
	}{
		"class":           {class, nil, []string{"replica_count", "template", "total_iops_max"}, dateraclient.QoS{TotalIOPS: 100, ReadIOPS: 50}},
		"lifted":          {class, map[string]string{"total_iops_max": "0"}, []string{"replica_count", "template", "total_iops_max"}, dateraclient.QoS{ReadIOPS: 50}},
		"fixed":           {fixed, nil, []string{"disable_template_override", "template"}, dateraclient.QoS{TotalIOPS: 900, ReadIOPS: 50}},
		"fixed, chosen":   {fixed, map[string]string{"read_iops_max": "7"}, []string{"disable_template_override", "read_iops_max", "template"}, dateraclient.QoS{TotalIOPS: 900, ReadIOPS: 7}},
		"no class at all": {nil, map[string]string{"read_iops_max": "7"}, []string{"read_iops_max"}, dateraclient.QoS{TotalIOPS: 900, ReadIOPS: 7}},
	} {
		p, err := parseClass(c.class, c.attributes)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(p.Named)), c.named); diff != "" {
			t.Errorf("%s: what counts (-got +want):\n%s", name, diff)
		}
		if got := p.limits(dateraclient.QoS{TotalIOPS: 900, ReadIOPS: 50}); got != c.qos {
			t.Errorf("%s: got %+v, want %+v", name, got, c.qos)
		}
	}
	fixed["replica_count"] = "nine"
	if _, err := parseClass(fixed, map[string]string{"ip_pool": "x", "backend": "y", "read_iops_max": "-1"}); err == nil {
		t.Error("got no error")
	} else {
		for _, says := range []string{`replica_count "nine"`, `"ip_pool" cannot be changed`, `"backend" cannot be changed`, `read_iops_max "-1"`} {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%q does not say %s", err, says)
			}
		}
	}
}
