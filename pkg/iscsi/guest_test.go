//go:build e2e

package iscsi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// The tests named TestGuest run as root in a guest that is both array and
// worker: test/e2e starts them there with ISCSI_GUEST set. They change the
// kernel's target, open-iscsi's records and multipath's configuration.

// guest is the machine the test runs on, with its array in the kernel.
type guest struct {
	t         *testing.T
	initiator string
	portals   []netip.AddrPort
	commands  *recording
}

// recording is the real Runner, with a memory.
type recording struct {
	iscsi.Runner
	mu   sync.Mutex
	argv []string
}

func (r *recording) Run(ctx context.Context, argv ...string) ([]byte, error) {
	r.mu.Lock()
	r.argv = append(r.argv, strings.Join(argv, " "))
	r.mu.Unlock()
	start := time.Now()
	out, err := r.Runner.Run(ctx, argv...)
	if testing.Verbose() {
		fmt.Printf("        %5.2f s  %s: %v\n", time.Since(start).Seconds(), strings.Join(argv, " "), err)
	}
	return out, err
}

func (r *recording) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.argv, "\n")
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	if os.Getenv("ISCSI_GUEST") == "" {
		t.Skip("changes the kernel; runs in a guest of test/e2e")
	}
	g := &guest{t: t, commands: &recording{Runner: iscsi.Direct()}}
	name, err := iscsi.New(iscsi.Config{}).Name()
	if err != nil {
		t.Fatal(err)
	}
	g.initiator = name
	for _, nic := range []string{"eth0", "eth1"} {
		i, err := net.InterfaceByName(nic)
		if err != nil {
			t.Fatal(err)
		}
		addrs, err := i.Addrs()
		if err != nil || len(addrs) == 0 {
			t.Fatalf("%s has no address: %v", nic, err)
		}
		g.portals = append(g.portals, netip.AddrPortFrom(netip.MustParsePrefix(addrs[0].String()).Addr(), 3260))
	}
	g.sh(`modprobe -a target_core_file iscsi_target_mod iscsi_tcp dm_multipath dm_round_robin dm_service_time dm_queue_length
mkdir -p /sys/kernel/config/target/iscsi /m; pgrep -x iscsid || iscsid; for i in $(seq 100); do grep -q ISCSIADM /proc/net/unix && break; sleep 0.1; done`)
	g.stopMultipathd()
	t.Cleanup(func() {
		g.try("umount -q /m; nft flush ruleset; iscsiadm -m session -u")
		g.stopMultipathd()
		g.try("rm -rf /etc/iscsi/nodes /root/*.img")
	})
	return g
}

