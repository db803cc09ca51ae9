package sim_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

func TestProductsBefore33HaveNoPlacementPolicies(t *testing.T) {
	s := simtest.Start(t, func(cfg *sim.Config) { cfg.SWVersion = "3.2.9.0" })
	c := dial(t, s)
	in := simple("demo", 1)
	at(t, in["storage_instances"].([]m)[0]["volumes"].([]m)[0])
	in["storage_instances"].([]m)[0]["volumes"].([]m)[0]["placement_policy"] = m{"path": "/placement_policies/default"}
	c.refused(422, "ValidationFailedError", "POST", "/app_instances", in)
	c.refused(404, "InvalidRouteError", "GET", "/placement_policies", nil)
	v := at(t, c.data("POST", "/app_instances", simple("demo", 1)), "storage_instances", 0, "volumes", 0).(map[string]any)
	if v["placement_policy"] != nil || v["placement_mode"] != "hybrid" {
		t.Errorf("volume is %v", v)
	}
	got := c.in("", "").ok("GET", "/api_versions", nil)["api_versions"]
	if diff := cmp.Diff([]any{"v2", "v2.1", "v2.2"}, got); diff != "" {
		t.Error(diff)
	}
	c.in("v2.3", "").refused(404, "InvalidRouteError", "GET", "/system", nil)
}

func TestTotalsBefore33CountWhatAFilterLeavesOut(t *testing.T) {
	for version, want := range map[string]float64{"3.2.9.0": 3, "3.3.0.0": 1} {
		c := dial(t, simtest.Start(t, func(cfg *sim.Config) { cfg.SWVersion = version }))
		for i := range 3 {
			c.data("POST", "/app_instances", simple(fmt.Sprintf("demo-%d", i), 1))
		}
		got := c.ok("GET", "/app_instances?filter=name=demo-1", nil)
		if at(t, got, "metadata", "total_count") != want || at(t, got, "metadata", "request_count") != 1.0 {
			t.Errorf("%s: metadata is %v", version, got["metadata"])
		}
	}
}

func TestDefaultPageHas100Rows(t *testing.T) {
	c := dial(t, simtest.Start(t))
	for i := range 105 {
		c.data("POST", "/app_instances", simple(fmt.Sprintf("demo-%03d", i), 1))
	}
	if got := len(c.list("/app_instances")); got != 100 {
		t.Errorf("v2.2 answers %d", got)
	}
	if got := len(c.in("v2.1", "").list("/app_instances")); got != 105 {
		t.Errorf("v2.1 answers %d", got)
	}
	page := c.list("/app_instances?offset=100")
	if len(page) != 5 || at(t, page, 0, "name") != "demo-100" {
		t.Errorf("the last page begins with %v", at(t, page, 0, "name"))
	}
}

func TestReplicasDefaultToThreeOrAllNodes(t *testing.T) {
	for nodes, want := range map[int]float64{1: 1, 2: 2, 5: 3} {
		c := dial(t, simtest.Start(t, func(cfg *sim.Config) { cfg.Nodes = nodes }))
		got := at(t, c.data("POST", "/app_instances", simple("demo", 1)), "storage_instances", 0, "volumes", 0, "replica_count")
		if got != want {
			t.Errorf("%d nodes: %v replicas", nodes, got)
		}
	}
}

func TestReplicasOnlyGrow(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/app_instances", m{"name": "demo", "storage_instances": []m{{"name": "storage-1",
		"volumes": []m{{"name": "volume-1", "size": 1, "replica_count": 2}}}}})
	if got := c.data("PUT", demoVolume, m{"replica_count": 3}); got["replica_count"] != 3.0 {
		t.Errorf("got %v", got["replica_count"])
	}
	c.refused(400, "InvalidRequestError", "PUT", demoVolume, m{"replica_count": 2})
	c.refused(400, "InvalidRequestError", "PUT", demoVolume, m{"replica_count": 5}) // three nodes
}

func TestVolumeSizeLimitsFollowTheVersion(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/app_instances", simple("demo", 262144))
	c.in("v2.1", "").refused(422, "ValidationFailedError", "POST", "/app_instances", simple("other", 32769))
	c.in("v2.1", "").data("POST", "/app_instances", simple("other", 32768))
}

