package iscsi_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// host is a worker node on paper, and the arrays it can reach: its files are a
// directory tree, its tools and its kernel are this type, and they do to the tree
// what the real ones were seen to do.
type host struct {
	t    testing.TB
	root string

	mu       sync.Mutex
	commands []string                 // every tool run, in order
	killed   []string                 // those whose caller ended them, in order
	writes   []string                 // every attribute written and every other kernel call, in order
	luns     map[string]map[int]lun   // by target: what the array shows there now
	login    map[netip.AddrPort]int   // exit code of a login to a portal; 0 when absent
	exits    map[string]int           // exit code of a command, by a piece of it; once
	after    map[string]func()        // done after a command or kernel call that contains a piece; once
	claimed  map[string]bool          // devices that are mounted in a namespace nobody sees
	dead     map[string]error         // devices that cannot be opened and directories that cannot be synced, and why
	hung     map[string]chan struct{} // devices that do not answer
	strange  map[string]bool          // names that are another device in /dev
	renamed  map[string]string        // WWIDs that disks have in place of that of their LUN
	known    map[string]bool          // WWIDs that multipath was told of
	dirs     map[string]string        // disk to its SCSI device's directory
	byName   map[string]string        // map by alias

	greedy        bool                      // multipathd makes maps unasked
	slowResumes   int                       // resumes of the kernel that take too long
	opened        map[string][]iscsi.Opener // who has a device open, by number
	meanwhile     func()                    // happens when somebody asks for that
	unheard       bool                      // and has not heard of the second path of a LUN
	mute          bool                      // the next disk is found without the pages that say who it is
	overlooked    bool                      // and multipathd does not take it up either
	blacklisted   bool
	full          bool   // multipath cannot write to /etc
	callout       bool   // multipath.conf has maps named by serial numbers, as the vendor's had
	multipathConf string // what multipath -t prints
	multipathRuns string // what the running multipathd goes by; "": the same
	queueing      bool   // maps keep what they cannot send
	opens         int    // how many have a map open
	partOpens     int    // how many have a map over a partition open

	sessions, disks, maps int // counters for names
}

type lun struct {
	serial string
	bytes  int64
}

const gib = int64(1) << 30

// Two volumes and two portals that most tests use.
const (
	serialA = "0c0ffee0-1111-2222-3333-444455556666"
	serialB = "5eed5eed-aaaa-bbbb-cccc-0123456789ab"
	wwidA   = "360014050c0ffee011112222333344445"
	wwidB   = "360014055eed5eedaaaabbbbcccc01234"
	iqnA    = "iqn.2013-05.com.daterainc:tc:01:sn:aaaa1111"
	iqnB    = "iqn.2013-05.com.daterainc:tc:01:sn:bbbb2222"
)

func portals() []netip.AddrPort {
	return []netip.AddrPort{netip.MustParseAddrPort("172.28.0.9:3260"), netip.MustParseAddrPort("172.29.0.9:3260")}
}

func targetA() iscsi.Target {
	return iscsi.Target{IQN: iqnA, Portals: portals(), LUN: 0, Serial: serialA, Bytes: gib}
}

func newHost(tb testing.TB) *host {
	tb.Helper()
	h := &host{
		t: tb, root: tb.TempDir(),
		luns:    map[string]map[int]lun{iqnA: {0: {serialA, gib}}, iqnB: {0: {serialB, gib}}},
		login:   map[netip.AddrPort]int{},
		exits:   map[string]int{},
		after:   map[string]func(){},
		claimed: map[string]bool{},
		dead:    map[string]error{},
		hung:    map[string]chan struct{}{},
		strange: map[string]bool{},
		renamed: map[string]string{},
		known:   map[string]bool{},
		dirs:    map[string]string{},
		byName:  map[string]string{},
	}
	archive, err := txtar.ParseFile("testdata/host.txtar")
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range archive.Files {
		h.write(f.Name, string(f.Data))
	}
	return h
}