// sh runs a script that must succeed.
func (g *guest) sh(script string) string {
	g.t.Helper()
	out, err := exec.Command("bash", "-ec", script).CombinedOutput()
	if err != nil {
		g.t.Fatalf("%s: %v: %s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

// try runs a script whose outcome does not matter.
func (g *guest) try(script string) { _ = exec.Command("bash", "-c", script).Run() }

func (g *guest) stopMultipathd() {
	g.try("multipathd shutdown; for i in $(seq 50); do pgrep -x multipathd >/dev/null || break; sleep 0.1; done; multipath -F; rm -f /etc/multipath.conf /etc/multipath/wwids")
}

func (g *guest) startMultipathd(conf string) {
	g.t.Helper()
	if conf != "" {
		if err := os.WriteFile("/etc/multipath.conf", []byte(conf), 0o600); err != nil {
			g.t.Fatal(err)
		}
	}
	g.sh("multipathd; for i in $(seq 100); do multipathd show status >/dev/null 2>&1 && break; sleep 0.1; done; multipathd show status")
}

const greedyConf = `defaults {
  user_friendly_names yes
  find_multipaths no
  no_path_retry queue
}
blacklist {
  devnode "^(vd|loop|sr)"
}
`

func (g *guest) newInitiator(changes ...func(*iscsi.Config)) *iscsi.Initiator {
	cfg := iscsi.Config{Host: g.commands}
	for _, change := range changes {
		change(&cfg)
	}
	return iscsi.New(cfg)
}

// target is one target of the kernel.
type target struct {
	*guest
	iscsi.Target
	dir     string
	volumes []string
}

const configfs = "/sys/kernel/config/target/"

// export makes a target with one LUN and admits this guest.
func (g *guest) export(name, serial string, bytes int64) *target {
	g.t.Helper()
	iqn := "iqn.2013-05.com.daterainc:tc:01:sn:" + name
	x := &target{guest: g, dir: configfs + "iscsi/" + iqn + "/tpgt_1", Target: iscsi.Target{IQN: iqn, Portals: g.portals, Serial: serial, Bytes: bytes}}
	g.t.Cleanup(x.remove)
	x.backstore(name, serial, bytes)
	x.mapLUN(0, name)
	x.sh(fmt.Sprintf("cd %s; for p in %s %s; do mkdir np/$p; done; echo 0 > attrib/authentication; echo 0 > attrib/generate_node_acls; echo 1 > enable",
		x.dir, g.portals[0], g.portals[1]))
	x.admit()
	return x
}

// backstore makes a volume as a Datera array shows it.
func (x *target) backstore(name, serial string, bytes int64) {
	x.t.Helper()
	x.sh(fmt.Sprintf(`truncate -s %d /root/%s.img; d=%score/fileio_0/%s; mkdir -p $d
echo -n fd_dev_name=/root/%s.img,fd_dev_size=%d > $d/control
echo -n DATERA > $d/wwn/vendor_id; echo -n IBLOCK > $d/wwn/product_id; echo -n 4.0 > $d/wwn/revision; echo -n %s > $d/wwn/vpd_unit_serial; echo 1 > $d/enable`,
		bytes, name, configfs, name, name, bytes, serial))
	x.volumes = append(x.volumes, name)
}

// mapLUN shows a volume as LUN n.
func (x *target) mapLUN(n int, backstore string) {
	x.t.Helper()
	x.sh(fmt.Sprintf("mkdir -p %[1]s/lun/lun_%[2]d; ln -s %[3]score/fileio_0/%[4]s %[1]s/lun/lun_%[2]d/dev", x.dir, n, configfs, backstore))
}

func (x *target) admitLUN(n int) {
	x.sh(fmt.Sprintf("a=%[1]s/acls/%[2]s; mkdir -p $a/lun_%[3]d; ln -s %[1]s/lun/lun_%[3]d $a/lun_%[3]d/map", x.dir, x.initiator, n))
}

func (x *target) admit() { x.admitLUN(0) }

func (x *target) revoke() {
	x.try(fmt.Sprintf("a=%s/acls/%s; for l in $a/lun_*; do rm -f $l/map; rmdir $l; done; rmdir $a", x.dir, x.initiator))
}

// swap gives LUN 0 to another volume while sessions live.
func (x *target) swap(backstore string) {
	x.t.Helper()
	x.sh(fmt.Sprintf("rm %[1]s/acls/%[2]s/lun_0/map; rm %[1]s/lun/lun_0/dev; ln -s %[3]score/fileio_0/%[4]s %[1]s/lun/lun_0/dev; ln -s %[1]s/lun/lun_0 %[1]s/acls/%[2]s/lun_0/map",
		x.dir, x.initiator, configfs, backstore))
}

func (x *target) grow(backstore string, bytes int64) {
	x.t.Helper()
	x.sh(fmt.Sprintf("truncate -s %[1]d /root/%[2]s.img; echo -n fd_dev_size=%[1]d > %[3]score/fileio_0/%[2]s/control", bytes, backstore, configfs))
}

func (x *target) remove() {
	x.try(fmt.Sprintf("echo 0 > %s/enable", x.dir))
	x.revoke()
	x.try(fmt.Sprintf("cd %s; rmdir np/*; for l in lun/lun_*; do rm -f $l/dev; rmdir $l; done; cd ..; rmdir tpgt_1; cd ..; rmdir %s", x.dir, x.IQN))
	for _, v := range x.volumes {
		x.try("rmdir " + configfs + "core/fileio_0/" + v)
	}
}

// drop makes the network to a portal lose everything.
func (g *guest) drop(p netip.AddrPort) {
	g.t.Helper()
	g.sh(fmt.Sprintf("nft add table inet f; nft add chain inet f in '{ type filter hook input priority 0; }'; nft add rule inet f in ip daddr %s tcp dport %d drop", p.Addr(), p.Port()))
}

// nothing asserts that no trace of any target is left.
func (g *guest) nothing() {
	g.t.Helper()
	if got := g.sh("ls -d /sys/class/iscsi_session/* /sys/block/sd* /sys/block/dm-* /etc/iscsi/nodes/* /etc/iscsi/.node* 2>/dev/null || :"); got != "" {
		g.t.Errorf("left:\n%s", got)
	}
}

// timed reports how long a step took.
func (g *guest) timed(what string, fn func()) {
	start := time.Now()
	fn()
	g.t.Logf("%s: %.2f s", what, time.Since(start).Seconds())
}

const (
	uuidA = "0c0ffee0-1111-2222-3333-444455556666"
	uuidB = "5eed5eed-aaaa-bbbb-cccc-0123456789ab"
	mib   = int64(1) << 20
)

func TestGuestSinglePath(t *testing.T) {
	g := newGuest(t)
	x := g.export("single", uuidA, 512*mib)
	x.backstore("stranger", uuidB, 64*mib)
	x.mapLUN(1, "stranger")
	x.admitLUN(1)
	i := g.newInitiator()
	var d iscsi.Device
	for round := range 3 {
		g.timed("attach", func() { d = attach(t, i, x.Target) })
		want := iscsi.Device{Path: d.Path, WWID: iscsi.LIOWWID(uuidA), Paths: []string{d.Path}, Bytes: 512 * mib}
		if diff := cmp.Diff(want, d); diff != "" {
			t.Fatal(diff)
		}
		if again := attach(t, i, x.Target); !cmp.Equal(d, again) {
			t.Errorf("again: %+v, want %+v", again, d)
		}
		if found, err := i.Find(t.Context(), x.Target); err != nil || !cmp.Equal(d, found) {
			t.Errorf("found %+v, %v", found, err)
		}
		if got := g.sh("ls -d /sys/block/sd* | wc -l; cat /sys/class/iscsi_session/*/recovery_tmo"); got != "1\n120" {
			t.Errorf("disks and replacement timeout: %q, want only our LUN and 120", got)
		}
		if round == 0 {
			g.sh("mkfs.ext4 -q " + d.Path)
		}
		g.sh(fmt.Sprintf("mount %s /m; echo %d >> /m/log; umount /m", d.Path, round))
		g.timed("detach", func() { detach(t, i, x.Target) })
		g.nothing()
	}
	d = attach(t, i, x.Target)
	if got := g.sh("mount " + d.Path + " /m; cat /m/log; umount /m"); got != "0\n1\n2" {
		t.Errorf("the file holds %q", got)
	}
	detach(t, i, x.Target)
	detach(t, i, x.Target)
	g.nothing()
}

// FM 30: udev is stopped.
func TestGuestWithoutUdev(t *testing.T) {
	g := newGuest(t)
	x := g.export("noudev", uuidA, 64*mib)
	g.sh("udevadm control --stop-exec-queue")
	t.Cleanup(func() { g.try("udevadm control --start-exec-queue; udevadm settle -t 10") })
	i := g.newInitiator()
	d := attach(t, i, x.Target)
	g.sh("head -c4096 " + d.Path + " >/dev/null")
	detach(t, i, x.Target)
	g.nothing()
}

// FM 28: with multipathd that makes maps unasked, and with one that must be told.
func TestGuestMultipath(t *testing.T) {
	for name, conf := range map[string]string{"greedy with friendly names": greedyConf, "the distribution's default, strict": ""} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			x := g.export("multi", uuidA, 512*mib)
			g.startMultipathd(conf)
			i := g.newInitiator()
			for range 2 {
				var d iscsi.Device
				g.timed("attach", func() { d = attach(t, i, x.Target) })
				if !strings.HasPrefix(d.Path, "/dev/dm-") || len(d.Paths) != 2 || d.WWID != iscsi.LIOWWID(uuidA) || d.Bytes != 512*mib {
					t.Errorf("got %+v", d)
				}
				if got := g.sh("cat /sys/block/" + filepath.Base(d.Path) + "/dm/uuid /sys/class/iscsi_session/*/recovery_tmo"); got != "mpath-"+d.WWID+"\n5\n5" {
					t.Errorf("uuid and replacement timeouts: %q", got)
				}
				if again := attach(t, i, x.Target); !cmp.Equal(d, again) {
					t.Errorf("again: %+v, want %+v", again, d)
				}
				g.sh("mkfs.xfs -qf " + d.Path + "; mount " + d.Path + " /m; dd if=/dev/zero of=/m/f bs=1M count=20 status=none; umount /m")
				g.timed("detach", func() { detach(t, i, x.Target) })
				g.nothing()
			}
		})
	}
}

