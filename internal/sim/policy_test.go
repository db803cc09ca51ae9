package sim_test

import (
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

func TestPoliciesTakeAndRetainSnapshots(t *testing.T) {
	now := time.Unix(1700000000, 0)
	s := simtest.Start(t, inDir(t.TempDir()), func(cfg *sim.Config) {
		cfg.Clock = func() time.Time { return now }
		cfg.TokenLifetime = 1000 * time.Hour
	})
	c := dial(t, s)
	c.data("POST", "/app_instances", simple("demo", 1))
	c.data("POST", demoVolume+"/snapshots", nil) // by hand: no policy takes it away
	c.data("POST", demoVolume+"/snapshot_policies", m{"name": "hourly", "interval": "1hour", "retention_count": 2})
	c.data("POST", "/app_instances/demo/snapshot_policies", m{"name": "later", "interval": "1day", "retention_count": 2,
		"start_time": now.Add(90 * time.Minute).UTC().Format(time.RFC3339)})
	for _, step := range []struct {
		after       time.Duration
		volume, app int
	}{
		{0, 2, 0}, {time.Minute, 2, 0}, {time.Hour, 3, 0}, {time.Hour, 3, 1}, {time.Hour, 3, 1}, {24 * time.Hour, 3, 2},
	} {
		now = now.Add(step.after)
		if err := s.Array.RunPolicies(t.Context()); err != nil {
			t.Fatal(err)
		}
		if volume, app := len(c.list(demoVolume+"/snapshots")), len(c.list("/app_instances/demo/snapshots")); volume != step.volume || app != step.app {
			t.Errorf("%+v: the volume has %d snapshots, the app instance %d", step, volume, app)
		}
	}
	if got := c.list("/events/system"); len(got) == 0 {
		t.Error("no event tells of it")
	}
}
