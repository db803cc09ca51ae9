package iscsi_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

func detach(tb testing.TB, i *iscsi.Initiator, target iscsi.Target) {
	tb.Helper()
	if err := i.Detach(tb.Context(), target); err != nil {
		tb.Fatalf("detach: %v", err)
	}
}

// wantNothingLeft asserts that Detach leaves nothing and that a repeat does nothing.
func wantNothingLeft(t *testing.T, h *host, i *iscsi.Initiator) {
	t.Helper()
	if left := h.left(); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	h.forget()
	detach(t, i, targetA())
	if ran := h.ran(); len(ran) > 0 {
		t.Errorf("the repeat ran %q, want nothing", ran)
	}
}

// wantRefused asserts that Detach answers an error of that kind which names something,
// and takes nothing away.
func wantRefused(t *testing.T, h *host, i *iscsi.Initiator, kind error, names string) {
	t.Helper()
	before := h.left()
	if err := i.Detach(t.Context(), targetA()); !errors.Is(err, kind) || !strings.Contains(err.Error(), names) {
		t.Errorf("err = %v, want %v naming %q", err, kind, names)
	}
	if diff := cmp.Diff(before, h.left()); diff != "" {
		t.Errorf("touched: %s", diff)
	}
}

func TestDetachLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*host){
		"single":             func(*host) {},
		"map":                func(h *host) { h.runMultipathd() },
		"map without daemon": func(h *host) { h.runMultipathd(); h.after["multipath -a"] = func() {} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			prepare(h)
			i := h.initiator()
			attach(t, i, targetA())
			if name == "map without daemon" {
				h.remove("proc/4711")
			}
			detach(t, i, targetA())
			wantNothingLeft(t, h, i)
		})
	}
}

func TestDetachOfNothingRunsNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	detach(t, h.initiator(), targetA())
	if ran := h.ran(); len(ran) > 0 {
		t.Errorf("ran %q", ran)
	}
}

// FM 21: flush while paths live, then the map, the paths, the sessions, and the
// records last.
func TestDetachOrder(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	h.forget()
	var mu sync.Mutex
	var order []string
	note := func(what string, then func()) func() {
		return func() {
			mu.Lock()
			order = append(order, what)
			mu.Unlock()
			then()
		}
	}
	nothing := func() {}
	h.after["del map"] = note("del map", func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !slices.Contains(h.writes, "flush /dev/dm-0") {
			t.Error("the map was removed before it was flushed")
		}
	})
	h.after["/delete 1"] = note("delete path", nothing)
	h.after["--logout"] = note("logout", func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if got := len(h.glob("etc/iscsi/nodes/*/*")); got != 2 {
			t.Errorf("%d records are left when the sessions have just ended, want 2", got)
		}
	})
	detach(t, i, targetA())
	if diff := cmp.Diff([]string{"del map", "delete path", "logout"}, order); diff != "" {
		t.Error(diff)
	}
	wantNothingLeft(t, h, i)
}

// FM 3 and FM 13: what is in use stays, and the error says who uses it.
func TestDetachRefusesADeviceInUse(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		use   func(*host)
		names string
	}{
		"mounted on the host":   {func(h *host) { h.mount("8:16", "/", "/data", "xfs", "/dev/sdb") }, "/data"},
		"partition mounted":     {func(h *host) { h.addPartition("sdb", "8:17"); h.mount("8:17", "/", "/part", "ext4", "/dev/sdb1") }, "/part"},
		"btrfs, by name":        {func(h *host) { h.mount("0:77", "/", "/btr\\040fs", "btrfs", "/dev/sdb") }, "/btr fs"},
		"block volume of a pod": {func(h *host) { h.mount("0:5", "/sdb", "/pods/block", "devtmpfs", "devtmpfs") }, "/pods/block"},
		"part of another device": {func(h *host) {
			h.write("sys/devices/platform/host1/session1/target1:0:0/1:0:0:0/block/sdb/holders/dm-9/x", "")
		}, "dm-9"},
		"mounted where nobody looks": {func(h *host) { h.claimed["sdb"] = true }, "sdb"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			i := h.initiator()
			attach(t, i, targetA())
			tt.use(h)
			h.forget()
			wantRefused(t, h, i, iscsi.ErrBusy, tt.names)
			if len(h.ran()) > 0 {
				t.Errorf("ran %q", h.ran())
			}
		})
	}
}