// FM 28: multipathd runs and does not want the device.
func TestGuestBlacklistedByMultipath(t *testing.T) {
	g := newGuest(t)
	x := g.export("black", uuidA, 64*mib)
	g.startMultipathd("blacklist {\n  device {\n    vendor \"DATERA\"\n    product \".*\"\n  }\n}\n")
	i := g.newInitiator()
	var d iscsi.Device
	g.timed("attach", func() { d = attach(t, i, x.Target) })
	if len(d.Paths) != 1 || g.sh("ls /sys/class/iscsi_session | wc -l; cat /sys/class/iscsi_session/*/recovery_tmo") != "1\n120" {
		t.Errorf("got %+v, want one path with a long timeout", d)
	}
	detach(t, i, x.Target)
	g.nothing()
}

// FM 25: one portal loses everything.
func TestGuestOnePortalDead(t *testing.T) {
	for name, multipathd := range map[string]bool{"single": false, "map": true} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			x := g.export("deadportal", uuidA, 64*mib)
			if multipathd {
				g.startMultipathd(greedyConf)
			}
			g.drop(g.portals[0])
			i := g.newInitiator()
			var d iscsi.Device
			g.timed("attach", func() { d = attach(t, i, x.Target) })
			if len(d.Paths) != 1 || strings.HasPrefix(d.Path, "/dev/dm-") != multipathd {
				t.Errorf("got %+v", d)
			}
			if multipathd { // the portal comes back: the next attach adds the path
				g.sh("nft flush ruleset")
				if d = attach(t, i, x.Target); len(d.Paths) != 2 {
					t.Errorf("got %+v, want two paths", d)
				}
			}
			g.timed("detach", func() { detach(t, i, x.Target) })
			g.nothing()
		})
	}
}

