//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/internal/publishctx"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// by is a way to bring a volume into a pod and to take it out again.
type by interface {
	stage(ctx context.Context, v *testbed.Volume, published map[string]string) error
	unstage(ctx context.Context, v *testbed.Volume, published map[string]string) error
}

// plugin asks the plugin, as kubelet does when it has made its directories.
type plugin struct{ *testbed.Worker }

func (p plugin) stage(ctx context.Context, v *testbed.Volume, published map[string]string) error {
	staging, target := testbed.StagingPath(v), testbed.TargetPath(v, "pod-0")
	_, err := p.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.ID, PublishContext: published, StagingTargetPath: staging, VolumeCapability: v.Capability, VolumeContext: v.Context,
	})
	if err != nil {
		return err
	}
	_, err = p.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.ID, PublishContext: published, StagingTargetPath: staging, TargetPath: target, VolumeCapability: v.Capability, VolumeContext: v.Context,
	})
	return err
}

func (p plugin) unstage(ctx context.Context, v *testbed.Volume, _ map[string]string) error {
	if err := p.UnpublishFrom(ctx, v, "pod-0"); err != nil {
		return err
	}
	return p.Unstage(ctx, v)
}

// hand does what a careful administrator who knows the portals would type. He proves
// nothing, but does not go before both paths are in the map, which is where the
// plugin leaves a volume too. What iscsiadm fails at because another one changes the node
// database (exit 6), he types again.
type hand struct{ *testbed.Worker }

func (h hand) stage(ctx context.Context, v *testbed.Volume, published map[string]string) error {
	return h.script(ctx, v, published, `
for portal in $portals; do admin -p $portal -o new; done
admin --login
while [ ! -b $map ]; do sleep 0.02; done
blkid -p $map || mkfs.xfs -q -K $map
mkdir -p $staging $target
mount -t xfs -o nouuid $map $staging
mount --bind $staging $target
slaves=/sys/block/$(basename $(readlink -f $map))/slaves
until set -- $slaves/* && [ $# -eq $(echo $portals | wc -w) ]; do sleep 0.02; done`)
}

func (h hand) unstage(ctx context.Context, v *testbed.Volume, published map[string]string) error {
	return h.script(ctx, v, published, `
umount $target
umount $staging
blockdev --flushbufs $map
paths=$(echo /sys/block/$(basename $(readlink -f $map))/slaves/*)
paths=$(readlink -f $(printf '%s/device ' $paths))
multipath -f ${map##*/}
for path in $paths; do echo 1 > $path/delete; done
admin --logout
admin -o delete`)
}

func (h hand) script(ctx context.Context, v *testbed.Volume, published map[string]string, commands string) error {
	c, err := publishctx.Decode(published)
	if err != nil {
		return err
	}
	portals := make([]string, len(c.Target.Portals))
	for i, p := range c.Target.Portals {
		portals[i] = p.String()
	}
	_, err = h.Shell(ctx, fmt.Sprintf(`exec >/dev/null
iqn=%s portals='%s' map=%s staging=%s target=%s
admin() {
  for try in 1 2 3 4 5 6 7 8 9 10; do
    iscsiadm -m node -T $iqn "$@" && return
    [ $? -eq 6 ] || return
    sleep 0.05
  done
  return 6
}
%s`,
		c.Target.IQN, strings.Join(portals, " "), mapOf(c.Target), testbed.StagingPath(v), testbed.TargetPath(v, "pod-0"), commands))
	return err
}

// mapOf is where the multipath map of a volume shows: a Linux target makes the
// WWID from the first 25 hex digits of the serial number.
func mapOf(t iscsi.Target) string {
	digits := strings.ReplaceAll(t.Serial, "-", "")
	return "/dev/mapper/36001405" + digits[:25]
}

// steps are what is measured, in the order in which a volume goes through them, and
// how much longer than by hand each may take.
var steps = []struct {
	name   string
	metric string
	goal   float64
	do     func(by, context.Context, *testbed.Volume, map[string]string) error
}{
	{"stage and publish, fresh", "fresh", 1.10, by.stage},
	{"unpublish and unstage", "unstage", 1.15, by.unstage},
	{"stage and publish, formatted", "formatted", 1.25, by.stage},
	{"unpublish and unstage again", "unstage-again", 1.15, by.unstage},
}

// comparison is a table of the plugin's times beside those by hand.
type comparison struct {
	*tabwriter.Writer
	b *testing.B
}

func newComparison(b *testing.B) comparison {
	b.Helper()
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\nmedian (fastest to slowest)\tplugin\tby hand\tratio\tgoal\t")
	return comparison{table, b}
}

