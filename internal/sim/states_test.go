package sim_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

func TestStrictOfflineForReplicasAndPools(t *testing.T) {
	c := dial(t, simtest.Start(t, func(cfg *sim.Config) { cfg.StrictOffline = true }))
	c.data("POST", "/access_network_ip_pools", m{"name": "second"})
	c.data("POST", "/app_instances", m{"name": "demo", "storage_instances": []m{{"name": "storage-1",
		"volumes": []m{{"name": "volume-1", "size": 1, "replica_count": 2}}}}})
	pool := m{"ip_pool": m{"path": "/access_network_ip_pools/second"}}
	c.refused(400, "InvalidRequestError", "PUT", demoStorage, pool)
	c.refused(400, "InvalidRequestError", "PUT", demoVolume, m{"replica_count": 3})
	c.data("PUT", demoStorage, m{"admin_state": "offline"})
	if got := at(t, c.data("PUT", demoStorage, pool), "ip_pool", "path"); got != "/access_network_ip_pools/second" {
		t.Errorf("ip_pool is %v", got)
	}
	c.data("PUT", demoVolume, m{"replica_count": 3})
	c.refused(400, "InvalidRequestError", "DELETE", "/access_network_ip_pools/second", nil)
}

func TestTargetsAreReachedThroughTheirPool(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/access_network_ip_pools", m{"name": "empty"})
	c.data("POST", "/access_network_ip_pools", m{"name": "second", "network_paths": []m{
		{"name": "access_1", "start_ip": "10.0.0.1"}, {"name": "access_2", "start_ip": "10.0.1.1"}}})
	c.data("POST", "/app_instances", simple("demo", 1))
	for pool, want := range map[string][]any{
		"default": {"172.28.0.9", "172.29.0.9"}, "empty": {"172.28.0.9", "172.29.0.9"}, "second": {"10.0.0.1", "10.0.1.1"},
	} {
		got := at(t, c.data("PUT", demoStorage, m{"ip_pool": m{"path": "/access_network_ip_pools/" + pool}}), "access", "ips")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("in pool %s: %s", pool, diff)
		}
	}
}

func TestAccessControlOnlyBecomesStricter(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	in := simple("demo", 1)
	in["access_control_mode"] = "allow_all"
	made := c.data("POST", "/app_instances", in)
	target := at(t, made, "storage_instances", 0, "access", "iqn").(string)
	s.LogIn(t, target, "iqn.1993-08.org.debian:01:stranger")
	c.data("PUT", demoStorage, m{"access_control_mode": "deny_all"})
	if got := at(t, c.data("GET", demoStorage, nil), "active_initiators").([]any); len(got) != 0 {
		t.Errorf("the stranger stays: %v", got)
	}
	c.refused(400, "InvalidRequestError", "PUT", demoStorage, m{"access_control_mode": "allow_all"})
}

func TestExportTakesItsTime(t *testing.T) {
	now := time.Unix(1700000000, 0)
	s := simtest.Start(t, func(cfg *sim.Config) {
		cfg.Clock = func() time.Time { return now }
		cfg.ExportDelay = 2 * time.Second
	})
	c := dial(t, s)
	made := c.data("POST", "/app_instances", simple("demo", 1))
	for _, step := range []struct {
		put  m
		wait time.Duration
		want string
	}{
		{nil, 0, "unavailable"}, {nil, 2 * time.Second, "available"},
		{m{"admin_state": "online"}, 0, "available"}, // no change, no delay
		{m{"admin_state": "offline"}, 5 * time.Second, "unavailable"},
		{m{"admin_state": "online"}, time.Second, "unavailable"}, {nil, time.Second, "available"},
	} {
		if step.put != nil {
			c.data("PUT", "/app_instances/demo", step.put)
		}
		now = now.Add(step.wait)
		if got := c.data("GET", demoStorage, nil); got["op_state"] != step.want {
			t.Errorf("%+v: op_state is %v", step, got["op_state"])
		}
		_ = made
	}
}