func TestGuestNoPortalAnswers(t *testing.T) {
	g := newGuest(t)
	x := g.export("alldead", uuidA, 64*mib)
	g.startMultipathd(greedyConf)
	g.drop(g.portals[0])
	g.drop(g.portals[1])
	i := g.newInitiator(func(c *iscsi.Config) { c.LoginTimeout = 4 * time.Second })
	g.timed("attach", func() {
		if _, err := i.Attach(t.Context(), x.Target, nil); !errors.Is(err, iscsi.ErrUnavailable) {
			t.Errorf("err = %v, want ErrUnavailable", err)
		}
	})
	detach(t, i, x.Target)
	g.nothing()
}

// FM 40: right, wrong and mutual secrets; none is an argument or readable by others.
func TestGuestCHAP(t *testing.T) {
	const password, passwordIn = "canary-passw0rd", "yranac-passw0rd"
	g := newGuest(t)
	x := g.export("chap", uuidA, 64*mib)
	g.sh(fmt.Sprintf("cd %s; echo 1 > attrib/authentication; cd acls/%s/auth; echo -n user1 > userid; echo -n %s > password; echo -n user2 > userid_mutual; echo -n %s > password_mutual",
		x.dir, x.initiator, password, passwordIn))
	i := g.newInitiator()
	for name, tt := range map[string]struct {
		auth *iscsi.CHAP
		want error
	}{
		"none":         {nil, iscsi.ErrAuth},
		"wrong":        {&iscsi.CHAP{User: "user1", Password: "canary-wrong-pw"}, iscsi.ErrAuth},
		"wrong mutual": {&iscsi.CHAP{User: "user1", Password: password, UserIn: "user2", PasswordIn: "canary-wrong-pw"}, iscsi.ErrAuth},
		"one-way":      {&iscsi.CHAP{User: "user1", Password: password}, nil},
		"mutual":       {&iscsi.CHAP{User: "user1", Password: password, UserIn: "user2", PasswordIn: passwordIn}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := i.Attach(t.Context(), x.Target, tt.auth)
			if !errors.Is(err, tt.want) {
				t.Errorf("err = %v, want %v", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("a secret in the error: %v", err)
			}
			if got := g.sh("stat -c %a /etc/iscsi/nodes/" + x.IQN + "/* | sort -u"); got != "600" {
				t.Errorf("records have mode %s", got)
			}
			detach(t, i, x.Target)
			g.nothing()
		})
	}
	if strings.Contains(g.commands.all(), "canary") || strings.Contains(g.commands.all(), passwordIn) {
		t.Error("a secret was an argument")
	}
}

