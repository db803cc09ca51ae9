package sim_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

func TestTemplatesAtEveryLevel(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/app_templates", m{"name": "tree"})
	st := "/app_templates/tree/storage_templates"
	c.data("POST", st, m{"name": "storage-1", "ip_pool": "/access_network_ip_pools/default"}) // as a text
	c.refused(409, "ConflictError", "POST", st, m{"name": "storage-1"})
	c.refused(404, "NotFoundError", "POST", st, m{"name": "storage-2", "ip_pool": m{"path": "/access_network_ip_pools/none"}})
	vt := st + "/storage-1/volume_templates"
	c.data("POST", vt, m{"name": "volume-1", "size": 7})
	c.data("POST", vt+"/volume-1/performance_policy", m{"total_iops_max": 9})
	c.refused(409, "ConflictError", "POST", vt+"/volume-1/performance_policy", m{"total_iops_max": 9})
	c.data("POST", vt+"/volume-1/snapshot_policies", m{"name": "daily", "interval": "1day", "retention_count": "7"})
	c.data("PUT", st+"/storage-1/auth", m{"type": "chap", "target_user_name": "user", "target_pswd": "secretsecret"})
	if got := at(t, c.data("GET", st+"/storage-1", nil), "auth").(map[string]any); got["target_pswd"] != nil || got["type"] != "chap" {
		t.Errorf("auth of the template is %v", got)
	}
	if got := at(t, c.in("v2.1", "").data("GET", st+"/storage-1", nil), "ip_pool"); got != "/access_network_ip_pools/default" {
		t.Errorf("in v2.1 ip_pool is %v", got)
	}
	made := c.data("POST", "/app_instances", m{"name": "demo", "app_template": m{"path": "/app_templates/tree"}})
	si := at(t, made, "storage_instances", 0).(map[string]any)
	v := at(t, si, "volumes", 0).(map[string]any)
	if at(t, si, "auth", "type") != "chap" || at(t, v, "performance_policy", "total_iops_max") != 9.0 ||
		at(t, v, "snapshot_policies", 0, "retention_count") != 7.0 {
		t.Errorf("made from the template: %v", si)
	}
	c.data("POST", "/app_templates", m{"name": "copy", "copy_from": m{"path": "/app_templates/tree"}})
	c.data("DELETE", "/app_templates/copy/storage_templates/storage-1/volume_templates/volume-1/performance_policy", nil)
	c.data("GET", vt+"/volume-1/performance_policy", nil) // the copy is a copy
	c.refused(400, "InvalidRequestError", "POST", "/app_instances", m{"name": "other", "app_template": m{"path": "/app_templates/tree"},
		"template_override": m{"storage_instances": m{"storage-9": m{"volumes": m{"volume-1": m{"size": 2}}}}}})
	c.refused(422, "ValidationFailedError", "POST", "/app_instances", m{"name": "other", "app_template": m{"path": "/app_templates/tree"},
		"template_override": m{"storage_instances": m{"storage-1": m{"volumes": m{"volume-1": m{"size": "many"}}}}}})
}

func TestTemplatesOfAParentServeItsTenants(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/tenants", m{"name": "prod"})
	c.data("POST", "/app_templates", m{"name": "shared", "storage_templates": []m{{"name": "storage-1", "volume_templates": []m{{"name": "volume-1", "size": 2}}}}})
	prod := c.in("v2.2", "/root/prod")
	made := prod.data("POST", "/app_instances", m{"name": "demo", "app_template": m{"path": "/app_templates/shared"}})
	if diff := cmp.Diff(m{"path": "/app_templates/shared", "resolved_path": "/app_templates/shared", "resolved_tenant": "/root"}, made["app_template"]); diff != "" {
		t.Error(diff)
	}
	prod.refused(403, "PermissionDeniedError", "PUT", "/app_templates/shared", m{"descr": "mine"})
}
