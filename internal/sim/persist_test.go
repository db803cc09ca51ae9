package sim_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

// inDir keeps an array's state in a directory.
func inDir(dir string) func(*sim.Config) {
	return func(cfg *sim.Config) { cfg.DataDir = dir }
}

// restart ends an array and starts another one on its data directory.
func restart(t *testing.T, s *simtest.Server, dir string) *caller {
	t.Helper()
	if err := s.Array.Close(); err != nil {
		t.Fatal(err)
	}
	return dial(t, simtest.Start(t, inDir(dir)))
}

func TestStateSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	s := simtest.Start(t, inDir(dir))
	c := dial(t, s)
	const iqn = "iqn.1993-08.org.debian:01:aa11"
	c.data("POST", "/tenants", m{"name": "prod"})
	c.data("POST", "/initiators", m{"id": iqn, "name": "host-a"})
	c.data("POST", "/initiator_groups", m{"name": "hosts", "members": []m{{"path": "/initiators/" + iqn}}})
	c.data("POST", "/app_templates", m{"name": "small", "storage_templates": []m{{"name": "storage-1",
		"volume_templates": []m{{"name": "volume-1", "size": 3, "performance_policy": m{"total_iops_max": 50}}}}}})
	c.data("POST", "/app_instances", m{"name": "other", "app_template": m{"path": "/app_templates/small"}})
	c.in("v2.2", "/root/prod").data("POST", "/app_instances", simple("inner", 1))
	c.data("POST", "/app_instances", m{"name": "demo", "descr": "kept", "create_mode": "kubernetes",
		"snapshot_policies": []m{{"name": "daily", "interval": "1day", "retention_count": 7}},
		"storage_instances": []m{{"name": "storage-1",
			"auth":       m{"type": "chap", "target_user_name": "user", "target_pswd": "secretsecret"},
			"acl_policy": m{"initiators": []m{{"path": "/initiators/" + iqn}}, "initiator_groups": []m{{"path": "/initiator_groups/hosts"}}},
			"volumes":    []m{{"name": "volume-1", "size": 5, "performance_policy": m{"read_iops_max": 10}}}}}})
	c.data("POST", demoVolume+"/snapshots", nil)
	c.data("POST", "/app_instances/demo/snapshots", nil)
	c.data("PUT", "/app_instances/demo/metadata", m{"a": "b", "n": 3})
	c.data("PUT", "/app_instances/demo", m{"admin_state": "offline"})

	paths := []string{"/app_instances/demo", "/app_instances/other", "/app_instances/demo/metadata", "/initiators",
		"/initiator_groups/hosts", "/app_templates/small", "/tenants", "/access_network_ip_pools/default"}
	before := map[string]any{}
	for _, p := range paths {
		before[p] = c.ok("GET", p, nil)["data"]
	}
	inner := c.in("v2.2", "/root/prod").data("GET", "/app_instances/inner", nil)

	c = restart(t, s, dir)
	for _, p := range paths {
		if diff := cmp.Diff(before[p], c.ok("GET", p, nil)["data"]); diff != "" {
			t.Errorf("%s after the restart (-before +after):\n%s", p, diff)
		}
	}
	if diff := cmp.Diff(inner, c.in("v2.2", "/root/prod").data("GET", "/app_instances/inner", nil)); diff != "" {
		t.Errorf("in a tenant, after the restart (-before +after):\n%s", diff)
	}
}

func TestDeletedStaysDeleted(t *testing.T) {
	dir := t.TempDir()
	s := simtest.Start(t, inDir(dir))
	c := dial(t, s)
	c.data("POST", "/app_instances", simple("demo", 5))
	c.data("POST", demoVolume+"/snapshots", nil)
	c.data("PUT", "/app_instances/demo", m{"admin_state": "offline"})
	c.data("DELETE", "/app_instances/demo", nil)
	c = restart(t, s, dir)
	c.refused(404, "NotFoundError", "GET", "/app_instances/demo", nil)
	for _, sub := range []string{"app_instances", "volumes", "snapshots"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil || len(entries) != 0 {
			t.Errorf("%s holds %v, %v", sub, entries, err)
		}
	}
}

func TestBackingFilesFollowTheVolume(t *testing.T) {
	dir := t.TempDir()
	c := dial(t, simtest.Start(t, inDir(dir)))
	made := c.data("POST", "/app_instances", simple("demo", 2))
	file := func(app any) string {
		return filepath.Join(dir, "volumes", at(t, app, "storage_instances", 0, "volumes", 0, "uuid").(string)+".img")
	}
	write(t, file(made), 1<<20, "first")
	snap := c.data("POST", demoVolume+"/snapshots", nil)
	write(t, file(made), 1<<20, "later")
	if got := c.data("PUT", demoVolume, m{"size": 3}); got["capacity_in_use"].(float64) <= 0 || got["capacity_in_use"].(float64) >= 1 {
		t.Errorf("capacity_in_use is %v", got["capacity_in_use"])
	}
	if info, err := os.Stat(file(made)); err != nil || info.Size() != 3<<30 {
		t.Errorf("after growing: %v, %v", info.Size(), err)
	}
	clone := c.data("POST", "/app_instances", m{"name": "copy", "clone_snapshot_src": m{"path": snap["path"]}})
	if got := read(t, file(clone), 1<<20, 5); got != "first" {
		t.Errorf("the clone of the snapshot holds %q", got)
	}
	c.data("PUT", "/app_instances/demo", m{"admin_state": "offline"})
	c.data("PUT", demoVolume, m{"restore_point": snap["utc_ts"]})
	if got := read(t, file(made), 1<<20, 5); got != "first" {
		t.Errorf("the restored volume holds %q", got)
	}
	if info, err := os.Stat(file(made)); err != nil || info.Size() != 3<<30 {
		t.Errorf("after restoring: %v, %v", info.Size(), err)
	}
}

func TestDataDirHasOneUser(t *testing.T) {
	dir := t.TempDir()
	simtest.Start(t, inDir(dir))
	if _, err := sim.New(sim.Config{DataDir: dir}); err == nil {
		t.Error("a second array took the directory")
	}
}

func TestOrphansAreReported(t *testing.T) {
	dir := t.TempDir()
	s := simtest.Start(t, inDir(dir))
	dial(t, s).data("POST", "/app_instances", simple("demo", 1))
	orphan := filepath.Join(dir, "volumes", "lost.img")
	write(t, orphan, 0, "x")
	got, err := s.Array.Orphans()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{orphan}, got); diff != "" {
		t.Error(diff)
	}
}

func TestFailedWorkLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	c := dial(t, simtest.Start(t, inDir(dir)))
	made := c.data("POST", "/app_instances", simple("demo", 1))
	if err := os.Remove(filepath.Join(dir, "volumes", at(t, made, "storage_instances", 0, "volumes", 0, "uuid").(string)+".img")); err != nil {
		t.Fatal(err)
	}
	c.refused(500, "InternalError", "POST", demoVolume+"/snapshots", nil)
	c.refused(500, "InternalError", "POST", "/app_instances", m{"name": "copy", "clone_src": m{"path": made["path"]}})
	c.refused(404, "NotFoundError", "GET", "/app_instances/copy", nil)
	if got := c.list(demoVolume + "/snapshots"); len(got) != 0 {
		t.Errorf("snapshots: %v", got)
	}
}

func write(t *testing.T, file string, at int64, data string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(data), at); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string, at int64, n int) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, n)
	if _, err := f.ReadAt(data, at); err != nil {
		t.Fatal(err)
	}
	return string(data)
}
