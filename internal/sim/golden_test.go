package sim_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

// members are the names of an object's members in the order in which they were
// sent.
func members(t *testing.T, raw json.RawMessage) []string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(raw)))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for d.More() {
		name, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name.(string))
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// TestShapeOfVersion21 holds the objects of v2.1 to the inventory of what a
// real array sent: these members, in this order, and no others.
func TestShapeOfVersion21(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s).in("v2.1", "/root")
	c.data("POST", "/app_instances", simple("demo", 5))
	req, err := http.NewRequest(http.MethodGet, s.URL+"/v2.1/app_instances", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Auth-Token", c.key)
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Data []json.RawMessage }
	var app struct {
		StorageInstances []json.RawMessage `json:"storage_instances"`
	}
	var si struct{ Volumes []json.RawMessage }
	for _, step := range []func() error{
		func() error { return json.Unmarshal(raw, &list) },
		func() error { return json.Unmarshal(list.Data[0], &app) },
		func() error { return json.Unmarshal(app.StorageInstances[0], &si) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	for _, shape := range []struct {
		what string
		raw  json.RawMessage
		want string
	}{
		{"envelope", raw, "tenant path version data metadata request_time"},
		{"app instance", list.Data[0], "tenant path name id health app_template descr admin_state storage_instances create_mode uuid " +
			"snapshots snapshot_policies deployment_state"},
		{"storage instance", app.StorageInstances[0], "health path name admin_state op_state volumes access_control_mode acl_policy ip_pool " +
			"access auth active_initiators active_storage_nodes uuid deployment_state"},
		{"volume", si.Volumes[0], "path name replica_count uuid size capacity_in_use snapshot_policies snapshots placement_mode op_state " +
			"active_storage_nodes health deployment_state"},
	} {
		if diff := cmp.Diff(strings.Fields(shape.want), members(t, shape.raw)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", shape.what, diff)
		}
	}
}

// TestWhatFragileClientsRelyOn holds answers to what clients of the array take
// for granted and crash without.
func TestWhatFragileClientsRelyOn(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/app_instances", simple("demo", 5))
	for _, in := range []*caller{c, c.in("v2.1", ""), c.in("v2.3", "all")} {
		app := at(t, in.ok("GET", "/app_instances", nil), "data", 0).(map[string]any)
		si := at(t, app, "storage_instances", 0).(map[string]any)
		for _, name := range []string{"acl_policy", "access", "auth", "ip_pool"} {
			if _, ok := si[name].(map[string]any); !ok {
				t.Errorf("%s: %s is %v", in.version, name, si[name])
			}
		}
		if _, ok := app["app_template"].(map[string]any); !ok {
			t.Errorf("%s: app_template is %v", in.version, app["app_template"])
		}
		at(t, si, "volumes", 0, "size")
	}
	if _, ok := at(t, c.ok("GET", "/app_instances", nil), "metadata", "total_count").(float64); !ok {
		t.Error("total_count is not a number")
	}
	snap := c.data("POST", demoVolume+"/snapshots", nil)
	system := c.data("GET", "/system", nil)
	for name, v := range map[string]any{"utc_ts": snap["utc_ts"], "timestamp": snap["timestamp"],
		"compression_ratio": system["compression_ratio"], "last_reboot_timestamp": system["last_reboot_timestamp"]} {
		if _, ok := v.(string); !ok {
			t.Errorf("%s is %T", name, v)
		}
	}
	meta := c.data("PUT", "/app_instances/demo/metadata", m{"length": 17, "flag": true})
	if diff := cmp.Diff(m{"length": "17", "flag": "true"}, meta); diff != "" {
		t.Error(diff)
	}
	failed := c.refused(404, "NotFoundError", "GET", "/app_instances/none", nil)
	for _, name := range []string{"params", "connInfo"} {
		for key, v := range failed[name].(map[string]any) {
			if _, ok := v.(string); !ok {
				t.Errorf("%s.%s is %T", name, key, v)
			}
		}
	}
}