func TestSlowStates(t *testing.T) {
	now := time.Unix(1700000000, 0)
	c := dial(t, simtest.Start(t, func(cfg *sim.Config) {
		cfg.Clock = func() time.Time { return now }
		cfg.CloneDelay, cfg.ResizeDelay, cfg.DeleteDelay = time.Second, time.Second, time.Second
	}))
	path := c.data("POST", "/app_instances", simple("demo", 1))["path"]
	if got := c.data("PUT", demoVolume, m{"size": 2}); got["op_status"] != "volume_resize_in_progress" {
		t.Errorf("op_status is %v", got["op_status"])
	}
	if got := c.data("POST", "/app_instances", m{"name": "copy", "clone_src": m{"path": path}}); got["op_state"] != "cloning" {
		t.Errorf("op_state is %v", got["op_state"])
	}
	now = now.Add(time.Second)
	if got := c.data("GET", "/app_instances/copy", nil); got["op_state"] != nil {
		t.Errorf("op_state is %v", got["op_state"])
	}
	if got := c.data("GET", demoVolume, nil); got["op_status"] != "none" {
		t.Errorf("op_status is %v", got["op_status"])
	}
	for range 2 { // a repeat finds it going
		if got := c.data("DELETE", "/app_instances/demo", m{"force": true}); got["op_state"] != "deleting" {
			t.Errorf("op_state is %v", got["op_state"])
		}
	}
	c.refused(409, "ConflictError", "POST", "/app_instances", simple("demo", 1))
	if got := c.data("GET", "/app_instances/demo", nil); got["admin_state"] != "offline" {
		t.Errorf("a volume that goes is %v", got["admin_state"])
	}
	now = now.Add(time.Second)
	c.refused(404, "NotFoundError", "GET", "/app_instances/demo", nil)
	if got := len(c.list("/app_instances")); got != 1 {
		t.Errorf("%d listed", got)
	}
	c.data("POST", "/app_instances", simple("demo", 1))
}

func TestNothingBelowChangesWhileItBeginsOrEnds(t *testing.T) {
	now := time.Unix(1700000000, 0)
	c := dial(t, simtest.Start(t, func(cfg *sim.Config) {
		cfg.Clock = func() time.Time { return now }
		cfg.CloneDelay, cfg.DeleteDelay = time.Second, time.Second
	}))
	const iqn = "iqn.1993-08.org.debian:01:aa11"
	c.data("POST", "/initiators", m{"id": iqn, "name": "host-a"})
	path := c.data("POST", "/app_instances", simple("demo", 1))["path"]
	c.data("POST", "/app_instances", m{"name": "copy", "clone_src": m{"path": path}})
	const app, si, volume = "/app_instances/copy", "/app_instances/copy/storage_instances/storage-1",
		"/app_instances/copy/storage_instances/storage-1/volumes/volume-1"
	nothing := func() {
		t.Helper()
		for _, step := range []struct {
			method, path string
			body         m
		}{
			{"PUT", app, m{"storage_instances": []m{{"name": "storage-1", "volumes": []m{{"name": "volume-1", "size": 2}}}}}},
			{"POST", app + "/storage_instances", m{"name": "storage-2"}},
			{"PUT", si, m{"admin_state": "offline"}},
			{"DELETE", si, m{"force": true}},
			{"PUT", si + "/auth", m{"type": "none"}},
			{"PUT", si + "/acl_policy", m{"initiators": []m{{"path": "/initiators/" + iqn}}}},
			{"PUT", si + "/acl_policy/initiators", m{"path": "/initiators/" + iqn, "op": "add"}},
			{"POST", si + "/volumes", m{"name": "volume-2", "size": 1}},
			{"PUT", volume, m{"size": 2}},
			{"DELETE", volume, nil},
			{"POST", volume + "/performance_policy", m{"total_iops_max": 100}},
			{"POST", volume + "/snapshots", nil},
			{"POST", app + "/snapshots", nil},
		} {
			c.refused(400, "InvalidRequestError", step.method, step.path, step.body)
		}
	}
	nothing()
	c.data("PUT", app, m{"admin_state": "offline"}) // so that it can be deleted
	now = now.Add(time.Second)
	c.data("PUT", volume, m{"size": 2})
	c.data("DELETE", app, nil)
	nothing()
	c.data("GET", volume, nil)
}

func TestStuckSessions(t *testing.T) {
	s := simtest.Start(t, func(cfg *sim.Config) { cfg.SessionsStick = true })
	c := dial(t, s)
	const iqn = "iqn.1993-08.org.debian:01:aa11"
	target := at(t, c.data("POST", "/app_instances", simple("demo", 1)), "storage_instances", 0, "access", "iqn").(string)
	c.data("POST", "/initiators", m{"id": iqn, "name": "host-a"})
	c.data("PUT", demoStorage+"/acl_policy", m{"initiators": []m{{"path": "/initiators/" + iqn}}})
	s.LogIn(t, target, iqn)
	c.data("DELETE", "/initiators/"+iqn, nil)
	si := c.data("GET", demoStorage, nil)
	if len(at(t, si, "acl_policy", "initiators").([]any)) != 0 || len(si["active_initiators"].([]any)) != 1 {
		t.Errorf("ACL %v, active %v", si["acl_policy"], si["active_initiators"])
	}
	c.refused(400, "InvalidRequestError", "PUT", demoStorage, m{"admin_state": "offline"})
	if got := c.data("PUT", demoStorage, m{"admin_state": "offline", "force": true}); len(got["active_initiators"].([]any)) != 0 {
		t.Errorf("offline and active: %v", got["active_initiators"])
	}
}
