package iscsi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// spoiled is a host whose files are whatever a fuzzer likes. Its tools all fail, its
// devices are whatever sysfs calls them, and it notes where was written.
type spoiled struct {
	root   string
	writes []string
}

func (h *spoiled) Run(context.Context, ...string) ([]byte, error) {
	return nil, &iscsi.ExitError{Tool: "tool", Code: 127}
}

func (h *spoiled) Set(path, _ string) error {
	h.writes = append(h.writes, path)
	return syscall.EIO
}

func (h *spoiled) SyncDir(string) error { return syscall.EIO }

func (h *spoiled) Node(string, string) error { return nil }

func (h *spoiled) Identify(string) (iscsi.Identity, error) {
	return iscsi.Identity{}, syscall.EIO
}

func (h *spoiled) Claim(string) error                      { return nil }
func (h *spoiled) Flush(string, bool) error                { return nil }
func (h *spoiled) Table(string) (iscsi.MapTable, error)    { return iscsi.MapTable{}, syscall.ENXIO }
func (h *spoiled) FailIfNoPath(string) error               { return syscall.ENXIO }
func (h *spoiled) Openers(string, []string) []iscsi.Opener { return nil }
func (h *spoiled) Resume(string) error                     { return syscall.ENXIO }

// tree unpacks a tree of files: one whose content begins with "-> " is a link to
// another place in it.
func tree(root string, data []byte) {
	for _, file := range txtar.Parse(data).Files {
		name := filepath.Join(root, filepath.Clean("/"+file.Name))
		if name == root || len(file.Name) > 200 || strings.ContainsRune(file.Name, 0) || os.MkdirAll(filepath.Dir(name), 0o750) != nil {
			continue
		}
		if to, isLink := strings.CutPrefix(string(file.Data), "-> "); isLink {
			_ = os.Symlink(filepath.Join(root, filepath.Clean("/"+strings.TrimSpace(to))), name)
			continue
		}
		_ = os.WriteFile(name, file.Data, 0o600)
	}
}

// sysfsSeed is a host with two paths and a map over them.
func sysfsSeed() []byte {
	var b strings.Builder
	add := func(name, content string) { fmt.Fprintf(&b, "-- %s --\n%s\n", name, content) }
	for n, p := range portals() {
		id := n + 1
		device := fmt.Sprintf("sys/devices/host%d/session%d", id, id)
		disk, name := fmt.Sprintf("%s/target%d:0:0/%d:0:0:0", device, id, id), fmt.Sprintf("sd%c", 'a'+id)
		class := fmt.Sprintf("sys/class/iscsi_session/session%d", id)
		entry := fmt.Sprintf("%s/iscsi_session/session%d", device, id)
		add(entry+"/targetname", iqnA)
		add(entry+"/state", "LOGGED_IN")
		add(class, "-> "+entry)
		add(fmt.Sprintf("sys/class/iscsi_connection/connection%d:0/persistent_address", id), p.Addr().String())
		add(fmt.Sprintf("sys/class/iscsi_connection/connection%d:0/persistent_port", id), "3260")
		add(disk+"/state", "running")
		add(disk+"/vpd_pg80", string(serialPage(serialA)))
		add(disk+"/vpd_pg83", string(idPage(wwidA)))
		add(disk+"/block/"+name+"/dev", fmt.Sprintf("8:%d", 16*id))
		add(disk+"/block/"+name+"/size", "2097152")
		add(disk+"/block/"+name+"/holders/dm-0", "-> sys/block/dm-0")
		add("sys/block/"+name, "-> "+disk+"/block/"+name)
		add("sys/block/dm-0/slaves/"+name, "-> "+disk+"/block/"+name)
	}
	add("sys/block/dm-0/dev", "253:0")
	add("sys/block/dm-0/size", "2097152")
	add("sys/block/dm-0/dm/uuid", "mpath-"+wwidA)
	add("sys/block/dm-0/dm/name", "mpatha")
	add("sys/block/dm-0/dm/suspended", "0")
	add("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/vda1 rw")
	add("etc/iscsi/nodes/"+iqnA+"/172.28.0.9,3260", realRecord)
	return []byte(b.String())
}