// FM 3: that nobody has claimed another device proves nothing of ours.
func TestDetachClaimsTheDeviceItself(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, h *host) {
		i := h.initiator()
		name := filepath.Base(attach(t, i, targetA()).Path)
		h.strange[name] = true
		before := h.left()
		if err := i.Detach(t.Context(), targetA()); err == nil || !strings.Contains(err.Error(), "is block device 8:99") {
			t.Errorf("err = %v, want it to name the other device", err)
		}
		if diff := cmp.Diff(before, h.left()); diff != "" {
			t.Errorf("touched: %s", diff)
		}
		delete(h.strange, name)
		detach(t, i, targetA())
		wantNothingLeft(t, h, i)
	})
}

// A raw block volume that got a partition table: udev lays maps over the
// partitions, which go with the volume unless something uses one of them.
func TestDetachTakesUnusedPartitionMapsAlong(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	part := h.addPartitionMap(iscsi.LIOWWID(targetA().Serial))
	h.claimed[part] = true
	if err := i.Detach(t.Context(), targetA()); !errors.Is(err, iscsi.ErrBusy) || !strings.Contains(err.Error(), part) {
		t.Errorf("err = %v, want ErrBusy naming %s", err, part)
	}
	delete(h.claimed, part)
	h.mount("253:1", "/", "/part", "ext4", "/dev/mapper/x-part1")
	if err := i.Detach(t.Context(), targetA()); !errors.Is(err, iscsi.ErrBusy) || !strings.Contains(err.Error(), "/part") {
		t.Errorf("err = %v, want ErrBusy naming the mount", err)
	}
	h.write("proc/self/mountinfo", "")
	h.write("proc/1/mountinfo", "")
	detach(t, i, targetA())
	if !slices.ContainsFunc(h.writes, func(w string) bool { return strings.HasSuffix(w, "/"+part) }) {
		t.Errorf("%s was not written out: %q", part, h.writes)
	}
	wantNothingLeft(t, h, i)
}

func (h *host) addPartition(disk, dev string) {
	dir := h.diskDir(disk) + "/block/" + disk + "/" + disk + "1/"
	h.write(dir+"partition", "1\n")
	h.write(dir+"dev", dev+"\n")
}