// runMultipathd starts multipathd on the host, with find_multipaths no.
func (h *host) runMultipathd() *host {
	h.greedy = true
	h.write("proc/4711/comm", "multipathd\n")
	return h
}

func (h *host) multipathdRuns() bool {
	_, err := os.Stat(h.path("proc/4711/comm"))
	return err == nil
}

// eachKind runs a test on a host that uses one path, and on one with multipathd.
func eachKind(t *testing.T, test func(*testing.T, *host)) {
	t.Helper()
	for name, prepare := range map[string]func(*host){
		"single": func(*host) {},
		"map":    func(h *host) { h.runMultipathd() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			prepare(h)
			test(t, h)
		})
	}
}

func (h *host) initiator(changes ...func(*iscsi.Config)) *iscsi.Initiator {
	cfg := iscsi.Config{
		Host: h, Root: h.root, Sysfs: h.path("sys"), Dev: "/dev",
		LoginTimeout: time.Second, DiskTimeout: time.Second, MapTimeout: 1500 * time.Millisecond, FlushTimeout: 200 * time.Millisecond,
		RefusalPause: 10 * time.Millisecond,
	}
	for _, change := range changes {
		change(&cfg)
	}
	return iscsi.NewWithKernel(cfg, h)
}

func (h *host) path(name string) string { return filepath.Join(h.root, name) }

func (h *host) write(name, content string) {
	h.t.Helper()
	path := h.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if !strings.HasPrefix(name, "sys/") {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			h.t.Fatal(err)
		}
		return
	}
	// Nobody sees an attribute of sysfs half written.
	whole := h.path("whole " + strings.ReplaceAll(name, "/", " "))
	if err := errors.Join(os.WriteFile(whole, []byte(content), 0o600), os.Rename(whole, path)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) read(name string) string {
	b, err := os.ReadFile(h.path(name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (h *host) link(name, target string) {
	h.t.Helper()
	path := h.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Symlink(h.path(target), path); err != nil && !errors.Is(err, os.ErrExist) {
		h.t.Fatal(err)
	}
}

// symlink makes a link to what need not exist, as those of /proc/PID/ns.
func (h *host) symlink(name, to string) {
	h.t.Helper()
	path := h.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Symlink(to, path); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) remove(names ...string) {
	for _, n := range names {
		if err := os.RemoveAll(h.path(n)); err != nil {
			h.t.Error(err)
		}
	}
}

func (h *host) glob(pattern string) []string {
	found, err := filepath.Glob(h.path(pattern))
	if err != nil {
		h.t.Error(err)
	}
	for n, f := range found {
		found[n], _ = filepath.Rel(h.root, f)
	}
	return found
}

// mount adds a line to what the host has mounted.
func (h *host) mount(dev, root, point, fstype, source string) {
	h.write("proc/1/mountinfo", h.read("proc/1/mountinfo")+
		fmt.Sprintf("\n99 22 %s %s %s rw,relatime shared:9 - %s %s rw\n", dev, root, point, fstype, source))
}

// left lists all that an attached LUN leaves on the host.
func (h *host) left() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var left []string
	for _, pattern := range []string{
		"sys/class/iscsi_session/session*", "sys/block/sd*", "sys/block/dm-*",
		"etc/iscsi/nodes/*", "var/lib/iscsi/nodes/*", "etc/iscsi/.node-record*",
	} {
		left = append(left, h.glob(pattern)...)
	}
	return left
}

// ran lists the commands run that contain all the words.
func (h *host) ran(words ...string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []string
	for _, c := range h.commands {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(c, w) }) {
			found = append(found, c)
		}
	}
	return found
}

func (h *host) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.commands, h.writes = nil, nil
}

// Run is the host's tools.
func (h *host) Run(ctx context.Context, argv ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h.mu.Lock()
	line := strings.Join(argv, " ")
	h.commands = append(h.commands, line)
	out, code := h.tool(argv)
	for piece, exit := range h.exits {
		if strings.Contains(line, piece) {
			code = exit
			delete(h.exits, piece)
		}
	}
	then := h.pending(line)
	h.mu.Unlock()
	then()
	if err := ctx.Err(); err != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.killed = append(h.killed, line)
		return nil, err
	}
	if code != 0 {
		return []byte(out), &iscsi.ExitError{Tool: argv[0], Code: code, Stderr: "as told"}
	}
	return []byte(out), nil
}

