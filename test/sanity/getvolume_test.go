package sanity_test

import (
	"context"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
)

// TestControllerGetVolume is what csi-test would ask of the one RPC of ours that it
// leaves out: it tells of a volume what ListVolumes does, at every moment of the
// volume's life.
func TestControllerGetVolume(t *testing.T) {
	address := *endpoint
	if address == "" {
		address = startPlugin(t).address
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := csi.NewControllerClient(conn)
	if !slices.Contains(advertised(t, address), "controller GET_VOLUME") {
		t.Fatal("GET_VOLUME is not advertised")
	}
	refused := func(id string, want codes.Code) {
		t.Helper()
		_, err := client.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
		if status.Code(err) != want {
			t.Errorf("volume_id %q: %v, want %s", id, err, want)
		}
	}
	refused("", codes.InvalidArgument)
	refused("CSI-there-is-no-such-volume", codes.NotFound)

	v := newVolume(t, conn, "sanity-get-volume")
	must(t, v.create)
	t.Cleanup(func() { _ = v.delete(context.Background()) }) // again, where the test did not come that far
	wantTold(t, client, v)
	must(t, v.publish)
	_, node, _ := v.learned()
	wantTold(t, client, v, node)
	must(t, v.unpublish)
	wantTold(t, client, v)
	must(t, v.delete)
	id, _, _ := v.learned()
	refused(id, codes.NotFound)
}

func must(t *testing.T, step func(context.Context) error) {
	t.Helper()
	if err := step(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// wantTold asserts the whole answer for a volume of 1 GiB that these nodes use, and
// that ListVolumes says the same.
func wantTold(t *testing.T, client csi.ControllerClient, v *volume, nodes ...string) {
	t.Helper()
	id, _, _ := v.learned()
	got, err := client.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
	if err != nil {
		t.Fatal(err)
	}
	want := &csi.ControllerGetVolumeResponse{
		Volume: &csi.Volume{VolumeId: id, CapacityBytes: 1 << 30},
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: nodes},
	}
	if diff := cmp.Diff(got, want, protocmp.Transform(), protocmp.IgnoreFields(&csi.Volume{}, "accessible_topology")); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	for token, more := "", true; more; more = token != "" {
		list, err := client.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.GetEntries() {
			if e.GetVolume().GetVolumeId() != id {
				continue
			}
			listed := &csi.ControllerGetVolumeResponse{
				Volume: e.GetVolume(),
				Status: &csi.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: e.GetStatus().GetPublishedNodeIds()},
			}
			if diff := cmp.Diff(listed, got, protocmp.Transform()); diff != "" {
				t.Errorf("ListVolumes (-) and ControllerGetVolume (+):\n%s", diff)
			}
			return
		}
		token = list.GetNextToken()
	}
	t.Errorf("%s is not listed", id)
}
