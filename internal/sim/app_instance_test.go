package sim_test

import (
	"testing"

	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

func TestAppInstanceLife(t *testing.T) {
	c := dial(t, simtest.Start(t))
	made := c.data("POST", "/app_instances", simple("demo", 5))
	id := made["id"].(string)
	if made["path"] != "/app_instances/"+id {
		t.Errorf("path is %v", made["path"])
	}
	if got := at(t, made, "storage_instances", 0, "volumes", 0, "size"); got != 5.0 {
		t.Errorf("size is %v", got)
	}
	for _, key := range []string{"demo", id} {
		if got := c.data("GET", "/app_instances/"+key, nil); got["id"] != id {
			t.Errorf("by %s: got %v", key, got["id"])
		}
	}
	c.refused(409, "ConflictError", "POST", "/app_instances", simple("demo", 5))
	c.refused(400, "InvalidRequestError", "DELETE", "/app_instances/demo", nil)
	c.data("PUT", "/app_instances/demo", m{"admin_state": "offline", "force": true})
	c.data("DELETE", "/app_instances/demo", nil)
	c.refused(404, "NotFoundError", "GET", "/app_instances/demo", nil)
	c.refused(404, "NotFoundError", "GET", "/app_instances/"+id, nil)
}

func TestACLDecidesWhoLogsIn(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	const iqn = "iqn.1993-08.org.debian:01:aa11"
	made := c.data("POST", "/app_instances", simple("demo", 5))
	target := at(t, made, "storage_instances", 0, "access", "iqn").(string)
	if err := s.Array.LogIn(target, iqn); err == nil {
		t.Error("a stranger could log in")
	}
	c.data("POST", "/initiators", m{"id": iqn, "name": "host-a"})
	acl := "/app_instances/demo/storage_instances/storage-1/acl_policy/initiators"
	c.data("PUT", acl, m{"path": "/initiators/" + iqn, "op": "add"})
	c.refused(409, "ConflictError", "PUT", acl, m{"path": "/initiators/" + iqn, "op": "add"})
	s.LogIn(t, target, iqn)
	si := "/app_instances/demo/storage_instances/storage-1"
	if got := at(t, c.data("GET", si, nil), "active_initiators", 0); got != iqn {
		t.Errorf("active initiator is %v", got)
	}
	c.refused(400, "InvalidRequestError", "PUT", "/app_instances/demo", m{"admin_state": "offline"})
	c.data("PUT", acl, m{"path": "/initiators/" + iqn, "op": "remove"})
	if got := at(t, c.data("GET", si, nil), "active_initiators").([]any); len(got) != 0 {
		t.Errorf("after revoking, active initiators are %v", got)
	}
}
