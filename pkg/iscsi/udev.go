package iscsi

import (
	"os"
	"path/filepath"
	"slices"
	"time"
)

const udevTime = 3 * time.Second // how long udev may take to see a disk, while it has nothing else to do, before it counts as dead

// udevKnows says whether udev is done with a disk for the first time.
func (i *Initiator) udevKnows(d disk) bool {
	_, err := os.Stat(filepath.Join(i.cfg.Root, "run/udev/data", "b"+d.dev))
	return err == nil
}

// idleness is time that passes only while udev has nothing to do. What multipathd
// does comes behind udev's events, and however long these take on a slow or crowded
// host, they are no reason to give up on it.
type idleness struct {
	queue  string // is there while udev is at work, as for udevadm settle; "" when udev does not run
	passed time.Duration
	last   time.Time // zero: it begins with the first look
}

// udevIdle begins to count. A udev that was killed leaves its queue behind, so one
// must run for the queue to mean something (FM 30).
func (i *Initiator) udevIdle() idleness {
	runs := slices.ContainsFunc([]string{"systemd-udevd", "udevd"}, func(name string) bool {
		runs, err := i.runs(name)
		return err == nil && runs
	})
	if !runs {
		return idleness{}
	}
	return idleness{queue: filepath.Join(i.cfg.Root, "run/udev/queue")}
}

// pass counts the time since the last look and returns the sum.
func (c *idleness) pass() time.Duration {
	now := time.Now()
	if !c.last.IsZero() && !c.busy() {
		c.passed += now.Sub(c.last)
	}
	c.last = now
	return c.passed
}

func (c *idleness) busy() bool {
	if c.queue == "" {
		return false
	}
	_, err := os.Stat(c.queue)
	return err == nil
}
