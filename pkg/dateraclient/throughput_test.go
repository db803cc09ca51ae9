package dateraclient_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// BenchmarkCreateByHundredCallers reports how much of what its bound on requests
// under way allows the client delivers, from an array that takes 20 ms to answer.
func BenchmarkCreateByHundredCallers(b *testing.B) {
	const callers, latency = 100, 20 * time.Millisecond
	s := simtest.Start(b, func(cfg *sim.Config) {
		cfg.Latency, cfg.Record = latency, false
		cfg.Limits = sim.Limits{AppInstances: -1, StorageInstances: -1, Volumes: -1}
	})
	c := client(b, s.URL, func(cfg *dateraclient.Config) {
		cfg.Credentials = func() (string, string, error) { return s.User, s.Password, nil }
	})
	if _, err := c.System(b.Context()); err != nil {
		b.Fatal(err)
	}
	var next atomic.Int64
	begun := time.Now()
	b.ResetTimer()
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				if _, err := c.CreateVolume(b.Context(), small(fmt.Sprintf("CSI-%d", i))); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	perSecond := float64(b.N) / time.Since(begun).Seconds()
	limit := float64(dateraclient.DefaultConcurrency) / latency.Seconds()
	b.ReportMetric(perSecond, "creates/s")
	b.ReportMetric(100*perSecond/limit, "%of-limit")
}
