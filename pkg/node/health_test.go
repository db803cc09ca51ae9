package node_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

// health is what NodeGetVolumeHealth finds, as STATUS/Reason by reason, and what it says.
func (v *volume) health() (found map[string]string, err error) {
	resp, err := v.m.server.NodeGetVolumeHealth(v.m.ctx(), &csi.NodeGetVolumeHealthRequest{VolumeId: v.id, VolumePublishPath: v.path, StagingTargetPath: v.staging})
	found = map[string]string{}
	for _, e := range resp.GetVolumeHealth().GetHealthStatuses() {
		found[e.GetStatus().String()+"/"+e.GetReason()] = e.GetMessage()
	}
	return found, err
}

// expectHealth wants exactly these findings, each with its word.
func (v *volume) expectHealth(want map[string]string) {
	v.m.t.Helper()
	got, err := v.health()
	ok(v.m.t, err)
	for finding, word := range want {
		if message, found := got[finding]; !found || !strings.Contains(message, word) {
			v.m.t.Errorf("%s: got %q, want it to say %q", finding, message, word)
		}
	}
	for finding, message := range got {
		if _, wanted := want[finding]; !wanted {
			v.m.t.Errorf("found %s: %s", finding, message)
		}
	}
}

// twoPaths is a volume over a map, with two live paths.
func twoPaths(v *volume) iscsi.Condition {
	first, second := netip.MustParseAddrPort("10.0.0.1:3260"), netip.MustParseAddrPort("10.0.1.1:3260")
	number := v.disk().Number().String()
	return iscsi.Condition{
		Paths: []iscsi.PathCondition{
			{Portal: first, Session: "LOGGED_IN", Disk: "sdb", State: "running", Number: "8:200", Serial: v.target.Serial, Bytes: v.target.Bytes},
			{Portal: second, Session: "LOGGED_IN", Disk: "sdc", State: "running", Number: "8:216", Serial: v.target.Serial, Bytes: v.target.Bytes},
		},
		Map: &iscsi.MapCondition{Name: "dm-2", Alias: "36001405aaaa", Number: number, Bytes: v.target.Bytes},
	}
}

func TestHealthOfAWholeVolumeIsNothing(t *testing.T) {
	m := newMachine(t)
	v, b := m.volume("a"), m.volume("b")
	b.cap = blockCap(writer)
	ok(t, v.stage(), v.publish(), b.stage(), b.publish())
	v.expectHealth(nil)
	b.expectHealth(nil)
	v.disk().Become(twoPaths(v))
	v.expectHealth(nil)
}

func TestHealthTellsWhatIsWrongWithPathsAndMap(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish())
	for name, c := range map[string]struct {
		change func(*iscsi.Condition)
		want   map[string]string
	}{
		"a portal without a session": {
			func(c *iscsi.Condition) { c.Paths[1] = iscsi.PathCondition{Portal: c.Paths[1].Portal} },
			map[string]string{"DEGRADED/PathsLost": "10.0.1.1:3260 has no session"},
		},
		"a failed session": {
			func(c *iscsi.Condition) { c.Paths[0].Session = "FAILED" },
			map[string]string{"DEGRADED/PathsLost": "1 of 2 paths to the volume are live: 10.0.0.1:3260 has a session that is FAILED"},
		},
		"an offline disk": {
			func(c *iscsi.Condition) { c.Paths[0].State = "transport-offline" },
			map[string]string{"DEGRADED/PathsLost": "sdb, which is transport-offline"},
		},
		"no path, and the map fails I/O": {
			func(c *iscsi.Condition) { c.Paths[0].Session, c.Paths[1].State = "FAILED", "blocked" },
			map[string]string{"INACCESSIBLE/NoPath": "iscsid"},
		},
		"no path, and the map queues": {
			func(c *iscsi.Condition) {
				c.Paths[0].Session, c.Paths[1].Session, c.Map.Queues = "FAILED", "FREE", true
			},
			map[string]string{"INACCESSIBLE/NoPath": "10.0.1.1:3260", "INACCESSIBLE/IOQueued": "no_path_retry"},
		},
		"queueing with a path": {func(c *iscsi.Condition) { c.Map.Queues = true }, nil},
		"suspended": {
			func(c *iscsi.Condition) { c.Map.Suspended = true },
			map[string]string{"INACCESSIBLE/MapSuspended": "multipathd resume map 36001405aaaa"},
		},
		"a map that was not resized": {
			func(c *iscsi.Condition) { c.Map.Bytes /= 2 },
			map[string]string{"INACCESSIBLE/MapTooSmall": "multipathd resize map"},
		},
		"a LUN that shrank": {
			func(c *iscsi.Condition) { c.Paths[0].Bytes, c.Paths[1].Bytes, c.Map.Bytes = 512, 512, 512 },
			map[string]string{"INACCESSIBLE/DeviceShrunk": "512 bytes"},
		},
		"another LUN on a path": {
			func(c *iscsi.Condition) { c.Paths[1].Serial = "other" },
			map[string]string{"INACCESSIBLE/ForeignDevice": "sdc shows a LUN with serial number other"},
		},
		"another device under the mount": {
			func(c *iscsi.Condition) { c.Map.Number = "253:99" },
			map[string]string{"INACCESSIBLE/DeviceLost": "staged anew", "INACCESSIBLE/ForeignMount": v.path},
		},
	} {
		t.Run(name, func(t *testing.T) {
			v.m.t = t
			condition := twoPaths(v)
			c.change(&condition)
			v.disk().Become(condition)
			v.expectHealth(c.want)
		})
	}
}