func TestGuestNotAdmitted(t *testing.T) {
	g := newGuest(t)
	x := g.export("stranger", uuidA, 64*mib)
	x.revoke()
	i := g.newInitiator()
	if _, err := i.Attach(t.Context(), x.Target, nil); !errors.Is(err, iscsi.ErrAuth) {
		t.Errorf("err = %v, want ErrAuth", err)
	}
	x.admit()
	attach(t, i, x.Target)
	detach(t, i, x.Target)
	g.nothing()
}

// FM 2: the LUN number passes to another volume while the session lives.
func TestGuestStaleLUN(t *testing.T) {
	for name, multipathd := range map[string]bool{"single": false, "map": true} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			x := g.export("stale", uuidA, 64*mib)
			x.backstore("stale2", uuidB, 128*mib)
			if multipathd {
				g.startMultipathd(greedyConf)
			}
			i := g.newInitiator()
			old := attach(t, i, x.Target)
			g.sh("mkfs.ext4 -q " + old.Path + "; mount " + old.Path + " /m; sync /m")
			renewed := x.Target
			renewed.Serial, renewed.Bytes = uuidB, 128*mib
			x.swap("stale2")
			_, err := i.Attach(t.Context(), renewed, nil)
			if !errors.Is(err, iscsi.ErrForeign) {
				t.Errorf("while the old volume is mounted: err = %v, want ErrForeign", err)
			}
			t.Log(err)
			x.swap("stale") // so that the unmount can write
			g.sh("umount /m")
			x.swap("stale2")
			var d iscsi.Device
			g.timed("attach", func() { d = attach(t, i, renewed) })
			if d.WWID != iscsi.LIOWWID(uuidB) || d.Bytes != 128*mib || len(d.Paths) != len(old.Paths) {
				t.Errorf("got %+v, want the new volume", d)
			}
			if got := g.sh("blkid -p " + d.Path + " || :"); got != "" {
				t.Errorf("the new volume looks like the old one: %s", got)
			}
			detach(t, i, renewed)
			g.nothing()
		})
	}
}

// FM 3: one volume goes while another works, on other sessions and on the same.
func TestGuestDetachBesideIO(t *testing.T) {
	g := newGuest(t)
	x, y := g.export("busy", uuidA, 64*mib), g.export("leaves", uuidB, 64*mib)
	const uuidC = "c0c0c0c0-0000-1111-2222-333344445555"
	x.backstore("neighbour", uuidC, 64*mib)
	x.mapLUN(1, "neighbour")
	x.admitLUN(1)
	neighbour := x.Target
	neighbour.LUN, neighbour.Serial = 1, uuidC
	g.startMultipathd(greedyConf)
	i := g.newInitiator()
	d := attach(t, i, x.Target)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	writes := 0
	go func() {
		for ctx.Err() == nil {
			if out, err := exec.Command("dd", "if=/dev/zero", "of="+d.Path, "bs=64k", "count=16", "oflag=direct", "status=none").CombinedOutput(); err != nil {
				done <- fmt.Errorf("%w: %s", err, out)
				return
			}
			writes++
		}
		done <- nil
	}()
	for range 2 {
		attach(t, i, y.Target)
		attach(t, i, neighbour)
		detach(t, i, neighbour)
		detach(t, i, y.Target)
	}
	cancel()
	if err := <-done; err != nil || writes == 0 {
		t.Errorf("%d writes, then %v", writes, err)
	}
	if found, err := i.Find(t.Context(), x.Target); err != nil || len(found.Paths) != 2 {
		t.Errorf("found %+v, %v, want both paths of the busy volume", found, err)
	}
	detach(t, i, x.Target)
	g.nothing()
}

