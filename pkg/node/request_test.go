package node_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

func badIDs() map[string]string {
	return map[string]string{
		"":                                "empty",
		strings.Repeat("a", 129):          "129 bytes",
		"a\nb":                            "control character",
		"a\x00":                           "control character",
		"\xff":                            "UTF-8",
		"..":                              "NAME",
		"backend/..":                      "NAME",
		"../../etc":                       "NAME",
		"/a":                              "NAME",
		"a/":                              "NAME",
		"a/b/c":                           "NAME",
		"./a":                             "NAME",
		strings.Repeat("b/", 64) + "/../": "bytes",
	}
}

func badPaths() map[string]string {
	return map[string]string{
		"":                               "empty",
		"relative":                       "not absolute",
		"./a":                            "not absolute",
		"/":                              "root directory",
		"//":                             "root directory",
		"/a/../b":                        "..",
		"/a/..":                          "root directory",
		"/a/b/..":                        "..",
		"/a//b":                          "not clean",
		"/a/./b":                         "not clean",
		"/a\nb":                          "control character",
		"/" + strings.Repeat("a", 256):   "too long",
		strings.Repeat("/aaaaaaa", 1000): "8000 bytes",
	}
}

func TestBadIDsAreRefusedEverywhere(t *testing.T) {
	m := newMachine(t)
	for id, words := range badIDs() {
		v := m.volume("a")
		v.id = id
		_, expandErr := v.expand(v.staging, 0)
		_, statsErr := v.stats(v.staging)
		for _, err := range []error{v.stage(), v.publish(), v.unpublish(), v.unstage(), expandErr, statsErr} {
			want(t, err, codes.InvalidArgument, "volume_id", words)
		}
	}
	m.nothingLeft()
}

func TestBadPathsAreRefusedEverywhere(t *testing.T) {
	m := newMachine(t)
	good := m.volume("a")
	ok(t, good.stage())
	for path, words := range badPaths() {
		v := m.volume("a")
		want(t, v.publishAt(path), codes.InvalidArgument, "target_path", words)
		want(t, v.unpublishAt(path), codes.InvalidArgument, "target_path", words)
		v.staging = path
		want(t, v.stage(), codes.InvalidArgument, "staging_target_path", words)
		want(t, v.unstage(), codes.InvalidArgument, "staging_target_path", words)
		if path == "" {
			want(t, v.publish(), codes.FailedPrecondition, "staging_target_path is empty")
			_, err := v.expand(path, 0)
			want(t, err, codes.InvalidArgument, "volume_path")
			_, err = v.stats(path)
			want(t, err, codes.InvalidArgument, "volume_path")
			continue
		}
		want(t, v.publish(), codes.InvalidArgument, "staging_target_path", words)
	}
	want(t, good.publishAt(good.staging), codes.InvalidArgument, "within the staging path")
	want(t, good.publishAt(good.staging+"/sub"), codes.InvalidArgument, "within the staging path")
}

func TestBadCapabilitiesAreRefused(t *testing.T) {
	m := newMachine(t)
	group := mountCap("xfs", writer)
	group.GetMount().VolumeMountGroup = "1000"
	for _, c := range []struct {
		cap   *csi.VolumeCapability
		words string
	}{
		{nil, "volume_capability is missing"},
		{&csi.VolumeCapability{AccessMode: group.GetAccessMode()}, "neither block nor mount"},
		{&csi.VolumeCapability{AccessType: mountCap("xfs", writer).GetAccessType()}, "UNKNOWN is not supported"},
		{group, "volume_mount_group"},
		{mountCap("ext3", writer), `"ext3" is not supported`},
		{mountCap("btrfs", writer), `"btrfs" is not supported`},
		{mountCap("xfs\n", writer), "is not supported"},
		{mountCap("xfs", csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER), "block volumes only"},
		{blockCap(csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER), "is not supported"},
		{mountCap("xfs", 99), "is not supported"},
		{mountCap("xfs", writer, ""), "mount flag"},
		{mountCap("xfs", writer, "noatime\nrw"), "control character"},
		{mountCap("xfs", writer, "noatime\x00"), "control character"},
		{mountCap("xfs", writer, "noatime,bind"), `"bind" is not allowed`},
		{mountCap("xfs", writer, "remount"), "not allowed"},
		{mountCap("xfs", writer, "loop=/dev/loop1"), "not allowed"},
		{mountCap("xfs", writer, "logdev=/dev/sda"), "not allowed"},
		{mountCap("xfs", writer, "norecovery"), "not allowed"},
		{mountCap("ext4", writer, "x-mount.subdir=/etc"), "speaks to mount"},
		{mountCap("ext4", writer, "X-mount.mkdir"), "speaks to mount"},
		{mountCap("ext4", writer, "a,,b"), "empty option"},
		{mountCap("ext4", writer, `context="a`), "open quote"},
	} {
		v := m.volume("a")
		v.cap = c.cap
		want(t, v.stage(), codes.InvalidArgument, c.words)
		want(t, v.publish(), codes.InvalidArgument, c.words)
	}
	if got := m.Calls(); len(got) > 0 {
		t.Errorf("something was done: %v", got)
	}
}

func TestBadPublishContextsAreRefused(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	for key, value := range map[string]string{"": "", "version": "9", "iqn": "", "portals": "x", "surprise": "y"} {
		req := v.stageRequest()
		if key == "" {
			req.PublishContext = nil
		} else {
			req.PublishContext[key] = value
		}
		_, err := m.server.NodeStageVolume(m.ctx(), req)
		want(t, err, codes.InvalidArgument, key)
	}
}