// FM 3: a session that also carries another LUN stays, and so do the records.
func TestDetachKeepsASharedSession(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	h.luns[iqnA][7] = lun{serialB, gib}
	i := h.initiator()
	attach(t, i, targetA())
	other := targetA()
	other.LUN, other.Serial = 7, serialB
	want := attach(t, i, other)

	detach(t, i, targetA())
	if _, err := i.Find(t.Context(), targetA()); !errors.Is(err, iscsi.ErrNotAttached) {
		t.Errorf("find: err = %v, want ErrNotAttached", err)
	}
	got, err := i.Find(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if records := h.glob("etc/iscsi/nodes/" + iqnA + "/*"); len(records) != len(portals()) {
		t.Errorf("records %q are left; without one a session that is lost does not come back", records)
	}
	if len(h.ran("--logout")) > 0 || len(h.ran("-o delete")) > 0 {
		t.Errorf("ran %q", h.ran())
	}
	detach(t, i, other)
	wantNothingLeft(t, h, i)
}

// FM 5 and FM 19: every state that a crash, a reboot or an outage may leave.
func TestDetachFromEveryHalfState(t *testing.T) {
	t.Parallel()
	for name, half := range map[string]func(*host){
		"a record and no session": func(h *host) {
			attach(h.t, h.initiator(), targetA())
			for _, s := range h.glob("sys/class/iscsi_session/session*") {
				h.logOut(strings.TrimPrefix(s, "sys/class/iscsi_session/session"))
			}
		},
		"a session and no disk": func(h *host) {
			h.newRecord(iqnA, "172.28.0.9:3260")
			h.addSession(iqnA, portals()[0])
		},
		"a session and no record": func(h *host) {
			attach(h.t, h.initiator(), targetA())
			h.remove("etc/iscsi/nodes")
		},
		"an unreadable record": func(h *host) {
			attach(h.t, h.initiator(), targetA())
			h.write(recordPath(iqnA, "172.28.0.9:3260"), "")
		},
		"a record in a directory": func(h *host) {
			h.write("var/lib/iscsi/nodes/"+iqnA+"/172.28.0.9,3260,1/default", "")
		},
		"paths and no map": func(h *host) {
			for _, p := range portals() {
				h.newRecord(iqnA, p.String())
				h.addDisk(h.addSession(iqnA, p), 0, h.luns[iqnA][0])
			}
		},
		"a map and no path": func(h *host) {
			h.runMultipathd()
			h.addToMap(wwidA, "")
		},
		"a suspended map": func(h *host) {
			h.runMultipathd()
			attach(h.t, h.initiator(), targetA())
			h.write("sys/block/dm-0/dm/suspended", "1\n")
		},
		"a suspended map and no path": func(h *host) {
			h.runMultipathd()
			h.addToMap(wwidA, "")
			h.write("sys/block/dm-0/dm/suspended", "1\n")
		},
		"a dead session": func(h *host) {
			attach(h.t, h.initiator(), targetA())
			h.fail(iqnA, portals()[0])
		},
		"all paths of a map dead": func(h *host) {
			h.runMultipathd()
			attach(h.t, h.initiator(), targetA())
			for _, p := range portals() {
				h.fail(iqnA, p)
			}
		},
		"one session of two": func(h *host) {
			h.runMultipathd()
			attach(h.t, h.initiator(), targetA())
			h.logOut("1")
		},
		"a session to a portal that is no more": func(h *host) {
			h.addSession(iqnA, portals()[0])
			h.write("sys/class/iscsi_connection/connection1:0/persistent_address", "10.9.9.9\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			half(h)
			i := h.initiator()
			detach(t, i, targetA())
			wantNothingLeft(t, h, i)
		})
	}
}

// FM 21: what is queued in a map without paths must fail, on this one map.
func TestDetachWithoutLivePathDoesNotFlush(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	for _, p := range portals() {
		h.fail(iqnA, p)
	}
	h.forget()
	detach(t, i, targetA())
	if len(h.ran("disablequeueing map "+wwidA)) != 1 {
		t.Errorf("ran %q, want queueing disabled on this one map", h.ran())
	}
	if slices.ContainsFunc(h.writes, func(w string) bool { return strings.HasPrefix(w, "flush") || strings.HasSuffix(w, "delete 1") }) {
		t.Errorf("wrote %q: each of these would wait for the dead target", h.writes)
	}
}

// FM 21: somebody has the map open, and what he wrote waits in it for a path. It is
// not dropped while the array may come back, whether its sessions are down or gone: only
// when the map stops to queue, when he is gone, or when the array says that it would not
// take it.
func TestWhatWaitsForAPathIsNotDropped(t *testing.T) {
	t.Parallel()
	lost := map[string]func(*host){
		"sessions down": func(h *host) {
			for _, p := range portals() {
				h.fail(iqnA, p)
			}
		},
		"sessions gone": func(h *host) {
			h.claimed["dm-0"] = true // so that multipathd lets the map be
			h.logOutAll(iqnA)
			delete(h.claimed, "dm-0")
		},
	}
	for name, free := range map[string]func(*host, *iscsi.Target){
		"the map stops to queue": func(h *host, _ *iscsi.Target) { h.queueing = false },
		"he is gone":             func(h *host, _ *iscsi.Target) { h.opens = 0 },
		"the array refuses": func(h *host, target *iscsi.Target) {
			refusal := make([]byte, 48)
			refusal[0], refusal[36], refusal[37] = 0x23, 2, 2
			target.Portals = []netip.AddrPort{serveLogin(h.t.(*testing.T), refusal)}
		},
	} {
		for how, lose := range lost {
			t.Run(how+", "+name, func(t *testing.T) {
				t.Parallel()
				h, i := attachedHost(t)
				lose(h)
				h.queueing, h.opens = true, 1
				before, target := h.left(), targetA()
				target.Portals = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")} // nobody answers
				h.forget()
				if err := i.Detach(t.Context(), target); !errors.Is(err, iscsi.ErrBusy) {
					t.Errorf("err = %v, want ErrBusy", err)
				}
				if diff := cmp.Diff(before, h.left()); diff != "" || len(h.ran()) > 0 || !h.queueing {
					t.Errorf("ran %q, it still waits: %v, changed:\n%s", h.ran(), h.queueing, diff)
				}
				h.t = t
				free(h, &target)
				detach(t, i, target)
				wantNothingLeft(t, h, i)
			})
		}
	}
}

// FM 21: he has only a partition of the map open. Its map has the other one open, which
// is nobody who waits.
func TestWhatWaitsInAPartitionIsNotDropped(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	for _, p := range portals() {
		h.fail(iqnA, p)
	}
	h.addPartitionMap(wwidA)
	h.queueing, h.opens, h.partOpens = true, 1, 1
	target := targetA()
	target.Portals = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")} // nobody answers
	before := h.left()
	h.forget()
	if err := i.Detach(t.Context(), target); !errors.Is(err, iscsi.ErrBusy) || !strings.Contains(err.Error(), "no path leads to map dm-0") {
		t.Errorf("err = %v, want ErrBusy naming the map", err)
	}
	if diff := cmp.Diff(before, h.left()); diff != "" || len(h.ran()) > 0 || !h.queueing {
		t.Errorf("ran %q, it still waits: %v, changed:\n%s", h.ran(), h.queueing, diff)
	}
	h.partOpens = 0
	detach(t, i, target)
	wantNothingLeft(t, h, i)
}

// FM 21: a dead device cannot be opened, so it can be claimed by nobody any more either,
// and goes. That this process may not open it says nothing of others.
func TestADeadDeviceIsUnclaimed(t *testing.T) {
	t.Parallel()
	for errno, goes := range map[syscall.Errno]bool{
		syscall.EIO: true, syscall.ENOMEDIUM: true, syscall.ENXIO: true, syscall.ENODEV: true,
		syscall.EACCES: false, syscall.EPERM: false, syscall.ENOMEM: false,
	} {
		t.Run(errno.Error(), func(t *testing.T) {
			t.Parallel()
			eachKind(t, func(t *testing.T, h *host) {
				i := h.initiator()
				d := attach(t, i, targetA())
				for _, path := range d.Paths {
					h.write(h.diskDir(filepath.Base(path))+"/state", "transport-offline\n")
				}
				h.dead[filepath.Base(d.Path)] = errno
				if !goes {
					wantRefused(t, h, i, errno, d.Path)
					return
				}
				detach(t, i, targetA())
				wantNothingLeft(t, h, i)
			})
		})
	}
}

// FM 21: while the kernel does not say whether somebody waits for the map, it stays. A
// question that somebody else has asked is waited for.
func TestAMapOfWhichTheKernelDoesNotTellStays(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	for _, p := range portals() {
		h.fail(iqnA, p)
	}
	h.queueing = true
	h.forget()
	h.hang("table")
	go func() { _, _ = i.Condition(t.Context(), targetA()) }() // asks too
	wantRefused(t, h, i, iscsi.ErrUnavailable, "dm-0")
	if len(h.ran()) > 0 {
		t.Errorf("ran %q", h.ran())
	}
	h.recover("table")
	detach(t, i, targetA())
	wantNothingLeft(t, h, i)
}

// FM 21: the only path of a raw volume is lost, and a process still has dirty pages in
// it. As long as the kernel waits for the session, its end would drop them.
func TestTheOnlyPathThatIsWaitedForStays(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	disk := filepath.Base(attach(t, i, targetA()).Path)
	h.fail(iqnA, portals()[0])
	h.write(h.diskDir(disk)+"/state", "blocked\n")
	h.forget()
	h.hang(disk)
	for range 2 {
		wantRefused(t, h, i, iscsi.ErrUnavailable, "flush")
	}
	if len(h.ran()) > 0 {
		t.Errorf("ran %q", h.ran())
	}
	h.write(h.diskDir(disk)+"/state", "transport-offline\n")
	h.recover(disk) // what was to be written has failed
	detach(t, i, targetA())
	wantNothingLeft(t, h, i)
}

// FM 21: multipathd lays a map while the disks go. It goes too, or the error says what
// keeps it, and so does a repeat.
func TestAMapThatAppearsWhileItsDisksGoIsRemoved(t *testing.T) {
	t.Parallel()
	for name, used := range map[string]bool{"unused": false, "in use": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, i := attachedHost(t)
			h.after["/delete 1"] = func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.claimed[h.addToMap(wwidA, "")] = used
			}
			if used {
				for range 2 {
					if err := i.Detach(t.Context(), targetA()); !errors.Is(err, iscsi.ErrBusy) || !strings.Contains(err.Error(), "dm-1") {
						t.Errorf("err = %v, want ErrBusy naming dm-1", err)
					}
				}
				delete(h.claimed, "dm-1")
			}
			detach(t, i, targetA())
			wantNothingLeft(t, h, i)
		})
	}
}

