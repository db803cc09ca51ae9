package node_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

// Tools sometimes answer OK and have done nothing. Each is found out, because what
// was done is looked at.

// idleMounts is a mount table on which nothing changes at the paths given.
type idleMounts struct {
	node.Mounts
	paths []string
}

func (i idleMounts) Mount(source, target, fsType string, options []string) error {
	if slices.Contains(i.paths, target) {
		return nil
	}
	return i.Mounts.Mount(source, target, fsType, options)
}

func (i idleMounts) Unmount(target string) error {
	if slices.Contains(i.paths, target) {
		return nil
	}
	return i.Mounts.Unmount(target)
}

// writableMounts is a mount table on which nothing is read-only, as a bind is whose second
// step did nothing.
type writableMounts struct{ node.Mounts }

func (w writableMounts) Mount(source, target, fsType string, options []string) error {
	return w.Mounts.Mount(source, target, fsType, slices.DeleteFunc(slices.Clone(options), func(o string) bool { return o == "ro" }))
}

// idleTool is a tool that does nothing and says that it did.
type idleTool struct {
	iscsi.Runner
	tool string
}

func (i idleTool) Run(ctx context.Context, argv ...string) ([]byte, error) {
	if argv[0] == i.tool && argv[1] != "-V" {
		return nil, nil
	}
	return i.Runner.Run(ctx, argv...)
}

func TestAMountThatMountsNothingIsFoundOut(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	m.restart(func(c *node.Config) { c.Mounts = idleMounts{c.Mounts, []string{v.staging}} })
	want(t, v.stage(), codes.FailedPrecondition, "nothing is mounted on")

	m.restart(func(c *node.Config) { c.Mounts = idleMounts{c.Mounts, []string{v.path}} })
	ok(t, v.stage())
	want(t, v.publish(), codes.FailedPrecondition, "shows 0 mounts there")
	m.restart()
	ok(t, v.publish())
}

// FM 18
func TestAReadOnlyBindThatIsWritableIsFoundOut(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.ro = true
	m.restart(func(c *node.Config) { c.Mounts = writableMounts{c.Mounts} })
	ok(t, v.stage())
	want(t, v.publish(), codes.FailedPrecondition, "was bound on", "not that")
	m.restart()
	ok(t, v.publish())
	if got := m.MountOptions(v.path)[0]; got != "ro" {
		t.Errorf("the target is %s", got)
	}
}

func TestAnUnmountThatLeavesTheMountIsFoundOut(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish())
	m.restart(func(c *node.Config) { c.Mounts = idleMounts{c.Mounts, []string{v.path, v.staging}} })
	want(t, v.unpublish(), codes.FailedPrecondition, "still is a mount")
	if !exists(v.path) {
		t.Error("the target was removed under its mount")
	}
	m.restart()
	ok(t, v.unpublish())
	m.restart(func(c *node.Config) { c.Mounts = idleMounts{c.Mounts, []string{v.staging}} })
	want(t, v.unstage(), codes.FailedPrecondition, iscsi.ErrBusy.Error())
	if got := m.calls("detach"); got != nil {
		t.Errorf("detached under a mount: %v", got)
	}
}

func TestAMkfsThatMakesNothingIsFoundOut(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	m.restart(func(c *node.Config) { c.Runner = idleTool{c.Runner, "mkfs.xfs"} })
	want(t, v.stage(), codes.FailedPrecondition, "xfs was made on", "does not show it")
	m.restart()
	ok(t, v.stage())
}

func TestAGrowthThatGrowsNothingIsFoundOut(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.disk().Grow(2*gib))
	m.restart(func(c *node.Config) { c.Runner = idleTool{c.Runner, "xfs_growfs"} })
	_, err := v.expand(v.staging, 2*gib)
	want(t, err, codes.Unavailable, "still has 1073741824 bytes after it was grown", "has not grown here yet")
}

// An array that takes back what it gave would cut the file system off.
func TestAVolumeThatWasGrownHereMayNotComeBackSmaller(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.cap = blockCap(writer) // a file system would tell by itself
	ok(t, v.stage(), v.disk().Grow(3*gib))
	_, err := v.expand(v.staging, 3*gib)
	ok(t, err)
	m.Reboot()
	m.restart()
	ok(t, v.disk().Grow(2*gib))
	want(t, v.stage(), codes.FailedPrecondition, "promised")
	m.Reboot()
	m.restart()
	ok(t, v.disk().Grow(3*gib), v.stage())
}

func TestAnUnpublishedTargetLeavesTheRecord(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish(), v.publishAt(v.path+"2"), v.unpublish())
	data, err := os.ReadFile(m.records()[0])
	ok(t, err)
	if got := strings.Count(string(data), v.path); got != 1 || !strings.Contains(string(data), v.path+"2") {
		t.Errorf("the record has %d of the targets:\n%s", got, data)
	}
}