// Whatever sysfs, procfs and the node database show: what is found is the promised
// LUN and lies in /dev, and nothing outside of the LUN's own place is written or
// removed.
func FuzzSysfsTree(f *testing.F) {
	f.Add(sysfsSeed())
	f.Add([]byte("-- sys/targetname --\n" + iqnA + "\n-- sys/state --\nFREE\n-- sys/class/iscsi_session/session1 --\n-> sys\n"))
	f.Add([]byte("-- etc/iscsi/nodes/" + iqnA + "/x/y/z --\n# END RECORD\n-- sys/block/dm-1/dm/uuid --\nmpath-" + wwidA + "\n-- sys/block/dm-1/dm/name --\na\n-- sys/block/dm-1/dm/suspended --\n1\n-- sys/block/dm-1/dev --\n253:1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir, err := os.MkdirTemp("", "host")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		root, others := filepath.Join(dir, "root"), "etc/iscsi/nodes/"+iqnB
		tree(root, data)
		beside := filepath.Join(root, others, "10.0.0.9,3260")
		if os.MkdirAll(filepath.Dir(beside), 0o750) != nil || os.WriteFile(beside, []byte(realRecord), 0o600) != nil {
			return // a file or a link is in the way
		}
		h := &spoiled{root: root}
		moment := 2 * time.Millisecond
		i := iscsi.NewWithKernel(iscsi.Config{
			Host: h, Root: root, Sysfs: filepath.Join(root, "sys"), Dev: "/dev",
			LoginTimeout: moment, DiskTimeout: moment, MapTimeout: moment, FlushTimeout: moment,
		}, h)
		for _, target := range []iscsi.Target{targetA(), {IQN: iqnA, LUN: 7}} {
			d, err := i.Find(t.Context(), target)
			for _, path := range append([]string{d.Path}, d.Paths...) {
				if err == nil && filepath.Dir(path) != "/dev" {
					t.Errorf("found %+v", d)
				}
			}
			if err == nil && (d.Bytes < 0 || len(d.Paths) == 0 || d.WWID == "") {
				t.Errorf("found %+v", d)
			}
			_ = i.Detach(t.Context(), target)
		}
		for _, path := range h.writes {
			if !strings.HasPrefix(path, root+"/sys/") || filepath.Base(path) != "delete" {
				t.Errorf("wrote to %s", path)
			}
		}
		if _, err := os.Stat(beside); err != nil {
			t.Errorf("the record of another target: %v", err)
		}
	})
}

// A record that is made after another says what it was told to say,
// whatever the other is.
func FuzzRecordModel(f *testing.F) {
	f.Add([]byte(realRecord), uint32(0x0a000001), uint16(3260), "secret = #1")
	f.Add([]byte("node.name = "+iqnA+"\nnode.conn[0].address\n# END RECORD"), uint32(0), uint16(0), "x")
	f.Fuzz(func(t *testing.T, text []byte, address uint32, port uint16, secret string) {
		if strings.TrimSpace(secret) != secret || secret == "" || strings.ContainsAny(secret, "\n\r") {
			t.Skip("CHAP.check refuses it")
		}
		portal := netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(address >> 24), byte(address >> 16), byte(address >> 8), byte(address)}), port)
		made := text
		for key, v := range map[string]string{"node.name": iqnB, "node.conn[0].address": portal.Addr().String(), "node.conn[0].port": fmt.Sprint(port), "node.session.auth.password": secret} {
			made = iscsi.EditRecord(made, key, v)
		}
		if !iscsi.IntactNodeRecord(made, iqnB) || iscsi.RecordValue(made, "node.session.auth.password") != secret ||
			iscsi.ParsePortal(iscsi.RecordValue(made, "node.conn[0].address"), iscsi.RecordValue(made, "node.conn[0].port")) != portal {
			t.Errorf("made %q of %q", made, text)
		}
	})
}

// conversation is a daemon that answers what a fuzzer likes.
type conversation struct{ io.Reader }

func (conversation) Write(p []byte) (int, error) { return len(p), nil }