// FM 21: with data at risk, nothing is taken away.
func TestFlushThatHangsIsAnErrorAndNothingIsRemoved(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	h.hang("dm-0")
	start := time.Now()
	wantRefused(t, h, i, iscsi.ErrUnavailable, "")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

// FM 21: what a flush that hangs holds is held by us: once the sessions have failed, the
// detach goes on.
func TestDetachAfterAFlushThatHangs(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t, func(c *iscsi.Config) { c.MapTimeout = 20 * time.Second })
	h.hang("dm-0")
	if err := i.Detach(t.Context(), targetA()); !errors.Is(err, iscsi.ErrUnavailable) {
		t.Fatalf("err = %v, want ErrUnavailable", err)
	}
	for _, p := range portals() {
		h.fail(iqnA, p)
	}
	h.after["disablequeueing"] = func() { h.recover("dm-0") } // what is queued fails
	detach(t, i, targetA())
	wantNothingLeft(t, h, i)
}

// FM 21: the network died and nobody has noticed yet; a flush would sit in the kernel.
func TestNothingIsFlushedIntoSilence(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	h.hang("sdb")
	h.hang("sdc")
	h.forget()
	for range 2 {
		wantRefused(t, h, i, iscsi.ErrUnavailable, "")
	}
	if len(h.ran()) > 0 || len(h.writes) > 0 {
		t.Errorf("ran %q, wrote %q", h.ran(), h.writes)
	}
}