// row adds a line and fails the benchmark when the plugin takes too long.
func (c comparison) row(name, metric string, goal float64, plugin, hand []time.Duration) {
	ratio := float64(median(plugin)) / float64(median(hand))
	fmt.Fprintf(c, "%s\t%s\t%s\t%.2f\t%.2f\t\n", name, spread(plugin), spread(hand), ratio, goal)
	c.b.ReportMetric(ratio, metric)
	if ratio > goal {
		c.b.Errorf("%s: %.2f times as long as by hand, may be %.2f", name, ratio, goal)
	}
}

// end prints it.
func (c comparison) end() {
	must(c.b, c.Flush())
	c.b.ReportMetric(0, "ns/op")
}

// BenchmarkStageAndPublish compares the plugin with the same steps typed by hand,
// on 10 GiB volumes, in turns, so that what else the machine does hits both. The
// metrics are ratios of medians: plugin to hand.
func BenchmarkStageAndPublish(b *testing.B) {
	const least = 6
	_, bed := useBed(b)
	ctx, w := b.Context(), bed.Workers[0] // longer than a test may take
	ways := []by{plugin{w}, hand{w}}
	took := make([][2][]time.Duration, len(steps))
	for round := range 1 + max(least, b.N) {
		for n, way := range ways {
			for i, d := range life(ctx, b, bed, way, fmt.Sprintf("bench-%d-%d", round, n)) {
				if round > 0 { // the first warms up
					took[i][n] = append(took[i][n], d)
				}
			}
		}
	}
	table := newComparison(b)
	for i, step := range steps {
		table.row(step.name, step.metric, step.goal, took[i][0], took[i][1])
	}
	table.end()
}

// BenchmarkStageInParallel compares 32 fresh volumes that are staged and published at
// once with the same commands typed into 32 shells, in turns.
func BenchmarkStageInParallel(b *testing.B) {
	const volumes, least, goal = 32, 2, 1.15
	_, bed := useBed(b)
	ctx, w := b.Context(), bed.Workers[0]
	var took [2][]time.Duration
	for round := range max(least, b.N) {
		for n, way := range []by{plugin{w}, hand{w}} {
			took[n] = append(took[n], crowd(ctx, b, bed, way, fmt.Sprintf("crowd-%d-%d", round, n), volumes))
		}
	}
	table := newComparison(b)
	table.row(fmt.Sprintf("%d at once, stage and publish, fresh", volumes), "parallel", goal, took[0], took[1])
	table.end()
}

// crowd stages volumes at once and says how long that took, until the last one was there.
func crowd(ctx context.Context, b *testing.B, bed *testbed.Bed, way by, name string, volumes int) time.Duration {
	b.Helper()
	w := bed.Workers[0]
	all, published := make([]*testbed.Volume, volumes), make([]map[string]string, volumes)
	each := func(atATime int, do func(i int) error) { b.Helper(); share(b, volumes, atATime, do) }
	each(4, func(i int) (err error) {
		if all[i], err = bed.Create(ctx, fmt.Sprintf("%s-%d", name, i), 10*giB, nil, testbed.Mount("xfs")); err == nil {
			published[i], err = bed.Publish(ctx, all[i], w)
		}
		return err
	})
	for _, v := range all {
		sh(ctx, b, w.Guest, "mkdir -p "+testbed.StagingPath(v)+" "+path.Dir(testbed.TargetPath(v, "pod-0")))
	}
	sh(ctx, b, w.Guest, "udevadm settle; sync")
	began := time.Now()
	each(volumes, func(i int) error { return way.stage(ctx, all[i], published[i]) })
	took := time.Since(began)
	each(4, func(i int) error { return way.unstage(ctx, all[i], published[i]) })
	each(4, func(i int) error {
		if err := bed.Unpublish(ctx, all[i], w); err != nil {
			return err
		}
		return bed.Delete(ctx, all[i])
	})
	return took
}

// life takes one volume through all steps, and says how long each took.
func life(ctx context.Context, b *testing.B, bed *testbed.Bed, way by, name string) []time.Duration {
	b.Helper()
	w := bed.Workers[0]
	v, err := bed.Create(ctx, name, 10*giB, nil, testbed.Mount("xfs"))
	must(b, err)
	published, err := bed.Publish(ctx, v, w)
	must(b, err)
	var took []time.Duration
	for _, step := range steps {
		sh(ctx, b, w.Guest, "udevadm settle; sync; mkdir -p "+testbed.StagingPath(v)+" "+path.Dir(testbed.TargetPath(v, "pod-0")))
		began := time.Now()
		must(b, step.do(way, ctx, v, published))
		took = append(took, time.Since(began))
	}
	must(b, bed.Unpublish(ctx, v, w))
	must(b, bed.Delete(ctx, v))
	return took
}

func median(all []time.Duration) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

func spread(all []time.Duration) string {
	ms := time.Millisecond
	return fmt.Sprintf("%v (%v to %v)", median(all).Round(ms), slices.Min(all).Round(ms), slices.Max(all).Round(ms))
}
