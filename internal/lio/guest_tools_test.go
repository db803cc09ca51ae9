//go:build e2e

package lio_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/datera-csi/datera-csi/internal/lio"
	"github.com/datera-csi/datera-csi/internal/sim"
)

// inGuest is set where these tests may do to the kernel what they like. There
// they want root, open-iscsi, lsscsi, sg3-utils and iproute2.
const inGuest = "LIO_GUEST"

// guest is the machine we run in, as target and initiator at once.
type guest struct {
	*lio.Exporter
	t         *testing.T
	initiator string
	dir       string // file system of the backing files
	since     string // end of the kernel's log when the test began
}

// newGuest makes the machine ready and checks at the end that nothing of the
// test is left in it.
func newGuest(t *testing.T) *guest {
	t.Helper()
	if os.Getenv(inGuest) == "" {
		t.Skip("changes the kernel's target: runs in a guest of test/e2e, which sets " + inGuest)
	}
	g := &guest{t: t, initiator: initiatorName(t), dir: "/lio-files"}
	if _, code := run(t, "pgrep", "-x", "iscsid"); code != 0 {
		g.must("iscsid")
	}
	run(t, "ip", "address", "add", "10.77.0.1/32", "dev", "lo")
	run(t, "ip", "-6", "address", "add", "fd00:77::1/128", "dev", "lo")
	g.since = g.must("dmesg")

	must(t, os.MkdirAll(g.dir, 0o755))
	must(t, unix.Mount("tmpfs", g.dir, "tmpfs", 0, ""))
	g.restart()
	before := tree(t)
	t.Cleanup(func() {
		iqns, err := g.Targets()
		must(t, err)
		for _, i := range iqns {
			if err := g.Remove(context.Background(), i); err != nil {
				t.Error(err)
			}
		}
		for _, l := range tree(t) {
			if !slices.Contains(before, l) {
				t.Errorf("left behind: %s", l)
			}
		}
		run(t, "iscsiadm", "-m", "node", "-u")
		run(t, "iscsiadm", "-m", "node", "-o", "delete")
		// A file that the kernel still held open would make this busy.
		if err := unix.Unmount(g.dir, 0); err != nil {
			t.Errorf("unmount the backing files: %v", err)
		}
		must(t, g.Close())
		g.kernelIsCalm()
	})
	return g
}

// restart is a new process on the same kernel.
func (g *guest) restart() {
	g.t.Helper()
	if g.Exporter != nil {
		must(g.t, g.Close())
	}
	var err error
	g.Exporter, err = lio.New(g.t.Context(), lio.Config{})
	must(g.t, err)
}

func initiatorName(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/etc/iscsi/initiatorname.iscsi")
	must(t, err)
	_, name, found := strings.Cut(string(b), "InitiatorName=")
	if !found {
		t.Fatal("this host has no initiator name")
	}
	return strings.TrimSpace(name)
}

// initiatorsOwn is a warning of the initiator about its own work queues, once in a
// boot, when a session ends while the power management of its disk is at work. The
// target has no part in it.
var initiatorsOwn = regexp.MustCompile(`(?s)-+\[ cut here \]-+\n\S* *\S* *workqueue: WQ_MEM_RECLAIM iscsi_ctrl_\S+:__iscsi_unbind_session.*?---\[ end trace [^\n]*`)

// kernelIsCalm looks for what the kernel says when it was hurt.
func (g *guest) kernelIsCalm() {
	g.t.Helper()
	hurt := regexp.MustCompile(`WARNING|BUG|Oops|Call Trace|refcount|hung task|blocked for more|leak`)
	said := initiatorsOwn.ReplaceAllString(strings.TrimPrefix(g.must("dmesg"), g.since), "")
	for line := range strings.Lines(said) {
		if hurt.MatchString(line) {
			g.t.Errorf("kernel: %s", strings.TrimSpace(line))
		}
	}
}

// run answers what a command printed and its exit code.
func run(t *testing.T, argv ...string) (out string, code int) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	b, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

func (g *guest) must(argv ...string) string {
	g.t.Helper()
	out, code := run(g.t, argv...)
	if code != 0 {
		g.t.Fatalf("%q exits %d: %s", argv, code, out)
	}
	return out
}

// target is one volume on three portals that this host may use.
func (g *guest) target(size int64) sim.Target {
	g.t.Helper()
	f := filepath.Join(g.dir, "volume")
	must(g.t, os.WriteFile(f, nil, 0o600))
	must(g.t, os.Truncate(f, size))
	return sim.Target{
		IQN: iqn,
		Portals: []netip.AddrPort{
			netip.MustParseAddrPort("127.0.0.1:3260"), netip.MustParseAddrPort("10.77.0.1:3260"), netip.MustParseAddrPort("[fd00:77::1]:3260"),
		},
		LUNs:       one(f, size),
		Initiators: []string{g.initiator},
	}
}

func (g *guest) apply(t sim.Target) {
	g.t.Helper()
	must(g.t, g.Apply(g.t.Context(), t))
}

