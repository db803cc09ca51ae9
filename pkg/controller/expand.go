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
// because it sees the old size until it rescans. Limits per GiB grow along.
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

// ensureSize grows the volume, and then the limits that follow its size: after a
// call that was cut off between the two, the next one does the rest.
func (s *Server) ensureSize(ctx context.Context, want expandRequest) (*dateraclient.Volume, error) {
	array, v, err := s.find(ctx, want.ID)
	if err != nil {
		return nil, err
	}
	if want.Size.Most > 0 && v.Size.Bytes() > want.Size.Most {
		return nil, fmt.Errorf("%w: the volume has %d GiB, asked for are %s, and volumes do not shrink", errTooLarge, v.Size, want.Size)
	}
	if !want.Size.holds(v.Size) {
		if v, err = array.GrowVolume(ctx, v, want.Size.Size); err != nil {
			return nil, err
		}
	}
	limits := parseMarks(v.Description).apply(v.QoS, v.Size)
	if err = array.ModifyVolume(ctx, v, dateraclient.Change{QoS: &limits}); err != nil {
		return nil, fmt.Errorf("its limits per GiB: %w", err)
	}
	return v, nil
}