// FM 3, 21: the kernel does not say that a disk without a map is open.
func TestADiskThatAProgramHasOpenIsKept(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	d := attach(t, i, targetA())
	dev := h.read("sys/block/" + filepath.Base(d.Path) + "/dev")
	for _, writes := range []bool{true, false} {
		h.opened = map[string][]iscsi.Opener{dev: {iscsi.NewOpener("process 4712 qemu-system-x86", writes)}}
		wantRefused(t, h, i, iscsi.ErrBusy, "is open in process 4712 qemu-system-x86")
	}
	h.opened = nil
	detach(t, i, targetA())
	wantNothingLeft(t, h, i)
}

// FM 13, 21: multipathd has every path open that it watches, and makes the map in its own
// time; a stage that was refused meanwhile takes all down at once.
func TestADiskThatMultipathdLooksIntoGoes(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	d := attach(t, i, targetA())
	dev := h.read("sys/block/" + filepath.Base(d.Path) + "/dev")
	h.opened = map[string][]iscsi.Opener{dev: {iscsi.NewKeeper("process 119 multipathd"), iscsi.NewOpener("process 4712 dd", false)}}
	wantRefused(t, h, i, iscsi.ErrBusy, "is open in process 4712 dd")
	h.opened = map[string][]iscsi.Opener{dev: {iscsi.NewKeeper("process 119 multipathd")}}
	detach(t, i, targetA())
	wantNothingLeft(t, h, i)
}

// mapAppears is a host with a disk of targetA that multipathd and others have open, and
// over which it lays a map as soon as somebody looks who has.
func mapAppears(t *testing.T, others ...iscsi.Opener) (h *host, i *iscsi.Initiator, disk string) {
	t.Helper()
	h = newHost(t)
	i = h.initiator()
	disk = filepath.Base(attach(t, i, targetA()).Path)
	h.opened = map[string][]iscsi.Opener{h.read("sys/block/" + disk + "/dev"): append(others, iscsi.NewKeeper("process 4711 multipathd"))}
	h.meanwhile = func() {
		h.runMultipathd().takeUp(disk)
		h.claimed[disk] = true
	}
	return h, i, disk
}

// FM 13, 21: the map comes while the disk is looked at.
func TestAMapThatAppearsDuringADetachGoes(t *testing.T) {
	t.Parallel()
	h, i, _ := mapAppears(t)
	detach(t, i, targetA())
	wantNothingLeft(t, h, i)
}

// FM 3, 21: a program opened the disk for writing before the map came over it. The map
// does not count it, and what it writes after the disk is gone would be dropped.
func TestADiskThatIsWrittenUnderAMapThatAppearsStays(t *testing.T) {
	t.Parallel()
	h, i, disk := mapAppears(t, iscsi.NewOpener("process 4712 writer", true))
	if err := i.Detach(t.Context(), targetA()); !errors.Is(err, iscsi.ErrBusy) || !strings.Contains(err.Error(), "is open in process 4712 writer") {
		t.Errorf("err = %v, want ErrBusy naming the writer", err)
	}
	wantRefused(t, h, i, iscsi.ErrBusy, "is open in process 4712 writer")
	if len(h.glob("sys/block/dm-0/slaves/"+disk)) != 1 {
		t.Errorf("left %v, want the map over its disk", h.left())
	}
	h.opened, h.meanwhile = nil, nil
	detach(t, i, targetA())
	wantNothingLeft(t, h, i)
}