// FM 3 and FM 13: every way to use a device that the kernel knows.
func TestGuestDetachOfADeviceInUse(t *testing.T) {
	for name, multipathd := range map[string]bool{"single": false, "map": true} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			x := g.export("inuse", uuidA, 64*mib)
			if multipathd {
				g.startMultipathd(greedyConf)
			}
			d := attach(t, g.newInitiator(), x.Target) // with time for every path
			i := g.newInitiator(func(c *iscsi.Config) { c.MapTimeout = 4 * time.Second })
			g.sh("mkfs.ext4 -q " + d.Path)
			refused := func(what, names string) {
				t.Helper()
				err := i.Detach(t.Context(), x.Target)
				if !errors.Is(err, iscsi.ErrBusy) || !strings.Contains(err.Error(), names) {
					t.Errorf("%s: err = %v, want ErrBusy naming %s", what, err, names)
				}
				if found, err := i.Find(t.Context(), x.Target); err != nil || !cmp.Equal(found, d) {
					t.Errorf("%s: found %+v, %v, want %+v untouched", what, found, err, d)
				}
			}
			g.sh("mount " + d.Path + " /m; echo alive > /m/f")
			refused("mounted", "/m")
			g.sh("grep -q alive /m/f; umount /m")

			hidden := exec.Command("unshare", "-m", "sh", "-c", "mount "+d.Path+" /m; echo ok; read x")
			in, _ := hidden.StdinPipe()
			out, _ := hidden.StdoutPipe()
			if err := hidden.Start(); err != nil {
				t.Fatal(err)
			}
			_, _ = out.Read(make([]byte, 3))
			refused("mounted in another namespace", filepath.Base(d.Path))
			_ = in.Close()
			_ = hidden.Wait()

			g.sh("touch /root/node; mount --bind " + d.Path + " /root/node")
			refused("bound as a block volume", "/root/node")
			g.sh("umount /root/node")

			g.sh("echo 0 2048 linear " + d.Path + " 0 | dmsetup create upper")
			refused("part of another device", "dm-")
			g.sh("dmsetup remove upper; udevadm settle -t 5")
			holder := exec.Command("sleep", "600") // another process than the plugin
			var err error
			if holder.Stdin, err = os.Open(d.Path); err != nil {
				t.Fatal(err)
			}
			if err := holder.Start(); err != nil {
				t.Fatal(err)
			}
			refused("open", fmt.Sprintf("process %d sleep", holder.Process.Pid))
			_ = holder.Process.Kill()
			_ = holder.Wait()
			_ = holder.Stdin.(*os.File).Close()
			detach(t, i, x.Target)
			g.nothing()
		})
	}
}

// FM 21: the volume was revoked, as when it moved to another host: nothing can be
// flushed, and everything must go all the same, soon.
func TestGuestDetachAfterRevoke(t *testing.T) {
	for name, multipathd := range map[string]bool{"single": false, "map that queues": true} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			x := g.export("revoked", uuidA, 64*mib)
			if multipathd {
				g.startMultipathd(greedyConf)
			}
			i := g.newInitiator()
			attach(t, i, x.Target)
			x.revoke()
			g.sh("for i in $(seq 100); do grep -qv LOGGED_IN /sys/class/iscsi_session/*/state && break; sleep 0.1; done")
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			g.timed("detach", func() {
				if err := i.Detach(ctx, x.Target); err != nil {
					t.Error(err)
				}
			})
			g.nothing()
		})
	}
}

// FM 21: somebody left the map suspended, and the daemon that could resume it is no
// more. Whoever touches the map waits; a detach must not.
func TestGuestDetachOfASuspendedMap(t *testing.T) {
	g := newGuest(t)
	x := g.export("suspended", uuidA, 64*mib)
	g.startMultipathd(greedyConf)
	i := g.newInitiator()
	d := attach(t, i, x.Target)
	g.sh("udevadm settle; pkill -KILL -x multipathd; while pgrep -x multipathd >/dev/null; do sleep 0.1; done")
	name := g.sh("cat /sys/block/" + filepath.Base(d.Path) + "/dm/name")
	g.sh("dmsetup suspend --noflush --nolockfs " + name + "; grep -q 1 /sys/block/" + filepath.Base(d.Path) + "/dm/suspended")
	t.Cleanup(func() { g.try("dmsetup resume " + name) }) // or all that follows would hang
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	g.timed("detach", func() {
		if err := i.Detach(ctx, x.Target); err != nil {
			t.Error(err)
		}
	})
	g.nothing()
}