// record makes a node entry with settings, given as name and value in turn.
func (g *guest) record(portal netip.AddrPort, settings ...string) {
	g.t.Helper()
	g.must("iscsiadm", "-m", "node", "-T", iqn, "-p", portal.String(), "-o", "new")
	settings = append(settings, "node.session.initial_login_retry_max", "1", "node.session.timeo.replacement_timeout", "3")
	for s := range slices.Chunk(settings, 2) {
		g.must("iscsiadm", "-m", "node", "-T", iqn, "-p", portal.String(), "-o", "update", "-n", s[0], "-v", s[1])
	}
}

// logIn answers iscsiadm's exit code.
func (g *guest) logIn(portal netip.AddrPort) int {
	g.t.Helper()
	out, code := run(g.t, "iscsiadm", "-m", "node", "-T", iqn, "-p", portal.String(), "--login")
	g.t.Logf("log in at %s: exit %d %s", portal, code, strings.TrimSpace(out[max(0, len(out)-200):]))
	return code
}

func (g *guest) logOut() {
	g.t.Helper()
	run(g.t, "iscsiadm", "-m", "node", "-T", iqn, "--logout")
}

// disks waits for n disks of the target and answers their names.
func (g *guest) disks(n int) []string {
	g.t.Helper()
	var found []string
	g.until("the disks to appear", func() bool {
		found = nil
		names, err := filepath.Glob("/sys/class/iscsi_session/session*/targetname")
		must(g.t, err)
		for _, f := range names {
			if b, _ := os.ReadFile(f); strings.TrimSpace(string(b)) != iqn {
				continue
			}
			disks, err := filepath.Glob(filepath.Join(filepath.Dir(f), "device/target*/*/block/*"))
			must(g.t, err)
			for _, d := range disks {
				// The name is in /dev a moment before the kernel lets anybody open it.
				if f, err := os.Open("/dev/" + filepath.Base(d)); err == nil {
					must(g.t, f.Close())
					found = append(found, filepath.Base(d))
				}
			}
		}
		return len(found) == n
	})
	return found
}

// sysfs reads an attribute of a disk.
func (g *guest) sysfs(disk, attr string) string {
	g.t.Helper()
	b, err := os.ReadFile(filepath.Join("/sys/block", disk, attr))
	must(g.t, err)
	return strings.TrimSpace(string(b))
}

func (g *guest) until(what string, done func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// sessionStates lists the state of every session this host has, as initiator.
func (g *guest) sessionStates() []string {
	g.t.Helper()
	files, err := filepath.Glob("/sys/class/iscsi_session/session*/state")
	must(g.t, err)
	var states []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		must(g.t, err)
		states = append(states, strings.TrimSpace(string(b)))
	}
	return states
}

// page is a buffer that O_DIRECT accepts, full of fill.
func page(t *testing.T, fill byte) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Munmap(b)) })
	copy(b, bytes.Repeat([]byte{fill}, len(b)))
	return b
}

// direct does one I/O of a page at the head of a disk, past every cache.
func direct(disk string, flags int, b []byte) error { return directAt(disk, flags, b, 0) }

func directAt(disk string, flags int, b []byte, at int64) error {
	f, err := os.OpenFile("/dev/"+disk, flags|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	if flags == os.O_RDONLY {
		_, err = f.ReadAt(b, at)
	} else {
		_, err = f.WriteAt(b, at)
	}
	return errors.Join(err, f.Close())
}

// reader reads the head of a disk over and over until the test ends.
type reader struct {
	right, wrong, failed atomic.Int64
	why                  atomic.Value // of the last that failed
}

// unharmed is for a reader that must not have noticed anything.
func (r *reader) unharmed(t *testing.T) {
	t.Helper()
	if failed := r.failed.Load(); failed > 0 {
		t.Errorf("%d reads failed meanwhile, the last one: %v", failed, r.why.Load())
	}
}

func (g *guest) reader(disk string, want byte) *reader {
	g.t.Helper()
	r := &reader{}
	b, whole := page(g.t, 0), page(g.t, want)
	g.forever(func() {
		switch err := direct(disk, os.O_RDONLY, b); {
		case err != nil:
			r.why.Store(err.Error())
			r.failed.Add(1)
			time.Sleep(time.Millisecond)
		case bytes.Equal(b, whole):
			r.right.Add(1)
		default:
			r.wrong.Add(1)
		}
	})
	return r
}

// writer writes the second page of a disk over and over, each time another one.
func (g *guest) writer(disk string) {
	g.t.Helper()
	b := page(g.t, 0)
	g.forever(func() {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)+1)
		if directAt(disk, os.O_WRONLY, b, 4096) != nil {
			time.Sleep(time.Millisecond)
		}
	})
}

// forever repeats f until the test ends.
func (g *guest) forever(f func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				f()
			}
		}
	}()
	g.t.Cleanup(func() { close(stop); <-done })
}

// content is what the first pages of a backing file hold.
func (g *guest) content(file string) []byte {
	g.t.Helper()
	b := make([]byte, 8192)
	f, err := os.Open(file)
	must(g.t, err)
	_, err = f.ReadAt(b, 0)
	must(g.t, errors.Join(err, f.Close()))
	return b
}

// tree lists what is in the target's configfs, but no attributes.
func tree(t *testing.T) []string {
	t.Helper()
	var lines []string
	must(t, filepath.WalkDir(lio.DefaultRoot, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || d.Type().IsRegular():
			return err
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			lines = append(lines, p+" -> "+to)
			return err
		}
		lines = append(lines, p)
		return nil
	}))
	return lines
}
