package sim_test

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

// TestCollectionsLiveAlike takes a member of every described collection through
// its life.
func TestCollectionsLiveAlike(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/initiators", m{"id": "iqn.1993-08.org.debian:01:a", "name": "host-a"})
	node := at(t, c.list("/storage_nodes"), 0, "path")
	for _, x := range []struct {
		path, key  string
		make, with m
	}{
		{"/access_network_ip_pools", "second", m{"name": "second", "network_paths": []m{{"name": "access_1", "start_ip": "10.0.0.1"}}}, m{"descr": "changed"}},
		{"/initiator_groups", "hosts", m{"name": "hosts", "members": []m{}}, m{"members": []m{{"path": "/initiators/iqn.1993-08.org.debian:01:a"}}}},
		{"/app_templates", "small", m{"name": "small"}, m{"descr": "changed"}},
		{"/placement_policies", "mine", m{"name": "mine", "max": []m{{"path": "/media_policies/flash"}}}, m{"descr": "changed"}},
		{"/media_policies", "tape", m{"name": "tape", "priority": 9}, m{"priority": 8}},
		{"/storage_pools", "fast", m{"name": "fast", "members": []m{{"path": node.(string)}}}, m{"members": []m{}}},
		{"/failure_domains", "rack-1", m{"name": "rack-1", "storage_nodes": []m{{"path": node.(string)}}}, m{"storage_nodes": []m{}}},
		{"/users", "eve", m{"user_id": "eve", "full_name": "Eve_", "password": "password"}, m{"full_name": "Evelyn"}},
		{"/roles", "auditor", m{"role_id": "auditor", "privileges": []m{{"path": "/privileges/read"}}}, m{"privileges": []m{}}},
		{"/ldap_servers", "ldap", m{"name": "ldap", "host": "ldap.example.com", "bind_password": "secret"}, m{"port": 636}},
		{"/smtp_configs", "mail", m{"name": "mail", "host": "mail.example.com"}, m{"to_addresses": []string{"ops@example.com"}}},
	} {
		item := x.path + "/" + x.key
		before := len(c.list(x.path))
		if made := c.data("POST", x.path, x.make); made["path"] != item {
			t.Errorf("%s: path is %v", item, made["path"])
		}
		c.refused(409, "ConflictError", "POST", x.path, x.make)
		c.refused(422, "ValidationFailedError", "PUT", item, m{"colour": "red"})
		c.refused(404, "NotFoundError", "PUT", x.path+"/none", x.with)
		c.data("PUT", item, x.with)
		got := c.data("GET", item, nil)
		for k, v := range x.with {
			if diff := cmp.Diff(normal(t, v), got[k]); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", item, k, diff)
			}
		}
		for _, secret := range []string{"password", "bind_password", "secret_key"} {
			if got[secret] != nil {
				t.Errorf("%s shows its %s", item, secret)
			}
		}
		if n := len(c.list(x.path)); n != before+1 {
			t.Errorf("%s: %d listed, want %d", x.path, n, before+1)
		}
		c.data("DELETE", item, nil)
		c.refused(404, "NotFoundError", "GET", item, nil)
	}
}

// normal is a value as it comes back through JSON.
func normal(t *testing.T, v any) any {
	t.Helper()
	switch v := v.(type) {
	case int:
		return float64(v)
	case []string:
		out := []any{}
		for _, s := range v {
			out = append(out, s)
		}
		return out
	case []m:
		out := []any{}
		for _, o := range v {
			out = append(out, o)
		}
		return out
	}
	return v
}

func TestPoliciesOfSnapshots(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/app_instances", simple("demo", 1))
	for _, base := range []string{"/app_instances/demo", demoVolume} {
		at := base + "/snapshot_policies"
		c.data("POST", at, m{"name": "daily", "interval": "1day", "retention_count": 7})
		c.refused(409, "ConflictError", "POST", at, m{"name": "daily", "interval": "1day", "retention_count": 7})
		c.refused(422, "ValidationFailedError", "POST", at, m{"name": "other", "interval": "1day"})
		c.refused(422, "ValidationFailedError", "POST", at, m{"name": "other", "interval": "2days", "retention_count": 7})
		if got := c.data("PUT", at+"/daily", m{"retention_count": 9}); got["retention_count"] != 9.0 || got["interval"] != "1day" {
			t.Errorf("policy is %v", got)
		}
		if got := c.data("GET", base, nil)["snapshot_policies"].([]any); len(got) != 1 {
			t.Errorf("%s shows %v", base, got)
		}
		c.data("DELETE", at+"/daily", nil)
		c.refused(404, "NotFoundError", "GET", at+"/daily", nil)
	}
}

