package controller_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// gold is a template with everything a class may override.
func gold() map[string]any {
	t := template("gold", 5)
	t["storage_templates"].([]map[string]any)[0]["volume_templates"].([]map[string]any)[0]["performance_policy"] = map[string]any{
		"total_iops_max": 900, "read_iops_max": 50,
	}
	return t
}

func TestTheClassOverridesItsTemplate(t *testing.T) {
	l := start(t)
	l.api(t, http.MethodPost, "/access_network_ip_pools", map[string]any{"name": "blue"}, nil)
	l.api(t, http.MethodPost, "/app_templates", gold(), nil)
	for name, c := range map[string]struct {
		pairs []string
		want  dateraclient.Volume
	}{
		"only the size": {[]string{"template", "gold"}, dateraclient.Volume{
			Size: 10, Replicas: 2, IPPool: "default", PlacementPolicy: "default", QoS: dateraclient.QoS{TotalIOPS: 900, ReadIOPS: 50}}},
		"everything": {[]string{"template", "gold", "replica_count", "3", "ip_pool", "blue", "placement_policy", "all-flash", "total_iops_max", "70", "read_iops_max", "0", "write_bandwidth_max", "8"},
			dateraclient.Volume{Size: 10, Replicas: 3, IPPool: "blue", PlacementPolicy: "all-flash", QoS: dateraclient.QoS{TotalIOPS: 70, WriteBandwidth: 8}}},
		"per GiB": {[]string{"template", "gold", "iops_per_gb", "20"}, dateraclient.Volume{
			Size: 10, Replicas: 2, IPPool: "default", PlacementPolicy: "default", QoS: dateraclient.QoS{TotalIOPS: 200, ReadIOPS: 50}}},
	} {
		for range 2 {
			l.create(t, "pvc-1", parameters(c.pairs...))
		}
		v := l.volume(t, "CSI-pvc-1")
		got := dateraclient.Volume{Size: v.Size, Replicas: v.Replicas, IPPool: v.IPPool, PlacementPolicy: v.PlacementPolicy, QoS: v.QoS}
		if got.Size != c.want.Size || got.Replicas != c.want.Replicas || got.IPPool != c.want.IPPool || got.PlacementPolicy != c.want.PlacementPolicy || got.QoS != c.want.QoS {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
		l.requests()
		if err := l.delete(t.Context(), "CSI-pvc-1"); err != nil {
			t.Fatal(err)
		}
	}
	l.create(t, "pvc-2", parameters("template", "gold", "replica_count", "3", "ip_pool", "blue", "total_iops_max", "70", "disable_template_override", "true"), bytesAsked(5*gib, 0))
	if v := l.volume(t, "CSI-pvc-2"); v.Size != 5 || v.Replicas != 2 || v.IPPool != "default" || v.QoS.TotalIOPS != 900 {
		t.Errorf("not to be overridden: got %+v", v)
	}
	_, err := l.CreateVolume(t.Context(), createRequest("pvc-3", parameters("template", "gold", "ip_pool", "nowhere")))
	wantCode(t, "a pool that is not there", err, codes.InvalidArgument, "nowhere")
}

// A tenant uses the templates of those above it.
func TestTemplatesOfParentTenants(t *testing.T) {
	l := start(t)
	l.api(t, http.MethodPost, "/tenants", map[string]any{"name": "prod"}, nil)
	l.api(t, http.MethodPost, "/app_templates", gold(), nil)
	if err := os.WriteFile(filepath.Join(l.dir, "default", "tenant"), []byte("/root/prod"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l.create(t, "pvc-1", parameters("template", "gold"))
	}
	if n := len(l.objects(t)); n != 0 {
		t.Errorf("%d app instances in /root, want the one in /root/prod", n)
	}
	if _, err := l.publish(t.Context(), "CSI-pvc-1", node1); err != nil {
		t.Error(err)
	}
}
