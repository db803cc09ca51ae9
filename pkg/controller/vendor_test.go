package controller_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
)

// vendorVolume makes a volume as the vendor's driver does and leaves it as a node
// has it that runs a pod: metadata on the app instance, its initiators registered by
// force under a name of their own, the ACL written as a whole, the target online.
func (l *lab) vendorVolume(t *testing.T, name string, nodes ...string) {
	t.Helper()
	l.api(t, http.MethodPost, "/app_instances", map[string]any{
		"name": name, "create_mode": "kubernetes", "storage_instances": []map[string]any{{
			"name": "storage-1", "ip_pool": map[string]string{"path": "/access_network_ip_pools/default"}, "auth": map[string]string{"type": "none"},
			"volumes": []map[string]any{{"name": "volume-1", "size": 10, "replica_count": 3, "placement_mode": "hybrid",
				"placement_policy": map[string]string{"path": "/placement_policies/default"}, "performance_policy": map[string]any{}}},
		}},
	}, nil)
	l.api(t, http.MethodPut, "/app_instances/"+name+"/metadata", map[string]any{
		"display_name": name, "access_type": "mount", "access_mode": "SINGLE_NODE_WRITER", "fs_type": "ext4", "fs_args": "", "m_flags": "",
		"size": "0", "replica": "3", "placement": "hybrid", "placement_policy": "default", "ip_pool": "default", "round_robin": "false",
		"delete_on_unmount": "false", "formatted": "true", "device_path": "/dev/disk/by-uuid/x", "mount_path": "/var/lib/kubelet/x",
		"bind_mount": "/var/lib/kubelet/y", "pod_name": "web-0", "pod_namespace": "shop",
	}, nil)
	acl := []map[string]string{}
	for _, iqn := range nodes {
		l.api(t, http.MethodPost, "/initiators", map[string]any{"id": iqn, "name": "CSI-0f4c6f3e", "force": true}, nil)
		acl = append(acl, map[string]string{"path": "/initiators/" + iqn})
	}
	l.api(t, http.MethodPut, "/app_instances/"+name+"/storage_instances/storage-1/acl_policy", map[string]any{"initiators": acl}, nil)
	l.api(t, http.MethodPut, "/app_instances/"+name, map[string]any{"admin_state": "online"}, nil)
}

// TestAVolumeOfTheVendorsDriverLivesOn under ours: it is published where its pod
// runs without a change on the array, then all that a volume of ours can do.
func TestAVolumeOfTheVendorsDriverLivesOn(t *testing.T) {
	const id = "CSI-pvc-0f4c6f3e-9a3c-4a53-8a5e-6b1d1e0a4f77"
	l := start(t)
	l.vendorVolume(t, id, node1)
	if got := l.create(t, "pvc-0f4c6f3e-9a3c-4a53-8a5e-6b1d1e0a4f77"); got != id {
		t.Errorf("the claim is given %s, want %s", got, id)
	}
	l.requests()

	promise, err := l.publish(t.Context(), id, node1)
	if err != nil {
		t.Fatal(err)
	}
	if changed := l.changes(t); len(changed) > 0 {
		t.Errorf("publishing where it is in use changed the array: %v", changed)
	}
	if promise.Target.IQN != l.target(t, id) || promise.Target.Bytes != 10*gib || len(promise.Target.Portals) == 0 || promise.Target.Serial == "" {
		t.Errorf("the node is promised %+v", promise)
	}
	if got := l.listAll(t, 0); !cmp.Equal(got, []string{id}) {
		t.Errorf("listed: %v", got)
	}
	if _, err = l.expand(t, id, 20*gib, 0); err != nil {
		t.Error(err)
	}
	if l.snap(t, "snapshot-1", id).GetSourceVolumeId() != id {
		t.Error("its snapshot is of another volume")
	}

	if err = l.unpublish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	if _, err = l.publish(t.Context(), id, node2); err != nil {
		t.Fatal(err)
	}
	if got := l.acl(t, id); !cmp.Equal(got, []string{node2}) {
		t.Errorf("admitted after the move: %v", got)
	}
	if err = l.unpublish(t.Context(), id, node2); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "delete", l.delete(t.Context(), id), codes.FailedPrecondition, id, "snapshot")
}

// The vendor's driver could leave a node in an ACL that it had left. Ours refuses to
// share the volume with it, and says who it is; docs/upgrade-from-vendor.md has what
// to do.
func TestWhatTheVendorsDriverLeftInAnACLIsNamed(t *testing.T) {
	l := start(t)
	l.vendorVolume(t, "CSI-pvc-1", node1, node2)
	_, err := l.publish(t.Context(), "CSI-pvc-1", node1)
	wantCode(t, "publish", err, codes.FailedPrecondition, "CSI-pvc-1", node2)
	if err = l.unpublish(t.Context(), "CSI-pvc-1", node2); err != nil {
		t.Fatal(err)
	}
	if _, err = l.publish(t.Context(), "CSI-pvc-1", node1); err != nil {
		t.Errorf("after the stranger was taken out: %v", err)
	}
}

// A volume that an administrator made for a static PersistentVolume: any name, any
// names inside, offline until it is used.
func TestAStaticVolumeIsPublishedUnderItsName(t *testing.T) {
	l := start(t)
	l.api(t, http.MethodPost, "/app_instances", map[string]any{
		"name": "kube-pv-datera-0", "storage_instances": []map[string]any{{
			"name": "disk", "volumes": []map[string]any{{"name": "data", "size": 100, "replica_count": 3}},
		}},
	}, nil)
	l.api(t, http.MethodPut, "/app_instances/kube-pv-datera-0", map[string]any{"admin_state": "offline"}, nil)
	promise, err := l.publish(t.Context(), "kube-pv-datera-0", node1)
	if err != nil {
		t.Fatal(err)
	}
	if promise.Target.IQN == "" || promise.Target.Bytes != 100*gib {
		t.Errorf("the node is promised %+v", promise)
	}
	if err = l.unpublish(t.Context(), "kube-pv-datera-0", node1); err != nil {
		t.Error(err)
	}
}