// FM 21: the network died a moment ago and nobody has noticed yet.
func TestGuestDetachWhileTheNetworkIsDead(t *testing.T) {
	g := newGuest(t)
	x := g.export("netdead", uuidA, 64*mib)
	g.startMultipathd(greedyConf)
	i := g.newInitiator()
	attach(t, i, x.Target)
	g.sh("udevadm settle") // who still reads the map then would have it open for as long as it queues
	for _, p := range g.portals {
		g.drop(p)
	}
	g.timed("detach until it is through", func() {
		for deadline := time.Now().Add(3 * time.Minute); ; {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			start := time.Now()
			err := i.Detach(ctx, x.Target)
			cancel()
			t.Logf("%.1f s: %v", time.Since(start).Seconds(), err)
			if took := time.Since(start); took > 60*time.Second {
				t.Errorf("one call took %v with a deadline of 30 s", took)
			}
			time.Sleep(2 * time.Second)
			if err == nil || time.Now().After(deadline) {
				if err != nil {
					t.Error(err)
				}
				break
			}
		}
	})
	g.sh("nft flush ruleset")
	g.nothing()
}

// FM 15: on a mounted file system.
func TestGuestGrow(t *testing.T) {
	for name, multipathd := range map[string]bool{"single": false, "map": true} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			x := g.export("grow", uuidA, 512*mib)
			if multipathd {
				g.startMultipathd(greedyConf)
			}
			i := g.newInitiator(func(c *iscsi.Config) { c.DiskTimeout = 5 * time.Second })
			d := attach(t, i, x.Target)
			g.sh("mkfs.xfs -q " + d.Path + "; mount " + d.Path + " /m")
			asked := x.Target
			asked.Bytes = 700 * mib
			if bytes, err := i.Rescan(t.Context(), asked); !errors.Is(err, iscsi.ErrUnavailable) || bytes != 512*mib {
				t.Errorf("before the array grew: %d, %v", bytes, err)
			}
			x.grow("grow", 768*mib)
			g.timed("rescan", func() {
				if bytes, err := i.Rescan(t.Context(), asked); err != nil || bytes != 768*mib {
					t.Errorf("%d, %v, want %d", bytes, err, 768*mib)
				}
			})
			g.sh("xfs_growfs /m >/dev/null; umount /m")
			detach(t, i, x.Target)
			g.nothing()
		})
	}
}

// FM 14: the LUN grew while a session lived and nobody rescanned.
func TestGuestStaleSize(t *testing.T) {
	g := newGuest(t)
	x := g.export("size", uuidA, 64*mib)
	i := g.newInitiator(func(c *iscsi.Config) { c.DiskTimeout = 5 * time.Second })
	attach(t, i, x.Target)
	x.grow("size", 128*mib)
	grown := x.Target
	grown.Bytes = 128 * mib
	if d := attach(t, i, grown); d.Bytes != 128*mib {
		t.Errorf("%d bytes, want %d", d.Bytes, 128*mib)
	}
	grown.Bytes = 256 * mib
	if _, err := i.Attach(t.Context(), grown, nil); !errors.Is(err, iscsi.ErrForeign) {
		t.Errorf("err = %v, want ErrForeign for less than promised", err)
	}
	detach(t, i, x.Target)
	g.nothing()
}

// FM 29: what a boot does with the records, without the boot.
func TestGuestRecordsBringNothingBack(t *testing.T) {
	g := newGuest(t)
	x := g.export("records", uuidA, 64*mib)
	i := g.newInitiator()
	attach(t, i, x.Target)
	g.sh("iscsiadm -m session -u >/dev/null")
	g.try("iscsiadm -m node --loginall=automatic; iscsiadm -m node --loginall=onboot")
	if got := g.sh("ls /sys/class/iscsi_session; ls /etc/iscsi/nodes"); got != x.IQN {
		t.Errorf("got %q, want no session and the record", got)
	}
	g.sh(": > /etc/iscsi/nodes/" + x.IQN + "/" + g.portals[0].Addr().String() + ",3260") // cut by a crash
	attach(t, i, x.Target)
	g.sh("for f in /etc/iscsi/nodes/" + x.IQN + "/*; do : > $f; done")
	detach(t, i, x.Target)
	g.nothing()
}

