package sim_test

import (
	"regexp"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

const demoVolume = "/app_instances/demo/storage_instances/storage-1/volumes/volume-1"

func TestSnapshotBecomesAvailable(t *testing.T) {
	now := time.Unix(1700000000, 0)
	c := dial(t, simtest.Start(t, func(cfg *sim.Config) {
		cfg.SnapshotDelay = 3 * time.Second
		cfg.Clock = func() time.Time { return now }
	}))
	c.data("POST", "/app_instances", simple("demo", 5))
	made := c.data("POST", demoVolume+"/snapshots", m{"uuid": "11111111-2222-5333-8444-555555555555"})
	if made["op_state"] == "available" {
		t.Error("available at once")
	}
	ts := made["utc_ts"].(string)
	if !regexp.MustCompile(`^1700000000\.\d{1,9}$`).MatchString(ts) || regexp.MustCompile(`0$|\.0*$`).MatchString(ts) {
		t.Errorf("utc_ts is %q", ts)
	}
	now = now.Add(3 * time.Second)
	if got := c.data("GET", demoVolume+"/snapshots/"+ts, nil); got["op_state"] != "available" {
		t.Errorf("op_state is %v", got["op_state"])
	}
	if got := at(t, c.data("GET", "/app_instances/demo", nil), "storage_instances", 0, "volumes", 0, "snapshots", 0, "utc_ts"); got != ts {
		t.Errorf("inlined utc_ts is %v, want %v", got, ts)
	}
}

func TestSnapshotTimestampsNeverRepeat(t *testing.T) {
	c := dial(t, simtest.Start(t, func(cfg *sim.Config) {
		cfg.Clock = func() time.Time { return time.Unix(1700000000, 0) }
	}))
	c.data("POST", "/app_instances", simple("demo", 5))
	seen := map[any]bool{}
	for range 12 {
		seen[c.data("POST", demoVolume+"/snapshots", nil)["utc_ts"]] = true
	}
	if len(seen) != 12 {
		t.Errorf("%d different timestamps of 12", len(seen))
	}
}

func TestDuplicateSnapshotUUIDHasCode15(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/app_instances", simple("demo", 5))
	in := m{"uuid": "11111111-2222-5333-8444-555555555555"}
	c.data("POST", demoVolume+"/snapshots", in)
	if got := c.refused(400, "InvalidRequestError", "POST", demoVolume+"/snapshots", in); got["code"] != 15.0 {
		t.Errorf("code is %v", got["code"])
	}
}

func TestDeletedSnapshotIsGone(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/app_instances", simple("demo", 5))
	ts := c.data("POST", demoVolume+"/snapshots", nil)["utc_ts"].(string)
	// The options come twice: that is what one client does.
	c.data("DELETE", demoVolume+"/snapshots/"+ts+"?force=false&remote_provider_uuid=", m{"force": false})
	c.refused(404, "NotFoundError", "GET", demoVolume+"/snapshots/"+ts, nil)
	if got := c.list(demoVolume + "/snapshots"); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestRestoreNeedsOffline(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/app_instances", simple("demo", 5))
	ts := c.data("POST", demoVolume+"/snapshots", nil)["utc_ts"].(string)
	c.refused(400, "InvalidRequestError", "PUT", demoVolume, m{"restore_point": ts})
	c.data("PUT", "/app_instances/demo", m{"admin_state": "offline"})
	if got := c.data("PUT", demoVolume, m{"restore_point": ts}); got["restore_point"] != ts {
		t.Errorf("restore_point is %v", got["restore_point"])
	}
	c.refused(404, "NotFoundError", "PUT", demoVolume, m{"restore_point": "1.5"})
}

func TestGroupSnapshotCoversAllVolumes(t *testing.T) {
	c := dial(t, simtest.Start(t))
	c.data("POST", "/app_instances", m{"name": "demo", "storage_instances": []m{{"name": "storage-1", "volumes": []m{
		{"name": "volume-1", "size": 2}, {"name": "volume-2", "size": 3}}}}})
	snap := c.data("POST", "/app_instances/demo/snapshots", nil)
	if got := at(t, c.data("GET", demoVolume, nil), "snapshots").([]any); len(got) != 0 {
		t.Errorf("the volume lists the group's snapshot: %v", got)
	}
	clone := c.data("POST", "/app_instances", m{"name": "copy", "clone_snapshot_src": m{"path": snap["path"]}})
	for i, want := range []float64{2, 3} {
		if got := at(t, clone, "storage_instances", 0, "volumes", i, "size"); got != want {
			t.Errorf("volume %d has %v GiB, want %v", i, got, want)
		}
	}
}

func TestCloneKeepsNothingButTheData(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	made := c.data("POST", "/app_instances", m{"name": "demo", "create_mode": "kubernetes", "storage_instances": []m{{
		"name": "storage-1", "auth": m{"type": "chap", "target_user_name": "user", "target_pswd": "secretsecret"},
		"volumes": []m{{"name": "volume-1", "size": 5, "performance_policy": m{"total_iops_max": 100}}}}}})
	c.data("PUT", "/app_instances/demo/metadata", m{"a": "b"})
	volume := at(t, made, "storage_instances", 0, "volumes", 0).(map[string]any)
	snap := c.data("POST", demoVolume+"/snapshots", nil)
	c.data("PUT", demoVolume, m{"size": 9})
	for source, want := range map[string]struct {
		path any
		size float64
	}{
		"clone_src": {made["path"], 9}, "clone_volume_src": {volume["path"], 9}, "clone_snapshot_src": {snap["path"], 5},
	} {
		clone := c.data("POST", "/app_instances", m{"name": "clone-" + source, source: m{"path": want.path}})
		if got := at(t, clone, "clone_src", "path"); got != want.path {
			t.Errorf("%s: clone_src is %v, want %v", source, got, want.path)
		}
		si := at(t, clone, "storage_instances", 0).(map[string]any)
		v := at(t, si, "volumes", 0).(map[string]any)
		if v["size"] != want.size || v["performance_policy"] != nil || v["uuid"] == volume["uuid"] {
			t.Errorf("%s: volume is %v", source, v)
		}
		if at(t, si, "auth", "type") != "none" || clone["create_mode"] != "kubernetes" {
			t.Errorf("%s: auth %v, create_mode %v", source, si["auth"], clone["create_mode"])
		}
		if got := c.data("GET", "/app_instances/clone-"+source+"/metadata", nil); len(got) != 0 {
			t.Errorf("%s: metadata is %v", source, got)
		}
	}
}

func TestCloneSourcesExcludeEachOther(t *testing.T) {
	c := dial(t, simtest.Start(t))
	path := c.data("POST", "/app_instances", simple("demo", 5))["path"]
	c.refused(400, "InvalidRequestError", "POST", "/app_instances",
		m{"name": "copy", "clone_src": m{"path": path}, "clone_volume_src": m{"path": path}})
	c.refused(400, "InvalidRequestError", "POST", "/app_instances", m{"name": "copy", "clone_volume_src": m{"path": path}})
	c.refused(404, "NotFoundError", "POST", "/app_instances", m{"name": "copy", "clone_src": m{"path": "/app_instances/none"}})
	both := simple("copy", 3)
	both["clone_src"] = m{"path": path}
	c.refused(400, "InvalidRequestError", "POST", "/app_instances", both)
	c.refused(404, "NotFoundError", "GET", "/app_instances/copy", nil)
}
