package controller_test

import (
	"net/http"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

func mode(m csi.VolumeCapability_AccessMode_Mode, block bool) *csi.VolumeCapability {
	c := writer("xfs")
	if block {
		c = shared()
	}
	c.AccessMode.Mode = m
	return c
}

func as(caps ...*csi.VolumeCapability) func(*csi.CreateVolumeRequest) {
	return func(req *csi.CreateVolumeRequest) { req.VolumeCapabilities = caps }
}

// TestAccessModesOfANewVolume is the table of what a volume that begins empty can
// be asked for.
func TestAccessModesOfANewVolume(t *testing.T) {
	l := start(t)
	const ok = ""
	for i, c := range []struct {
		mode         csi.VolumeCapability_AccessMode_Mode
		mount, block string // what the refusal says
	}{
		{csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, ok, ok},
		{csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER, ok, ok},
		{csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER, ok, ok},
		{csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY, ok, ok},
		{csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY, "from a snapshot or from another volume", "from a snapshot or from another volume"},
		{csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER, "nothing would keep the other nodes from writing", "nothing would keep the other nodes from writing"},
		{csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, "raw block only", ok},
		{csi.VolumeCapability_AccessMode_UNKNOWN, "missing", "missing"},
	} {
		for block, says := range map[bool]string{false: c.mount, true: c.block} {
			name := "pvc-" + string(rune('a'+i)) + map[bool]string{false: "-mount", true: "-block"}[block]
			_, err := l.CreateVolume(t.Context(), createRequest(name, as(mode(c.mode, block))))
			if says == ok {
				wantCode(t, name, err, codes.OK)
			} else {
				wantCode(t, name, err, codes.InvalidArgument, says)
			}
		}
	}
	if got, want := len(l.objects(t)), 9; got != want {
		t.Errorf("%d volumes were made, want %d", got, want)
	}
}

// clone makes a volume with content past the driver.
func (l *lab) clone(tb testing.TB, from, name string) string {
	tb.Helper()
	l.api(tb, http.MethodPost, "/app_instances", map[string]any{"name": name,
		"clone_volume_src": map[string]string{"path": "/app_instances/" + from + "/storage_instances/storage-1/volumes/volume-1"}}, nil)
	return name
}

// TestManyReadersShareAVolume, and each is told that it must not write (FM 18).
func TestManyReadersShareAVolume(t *testing.T) {
	l := start(t)
	id := l.clone(t, l.create(t, "pvc-1"), "CSI-copy")
	for _, node := range []string{node1, node2} {
		req := publishRequest(id, node)
		req.VolumeCapability = mode(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY, false)
		promise, err := l.publishAs(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if !promise.ReadOnly || !promise.FromSource {
			t.Errorf("%s: read-only %t, from a source %t", node, promise.ReadOnly, promise.FromSource)
		}
	}
	_, err := l.publish(t.Context(), id, "iqn.1993-08.org.debian:01:cccccccccccc")
	wantCode(t, "a writer among readers", err, codes.FailedPrecondition, node1, node2)
	if got := l.acl(t, id); len(got) != 2 {
		t.Errorf("ACL %v", got)
	}
}

func TestReadersAreConfirmedOnlyForWhatHasContent(t *testing.T) {
	l := start(t)
	empty := l.create(t, "pvc-1")
	full := l.clone(t, empty, "CSI-copy")
	for id, confirmed := range map[string]bool{empty: false, full: true} {
		res, err := l.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{VolumeId: id,
			VolumeCapabilities: []*csi.VolumeCapability{mode(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY, false)}})
		if err != nil {
			t.Fatal(err)
		}
		if (res.GetConfirmed() != nil) != confirmed || (res.GetMessage() == "") != confirmed {
			t.Errorf("%s: got %v, want confirmed %t", id, res, confirmed)
		}
	}
}

// TestReadOnlyPublishReachesTheNode although the capability is not advertised.
func TestReadOnlyPublishReachesTheNode(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	for _, readonly := range []bool{true, false} {
		req := publishRequest(id, node1)
		req.Readonly = readonly
		promise, err := l.publishAs(t.Context(), req)
		if err != nil || promise.ReadOnly != readonly {
			t.Errorf("readonly %t: got %t, %v", readonly, promise.ReadOnly, err)
		}
	}
	res, err := l.ControllerGetCapabilities(t.Context(), &csi.ControllerGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range res.GetCapabilities() {
		if c.GetRpc().GetType() == csi.ControllerServiceCapability_RPC_PUBLISH_READONLY {
			t.Error("PUBLISH_READONLY is advertised, and the array cannot keep an initiator from writing")
		}
	}
}

// TestSharedBlockGoesToManyNodesAtOnce: what live migration needs.
func TestSharedBlockGoesToManyNodesAtOnce(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1", as(shared()))
	for _, node := range []string{node1, node2} {
		req := publishRequest(id, node)
		req.VolumeCapability = shared()
		promise, err := l.publishAs(t.Context(), req)
		if err != nil || promise.ReadOnly {
			t.Errorf("%s: read-only %t, %v", node, promise.ReadOnly, err)
		}
	}
	if err := l.unpublish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	if got := l.acl(t, id); len(got) != 1 || got[0] != node2 {
		t.Errorf("ACL %v, want %s alone", got, node2)
	}
	if v, err := l.client(t).Volume(t.Context(), id); err != nil || !v.Online {
		t.Errorf("the volume went offline under the node that stays: %+v, %v", v, err)
	}
}
