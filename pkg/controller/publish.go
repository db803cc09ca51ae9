package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/internal/publishctx"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// ControllerPublishVolume admits a node to a volume and tells it, in the
// publish_context, all it needs to find the right LUN. A volume for one node is
// never admitted to a second one (FM 4).
//
// A node whose id another node has, too, gets nothing (FM 10): the array would let in
// both, and the fence against one would be none. That holds for a volume that is
// published to that id already, because nothing in the request tells which of the
// nodes asks. Whoever runs goes on: to refuse takes nothing from the ACL, and
// ControllerUnpublishVolume does not ask.
func (s *Server) ControllerPublishVolume(ctx context.Context, req *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	want, err := parsePublish(req)
	if err != nil {
		return nil, brief(err)
	}
	unlock, err := s.lockInTurn(ctx, want.ID)
	if err != nil {
		return nil, withAttachStatus(err)
	}
	defer unlock()
	v, admission, err := s.ensurePublished(ctx, want)
	if err != nil {
		return nil, withAttachStatus(fmt.Errorf("publish volume %s to %s: %w", want.ID, want.Node, err))
	}
	promise, err := want.promise(v)
	if err != nil {
		return nil, withAttachStatus(fmt.Errorf("publish volume %s to %s: %w", want.ID, want.Node, err))
	}
	promise.Admission = admission
	return &csi.ControllerPublishVolumeResponse{PublishContext: publishctx.Encode(promise)}, nil
}

// ensurePublished looks, grants what is missing, and looks again at what the
// array then shows: two controllers may have admitted two nodes at once, and
// then neither keeps what it did. The admission is the one by which the node is in.
func (s *Server) ensurePublished(ctx context.Context, want publishRequest) (_ *dateraclient.Volume, admission string, err error) {
	if err = alone(s.sharing(ctx, want.Node)); err != nil {
		return nil, "", err
	}
	array, v, err := s.find(ctx, want.ID)
	if err != nil {
		return nil, "", err
	}
	if err = want.allowed(v); err != nil {
		return nil, "", err
	}
	known := slices.ContainsFunc(v.Initiators, want.isNode)
	admission = s.admit(want, known)
	v, err = array.Grant(ctx, v, want.Node)
	s.remember(want, admission) // an array may take its time
	if err != nil {
		return nil, "", err
	}
	if err = want.allowed(v); err != nil && !known {
		return nil, "", takeBack(ctx, array, v, want.Node, err)
	}
	return v, admission, err
}

// alone refuses nodes that share the name by which the array would know one of them.
func alone(nodes []string) error {
	if len(nodes) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s; the array would admit them all, and could fence none: give each a name of its own (docs/operate-initiators.md), "+
		"restart its iscsid and delete the plugin's pod there; if one is no more, delete its Node", errNamesakes, dateraclient.Few(nodes))
}

// takeBackTimeout bounds the removal of a node that should not have been
// admitted. It has its own time, because a caller that gives up must not leave
// two nodes admitted.
const takeBackTimeout = 30 * time.Second

// takeBack undoes the Grant of this call and returns why.
func takeBack(ctx context.Context, array Array, v *dateraclient.Volume, node string, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackTimeout)
	defer cancel()
	if err := array.Revoke(ctx, v, node); err != nil {
		return fmt.Errorf("%w; and the admission of %s could not be taken back: %w", why, node, err)
	}
	return why
}

// allowed refuses a volume that the node would share with somebody it may not
// share it with, or whose access this driver could not take away again.
func (r publishRequest) allowed(v *dateraclient.Volume) error {
	if err := fenceable(v); err != nil {
		return err
	}
	if r.Capability.ManyNodes {
		return nil
	}
	strangers := slices.DeleteFunc(admitted(v), r.isNode)
	if len(strangers) > 0 {
		return fmt.Errorf("%w to %s, and its access mode is for a single node; it is admitted here when it is unpublished there", errPublished, dateraclient.Few(strangers))
	}
	return nil
}