func TestLimitsOfTheProduct(t *testing.T) {
	c := dial(t, simtest.Start(t, func(cfg *sim.Config) {
		cfg.Limits = sim.Limits{AppInstances: 2, VolumesPerStorage: 1, SnapshotsPerVolume: 1, Initiators: 1, Tenants: 1, Users: 1}
	}))
	c.data("POST", "/app_instances", simple("demo", 1))
	c.refused(400, "InvalidRequestError", "POST", demoStorage+"/volumes", m{"name": "volume-2", "size": 1})
	c.data("POST", demoVolume+"/snapshots", nil)
	c.refused(400, "InvalidRequestError", "POST", demoVolume+"/snapshots", nil)
	c.data("POST", "/initiators", m{"id": "iqn.1993-08.org.debian:01:a", "name": "host-a"})
	c.refused(400, "InvalidRequestError", "POST", "/initiators", m{"id": "iqn.1993-08.org.debian:01:b", "name": "host-b"})
	c.refused(400, "InvalidRequestError", "POST", "/tenants", m{"name": "prod"})
	c.refused(400, "InvalidRequestError", "POST", "/users", m{"user_id": "eve", "full_name": "Eve_", "password": "password"})
	c.data("POST", "/app_instances", simple("other", 1))
	c.refused(400, "InvalidRequestError", "POST", "/app_instances", simple("third", 1))
	c.data("DELETE", "/app_instances/other", m{"force": true})
	c.data("POST", "/app_instances", simple("third", 1))
}

func TestMetadataHasItsLimit(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/app_instances", simple("demo", 1))
	c.data("PUT", "/app_instances/demo/metadata", m{"a": strings.Repeat("x", 1500)})
	c.refused(400, "InvalidRequestError", "PUT", "/app_instances/demo/metadata", m{"b": strings.Repeat("x", 600)})
	c.refused(422, "ValidationFailedError", "PUT", "/app_instances/demo/metadata", m{"b": m{"c": "d"}})
	if got := c.data("GET", "/app_instances/demo/metadata", nil); len(got) != 1 {
		t.Errorf("metadata is %v", got)
	}
	wrapped := c.data("PUT", "/app_instances/demo/int_ecosystem_data", m{"data": m{"c": "d"}})
	if wrapped["c"] != "d" || wrapped["a"] == nil {
		t.Errorf("wrapped metadata is %v", wrapped)
	}
	c.refused(422, "ValidationFailedError", "PUT", "/app_instances/demo/int_ecosystem_data", m{"c": "d"})
	c.data("PUT", demoStorage+"/metadata", m{"of": "the target"})
	if got := c.data("GET", demoStorage+"/metadata", nil); len(got) != 1 {
		t.Errorf("metadata of the storage instance is %v", got)
	}
}

func TestFormsAreRead(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	for _, form := range []struct {
		method, path string
		values       url.Values
	}{
		{"PUT", "/v2.2/login", url.Values{"name": {s.User}, "password": {s.Password}}},
		{"POST", "/v2.2/initiators", url.Values{"id": {"iqn.1993-08.org.debian:01:f"}, "name": {"form"}, "force": {"true"}}},
	} {
		req, err := http.NewRequest(form.method, s.URL+form.path, strings.NewReader(form.values.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Auth-Token", c.key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s answers %s", form.path, resp.Status)
		}
	}
}

func TestRenameKeepsTheID(t *testing.T) {
	c := dial(t, simtest.Start(t))
	id := c.data("POST", "/app_instances", simple("demo", 1))["id"]
	c.data("POST", "/app_instances", simple("taken", 1))
	c.refused(409, "ConflictError", "PUT", "/app_instances/demo", m{"name": "taken"})
	c.data("PUT", "/app_instances/demo", m{"name": "renamed"})
	c.refused(404, "NotFoundError", "GET", "/app_instances/demo", nil)
	if got := c.data("GET", "/app_instances/renamed", nil); got["id"] != id {
		t.Errorf("id is %v, was %v", got["id"], id)
	}
}

func TestClientUUIDBecomesTheVolumes(t *testing.T) {
	c := dial(t, simtest.Start(t, inDir(t.TempDir())))
	const id = "11111111-2222-4333-8444-555555555555"
	in := simple("demo", 1)
	in["uuid"] = id
	made := c.data("POST", "/app_instances", in)
	if made["uuid"] != id || made["id"] == id || at(t, made, "storage_instances", 0, "volumes", 0, "uuid") != id {
		t.Errorf("uuid %v, id %v, volume %v", made["uuid"], made["id"], at(t, made, "storage_instances", 0, "volumes", 0, "uuid"))
	}
	if made["name"] != "demo" || at(t, c.data("POST", demoVolume+"/snapshots", nil), "op_state") != "available" {
		t.Error("the volume's file is not where its uuid says")
	}
	in["name"] = "other"
	c.refused(409, "ConflictError", "POST", "/app_instances", in)
}