// FM 3, 21: the same where the map was there all the time, whichever path it is. Who only
// reads a path does not keep it, and all paths cost one look.
func TestAPathThatIsWrittenBesideItsMapStays(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	for _, path := range []string{"sdb", "sdc"} {
		h.opened = map[string][]iscsi.Opener{h.read("sys/block/" + path + "/dev"): {iscsi.NewOpener("process 4712 writer", true)}}
		h.forget()
		wantRefused(t, h, i, iscsi.ErrBusy, "is open in process 4712 writer")
		if len(h.ran()) > 0 {
			t.Errorf("ran %q", h.ran())
		}
	}
	looks := 0
	h.opened = map[string][]iscsi.Opener{h.read("sys/block/sdc/dev"): {iscsi.NewOpener("process 4713 reader", false)}}
	h.meanwhile = func() { looks++ }
	detach(t, i, targetA())
	if looks != 1 {
		t.Errorf("looked %d times at all processes, want 1", looks)
	}
	wantNothingLeft(t, h, i)
}

// FM 21: udev reads a disk whose session has just been lost, and waits for as long as the
// kernel does.
func TestADeadDiskThatIsOnlyReadGoes(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	d := attach(t, i, targetA())
	dev := h.read("sys/block/" + filepath.Base(d.Path) + "/dev")
	h.write(h.diskDir(filepath.Base(d.Path))+"/state", "transport-offline\n")
	h.opened = map[string][]iscsi.Opener{dev: {iscsi.NewOpener("process 4712 writer", true)}}
	wantRefused(t, h, i, iscsi.ErrBusy, "process 4712 writer")
	h.opened = map[string][]iscsi.Opener{dev: {iscsi.NewOpener("process 4713 (udev-worker)", false)}}
	detach(t, i, targetA())
	wantNothingLeft(t, h, i)
}

// FM 21: a path that has just died says so after ten seconds, and another answers at once.
func TestADetachDoesNotWaitForASilentPath(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t, func(c *iscsi.Config) { c.DiskTimeout = time.Minute })
	h.hang("sdb")
	began := time.Now()
	detach(t, i, targetA())
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

// FM 21: udev, blkid or LVM look into a map for a moment.
func TestMapThatIsBusyForAMoment(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t, func(c *iscsi.Config) { c.MapTimeout = 5 * time.Second })
	h.exits["del map"] = 1
	detach(t, i, targetA())
	if got := len(h.ran("del map")); got != 2 {
		t.Errorf("%d attempts, want 2", got)
	}
	wantNothingLeft(t, h, i)
}

// FM 21c: a failed removal may leave the map suspended; whoever touches it then
// waits for ever.
func TestMapLeftSuspendedByItsRemovalIsResumed(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t, func(c *iscsi.Config) { c.MapTimeout = 5 * time.Second })
	h.exits["del map"] = 1
	h.after["del map"] = func() { h.write("sys/block/dm-0/dm/suspended", "1\n") }
	detach(t, i, targetA())
	if len(h.ran("resume map "+wwidA)) != 1 {
		t.Errorf("ran %q, want the map resumed", h.ran())
	}
	wantNothingLeft(t, h, i)
}

// FM 21c: multipathd died, and multipath -f fails half way; only the kernel can resume.
func TestASuspendedMapIsResumedWithoutMultipathd(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t, func(c *iscsi.Config) { c.MapTimeout = 5 * time.Second })
	if err := os.RemoveAll(h.path("proc/4711")); err != nil {
		t.Fatal(err)
	}
	h.exits["multipath -f"] = 1
	h.after["multipath -f"] = func() { h.write("sys/block/dm-0/dm/suspended", "1\n") }
	detach(t, i, targetA())
	if len(h.ran("multipath -f")) != 2 {
		t.Errorf("ran %q, want the removal tried again", h.ran())
	}
	wantNothingLeft(t, h, i)
}

// FM 21c: nobody waits for a removal any more that was given up, and the map works.
func TestARemovalThatIsGivenUpLeavesNoSuspendedMap(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	h.exits["del map"] = 1
	h.after["del map"] = func() { h.write("sys/block/dm-0/dm/suspended", "1\n"); cancel() }
	if err := i.Detach(ctx, targetA()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if h.read("sys/block/dm-0/dm/suspended") != "0" {
		t.Error("the map is left suspended")
	}
}

func TestMapThatStaysBusyKeepsEverything(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t)
	h.after["flush"] = func() {}
	h.mu.Lock()
	h.exits["del map"] = 1
	h.mu.Unlock()
	again := func() {}
	again = func() { h.mu.Lock(); h.exits["del map"] = 1; h.after["del map"] = again; h.mu.Unlock() }
	h.after["del map"] = again
	wantRefused(t, h, i, iscsi.ErrBusy, wwidA)
}

