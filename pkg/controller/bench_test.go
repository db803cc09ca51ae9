package controller_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/controller"
)

// BenchmarkCreateVolume has 100 callers make volumes on an array that takes 20 ms
// for every request. "of-limit" is the throughput reached, as a part of what the
// limit on concurrent requests allows: concurrency / latency.
func BenchmarkCreateVolume(b *testing.B) {
	const (
		callers     = 100
		latency     = 20 * time.Millisecond
		concurrency = 10
	)
	array := simtest.Start(b, func(cfg *sim.Config) {
		cfg.Latency, cfg.Record = latency, false
		cfg.Limits = sim.Limits{AppInstances: -1, StorageInstances: -1, Volumes: -1}
	})
	backends := controller.OpenBackends(controller.BackendsConfig{Dir: array.BackendDir(b, "default"), Concurrency: concurrency})
	l := &lab{array: array, Server: controller.New(controller.Config{Backends: backends})}
	l.create(b, "warm-up")
	b.ResetTimer()
	work := make(chan int)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := range work {
				if _, err := l.CreateVolume(b.Context(), createRequest(fmt.Sprintf("pvc-%d", i))); err != nil {
					b.Error(err)
				}
			}
		})
	}
	start := time.Now()
	for i := range b.N {
		work <- i
	}
	close(work)
	wg.Wait()
	rate := float64(b.N) / time.Since(start).Seconds()
	b.ReportMetric(rate, "volumes/s")
	b.ReportMetric(rate/(concurrency/latency.Seconds()), "of-limit")
}