func TestHealthTellsAnUnwantedSinglePath(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	v.context.Target = v.target
	ok(t, v.stage(), v.publish())
	c := twoPaths(v)
	c.Paths, c.Map = c.Paths[:1], nil
	c.Paths[0].Number = v.disk().Number().String()
	v.disk().Become(c)
	v.expectHealth(map[string]string{"DEGRADED/SinglePath": "multipathd"})
	c.OnePath = true
	v.disk().Become(c)
	v.expectHealth(nil)
}

func TestHealthTellsWhatIsWrongWithTheFileSystem(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish())

	m.Fail("alive", unix.EIO)
	v.expectHealth(map[string]string{"INACCESSIBLE/FilesystemShutDown": "input/output error"})
	v.expectHealth(nil)

	v.disk().Err(node.FilesystemErrors{Count: 3, Where: "ext4_lookup", Time: time.Unix(0, 0)})
	v.expectHealth(map[string]string{"DEGRADED/FilesystemErrors": "3 errors in the file system, the last at 1970-01-01T00:00:00Z in ext4_lookup"})
	v.disk().Err(node.FilesystemErrors{Count: 3, Where: "ext4_journal_check_start"})
	v.expectHealth(map[string]string{"DEGRADED/FilesystemErrors": "3 errors", "INACCESSIBLE/FilesystemReadOnly": "stopped writing"})
	v.disk().Err(node.FilesystemErrors{Count: 3, Corrupt: true})
	v.expectHealth(map[string]string{"DEGRADED/FilesystemErrors": "e2fsck", "DATA_LOSS/FilesystemCorrupted": "snapshot"})
	v.disk().Err(node.FilesystemErrors{})

	m.Remount(v.staging, []string{"rw"}, []string{"ro"}) // as errors=remount-ro does
	v.expectHealth(map[string]string{"INACCESSIBLE/FilesystemReadOnly": "check it"})
}

func TestHealthTellsWhatIsNotMounted(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	_, err := v.health()
	want(t, err, codes.NotFound, v.id)
	ok(t, v.stage())
	v.expectHealth(map[string]string{"INACCESSIBLE/NotPublished": v.path})
	ok(t, v.publish())
	m.Reboot()
	v.expectHealth(map[string]string{"INACCESSIBLE/NoPath": "no session", "INACCESSIBLE/NotStaged": v.staging, "INACCESSIBLE/NotPublished": v.path})
}

// FM 31
func TestHealthOfADeadVolumeIsAnsweredAndCostsOneGoroutine(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage(), v.publish())
	release := m.Hold("alive")
	defer release()
	before := runtime.NumGoroutine()
	for range 5 {
		v.expectHealth(map[string]string{"INACCESSIBLE/NoAnswer": v.staging})
		if got := runtime.NumGoroutine(); got > before+3 {
			t.Fatalf("%d goroutines, %d before", got, before)
		}
	}
	ok(t, v.unpublishAt(v.path+"2")) // no lock is held
	want(t, v.publishAt(v.path+"2"), codes.Unavailable, "does not answer")
	ok(t, v.unpublishAt(v.path+"2"))
	c := twoPaths(v)
	c.Paths[0].Session, c.Paths[1].Session = "FAILED", "FAILED"
	v.disk().Become(c)
	release()
	eventually(t, "the end of all looks", func() bool { return !m.Waits("alive") })
	defer m.Hold("alive")()
	m.restart(func(cfg *node.Config) { cfg.StatsTimeout = time.Hour })
	v.expectHealth(map[string]string{"INACCESSIBLE/NoPath": "FAILED"})
	if m.Waits("alive") {
		t.Error("without a path it was looked into")
	}
}

// FM 2
func TestPublishAsksTheDeviceWhoItIs(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage())
	v.disk().Answer("another volume's")
	want(t, v.publish(), codes.FailedPrecondition, "another volume's", v.target.Serial)
	if exists(v.path) {
		t.Error("the target was made")
	}
	v.disk().Answer("")
	ok(t, v.publish())
}