func TestBadSizesAreOutOfRange(t *testing.T) {
	m := newMachine(t)
	v := m.volume("a")
	ok(t, v.stage())
	for _, c := range []*csi.CapacityRange{{RequiredBytes: -1}, {LimitBytes: -1}, {RequiredBytes: 2, LimitBytes: 1}} {
		_, err := m.server.NodeExpandVolume(m.ctx(), &csi.NodeExpandVolumeRequest{VolumeId: v.id, VolumePath: v.staging, CapacityRange: c})
		want(t, err, codes.OutOfRange, "capacity_range")
	}
	_, err := m.server.NodeExpandVolume(m.ctx(), &csi.NodeExpandVolumeRequest{VolumeId: v.id, VolumePath: v.staging, VolumeCapability: mountCap("zfs", writer)})
	want(t, err, codes.InvalidArgument, "zfs")
}

const (
	userKey, passwordKey     = "node.session.auth.username", "node.session.auth.password"
	userInKey, passwordInKey = "node.session.auth.username_in", "node.session.auth.password_in"
)

func TestBadSecretsAreRefusedWithoutTellingThem(t *testing.T) {
	good := map[string]string{userKey: "canary-user", passwordKey: "canary-pass-1", userInKey: "canary-user-in", passwordInKey: "canary-pass-2"}
	for _, c := range []struct {
		key, value, words string
	}{
		{userKey, "", "come together"},
		{passwordKey, "", "come together"},
		{userInKey, "", "come together"},
		{passwordInKey, "", "come together"},
		{passwordKey, "canary-sho", "has 10 bytes"},
		{passwordKey, "canary-much-too-long", "has 20 bytes"},
		{passwordInKey, "canary-sho", passwordInKey + " has 10 bytes"},
		{passwordKey, "canary-pass 1", "a space"},
		{passwordKey, "canary-pässe", "beyond ASCII"},
		{passwordInKey, "canary-pass-1", "are the same"},
		{userKey, "canary\nuser", "control character"},
	} {
		m := newMachine(t)
		v := m.volume("a")
		v.secrets = maps.Clone(good)
		v.secrets[c.key] = c.value
		err := v.stage()
		want(t, err, codes.InvalidArgument, "secrets", c.words)
		if strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: the error tells a secret: %v", c.key, err)
		}
	}
}

// FM 40: through a whole life, in every failure, nothing says a secret.
func TestSecretsAreNeverWrittenAnywhere(t *testing.T) {
	var said bytes.Buffer
	var mu sync.Mutex
	log := writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return said.Write(p)
	})
	klog.SetLogger(textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(log), textlogger.Verbosity(10))))
	t.Cleanup(klog.ClearLogger)

	m := newMachine(t)
	m.log = log
	v := m.volume("a")
	v.secrets = map[string]string{userKey: "canary-user", passwordKey: "canary-pass-1", userInKey: "canary-user-in", passwordInKey: "canary-pass-2"}
	v.disk().Want(iscsi.CHAP{User: "canary-user", Password: "canary-pass-1", UserIn: "canary-user-in", PasswordIn: "canary-pass-2"})
	steps := 60
	for crash := range steps {
		m.CrashAt(crash)
		for _, call := range []func() error{v.stage, v.publish, v.unpublish, v.unstage} {
			fmt.Fprintln(&said, call())
		}
		checkRecords(t, m)
		m.Revive()
		m.restart()
	}
	ok(t, v.stage())
	checkRecords(t, m)
	fmt.Fprintln(&said, m.Calls(), m.server)
	fmt.Fprintf(&said, "%+v %#v", m.server, m.Calls())
	mu.Lock()
	defer mu.Unlock()
	if strings.Contains(said.String(), "canary") {
		t.Errorf("a secret was said:\n%s", said.String())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func checkRecords(t *testing.T, m *machine) {
	t.Helper()
	err := filepath.WalkDir(m.Config().RecordDir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		ok(t, err)
		if bytes.Contains(data, []byte("canary")) {
			t.Errorf("%s holds a secret: %s", e.Name(), data)
		}
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", e.Name(), info.Mode(), err)
		}
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

func FuzzStageNeverActsOnWhatItCannotParse(f *testing.F) {
	f.Add("CSI-pvc-a", "/staging", "xfs", "noatime", "iqn.2013-05.com.daterainc:tc:01:sn:a", "1073741824")
	f.Add("../../x", "/a/../b", "ext4", "a,bind", "", "-1")
	f.Fuzz(func(t *testing.T, id, staging, fs, flag, iqn, size string) {
		m := newMachine(t)
		v := m.volume("a")
		req := v.stageRequest()
		req.VolumeId, req.VolumeCapability = id, mountCap(fs, writer, flag)
		req.PublishContext["iqn"], req.PublishContext["bytes"] = iqn, size
		req.StagingTargetPath = m.dir + "/" + staging
		_, err := m.server.NodeStageVolume(m.ctx(), req)
		if err == nil {
			_, err = m.server.NodeUnstageVolume(m.ctx(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: req.GetStagingTargetPath()})
			ok(t, err)
		}
		m.nothingLeftOrRefused(err)
	})
}

// nothingLeftOrRefused wants a machine on which a call that failed left at most a
// record.
func (m *machine) nothingLeftOrRefused(err error) {
	m.t.Helper()
	if err == nil {
		m.nothingLeft()
		return
	}
	if left := m.Mounted(); len(left) > 0 {
		m.t.Errorf("%v, and mounts are left: %v", err, left)
	}
}
