package node

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// NodeGetInfo answers from what this host is: registration never waits for the
// array (FM 25).
func (s *Server) NodeGetInfo(ctx context.Context, _ *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: s.id, MaxVolumesPerNode: s.takes(ctx), AccessibleTopology: s.place}, nil
}