func TestGuestLoginLocks(t *testing.T) {
	g := newGuest(t)
	x := g.export("locks", uuidA, 64*mib)
	g.sh("mkdir -p /run/lock/iscsi; touch /run/lock/iscsi/lock; ln -f /run/lock/iscsi/lock /run/lock/iscsi/lock.write")
	i := g.newInitiator()
	g.timed("attach under the lock of a killed iscsiadm", func() { attach(t, i, x.Target) })
	detach(t, i, x.Target)
	g.nothing()
}

// FM 26: no daemon answers.
func TestGuestIscsidIsDown(t *testing.T) {
	g := newGuest(t)
	x := g.export("nodaemon", uuidA, 64*mib)
	g.sh("pkill -x iscsid; for i in $(seq 50); do pgrep -x iscsid >/dev/null || break; sleep 0.1; done")
	i := g.newInitiator()
	if _, err := i.Attach(t.Context(), x.Target, nil); !errors.Is(err, iscsi.ErrNotReady) {
		t.Errorf("err = %v, want ErrNotReady", err)
	}
	g.sh("iscsid")
	g.sh("for i in $(seq 100); do grep -q ISCSIADM /proc/net/unix && break; sleep 0.1; done")
	attach(t, i, x.Target)
	detach(t, i, x.Target)
	g.nothing()
}

// A process that reads a dead device cannot be killed. It is left behind.
func TestGuestStuckToolIsAbandoned(t *testing.T) {
	g := newGuest(t)
	x := g.export("stuck", uuidA, 64*mib)
	i := g.newInitiator()
	d := attach(t, i, x.Target)
	for _, p := range g.portals {
		g.drop(p)
	}
	for _, r := range []iscsi.Runner{iscsi.Direct(), iscsi.Nsenter()} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		start := time.Now()
		_, err := r.Run(ctx, "dd", "if="+d.Path, "of=/dev/null", "bs=4k", "count=1", "iflag=direct")
		cancel()
		if !errors.Is(err, iscsi.ErrStuck) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want ErrStuck and deadline exceeded", err)
		}
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("took %v", took)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	g.timed("attach of the dead device", func() {
		if _, err := i.Attach(ctx, x.Target, nil); err == nil {
			t.Error("a dead device was handed out")
		}
	})
	g.sh("nft flush ruleset")
	for deadline := time.Now().Add(time.Minute); ; {
		err := i.Detach(t.Context(), x.Target)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
	}
	g.nothing()
}

// FM 27: parallel logins on one host.
func TestGuestManyAtOnce(t *testing.T) {
	const many = 12
	g := newGuest(t)
	g.startMultipathd(greedyConf)
	targets := make([]*target, many)
	for n := range targets {
		targets[n] = g.export(fmt.Sprintf("many%02d", n), fmt.Sprintf("%08x-1111-2222-3333-444455556666", n+1), 64*mib)
	}
	i := g.newInitiator(func(c *iscsi.Config) { c.MapTimeout, c.LoginTimeout = time.Minute, 30*time.Second })
	var wait sync.WaitGroup
	paths := make([]string, many)
	g.timed(fmt.Sprintf("attach %d with two paths each", many), func() {
		for n, x := range targets {
			wait.Go(func() {
				d, err := i.Attach(t.Context(), x.Target, nil)
				if err != nil {
					t.Errorf("attach %d: %v", n, err)
				}
				if d.WWID != iscsi.LIOWWID(x.Serial) || len(d.Paths) != 2 {
					t.Errorf("%d: got %+v", n, d)
				}
				paths[n] = d.Path
			})
		}
		wait.Wait()
	})
	slices.Sort(paths)
	if got := len(slices.Compact(paths)); got != many {
		t.Errorf("%d devices, want %d", got, many)
	}
	g.timed(fmt.Sprintf("detach %d", many), func() {
		for n, x := range targets {
			wait.Go(func() {
				if err := i.Detach(t.Context(), x.Target); err != nil {
					t.Errorf("detach %d: %v", n, err)
				}
			})
		}
		wait.Wait()
	})
	g.nothing()
	if bytes.Contains([]byte(g.commands.all()), []byte("discovery")) {
		t.Error("a discovery was run")
	}
}