func TestRemoteProviders(t *testing.T) {
	now := time.Unix(1700000000, 0)
	c := dial(t, simtest.Start(t, func(cfg *sim.Config) {
		cfg.Clock = func() time.Time { return now }
		cfg.SnapshotDelay = time.Second
	}))
	c.data("POST", "/app_instances", simple("demo", 3))
	made := c.data("POST", "/remote_providers", m{"remote_type": "AWS S3", "label": "cloud", "access_key": "key", "secret_key": "secret"})
	id := made["uuid"].(string)
	if made["status"] != "available" || made["secret_key"] != nil {
		t.Errorf("provider is %v", made)
	}
	base := "/remote_providers/" + id
	c.data("PUT", base+"/refresh", nil)
	c.refused(400, "InvalidRequestError", "POST", demoVolume+"/snapshots", m{"type": "remote"})
	c.refused(404, "NotFoundError", "POST", demoVolume+"/snapshots", m{"type": "remote", "remote_provider_uuid": zeros})
	snap := c.data("POST", demoVolume+"/snapshots", m{"type": "local_and_remote", "remote_provider_uuid": id})
	if got := at(t, snap, "remote_providers", 0, "uuid"); got != id {
		t.Errorf("the snapshot's provider is %v", got)
	}
	operation := base + "/operations/" + snap["uuid"].(string)
	if got := c.data("GET", operation, nil); got["op_state"] == "done" {
		t.Errorf("operation is %v", got)
	}
	now = now.Add(time.Second)
	if got := c.data("GET", operation, nil); got["op_state"] != "done" || got["percent_done"] != 100.0 {
		t.Errorf("operation is %v", got)
	}
	ts := snap["utc_ts"].(string)
	c.data("PUT", demoVolume+"/snapshots/"+ts, m{"delete_local": true})
	c.refused(400, "InvalidRequestError", "POST", "/app_instances", m{"name": "copy", "clone_snapshot_src": m{"path": snap["path"]}})
	restored := c.data("PUT", base+"/snapshots/"+ts, m{"name": "restored"})
	if restored["name"] != "restored" || at(t, restored, "storage_instances", 0, "volumes", 0, "size") != 3.0 {
		t.Errorf("restored is %v", restored)
	}
	c.refused(400, "InvalidRequestError", "DELETE", base, nil)
	c.data("DELETE", base+"?force=true", m{"force": true})
}

func TestSelfDescription(t *testing.T) {
	c := dial(t, simtest.Start(t))
	api := c.in("v2.1", "").ok("GET", "/api", nil)
	for _, metric := range []string{"io", "hw"} {
		if enum := at(t, api, "/metrics/"+metric+"/:metric", "read", "urlParamSchema", "metric", "enum").([]any); len(enum) == 0 {
			t.Errorf("no %s metrics", metric)
		}
	}
	create := at(t, api, "/initiators", "create", "bodyParamSchema").(map[string]any)
	if create["id"] == nil || create["force"] != nil {
		t.Errorf("in v2.1 an initiator is made of %v", create)
	}
	if at(t, c.ok("GET", "/api", nil), "/initiators", "create", "bodyParamSchema", "force", "type") != "boolean" {
		t.Error("in v2.2 force is missing")
	}
	if api["version"] != "v2.1" || api["data"] != nil || api["/placement_policies"] != nil {
		t.Error("the description is enveloped or speaks of later versions")
	}
}

// TestEveryRouteAnswers asks every route that the array describes for what is
// not there: nothing may panic, and every refusal is a proper error.
func TestEveryRouteAnswers(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/app_instances", simple("demo", 1))
	for path, ops := range c.ok("GET", "/api", nil) {
		operations, ok := ops.(map[string]any)
		if !ok || path == "/logout" {
			continue
		}
		for operation := range operations {
			method := map[string]string{"create": "POST", "read": "GET", "update": "PUT", "delete": "DELETE"}[operation]
			status, out, err := c.send(method, path, m{})
			if err != nil || (status != 200 && (out["name"] == nil || out["http"] != float64(status))) || status >= 500 {
				t.Errorf("%s %s: %d %v %v", method, path, status, out, err)
			}
		}
	}
}

func TestEventsTellWhatHappened(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/app_instances", simple("demo", 1))
	c.refused(409, "ConflictError", "POST", "/app_instances", simple("demo", 1))
	events := c.list("/events/user?since=1h")
	if len(events) != 1 || at(t, events, 0, "object_path") != "/app_instances" || at(t, events, 0, "context") != "admin" {
		t.Errorf("events are %v", events)
	}
	c.data("GET", at(t, events, 0, "path").(string), nil)
	if got := c.list("/events/user?to=1000"); len(got) != 0 {
		t.Errorf("events of long ago: %v", got)
	}
	c.refused(422, "ValidationFailedError", "GET", "/events/user?since=yesterday", nil)
}

