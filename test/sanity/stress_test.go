package sanity_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// TestManyCallersOfFewVolumes lets several impatient callers take the same
// volumes up and down at once (FM 38). Each call ends in success or in Aborted,
// nothing is done twice, and nothing is left.
func TestManyCallersOfFewVolumes(t *testing.T) {
	if *endpoint != "" || *arrayURL != "" {
		t.Skip("made for the simulator and for a plugin in this process")
	}
	const volumes, callers = 20, 6
	l := startPlugin(t)
	conn, err := grpc.NewClient(l.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var calls, aborted atomic.Int32
	var wg sync.WaitGroup
	for i := range volumes {
		v := newVolume(t, conn, fmt.Sprintf("stress-%d", i))
		wg.Go(func() {
			for _, step := range v.steps() {
				var all sync.WaitGroup
				for range callers {
					all.Go(func() {
						for {
							calls.Add(1)
							err := step.call(ctx)
							if err == nil {
								return
							}
							if status.Code(err) != codes.Aborted {
								t.Errorf("%s of %s: %v", step.name, v.name, err)
								return
							}
							aborted.Add(1)
							time.Sleep(5 * time.Millisecond)
						}
					})
				}
				all.Wait()
			}
		})
	}
	wg.Wait()
	t.Logf("%d calls, %d of them aborted", calls.Load(), aborted.Load())
	done := make(map[string]int)
	for _, call := range l.host.Calls() {
		verb, _, _ := strings.Cut(call, " ")
		done[verb]++
	}
	want := map[string]int{"attach": volumes, "mkfs.xfs": volumes, "mount": 2 * volumes, "umount": 2 * volumes, "detach": volumes}
	if d := cmp.Diff(done, want); d != "" {
		t.Errorf("what the host did: got (-), want (+):\n%s", d)
	}
}

// volume is taken through its life by steps that any number of callers repeat.
type volume struct {
	name            string
	controller      csi.ControllerClient
	node            csi.NodeClient
	staging, target string

	mu      sync.Mutex // guards what the steps learn
	id      string
	nodeID  string
	context map[string]string
}

func newVolume(t *testing.T, conn *grpc.ClientConn, name string) *volume {
	t.Helper()
	dir := t.TempDir()
	return &volume{
		name: name, controller: csi.NewControllerClient(conn), node: csi.NewNodeClient(conn),
		staging: filepath.Join(dir, "staging"), target: filepath.Join(dir, "pod", "target"),
	}
}

type step struct {
	name string
	call func(context.Context) error
}

func (v *volume) steps() []step {
	return []step{
		{"create", v.create}, {"publish", v.publish}, {"stage", v.stage}, {"bind", v.bind},
		{"unbind", v.unbind}, {"unstage", v.unstage}, {"unpublish", v.unpublish}, {"delete", v.delete},
	}
}

func capability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	}
}

// learned returns what earlier steps told: id, node and publish context.
func (v *volume) learned() (id, nodeID string, publishContext map[string]string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.id, v.nodeID, v.context
}

func (v *volume) create(ctx context.Context) error {
	resp, err := v.controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: v.name, VolumeCapabilities: []*csi.VolumeCapability{capability()}, CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 30},
	})
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.id != "" && v.id != resp.GetVolume().GetVolumeId() {
		return fmt.Errorf("created twice, as %s and %s", v.id, resp.GetVolume().GetVolumeId())
	}
	v.id = resp.GetVolume().GetVolumeId()
	return nil
}

func (v *volume) publish(ctx context.Context) error {
	info, err := v.node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if err != nil {
		return err
	}
	id, _, _ := v.learned()
	resp, err := v.controller.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: id, NodeId: info.GetNodeId(), VolumeCapability: capability(),
	})
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.nodeID, v.context = info.GetNodeId(), resp.GetPublishContext()
	return nil
}

func (v *volume) stage(ctx context.Context) error {
	id, _, publishContext := v.learned()
	_, err := v.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: id, StagingTargetPath: v.staging, VolumeCapability: capability(), PublishContext: publishContext,
	})
	return err
}

func (v *volume) bind(ctx context.Context) error {
	id, _, publishContext := v.learned()
	_, err := v.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: id, StagingTargetPath: v.staging, TargetPath: v.target, VolumeCapability: capability(), PublishContext: publishContext,
	})
	return err
}

func (v *volume) unbind(ctx context.Context) error {
	id, _, _ := v.learned()
	_, err := v.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: v.target})
	return err
}

func (v *volume) unstage(ctx context.Context) error {
	id, _, _ := v.learned()
	_, err := v.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: v.staging})
	return err
}

func (v *volume) unpublish(ctx context.Context) error {
	id, nodeID, _ := v.learned()
	_, err := v.controller.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: nodeID})
	return err
}

func (v *volume) delete(ctx context.Context) error {
	id, _, _ := v.learned()
	_, err := v.controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}