func (h *host) pending(line string) func() {
	for piece, do := range h.after {
		if strings.Contains(line, piece) {
			delete(h.after, piece)
			return do
		}
	}
	return func() {}
}

func (h *host) tool(argv []string) (out string, code int) {
	line := strings.Join(argv, " ")
	arg := func(flag string) string {
		if n := slices.Index(argv, flag); n >= 0 && n+1 < len(argv) {
			return argv[n+1]
		}
		return ""
	}
	for piece, exit := range h.exits { // what fails does nothing
		if strings.Contains(line, piece) {
			return "", exit
		}
	}
	switch {
	case argv[0] == "iscsiadm" && arg("-o") == "new":
		return "", h.newRecord(arg("-T"), arg("-p"))
	case argv[0] == "iscsiadm" && arg("-o") == "delete":
		return "", h.deleteRecords(arg("-T"))
	case argv[0] == "iscsiadm" && argv[len(argv)-1] == "--login" && arg("-p") == "":
		return "", h.logInAll(arg("-T"))
	case argv[0] == "iscsiadm" && argv[len(argv)-1] == "--login":
		return "", h.logIn(arg("-T"), arg("-p"))
	case argv[0] == "iscsiadm" && argv[len(argv)-1] == "--logout" && arg("-m") == "node":
		return "", h.logOutAll(arg("-T"))
	case argv[0] == "iscsiadm" && argv[len(argv)-1] == "--logout":
		return "", h.logOut(arg("-r"))
	case argv[0] == "multipath" && arg("-a") != "":
		return h.tellMultipath(filepath.Base(arg("-a")))
	case line == "multipath -t":
		return h.multipathConf, 0
	case line == "multipathd show config" && h.multipathRuns != "":
		return h.multipathRuns, 0
	case line == "multipathd show config":
		return h.multipathConf, 0
	case strings.HasPrefix(line, "modprobe --dry-run "):
		return "", 0
	case line == "iscsiadm --version":
		return "iscsiadm version 2.1.8\n", 0
	case strings.HasPrefix(line, "multipathd add path "):
		h.unheard = false
		h.takeUp(argv[3])
		return "ok\n", 0
	case strings.HasPrefix(line, "multipathd del map "), strings.HasPrefix(line, "multipath -f "):
		return h.deleteMap(argv[len(argv)-1])
	case strings.HasPrefix(line, "multipathd resize map "):
		return h.resizeMap(argv[3])
	case strings.HasPrefix(line, "multipathd resume map "):
		if dm := h.mapNamed(argv[3]); dm != "" && h.multipathdRuns() {
			h.write("sys/block/"+dm+"/dm/suspended", "0\n")
			return "ok\n", 0
		}
		return "fail\n", 1
	case strings.HasPrefix(line, "multipathd disablequeueing map "):
		h.queueing = false
		return "ok\n", 0
	case strings.HasPrefix(line, "multipathd restorequeueing map ") && h.mapNamed(argv[3]) != "" && h.multipathdRuns():
		h.queueing = true
		return "ok\n", 0
	case strings.HasPrefix(line, "multipathd restorequeueing map "):
		return "fail\n", 1
	}
	h.t.Errorf("the host was asked to run %q", line)
	return "", 1
}

func recordPath(iqn, portal string) string {
	p := netip.MustParseAddrPort(portal)
	return fmt.Sprintf("etc/iscsi/nodes/%s/%s,%d", iqn, p.Addr(), p.Port())
}

