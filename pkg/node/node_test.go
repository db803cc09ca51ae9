package node_test

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/datera-csi/datera-csi/internal/publishctx"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
	"github.com/datera-csi/datera-csi/pkg/node/nodetest"
)

const gib = int64(1) << 30

// machine is a node under test.
type machine struct {
	*nodetest.Host
	t        testing.TB
	dir      string
	log      io.Writer
	server   *node.Server
	patience time.Duration // with one call; 0 means ten seconds
}

func newMachine(tb testing.TB, opts ...func(*node.Config)) *machine {
	tb.Helper()
	dir := memoryDir(tb)
	host, err := nodetest.NewHost(filepath.Join(dir, "host"))
	if err != nil {
		tb.Fatal(err)
	}
	m := &machine{Host: host, t: tb, dir: dir, log: tb.Output()}
	m.restart(opts...)
	return m
}

// memoryDir is a directory in memory where there is one: the records are synced
// thousands of times here, and that a sync reaches a disk is not what is tested.
func memoryDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "node-test-")
	if err != nil {
		dir = tb.TempDir()
	}
	tb.Cleanup(func() { ok(tb, os.RemoveAll(dir)) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// restart makes a new plugin on the same machine.
func (m *machine) restart(opts ...func(*node.Config)) {
	m.t.Helper()
	cfg := m.Config()
	cfg.Clock = func() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }
	cfg.StatsTimeout = 200 * time.Millisecond
	for _, o := range opts {
		o(&cfg)
	}
	s, err := node.New(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	node.StepRecords(s, m.Step)
	m.server = s
}

// records lists the volumes that have a record.
func (m *machine) records() []string {
	m.t.Helper()
	names, err := filepath.Glob(filepath.Join(m.Config().RecordDir, "*.json"))
	if err != nil {
		m.t.Fatal(err)
	}
	return names
}

// volume is what a test does with one volume on the machine.
type volume struct {
	m       *machine
	id      string
	target  iscsi.Target
	context publishctx.Context
	staging string
	path    string // of the first publish
	cap     *csi.VolumeCapability
	secrets map[string]string
	ro      bool
}

// spoilRecords writes over all records what is none.
func (m *machine) spoilRecords() {
	m.t.Helper()
	files, err := filepath.Glob(filepath.Join(m.Config().RecordDir, "*.json"))
	ok(m.t, err)
	for _, f := range files {
		ok(m.t, os.WriteFile(f, []byte("{"), 0o600))
	}
}

func (m *machine) volume(name string) *volume {
	number := 0
	for _, c := range name {
		number = number*31 + int(c)
	}
	t := iscsi.Target{
		IQN:     "iqn.2013-05.com.daterainc:tc:01:sn:" + name,
		Portals: []netip.AddrPort{netip.MustParseAddrPort("172.28.0.9:3260"), netip.MustParseAddrPort("172.29.0.9:3260")},
		Serial:  fmt.Sprintf("%08x-2f0d-4b7c-a5a9-5d04a5e7b1aa", number),
		Bytes:   gib,
	}
	return &volume{
		m: m, id: "CSI-pvc-" + name, target: t, context: publishctx.Context{Target: t},
		staging: filepath.Join(m.dir, "kubelet", name, "globalmount"),
		path:    filepath.Join(m.dir, "kubelet", "pod-1", name, "mount"),
		cap:     mountCap("xfs", csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER),
	}
}

func mountCap(fs string, mode csi.VolumeCapability_AccessMode_Mode, flags ...string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fs, MountFlags: flags}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

func blockCap(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

func (v *volume) stageRequest() *csi.NodeStageVolumeRequest {
	return &csi.NodeStageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging, VolumeCapability: v.cap, PublishContext: publishctx.Encode(v.context), Secrets: v.secrets}
}

func (v *volume) stage() error { return v.stageFor(v.m.ctx()) }

func (v *volume) stageFor(ctx context.Context) error {
	_, err := v.m.server.NodeStageVolume(ctx, v.stageRequest())
	return err
}

func (v *volume) unstage() error { return v.unstageFor(v.m.ctx()) }

func (v *volume) unstageFor(ctx context.Context) error {
	_, err := v.m.server.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging})
	return err
}

func (v *volume) publish() error { return v.publishAt(v.path) }

func (v *volume) publishAt(path string) error {
	_, err := v.m.server.NodePublishVolume(v.m.ctx(), &csi.NodePublishVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging, TargetPath: path, VolumeCapability: v.cap, PublishContext: publishctx.Encode(v.context), Readonly: v.ro,
	})
	return err
}

func (v *volume) unpublish() error { return v.unpublishAt(v.path) }

func (v *volume) unpublishAt(path string) error {
	_, err := v.m.server.NodeUnpublishVolume(v.m.ctx(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: path})
	return err
}

func (v *volume) expand(path string, bytes int64) (int64, error) {
	resp, err := v.m.server.NodeExpandVolume(v.m.ctx(), &csi.NodeExpandVolumeRequest{VolumeId: v.id, VolumePath: path, CapacityRange: &csi.CapacityRange{RequiredBytes: bytes}})
	return resp.GetCapacityBytes(), err
}