func TestPartsMayComeLater(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/app_instances", m{"name": "demo"})
	c.data("POST", "/app_instances/demo/storage_instances", m{"name": "storage-1"})
	c.refused(409, "ConflictError", "POST", "/app_instances/demo/storage_instances", m{"name": "storage-1"})
	c.data("POST", demoStorage+"/volumes", m{"name": "volume-1", "size": 1})
	c.data("PUT", "/app_instances/demo", m{"storage_instances": []m{
		{"name": "storage-1", "volumes": []m{{"name": "volume-1", "size": 2}, {"name": "volume-2", "size": 3}}}, {"name": "storage-2"}}})
	app := c.data("GET", "/app_instances/demo", nil)
	if len(app["storage_instances"].([]any)) != 2 || at(t, app, "storage_instances", 0, "volumes", 0, "size") != 2.0 {
		t.Errorf("storage instances are %v", app["storage_instances"])
	}
	c.data("DELETE", demoStorage+"/volumes/volume-2", nil)
	c.refused(400, "InvalidRequestError", "DELETE", demoStorage, nil)
	c.data("DELETE", demoStorage, m{"force": true})
	c.refused(404, "NotFoundError", "GET", demoStorage, nil)
}

func TestHealthKnobs(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	c.data("POST", "/app_instances", simple("demo", 1))
	bad := sim.Health{Health: "critical", Causes: []string{"two replicas lost"}, OpState: "unavailable",
		Availability: "unavailable", Recovery: "recovery_pending", Storage: "replicas_degraded"}
	if err := s.Array.SetHealth("/root", "demo", bad); err != nil {
		t.Fatal(err)
	}
	if err := s.Array.SetUsed("/root", "demo", 1<<29); err != nil {
		t.Fatal(err)
	}
	v := c.data("GET", demoVolume, nil)
	want := m{"health": "critical", "op_state": "unavailable", "availability_state": "unavailable",
		"recovery_state": "recovery_pending", "storage_state": "replicas_degraded", "capacity_in_use": 0.5}
	for k, w := range want {
		if v[k] != w {
			t.Errorf("%s is %v, want %v", k, v[k], w)
		}
	}
	system := c.data("GET", "/system", nil)
	if used := system["total_capacity"].(float64) - system["available_capacity"].(float64); used != 3*(1<<29) {
		t.Errorf("used of the system is %v", used)
	}
	nodes := 0.0
	for _, n := range c.list("/storage_nodes") {
		nodes += at(t, n, "available_capacity").(float64)
	}
	if nodes != system["available_capacity"] {
		t.Errorf("the nodes have %v, the system %v", nodes, system["available_capacity"])
	}
	if err := s.Array.SetHealth("/root", "none", bad); err == nil {
		t.Error("no error for an app instance that is not there")
	}
}

func TestUsersActInTheirTenant(t *testing.T) {
	s := simtest.Start(t, func(cfg *sim.Config) {
		cfg.Users = append(cfg.Users, sim.User{Name: "viewer1", Password: "password", Role: "viewer"})
	})
	c := dial(t, s)
	c.data("POST", "/tenants", m{"name": "prod"})
	c.data("POST", "/users", m{"user_id": "bob", "full_name": "Bob_the_admin", "password": "secret_word",
		"roles": []m{{"path": "/roles/admin"}}, "tenants": []m{{"path": "/root/prod"}}})
	c.data("POST", "/app_instances", simple("demo", 1))
	bob := *c
	bob.login("bob", "secret_word")
	if got := bob.data("POST", "/app_instances", simple("demo", 1)); got["tenant"] != "/root/prod" {
		t.Errorf("bob acts in %v", got["tenant"])
	}
	bob.in("v2.2", "/root").refused(403, "PermissionDeniedError", "GET", "/app_instances", nil)
	if got := len(bob.in("v2.2", "all").list("/app_instances")); got != 1 {
		t.Errorf("bob sees %d app instances of all tenants", got)
	}
	viewer := *c
	viewer.login("viewer1", "password")
	viewer.data("GET", "/app_instances/demo", nil)
	viewer.refused(403, "PermissionDeniedError", "DELETE", "/app_instances/demo", m{"force": true})
	if got := c.data("GET", "/users/bob", nil); got["password"] != nil {
		t.Error("the password is shown")
	}
	c.data("PUT", "/users/bob", m{"enabled": false})
	bob.refused(401, "InvalidSessionKeyError", "GET", "/system", nil)
	c.data("PUT", "/users/viewer1/roles", m{"path": "/roles/admin", "op": "add"})
	viewer.data("PUT", "/app_instances/demo", m{"descr": "changed"})
}