// FM 32
func TestStorageHealthIsThisNodesView(t *testing.T) {
	one, two, far := netip.MustParseAddrPort("10.0.0.1:3260"), netip.MustParseAddrPort("10.0.1.1:3260"), netip.MustParseAddrPort("10.9.0.1:3260")
	m := newMachine(t)
	a, b, c := m.volume("a"), m.volume("b"), m.volume("c")
	a.target.Portals, b.target.Portals, c.target.Portals = []netip.AddrPort{one, two}, []netip.AddrPort{two, one}, []netip.AddrPort{far}
	for _, v := range []*volume{a, b, c} {
		v.context.Target = v.target
	}
	expect := func(f *iscsi.Fabric, want map[string]string) {
		t.Helper()
		if f != nil {
			m.SetFabric(*f)
		}
		resp, err := m.server.NodeGetStorageHealth(m.ctx(), &csi.NodeGetStorageHealthRequest{})
		ok(t, err)
		got := map[string]string{}
		for _, e := range resp.GetBackendHealth() {
			reason := e.GetStatus().String() + "/" + e.GetReason()
			if word, wanted := want[reason]; !wanted || !strings.Contains(e.GetMessage(), word) {
				t.Errorf("found %s: %s; want %q", reason, e.GetMessage(), word)
			}
			got[reason] = want[reason]
		}
		if diff := cmp.Diff(want, got, cmp.Options{}); diff != "" && len(want)+len(got) > 0 {
			t.Error(diff)
		}
	}
	expect(nil, nil)
	ok(t, a.stage(), b.stage(), c.stage())
	expect(nil, nil)

	live := func(v *volume, p netip.AddrPort) iscsi.Session {
		return iscsi.Session{IQN: v.target.IQN, Portal: p, State: "LOGGED_IN"}
	}
	failed := func(v *volume, p netip.AddrPort) iscsi.Session {
		return iscsi.Session{IQN: v.target.IQN, Portal: p, State: "FAILED"}
	}
	all := []iscsi.Session{live(a, one), live(a, two), live(b, one), live(b, two), live(c, far)}
	expect(&iscsi.Fabric{Sessions: all}, nil)
	expect(&iscsi.Fabric{Sessions: all, Unwatched: 2}, map[string]string{"STORAGE_DEGRADED/MultipathdDown": "2 multipath maps"})
	expect(&iscsi.Fabric{Sessions: all, Ready: iscsi.ErrNotReady}, map[string]string{"STORAGE_DEGRADED/InitiatorNotReady": "not ready"})
	expect(&iscsi.Fabric{Sessions: []iscsi.Session{failed(a, one), live(a, two), failed(b, one), live(b, two), live(c, far)}},
		map[string]string{"STORAGE_DEGRADED/PortalUnreachable": "to 10.0.0.1:3260 of array at 10.0.0.1:3260, 10.0.1.1:3260 with 2 volumes"})
	expect(&iscsi.Fabric{Sessions: []iscsi.Session{failed(a, one), failed(a, two), failed(b, one), live(c, far)}},
		map[string]string{"STORAGE_UNREACHABLE/ArrayUnreachable": "10.0.0.1:3260, 10.0.1.1:3260 with 2 volumes here"})
	expect(&iscsi.Fabric{Ready: iscsi.ErrNotReady}, map[string]string{
		"STORAGE_UNREACHABLE/InitiatorNotReady": "not ready", "STORAGE_UNREACHABLE/ArrayUnreachable": "10.9.0.1:3260 with 1 volumes here",
	})
	ok(t, os.WriteFile(filepath.Join(m.Config().RecordDir, "x.json"), []byte("{"), 0o600))
	expect(&iscsi.Fabric{Sessions: all}, map[string]string{"STORAGE_DEGRADED/RecordUnreadable": "x.json"})
}

func TestFilesystemErrorsAreReadFromSysfs(t *testing.T) {
	root := t.TempDir()
	for path, content := range map[string]string{
		"devices/virtual/block/dm-3/dev": "253:3\n", "fs/ext4/dm-3/errors_count": "2\n", "fs/ext4/dm-3/last_error_time": "1700000000\n",
		"fs/ext4/dm-3/last_error_func": "ext4_iget\n", "fs/ext4/dm-3/last_error_errcode": "5\n",
	} {
		path = filepath.Join(root, path)
		ok(t, os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte(content), 0o600))
	}
	ok(t, os.MkdirAll(filepath.Join(root, "dev/block"), 0o750), os.Symlink(filepath.Join(root, "devices/virtual/block/dm-3"), filepath.Join(root, "dev/block/253:3")))
	devices := node.NewDevices(root)
	got, err := devices.FilesystemErrors("ext4", node.Number{Major: 253, Minor: 3})
	ok(t, err)
	want := node.FilesystemErrors{Count: 2, Corrupt: true, Where: "ext4_iget", Time: time.Unix(1700000000, 0)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err := devices.FilesystemErrors("xfs", node.Number{Major: 253, Minor: 3}); err != nil || got.Count != 0 {
		t.Errorf("xfs: got %+v, %v", got, err)
	}
	if _, err := devices.FilesystemErrors("ext4", node.Number{Major: 253, Minor: 4}); err == nil {
		t.Error("a device that is not there has no errors, it is said")
	}
}