// Whatever answers on the socket: it is understood as far as its length goes, or
// refused, and never believed to be longer than an answer can be.
func FuzzMultipathdAnswer(f *testing.F) {
	f.Add(packet("ok\n"))
	f.Add(packet("fail\nmap or partition in use\n"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		reply, err := iscsi.Exchange(conversation{strings.NewReader(string(answer))}, "show")
		if err != nil && reply != "" {
			t.Errorf("%q and %v", reply, err)
		}
		if err == nil && (len(answer) < 8 || !strings.HasPrefix(string(answer[8:]), reply) || strings.ContainsRune(reply, 0)) {
			t.Errorf("%q is understood as %q", answer, reply)
		}
		again, err := iscsi.Exchange(conversation{strings.NewReader(string(packet(reply)))}, "show")
		if err != nil || again != reply {
			t.Errorf("%q comes back as %q, %v", reply, again, err)
		}
	})
}

// Whatever a mount point is called, the device is known to be used
// there, by that name.
func FuzzMountOf(f *testing.F) {
	f.Add("/var/lib/my pod\\#\t", "/")
	f.Fuzz(func(t *testing.T, point, root string) {
		if strings.ContainsRune(point+root, 0) {
			t.Skip("the kernel has no such name")
		}
		point, root = "/"+point, "/"+root
		escape := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`)
		line := fmt.Sprintf("31 22 8:16 %s %s rw - xfs /dev/sdb rw\n", escape.Replace(root), escape.Replace(point))
		if got, uses := iscsi.MountUses(line, "sdb", "8:16"); got != point || !uses {
			t.Errorf("%q is read as %q, %v", line, got, uses)
		}
	})
}

// VPD pages are the proof of identity: what is read is what the page holds.
func FuzzVPD(f *testing.F) {
	f.Add(serialPage(serialA), unhex(f, realPage83), []byte{0, 0, 0, 0, 0, 0x1f, 0xff, 0xff, 0, 0, 2, 0})
	f.Add([]byte{0, 0x80, 0, 4, ' ', 0, ' ', 0}, idPage(wwidA), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0})
	f.Fuzz(func(t *testing.T, page80, page83, capacity []byte) {
		serial, err := iscsi.ParseSerial(page80)
		if (err == nil) != (serial != "") || strings.Trim(serial, " \x00") != serial || !strings.Contains(string(page80), serial) {
			t.Errorf("serial %q, %v", serial, err)
		}
		if len(serial) > 0 && len(serial) < 200 {
			if again, repeatErr := iscsi.ParseSerial(serialPage(serial)); again != serial || repeatErr != nil {
				t.Errorf("serial %q comes back as %q, %v", serial, again, repeatErr)
			}
		}
		wwid, err := iscsi.ParseWWID(page83)
		if (err == nil) != (wwid != "") {
			t.Errorf("WWID %q, %v", wwid, err)
		}
		if strings.HasPrefix(wwid, "36") && len(wwid) == 33 {
			if again, err := iscsi.ParseWWID(idPage(wwid)); again != wwid || err != nil {
				t.Errorf("WWID %q comes back as %q, %v", wwid, again, err)
			}
		}
		if bytes, err := iscsi.ParseCapacity(capacity); err == nil && bytes <= 0 {
			t.Errorf("%d bytes", bytes)
		}
		if key := iscsi.SenseKey(page80); key > 0xf {
			t.Errorf("sense key %#x", key)
		}
	})
}

// What a tool writes, however much, becomes one line of an error.
func FuzzToolOutput(f *testing.F) {
	f.Add("iscsiadm: No records found\n", 21)
	f.Add("\n\r\n \t\n", 0)
	f.Fuzz(func(t *testing.T, text string, code int) {
		line := iscsi.OneLine(text)
		if strings.Contains(line, "\n") || strings.TrimSpace(line) != line {
			t.Errorf("%q becomes %q", text, line)
		}
		err := iscsi.AdminError(&iscsi.ExitError{Tool: "iscsiadm", Code: code, Stderr: line})
		known := errors.Is(err, iscsi.ErrAuth) || errors.Is(err, iscsi.ErrNotReady) || errors.Is(err, iscsi.ErrUnavailable)
		if !known || !strings.Contains(err.Error(), line) {
			t.Errorf("exit %d %q is %v", code, line, err)
		}
	})
}
