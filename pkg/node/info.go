package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/klog/v2"
)

// NodeGetInfo answers from what this host is: registration never waits for the
// array (FM 25). A host on which no volume could work is not registered, so that no
// pod is sent there; kubelet asks again until it is mended.
func (s *Server) NodeGetInfo(ctx context.Context, _ *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	if err := s.fit(ctx); err != nil {
		return nil, statusOf(err)
	}
	return &csi.NodeGetInfoResponse{NodeId: s.id, MaxVolumesPerNode: s.takes(ctx), AccessibleTopology: s.place}, nil
}

// fit says why no volume could work here. A node that has volumes is registered
// whatever it lacks: kubelet takes a driver whose registration fails away from the
// node, and with it the only one who can take those volumes down. When it merely
// asks again how many volumes a registered node takes, a refusal changes nothing.
func (s *Server) fit(ctx context.Context) error {
	if s.inspect == nil {
		return nil
	}
	var lacks []string
	for _, f := range s.inspect(ctx) {
		if unfit(f) {
			lacks = append(lacks, fmt.Sprintf("%s: %s (%s)", f.Check, f.What, f.Remedy))
		}
	}
	if len(lacks) == 0 {
		return nil
	}
	err := fmt.Errorf("%w: %s", errUnfit, strings.Join(lacks, "; "))
	if staged, unread := s.records.list(); len(staged)+len(unread) > 0 {
		klog.FromContext(ctx).Error(err, "This node stays registered for the volumes that are staged here", "staged", len(staged)+len(unread))
		return nil
	}
	return err
}

// errUnfit is told to kubelet's log, and to the registrar's.
var errUnfit = errors.New("this host is not fit for volumes, and registers none until it is")