func (h *host) newRecord(iqn, portal string) int {
	path := recordPath(iqn, portal)
	if info, err := os.Stat(h.path(path)); err == nil && info.Size() == 0 {
		return 6 // measured: iscsiadm cannot overwrite what it cannot read
	}
	p := netip.MustParseAddrPort(portal)
	h.write(path, fmt.Sprintf(`# BEGIN RECORD 2.1.8
node.name = %s
node.tpgt = -1
node.startup = automatic
iface.iscsi_ifacename = default
node.session.initial_login_retry_max = 8
node.session.auth.authmethod = None
node.session.timeo.replacement_timeout = 120
node.session.scan = auto
node.conn[0].address = %s
node.conn[0].port = %d
node.conn[0].startup = manual
node.conn[0].timeo.login_timeout = 15
# END RECORD
`, iqn, p.Addr(), p.Port()))
	return 0
}

func (h *host) deleteRecords(iqn string) int {
	records := h.glob("etc/iscsi/nodes/" + iqn + "/*")
	code := 21
	for _, r := range records {
		if h.read(r) == "" {
			continue
		}
		h.remove(r)
		code = 0
	}
	_ = os.Remove(h.path("etc/iscsi/nodes/" + iqn))
	return code
}

// record returns the value of a key in a node record.
func (h *host) record(iqn string, portal netip.AddrPort, key string) string {
	for line := range strings.Lines(h.read(recordPath(iqn, portal.String()))) {
		if k, v, ok := strings.Cut(line, "="); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func (h *host) logIn(iqn, portal string) int {
	p := netip.MustParseAddrPort(portal)
	switch {
	case h.record(iqn, p, "node.name") != iqn:
		return 21
	case h.login[p] != 0:
		return h.login[p]
	case h.sessionTo(iqn, p) != 0:
		return 15
	}
	h.addSession(iqn, p)
	return 0
}

// logInAll logs in to all portals of a target that have a record, and exits with
// what the last one that failed said.
func (h *host) logInAll(iqn string) int {
	records := h.glob("etc/iscsi/nodes/" + iqn + "/*")
	if len(records) == 0 {
		return 21
	}
	code := 0
	for _, r := range records {
		address, port, _ := strings.Cut(filepath.Base(r), ",")
		if failed := h.logIn(iqn, net.JoinHostPort(address, port)); failed != 0 {
			code = failed
		}
	}
	return code
}

func (h *host) sessionTo(iqn string, p netip.AddrPort) int {
	for _, class := range h.glob("sys/class/iscsi_session/session*") {
		id, _ := strconv.Atoi(strings.TrimPrefix(filepath.Base(class), "session"))
		connection := fmt.Sprintf("sys/class/iscsi_connection/connection%d:0/", id)
		if h.read(class+"/targetname") == iqn && h.read(connection+"persistent_address") == p.Addr().String() {
			return id
		}
	}
	return 0
}

func (h *host) addSession(iqn string, p netip.AddrPort) int {
	h.sessions++
	id := h.sessions
	class := fmt.Sprintf("sys/class/iscsi_session/session%d/", id)
	device := fmt.Sprintf("sys/devices/platform/host%d/session%d", id, id)
	h.write(device+"/uevent", "")
	h.write(device+"/iscsi_session/session"+strconv.Itoa(id)+"/uevent", "")
	h.link(strings.TrimSuffix(class, "/"), device+"/iscsi_session/session"+strconv.Itoa(id))
	h.write(class+"state", "LOGGED_IN\n")
	h.write(class+"target_id", "0\n")
	h.write(class+"recovery_tmo", h.record(iqn, p, "node.session.timeo.replacement_timeout")+"\n")
	connection := fmt.Sprintf("sys/class/iscsi_connection/connection%d:0/", id)
	h.write(connection+"persistent_address", p.Addr().String()+"\n")
	h.write(connection+"persistent_port", strconv.Itoa(int(p.Port()))+"\n")
	h.write(fmt.Sprintf("sys/class/scsi_host/host%d/scan", id), "")
	for _, name := range []string{"username", "password", "username_in", "password_in"} {
		v := h.record(iqn, p, "node.session.auth."+name)
		if v == "" {
			v = "(null)"
		}
		h.write(class+name, v+"\n")
	}
	h.write(class+"targetname", iqn+"\n")
	return id
}

func (h *host) logOut(id string) int {
	class := "sys/class/iscsi_session/session" + id
	if h.read(class+"/targetname") == "" {
		return 22 // measured
	}
	for name, dir := range h.dirs {
		if strings.Contains(dir, "/session"+id+"/") {
			h.deleteDisk(name)
		}
	}
	h.remove(class, "sys/class/iscsi_connection/connection"+id+":0", "sys/class/scsi_host/host"+id, "sys/devices/platform/host"+id)
	return 0
}

// logOutAll ends the sessions of a target that have a record.
func (h *host) logOutAll(iqn string) int {
	code := 21
	for _, class := range h.glob("sys/class/iscsi_session/session*") {
		id := strings.TrimPrefix(filepath.Base(class), "session")
		address := h.read("sys/class/iscsi_connection/connection" + id + ":0/persistent_address")
		for _, p := range portals() {
			if h.read(class+"/targetname") == iqn && address == p.Addr().String() && h.record(iqn, p, "node.name") == iqn {
				h.logOut(id)
				code = 0
			}
		}
	}
	return code
}

// diskDir is the SCSI device's directory of a disk.
func (h *host) diskDir(name string) string { return h.dirs[name] }

// content is what the array shows where the disk leads to.
func (h *host) content(name string) (lun, bool) {
	dir := h.diskDir(name)
	if dir == "" {
		return lun{}, false
	}
	id := strings.TrimPrefix(filepath.Base(filepath.Dir(filepath.Dir(dir))), "session")
	number, _ := strconv.Atoi(dir[strings.LastIndex(dir, ":")+1:])
	l, ok := h.luns[h.read("sys/class/iscsi_session/session"+id+"/targetname")][number]
	return l, ok
}

func (h *host) addDisk(session, number int, l lun) string {
	h.disks++
	name := "sd" + string(rune('a'+h.disks))
	if h.disks > 24 {
		name = fmt.Sprintf("sd%c%c", 'a'+h.disks/26, 'a'+h.disks%26)
	}
	dir := fmt.Sprintf("sys/devices/platform/host%d/session%d/target%d:0:0/%d:0:0:%d/", session, session, session, session, number)
	h.dirs[name] = strings.TrimSuffix(dir, "/")
	h.write(dir+"state", "running\n")
	h.write(dir+"vendor", "DATERA  \n")
	h.write(dir+"model", "IBLOCK          \n")
	if !h.mute {
		h.write(dir+"vpd_pg80", string(serialPage(l.serial)))
		h.write(dir+"vpd_pg83", string(idPage(cmp.Or(h.renamed[name], iscsi.LIOWWID(l.serial)))))
	}
	h.write(dir+"delete", "")
	h.write(dir+"rescan", "")
	block := dir + "block/" + name
	h.write(block+"/dev", fmt.Sprintf("8:%d\n", 16*h.disks))
	h.write(block+"/size", strconv.FormatInt(l.bytes/512, 10)+"\n")
	h.write(block+"/holders/.keep", "")
	h.remove(block + "/holders/.keep")
	h.link("sys/block/"+name, block)
	h.write("run/udev/data/b"+fmt.Sprintf("8:%d", 16*h.disks), "E:ID_SERIAL=x\n")
	return name
}

func (h *host) deleteDisk(name string) {
	dir := h.diskDir(name)
	for _, m := range h.glob(dir + "/block/" + name + "/holders/dm-*") {
		dm := filepath.Base(m)
		h.remove("sys/block/" + dm + "/slaves/" + name)
		if len(h.glob("sys/block/"+dm+"/slaves/*")) == 0 && h.read("proc/4711/comm") != "" && !h.claimed[dm] {
			h.removeMap(dm) // measured: multipathd takes an unused map away with its last path
		}
	}
	h.remove("sys/block/"+name, dir)
	_ = os.Remove(h.path(filepath.Dir(dir))) // unless it has another LUN
	delete(h.dirs, name)
}

// tellMultipath is multipath -a.
func (h *host) tellMultipath(disk string) (string, int) {
	switch {
	case h.blacklisted:
		return "", 1
	case h.full:
		return "failed adding '" + h.wwid(disk) + "' to wwids file\n", 1
	}
	h.known[h.wwid(disk)] = true
	return "", 0
}

func (h *host) wwid(disk string) string {
	if l, ok := h.content(disk); ok && h.callout {
		return "SDATERA_IBLOCK_" + l.serial
	}
	if l, ok := h.content(disk); ok && h.readRaw(h.diskDir(disk)+"/vpd_pg83") == "" {
		return iscsi.LIOWWID(l.serial) // udev asks the disk
	}
	wwid, err := iscsi.ParseWWID([]byte(h.readRaw(h.diskDir(disk) + "/vpd_pg83")))
	if err != nil {
		h.t.Error(err)
	}
	return wwid
}

func (h *host) readRaw(name string) string {
	b, _ := os.ReadFile(h.path(name))
	return string(b)
}

// takeUp is what multipathd does when it hears of a disk.
func (h *host) takeUp(disk string) {
	if h.read("proc/4711/comm") == "" || h.blacklisted || h.diskDir(disk) == "" {
		return
	}
	wwid := h.wwid(disk)
	if h.unheard && h.mapNamed(wwid) != "" {
		return
	}
	if h.greedy || h.known[wwid] {
		h.addToMap(wwid, disk)
	}
}

func (h *host) addToMap(wwid, disk string) string {
	dm := h.mapNamed(wwid)
	if dm == "" {
		dm = fmt.Sprintf("dm-%d", h.maps)
		h.maps++
		h.byName[wwid] = dm
		dir := "sys/devices/virtual/block/" + dm
		h.write(dir+"/dev", "253:"+strings.TrimPrefix(dm, "dm-")+"\n")
		h.write(dir+"/size", h.read(h.diskDir(disk)+"/block/"+disk+"/size")+"\n")
		h.write(dir+"/dm/name", wwid+"\n")
		h.write(dir+"/dm/uuid", "mpath-"+wwid+"\n")
		h.write(dir+"/dm/suspended", "0\n")
		h.write(dir+"/slaves/.keep", "")
		h.remove(dir + "/slaves/.keep")
		h.link("sys/block/"+dm, dir)
	}
	if disk != "" {
		h.link("sys/devices/virtual/block/"+dm+"/slaves/"+disk, h.diskDir(disk)+"/block/"+disk)
		h.link(h.diskDir(disk)+"/block/"+disk+"/holders/"+dm, "sys/devices/virtual/block/"+dm)
	}
	return dm
}

func (h *host) mapNamed(alias string) string { return h.byName[alias] }

func (h *host) removeMap(dm string) {
	for _, slave := range h.glob("sys/block/" + dm + "/slaves/*") {
		h.remove(h.diskDir(filepath.Base(slave)) + "/block/" + filepath.Base(slave) + "/holders/" + dm)
	}
	delete(h.byName, h.read("sys/block/"+dm+"/dm/name"))
	h.remove("sys/block/"+dm, "sys/devices/virtual/block/"+dm)
}

// addPartitionMap lays a map over a partition of a map, as udev and kpartx do.
func (h *host) addPartitionMap(alias string) string {
	over, dm := h.mapNamed(alias), fmt.Sprintf("dm-%d", h.maps)
	h.maps++
	dir := "sys/devices/virtual/block/" + dm
	h.write(dir+"/dev", "253:"+strings.TrimPrefix(dm, "dm-")+"\n")
	h.write(dir+"/dm/uuid", "part1-mpath-"+alias+"\n")
	h.link("sys/block/"+dm, dir)
	h.link("sys/devices/virtual/block/"+over+"/holders/"+dm, dir)
	h.claimed[over] = true
	return dm
}

// deleteMap removes a map and those over its partitions, unless one is in use.
func (h *host) deleteMap(alias string) (string, int) {
	dm := h.mapNamed(alias)
	partitions := h.glob("sys/block/" + dm + "/holders/dm-*")
	for _, p := range partitions {
		if h.claimed[filepath.Base(p)] {
			return "fail\n", 1
		}
	}
	if dm == "" || h.claimed[dm] && len(partitions) == 0 {
		return "fail\n", 1
	}
	for _, p := range partitions {
		h.remove("sys/block/"+filepath.Base(p), "sys/devices/virtual/block/"+filepath.Base(p))
		delete(h.claimed, dm)
	}
	h.removeMap(dm)
	return "ok\n", 0
}

func (h *host) resizeMap(alias string) (string, int) {
	dm := h.mapNamed(alias)
	sizes := map[string]bool{}
	for _, s := range h.glob("sys/block/" + dm + "/slaves/*/size") {
		sizes[h.read(s)] = true
	}
	if dm == "" || len(sizes) != 1 {
		return "fail\n", 1
	}
	for s := range sizes {
		h.write("sys/block/"+dm+"/size", s+"\n")
	}
	return "ok\n", 0
}

// Set is the kernel's part of sysfs.
func (h *host) Set(path, value string) error {
	rel, err := filepath.Rel(h.root, path)
	if err != nil {
		return err
	}
	if err = h.answer(filepath.Base(filepath.Dir(path))); err != nil {
		return err
	}
	h.mu.Lock()
	entry := "set " + rel + " " + value
	h.writes = append(h.writes, entry)
	err = h.set(rel, value)
	then := h.pending(entry)
	h.mu.Unlock()
	then()
	return err
}

func (h *host) set(rel, value string) error {
	dir := filepath.Dir(rel)
	switch filepath.Base(rel) {
	case "scan":
		return h.scan(strings.TrimPrefix(filepath.Base(dir), "host"), value)
	case "delete":
		for _, block := range h.glob(dir + "/block/sd*") {
			h.deleteDisk(filepath.Base(block))
		}
		return nil
	case "rescan":
		for _, block := range h.glob(dir + "/block/sd*") {
			if l, ok := h.content(filepath.Base(block)); ok {
				h.write(block+"/size", strconv.FormatInt(l.bytes/512, 10)+"\n")
			}
		}
		return nil
	case "recovery_tmo", "state":
		h.write(rel, value+"\n")
		return nil
	}
	return fmt.Errorf("%s: %w", rel, syscall.EINVAL)
}

func (h *host) scan(id, request string) error {
	var channel, target, number int
	if _, err := fmt.Sscanf(request, "%d %d %d", &channel, &target, &number); err != nil {
		return syscall.EINVAL
	}
	session, _ := strconv.Atoi(id)
	l, ok := h.luns[h.read("sys/class/iscsi_session/session"+id+"/targetname")][number]
	if !ok || len(h.glob(fmt.Sprintf("sys/devices/platform/host%s/session%s/target*/*:%d/block/sd*", id, id, number))) > 0 {
		return nil
	}
	name := h.addDisk(session, number, l)
	if !h.overlooked {
		h.takeUp(name)
	}
	h.mute, h.overlooked = false, false
	return nil
}

// SyncDir is the kernel's.
func (h *host) SyncDir(dir string) error {
	rel, err := filepath.Rel(h.root, dir)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.writes = append(h.writes, "sync "+rel)
	err, then := h.dead[rel], h.pending("sync "+rel)
	h.mu.Unlock()
	then()
	return err
}

// Node is /dev.
func (h *host) Node(path, dev string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.strange[filepath.Base(path)] {
		return fmt.Errorf("%s is block device 8:99, want %s", path, dev)
	}
	if got := h.read("sys/block/" + filepath.Base(path) + "/dev"); got != dev {
		return fmt.Errorf("%s: %w", path, os.ErrNotExist)
	}
	return nil
}

// answer waits as long as the device hangs.
func (h *host) answer(name string) error {
	h.mu.Lock()
	hung := h.hung[name]
	h.mu.Unlock()
	if hung == nil {
		return nil
	}
	<-hung
	return syscall.EIO
}

func (h *host) Identify(path string) (iscsi.Identity, error) {
	name := filepath.Base(path)
	if err := h.answer(name); err != nil {
		return iscsi.Identity{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	l, ok := h.content(name)
	if !ok {
		return iscsi.Identity{}, syscall.EIO
	}
	return iscsi.Identity{Serial: l.serial, WWID: cmp.Or(h.renamed[name], iscsi.LIOWWID(l.serial)), Bytes: l.bytes}, nil
}

// Table is the kernel's: it goes by the uuid.
func (h *host) Table(uuid string) (iscsi.MapTable, error) {
	if err := h.answer("table"); err != nil {
		return iscsi.MapTable{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, dm := range h.glob("sys/block/dm-*") {
		switch {
		case h.read(dm+"/dm/uuid") != uuid:
		case strings.HasPrefix(uuid, "part"):
			return iscsi.NewMapTable(false, h.partOpens), nil
		default:
			return iscsi.NewMapTable(h.queueing, h.opens), nil
		}
	}
	return iscsi.MapTable{}, syscall.ENXIO
}

// FailIfNoPath is the kernel's.
func (h *host) FailIfNoPath(uuid string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mapNamed(strings.TrimPrefix(uuid, "mpath-")) == "" {
		return syscall.ENXIO
	}
	h.queueing = false
	return nil
}

// Resume is the kernel's.
func (h *host) Resume(uuid string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	dm := h.mapNamed(strings.TrimPrefix(uuid, "mpath-"))
	if dm == "" {
		return syscall.ENXIO
	}
	if h.slowResumes > 0 {
		h.slowResumes--
		return context.DeadlineExceeded
	}
	h.write("sys/block/"+dm+"/dm/suspended", "0\n")
	return nil
}

// Openers is the kernel's.
func (h *host) Openers(_ string, devs []string) []iscsi.Opener {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.meanwhile != nil {
		h.meanwhile()
	}
	var found []iscsi.Opener
	for _, dev := range devs {
		found = append(found, h.opened[dev]...)
	}
	return found
}

func (h *host) Claim(path string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.claimed[filepath.Base(path)] {
		return syscall.EBUSY
	}
	return h.dead[filepath.Base(path)]
}

func (h *host) Flush(path string, alone bool) error {
	if alone {
		if err := h.Claim(path); err != nil {
			return err
		}
	}
	h.hold(path, true) // as the real one does while it waits
	err := h.answer(filepath.Base(path))
	h.hold(path, false)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writes = append(h.writes, "flush "+path)
	return nil
}

func (h *host) hold(path string, held bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.claimed[filepath.Base(path)] = held
}

// hang makes a device stop answering until the test ends.
func (h *host) hang(name string) {
	c := make(chan struct{})
	h.mu.Lock()
	h.hung[name] = c
	h.mu.Unlock()
	h.t.Cleanup(func() { h.recover(name) })
}

// recover makes a device answer again, with errors to what was asked meanwhile.
func (h *host) recover(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.hung[name]; c != nil {
		close(c)
		delete(h.hung, name)
	}
}

// fail brings all sessions to a portal down, as a dead network does.
func (h *host) fail(iqn string, p netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.write(fmt.Sprintf("sys/class/iscsi_session/session%d/state", h.sessionTo(iqn, p)), "FAILED\n")
}

func serialPage(serial string) []byte {
	page := append([]byte{0, 0x80, 0, 0}, serial...)
	page = append(page, 0)
	binary.BigEndian.PutUint16(page[2:], uint16(len(page)-4))
	return page
}

func idPage(wwid string) []byte {
	naa, err := hex.DecodeString(wwid[1:])
	if err != nil {
		panic(err)
	}
	body := append([]byte{0x01, 0x03, 0, byte(len(naa))}, naa...)
	page := append([]byte{0, 0x83, 0, 0}, body...)
	binary.BigEndian.PutUint16(page[2:], uint16(len(body)))
	return page
}
