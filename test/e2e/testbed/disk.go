package testbed

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/datera-csi/datera-csi/internal/publishctx"
)

// This file breaks the disk beneath the array. Its data disk is a device-mapper
// device, so that a part of it can be made to fail while all else goes on.

// BackingFile is the file of a published volume, on the array.
func (a *Array) BackingFile(ctx context.Context, published map[string]string) (string, error) {
	c, err := publishctx.Decode(published)
	if err != nil {
		return "", err
	}
	out, err := a.Shell(ctx, fmt.Sprintf(`sed -n 's/.*File: \(.*\)  Size: .*/\1/p' /sys/kernel/config/target/core/fileio_*/*%s*/info`, c.Target.IQN))
	if err != nil {
		return "", err
	}
	file := strings.TrimSpace(string(out))
	if file == "" || strings.Contains(file, "\n") {
		return "", fmt.Errorf("target %s has no backing file, or more than one: %q", c.Target.IQN, file)
	}
	return file, nil
}

// extent is a part of the data disk, in sectors.
type extent struct{ from, to int64 }

// Break makes the array's disk fail under these bytes of a backing file: reads
// and writes alike, of what is allocated there now. What the array has cached of
// the file is dropped. Mend ends it.
func (a *Array) Break(ctx context.Context, file string, from, to int64) error {
	broken, err := a.extents(ctx, file, from/sector, to/sector)
	if err != nil {
		return err
	}
	if len(broken) == 0 {
		return fmt.Errorf("nothing is allocated in bytes %d to %d of %s, so nothing could fail", from, to, file)
	}
	return a.table(ctx, broken)
}

// Mend makes the whole data disk work again. The array has then no memory of
// what could not be written: the kernel tells the next sync of it, which is here.
func (a *Array) Mend(ctx context.Context) error {
	if err := a.table(ctx, nil); err != nil {
		return err
	}
	_, err := a.Shell(ctx, "sync -f /data || sync -f /data")
	return err
}

const sector = 512

// extents lists where a file is on the data disk, between two of its sectors.
func (a *Array) extents(ctx context.Context, file string, from, to int64) ([]extent, error) {
	out, err := a.Shell(ctx, "sync -f "+file+"; xfs_bmap "+file)
	if err != nil {
		return nil, err
	}
	var all []extent
	for line := range strings.Lines(string(out)) {
		var n int
		var first, last, start, end int64
		if _, err := fmt.Sscanf(strings.TrimSpace(line), "%d: [%d..%d]: %d..%d", &n, &first, &last, &start, &end); err != nil {
			continue // the file's name, or a hole
		}
		e := extent{start + max(0, from-first), end + 1 - max(0, last+1-to)}
		if e.from < e.to {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b extent) int { return int(a.from - b.from) })
	return all, nil
}

// table gives the data disk these broken parts, and no other.
func (a *Array) table(ctx context.Context, broken []extent) error {
	var lines strings.Builder
	at := int64(0)
	linear := func(to int64) {
		if to > at {
			fmt.Fprintf(&lines, "%d %d linear $disk %d\n", at, to-at, at)
		}
	}
	for _, e := range broken {
		linear(e.from)
		fmt.Fprintf(&lines, "%d %d error\n", e.from, e.to-e.from)
		at = e.to
	}
	linear(dataBytes / sector)
	_, err := a.Shell(ctx, `disk=/dev/disk/by-id/virtio-data
dmsetup load data <<END
`+lines.String()+`END
dmsetup resume --noflush --nolockfs data
echo 3 > /proc/sys/vm/drop_caches`)
	if err != nil {
		return fmt.Errorf("break the array's disk: %w", err)
	}
	return nil
}

// Fill takes all free space of the data disk but this much, and returns what
// gives it back.
func (a *Array) Fill(ctx context.Context, spare int64) (release func(context.Context) error, _ error) {
	release = func(ctx context.Context) error {
		_, err := a.Shell(ctx, "rm -f /data/ballast; sync -f /data")
		return err
	}
	_, err := a.Shell(ctx, fmt.Sprintf(`fallocate -l $(($(stat -f -c '%%a * %%S' /data) - %d)) /data/ballast; sync -f /data`, spare))
	return release, err
}

// Restart cuts the array's power and boots it again: sessions and what it had not
// written are lost, volumes are not.
func (a *Array) Restart(ctx context.Context) error {
	if err := a.Guest.Restart(ctx); err != nil {
		return err
	}
	return a.Ready(ctx)
}