// isNode compares as iSCSI does: names that differ in case only are one name.
func (r publishRequest) isNode(iqn string) bool { return strings.EqualFold(iqn, r.Node) }

// fenceable refuses a volume that admits hosts other than by name: nobody could
// prove that one of them has lost its access.
func fenceable(v *dateraclient.Volume) error {
	switch {
	case v.AllowAll:
		return fmt.Errorf("%w to everybody: access control is off; set the storage instance's access_control_mode to deny_all", errPublished)
	case len(v.InitiatorGroups) > 0:
		return fmt.Errorf("%w to the members of initiator groups (%s); take the groups out of the volume's ACL", errPublished, dateraclient.Few(v.InitiatorGroups))
	}
	return nil
}

// admitted is every initiator that may use the volume or does so now, each in one
// spelling.
func admitted(v *dateraclient.Volume) []string {
	all := slices.Concat(v.Initiators, v.ActiveInitiators)
	slices.SortFunc(all, func(a, b string) int {
		return cmp.Or(strings.Compare(strings.ToLower(a), strings.ToLower(b)), strings.Compare(a, b))
	})
	return slices.CompactFunc(all, strings.EqualFold)
}

// promise is what the node may rely on.
func (r publishRequest) promise(v *dateraclient.Volume) (publishctx.Context, error) {
	if v.IQN == "" || v.UUID == "" || len(v.Portals) == 0 {
		return publishctx.Context{}, fmt.Errorf("%w: target %q, serial %q, portals %v", errUnexported, v.IQN, v.UUID, v.Portals)
	}
	portals := slices.SortedFunc(slices.Values(v.Portals), netip.AddrPort.Compare)
	if r.RoundRobin {
		portals = []netip.AddrPort{spread(r.ID, portals)}
	}
	return publishctx.Context{
		Target: iscsi.Target{
			IQN:     v.IQN,
			Portals: portals,
			LUN:     0, // the one volume of its target
			Serial:  v.UUID,
			Bytes:   v.Size.Bytes(),
		},
		FromSource: !v.Source.IsZero() || parseMarks(v.Description).Source != "",
		UsedBytes:  v.UsedBytes,
		ReadOnly:   r.Capability.ReadOnly,
		Filesystem: r.Filesystem,
	}, nil
}

// spread chooses the same portal for a volume every time, and different ones for
// different volumes.
func spread(id volumeID, portals []netip.AddrPort) netip.AddrPort {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id.String())) // never fails
	return portals[h.Sum32()%uint32(len(portals))]
}

// ControllerUnpublishVolume takes a node's access to a volume away. It is the
// fence: OK means that the array has shown the node gone from the ACL and from
// the sessions. It needs no record of the node (FM 22).
func (s *Server) ControllerUnpublishVolume(ctx context.Context, req *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	want, err := parseUnpublish(req)
	if err != nil {
		return nil, brief(err)
	}
	unlock, err := s.lockInTurn(ctx, want.ID)
	if err != nil {
		return nil, withAttachStatus(err)
	}
	defer unlock()
	if err := s.ensureUnpublished(ctx, want); err != nil {
		return nil, withAttachStatus(fmt.Errorf("unpublish volume %s: %w", want.ID, err))
	}
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

// ensureUnpublished revokes one node, or all of them one after the other.
func (s *Server) ensureUnpublished(ctx context.Context, want unpublishRequest) error {
	if want.Never {
		return nil
	}
	for {
		array, v, err := s.find(ctx, want.ID)
		if errors.Is(err, dateraclient.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		node := want.Node
		if node == "" {
			rest := admitted(v)
			if len(rest) == 0 {
				return fenceable(v)
			}
			node = rest[0]
		}
		if err := array.Revoke(ctx, v, node); err != nil {
			if errors.Is(err, dateraclient.ErrNotFound) {
				return nil
			}
			return fmt.Errorf("revoke %s: %w", node, err)
		}
		if want.Node != "" {
			return fenceable(v)
		}
	}
}