func TestMetrics(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	path := c.data("POST", "/app_instances", simple("demo", 1))["path"].(string)
	s.Array.SetMetric("iops_read", path, 12.5)
	latest := c.list("/metrics/io/iops_read/latest?path=" + path)
	if at(t, latest, 0, "entity_path") != path || at(t, latest, 0, "point", "value") != 12.5 {
		t.Errorf("latest is %v", latest)
	}
	if points := at(t, c.list("/metrics/io/iops_read?path=/app_instances&since=1m&ival=20"), 0, "points").([]any); len(points) != 4 {
		t.Errorf("points are %v", points)
	}
	if got := c.list("/metrics/hw/cpu_usage/latest"); len(got) != 3 {
		t.Errorf("%d nodes", len(got))
	}
	c.refused(422, "ValidationFailedError", "GET", "/metrics/io/temperature", nil)
	c.refused(404, "NotFoundError", "GET", "/metrics/io/reads?path=/app_instances/none", nil)
}

func TestLogsAreTakenIn(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	if err := form.WriteField("ecosystem", "kubernetes"); err != nil {
		t.Fatal(err)
	}
	part, err := form.CreateFormFile("logs", "logs.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = part.Write(make([]byte, 1<<16)); err != nil {
		t.Fatal(err)
	}
	if err = form.Close(); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPut, s.URL+"/v2.2/logs_upload", &b)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", form.FormDataContentType())
	req.Header.Set("Auth-Token", c.key)
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("it answers %s", resp.Status)
	}
	c.refused(400, "InvalidRequestError", "PUT", "/logs_upload", m{})
}

func TestGroupsAdmitTheirMembers(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	const iqn = "iqn.1993-08.org.debian:01:aa11"
	target := at(t, c.data("POST", "/app_instances", simple("demo", 1)), "storage_instances", 0, "access", "iqn").(string)
	c.data("POST", "/initiators", m{"id": iqn, "name": "host-a"})
	c.data("POST", "/initiator_groups", m{"name": "hosts"})
	c.data("PUT", demoStorage+"/acl_policy", m{"initiator_groups": []m{{"path": "/initiator_groups/hosts"}}})
	if err := s.Array.LogIn(target, iqn); err == nil {
		t.Error("logged in before it was a member")
	}
	members := "/initiator_groups/hosts/members"
	c.data("PUT", members, m{"path": "/initiators/" + iqn, "op": "add"})
	c.refused(409, "ConflictError", "PUT", members, m{"path": "/initiators/" + iqn, "op": "add"})
	if got := c.list(members); len(got) != 1 {
		t.Errorf("members are %v", got)
	}
	s.LogIn(t, target, iqn)
	c.data("PUT", members, m{"path": "/initiators/" + iqn, "op": "remove"})
	if got := c.data("GET", demoStorage, nil)["active_initiators"].([]any); len(got) != 0 {
		t.Errorf("still logged in: %v", got)
	}
	c.data("PUT", members, m{"path": "/initiators/" + iqn, "op": "add"})
	s.LogIn(t, target, iqn)
	c.data("DELETE", "/initiators/"+iqn, nil)
	if got := c.data("GET", demoStorage, nil)["active_initiators"].([]any); len(got) != 0 {
		t.Errorf("a deleted initiator is logged in: %v", got)
	}
}

func TestInheritedInitiatorsAreShownWithTheirTenant(t *testing.T) {
	c := dial(t, simtest.Start(t))
	const iqn = "iqn.1993-08.org.debian:01:aa11"
	c.data("POST", "/tenants", m{"name": "prod"})
	c.data("POST", "/initiators", m{"id": iqn, "name": "host-a"})
	prod := c.in("v2.2", "/root/prod")
	prod.data("POST", "/app_instances", simple("demo", 1))
	acl := prod.data("PUT", demoStorage+"/acl_policy/initiators", m{"path": "/initiators/" + iqn, "op": "add"})
	want := []any{m{"path": "/initiators/" + iqn, "tenant": "/root", "id": iqn, "name": "host-a"}}
	if diff := cmp.Diff(want, acl["initiators"]); diff != "" {
		t.Error(diff)
	}
	prod.refused(403, "PermissionDeniedError", "DELETE", "/initiators/"+iqn, nil)
}