// FM 3: the name of the map passes to another volume while we try.
func TestMapNameThatPassesToAnotherVolumeIsNotRemoved(t *testing.T) {
	t.Parallel()
	h, i := attachedHost(t, func(c *iscsi.Config) { c.MapTimeout = 5 * time.Second })
	h.exits["del map"] = 1
	h.after["del map"] = func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.removeMap("dm-0")
		h.maps = 0
		h.addToMap(wwidB, "")
	}
	detach(t, i, targetA())
	if got := len(h.ran("del map")); got != 1 {
		t.Errorf("%d removals of dm-0, want 1", got)
	}
	if got := h.read("sys/block/dm-0/dm/uuid"); got != "mpath-"+wwidB {
		t.Errorf("dm-0 is %q, want the other volume's map in peace", got)
	}
}

// FM 27: what a logout says and what is.
func TestLogoutExitCodes(t *testing.T) {
	t.Parallel()
	for _, code := range []int{2, 9, 10, 21, 22} {
		h := newHost(t)
		i := h.initiator()
		attach(t, i, targetA())
		h.exits["--logout"] = code
		h.after["--logout"] = func() { h.mu.Lock(); defer h.mu.Unlock(); h.logOut("1") } // somebody else was faster
		if err := i.Detach(t.Context(), targetA()); err != nil {
			t.Errorf("exit %d with the session gone: %v", code, err)
		}
		wantNothingLeft(t, h, i)
	}
	for _, code := range []int{2, 9, 10, 21, 22} {
		h := newHost(t)
		i := h.initiator(func(c *iscsi.Config) { c.LoginTimeout = 50 * time.Millisecond })
		attach(t, i, targetA())
		h.exits["--logout"] = code
		err := i.Detach(t.Context(), targetA())
		if !errors.Is(err, iscsi.ErrUnavailable) {
			t.Errorf("exit %d with the session alive: err = %v, want ErrUnavailable", code, err)
		}
		unknown := code == 2 || code == 21 || code == 22 // to iscsid, which takes up what it finds when it starts
		if err != nil && strings.Contains(err.Error(), "systemctl restart iscsid") != unknown {
			t.Errorf("exit %d with the session alive: %v: a wrong remedy", code, err)
		}
		if len(h.glob("etc/iscsi/nodes/*")) == 0 {
			t.Errorf("exit %d: the record went before the session", code)
		}
	}
}

// FM 37: iscsid was started anew and still takes up the sessions that it finds; until
// then it ends none (measured).
func TestLogoutWaitsForAnIscsidThatHasJustStarted(t *testing.T) {
	t.Parallel()
	for name, host := range map[string]*host{"one path": newHost(t), "multipath": newHost(t).runMultipathd()} {
		i := host.initiator()
		attach(t, i, targetA())
		host.exits["--logout"] = 32
		if err := i.Detach(t.Context(), targetA()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantNothingLeft(t, host, i)
	}
}

// FM 3 and FM 27: one iscsiadm ends all sessions of a target, but only when they all
// go; what it leaves is ended by number.
func TestSessionsThatEndTogether(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		before         func(*host)
		together, each int
	}{
		"all":               {func(*host) {}, 1, 0},
		"one has no record": {func(h *host) { h.remove(recordPath(iqnA, portals()[0].String())) }, 1, 1},
		"iscsiadm fails":    {func(h *host) { h.exits["-m node -T "+iqnA+" --logout"] = 9 }, 1, 2},
		"one carries another LUN": {func(h *host) {
			h.luns[iqnA][7] = lun{serialB, gib}
			if err := h.scan("1", "0 0 7"); err != nil {
				h.t.Fatal(err)
			}
		}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, i := attachedHost(t)
			tt.before(h)
			h.forget()
			detach(t, i, targetA())
			if got, each := len(h.ran("-m node", "--logout")), len(h.ran("-m session", "--logout")); got != tt.together || each != tt.each {
				t.Errorf("%d logouts of all and %d of one, want %d and %d: %q", got, each, tt.together, tt.each, h.ran())
			}
			if kept := tt.together == 0; !kept {
				wantNothingLeft(t, h, i)
			} else if got := h.glob("sys/class/iscsi_session/session*"); len(got) != 1 {
				t.Errorf("sessions %q are left, want the one with another LUN", got)
			}
		})
	}
}