func (v *volume) stats(path string) ([]*csi.VolumeUsage, error) {
	resp, err := v.m.server.NodeGetVolumeStats(v.m.ctx(), &csi.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: path})
	return resp.GetUsage(), err
}

func (v *volume) disk() *nodetest.Disk {
	v.m.t.Helper()
	d, err := v.m.Disk(v.target)
	if err != nil {
		v.m.t.Fatal(err)
	}
	return d
}

func (m *machine) ctx() context.Context {
	patience := m.patience
	if patience == 0 {
		patience = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	m.t.Cleanup(cancel)
	return klog.NewContext(ctx, textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(m.log), textlogger.Verbosity(10))))
}

// ok fails the test when one of the steps did.
func ok(tb testing.TB, errs ...error) {
	tb.Helper()
	for i, err := range errs {
		if err != nil {
			tb.Fatalf("step %d: %v", i+1, err)
		}
	}
}

// want fails the test unless err has the code and says all the words.
func want(tb testing.TB, err error, code codes.Code, words ...string) {
	tb.Helper()
	if got := status.Code(err); got != code {
		tb.Errorf("got %v (%v), want %v", got, err, code)
	}
	for _, w := range words {
		if err != nil && !strings.Contains(err.Error(), w) {
			tb.Errorf("got %q, want it to say %q", err, w)
		}
	}
}

// nothingLeft fails the test when the machine remembers any volume.
func (m *machine) nothingLeft() {
	m.t.Helper()
	if left := m.Mounted(); len(left) > 0 {
		m.t.Errorf("mounts left: %v", left)
	}
	if left := m.records(); len(left) > 0 {
		m.t.Errorf("records left: %v", left)
	}
}

// calls keeps those calls of the machine that begin with one of the words.
func (m *machine) calls(words ...string) []string {
	var kept []string
	for _, c := range m.Calls() {
		for _, w := range words {
			if strings.HasPrefix(c, w) {
				kept = append(kept, strings.ReplaceAll(c, m.dir, ""))
				break
			}
		}
	}
	return kept
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestInfoIsTheInitiatorName(t *testing.T) {
	m := newMachine(t, func(c *node.Config) { c.MaxVolumes = 100 })
	got, err := m.server.NodeGetInfo(m.ctx(), &csi.NodeGetInfoRequest{})
	ok(t, err)
	want := &csi.NodeGetInfoResponse{NodeId: "iqn.1993-08.org.debian:01:nodetest", MaxVolumesPerNode: 100}
	if diff := cmp.Diff(got, want, protocmp.Transform()); diff != "" {
		t.Errorf("info differs (-got +want):\n%s", diff)
	}
}

func TestInfoTellsWhereTheNodeIs(t *testing.T) {
	m := newMachine(t, func(c *node.Config) { c.Topology = map[string]string{"topology.kubernetes.io/zone": "east"} })
	got, err := m.server.NodeGetInfo(m.ctx(), &csi.NodeGetInfoRequest{})
	ok(t, err)
	want := &csi.Topology{Segments: map[string]string{"topology.kubernetes.io/zone": "east"}}
	if diff := cmp.Diff(got.GetAccessibleTopology(), want, protocmp.Transform()); diff != "" {
		t.Errorf("topology differs (-got +want):\n%s", diff)
	}
}

func TestOnlyWholeCapabilitiesAreAdvertised(t *testing.T) {
	m := newMachine(t)
	got, err := m.server.NodeGetCapabilities(m.ctx(), &csi.NodeGetCapabilitiesRequest{})
	ok(t, err)
	var names []string
	for _, c := range got.GetCapabilities() {
		names = append(names, c.GetRpc().GetType().String())
	}
	if diff := cmp.Diff(names, []string{
		"STAGE_UNSTAGE_VOLUME", "GET_VOLUME_STATS", "EXPAND_VOLUME", "SINGLE_NODE_MULTI_WRITER", "GET_VOLUME_HEALTH", "GET_STORAGE_HEALTH",
	}); diff != "" {
		t.Errorf("capabilities differ (-got +want):\n%s", diff)
	}
}

func TestNewRefusesANodeIDThatOthersCarryToo(t *testing.T) {
	m := newMachine(t)
	for id, fine := range map[string]bool{"iqn.1993-08.org.debian:01:e3f5a1": true, "": false, "iqn.1993-08.org.debian": false} {
		cfg := m.Config()
		cfg.NodeID, cfg.Clock = id, time.Now
		_, err := node.New(cfg)
		if (err == nil) != fine || !fine && !strings.Contains(err.Error(), "iscsi-iname") {
			t.Errorf("%q: got error %v, want fine %v", id, err, fine)
		}
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	m := newMachine(t)
	for name, spoil := range map[string]func(*node.Config){
		"attacher": func(c *node.Config) { c.Attacher = nil },
		"records":  func(c *node.Config) { c.RecordDir = "" },
		"volumes":  func(c *node.Config) { c.MaxVolumes = -1 },
		"stages":   func(c *node.Config) { c.ParallelStages = 0 },
		"clock":    func(c *node.Config) { c.Clock = nil },
	} {
		cfg := m.Config()
		cfg.Clock = time.Now
		spoil(&cfg)
		if _, err := node.New(cfg); err == nil {
			t.Errorf("without %s: got no error", name)
		}
	}
}
