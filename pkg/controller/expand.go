package controller

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// ControllerExpandVolume grows a volume, online or not. A volume that is large
// enough already is left as it is, so a call may be repeated with the same or,
// after a failure, with a smaller size. The node must look again in any case,
// because it sees the old size until it rescans.
func (s *Server) ControllerExpandVolume(ctx context.Context, req *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	want, err := parseExpand(req)
	if err != nil {
		return nil, err
	}
	unlock, err := s.lock(want.ID)
	if err != nil {
		return nil, withStatus(err)
	}
	defer unlock()
	v, err := s.ensureSize(ctx, want)
	if err != nil {
		return nil, withStatus(fmt.Errorf("expand volume %s: %w", want.ID, err))
	}
	return &csi.ControllerExpandVolumeResponse{
		CapacityBytes:         v.Size.Bytes(),
		NodeExpansionRequired: true,
	}, nil
}

func (s *Server) ensureSize(ctx context.Context, want expandRequest) (*dateraclient.Volume, error) {
	array, v, err := s.find(ctx, want.ID)
	if err != nil {
		return nil, err
	}
	if want.Size.Most > 0 && v.Size.Bytes() > want.Size.Most {
		return nil, fmt.Errorf("%w: the volume has %d GiB, asked for are %s, and volumes do not shrink", errTooLarge, v.Size, want.Size)
	}
	if want.Size.holds(v.Size) {
		return v, nil
	}
	return array.GrowVolume(ctx, v, want.Size.Size)
}
