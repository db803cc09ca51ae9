package controller

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/internal/filesystem"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

type publishRequest struct {
	ID         volumeID
	Node       string // initiator IQN
	Capability capability
	RoundRobin bool
	Filesystem filesystem.Class
}

func parsePublish(req *csi.ControllerPublishVolumeRequest) (publishRequest, error) {
	id, err := parseVolumeID(req.GetVolumeId())
	if err != nil {
		return publishRequest{}, invalid(err)
	}
	if err = checkNodeText(req.GetNodeId()); err != nil {
		return publishRequest{}, invalid(err)
	}
	if req.GetVolumeCapability() == nil {
		return publishRequest{}, invalid(errors.New("volume_capability is missing"))
	}
	c, err := parseCapability(req.GetVolumeCapability())
	if err != nil {
		return publishRequest{}, invalid(err)
	}
	c.ReadOnly = c.ReadOnly || req.GetReadonly() // the node's doing, see ControllerGetCapabilities
	roundRobin, class, err := parseVolumeContext(req.GetVolumeContext())
	if err == nil {
		err = checkClass(class, []*csi.VolumeCapability{req.GetVolumeCapability()})
	}
	if err != nil {
		return publishRequest{}, invalid(err)
	}
	if !dateraclient.IsInitiator(req.GetNodeId()) {
		return publishRequest{}, status.Errorf(codes.NotFound, "node %q does not exist: a node's id is the name of its iSCSI initiator, iqn.YYYY-MM.… or eui.…", req.GetNodeId())
	}
	return publishRequest{ID: id, Node: req.GetNodeId(), Capability: c, RoundRobin: roundRobin, Filesystem: class}, nil
}

// parseVolumeContext reads our keys of a volume_context, which may be a class's or
// an administrator's. The others belong to provisioners and to administrators.
func parseVolumeContext(volumeContext map[string]string) (roundRobin bool, class filesystem.Class, err error) {
	if value, ok := volumeContext[contextRoundRobin]; ok {
		if roundRobin, err = parseBool(value); err != nil {
			return false, filesystem.Class{}, fmt.Errorf("volume_context: %s %q %w", contextRoundRobin, value, err)
		}
	}
	if class, err = filesystem.Parse(volumeContext); err != nil {
		return false, filesystem.Class{}, fmt.Errorf("volume_context: %w", err)
	}
	return roundRobin, class, nil
}

// renderVolumeContext is its inverse: what of a class the later calls must know.
// Nothing is nil.
func renderVolumeContext(p parameters) map[string]string {
	m := map[string]string{}
	if p.RoundRobin {
		m[contextRoundRobin] = strconv.FormatBool(true)
	}
	p.Filesystem.Write(m)
	if len(m) == 0 {
		return nil
	}
	return m
}

func checkNodeText(node string) error {
	const maxNodeID = 256 // CSI v1.13
	switch {
	case node == "":
		return errors.New("node_id is missing")
	case len(node) > maxNodeID:
		return fmt.Errorf("node_id is %d bytes long, at most %d are allowed", len(node), maxNodeID)
	case strings.ContainsFunc(node, unicode.IsControl):
		return fmt.Errorf("node_id %q holds control characters", node)
	}
	return nil
}

type unpublishRequest struct {
	ID   volumeID
	Node string // initiator IQN; "" is every node
	// Never says that no volume of ours was ever published to such a node,
	// because its name is none an array admits.
	Never bool
}

func parseUnpublish(req *csi.ControllerUnpublishVolumeRequest) (unpublishRequest, error) {
	id, err := parseVolumeID(req.GetVolumeId())
	if err != nil {
		return unpublishRequest{}, invalid(err)
	}
	node := req.GetNodeId()
	if node == "" {
		return unpublishRequest{ID: id}, nil
	}
	if err := checkNodeText(node); err != nil {
		return unpublishRequest{}, invalid(err)
	}
	return unpublishRequest{ID: id, Node: node, Never: !dateraclient.IsInitiator(node)}, nil
}