// FM 3: another LUN comes to life on a session after its disk was removed, on the only
// one as on one of two, which end together.
func TestSessionThatGotAnotherLUNMeanwhileStays(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, h *host) {
		h.luns[iqnA][7] = lun{serialB, gib}
		i := h.initiator()
		attach(t, i, targetA())
		h.after["session1/target1:0:0/1:0:0:0/delete 1"] = func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			if err := h.scan("1", "0 0 7"); err != nil {
				t.Error(err)
			}
		}
		h.forget()
		if err := i.Detach(t.Context(), targetA()); !errors.Is(err, iscsi.ErrBusy) {
			t.Errorf("err = %v, want ErrBusy", err)
		}
		if ran := append(h.ran("session -r 1 "), h.ran("-m node", "--logout")...); len(ran) > 0 {
			t.Errorf("ran %q", ran)
		}
	})
}

func TestDetachWaitsForAnAttachOfTheSameTarget(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	begun, goOn := make(chan struct{}), make(chan struct{})
	h.after["--login"] = func() { close(begun); <-goOn }
	done := make(chan error)
	go func() { _, err := i.Attach(t.Context(), targetA(), nil); done <- err }()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := i.Detach(ctx, targetA()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v, want to have waited", err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	detach(t, i, targetA())
	wantNothingLeft(t, h, i)
}

// FM 27: what iscsiadm has begun is seen through, whoever leaves: killed, it leaves a
// lock that all others wait for, or half a record; and a login goes on in iscsid, so that
// its session would come to life after Detach looked.
func TestIscsiadmIsSeenThroughWhenTheCallerLeaves(t *testing.T) {
	t.Parallel()
	attachUntil := func(ctx context.Context, i *iscsi.Initiator) error {
		_, err := i.Attach(ctx, targetA(), nil)
		return err
	}
	detachUntil := func(ctx context.Context, i *iscsi.Initiator) error {
		if _, err := i.Attach(context.WithoutCancel(ctx), targetA(), nil); err != nil {
			return err
		}
		return i.Detach(ctx, targetA())
	}
	for at, tt := range map[string]struct {
		call     func(context.Context, *iscsi.Initiator) error
		sessions int // when it has returned
	}{
		"-o new":    {attachUntil, 0},
		"--login":   {attachUntil, 1},
		"--logout":  {detachUntil, 0},
		"-o delete": {detachUntil, 0},
	} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			// Somebody else's record with a link beside it, which only iscsiadm can delete.
			h.write("etc/iscsi/nodes/"+iqnA+"/172.30.0.9,3260,1/default", "node.name = "+iqnA+"\nnode.conn[0].address = 172.30.0.9\nnode.conn[0].port = 3260\n# END RECORD\n")
			i := h.initiator()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			h.after[at] = cancel
			if err := tt.call(ctx, i); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("err = %v, want canceled or none", err)
			}
			if ctx.Err() == nil || len(h.killed) > 0 {
				t.Errorf("killed %q of %q", h.killed, h.ran())
			}
			if got := len(h.glob("sys/class/iscsi_session/session*")); got != tt.sessions {
				t.Errorf("%d sessions, want %d", got, tt.sessions)
			}
			detach(t, i, targetA())
			wantNothingLeft(t, h, i)
		})
	}
}

// FM 27: another process of this host changes the node records, and is waited for.
func TestNodeRecordsAreChangedByOneAtATime(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	i := h.initiator()
	lock, err := os.OpenFile(h.path("run/lock/iscsi-node-records.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	hold := func(how int) {
		t.Helper()
		if err := syscall.Flock(int(lock.Fd()), how); err != nil {
			t.Fatal(err)
		}
	}
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	hold(syscall.LOCK_EX)
	if _, err := i.Attach(soon(), targetA(), nil); err == nil || len(h.ran("-o new")) > 0 {
		t.Errorf("attach: err = %v, want to have waited; ran %q", err, h.ran())
	}
	hold(syscall.LOCK_UN)
	attach(t, i, targetA())
	hold(syscall.LOCK_EX)
	if err := i.Detach(soon(), targetA()); err == nil || len(h.glob("etc/iscsi/nodes/*/*")) != 1 {
		t.Errorf("detach: err = %v, want to have waited; left %q", err, h.left())
	}
	hold(syscall.LOCK_UN)
	detach(t, i, targetA())
	wantNothingLeft(t, h, i)
}
