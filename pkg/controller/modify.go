package controller

import (
	"cmp"
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// ControllerModifyVolume gives a volume what a VolumeAttributesClass names, while
// it is used, and leaves what the class does not name. A call that was cut off can
// be repeated: each does what is missing.
func (s *Server) ControllerModifyVolume(ctx context.Context, req *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	want, err := parseModify(req)
	if err != nil {
		return nil, err
	}
	unlock, err := s.lock(want.ID)
	if err != nil {
		return nil, withModifyStatus(err)
	}
	defer unlock()
	if err := s.ensureModified(ctx, want); err != nil {
		return nil, withModifyStatus(fmt.Errorf("modify volume %s: %w", want.ID, err))
	}
	return &csi.ControllerModifyVolumeResponse{}, nil
}

func (s *Server) ensureModified(ctx context.Context, want modifyRequest) error {
	array, v, err := s.find(ctx, want.ID)
	if err != nil {
		return err
	}
	to, err := want.change(v)
	if err != nil {
		return err
	}
	return array.ModifyVolume(ctx, v, to)
}

// change is what to change of v. The limits per GiB, and the totals below which they
// stay, are noted in the description, for the volume may grow.
func (r modifyRequest) change(v *dateraclient.Volume) (dateraclient.Change, error) {
	p := r.Parameters
	var to dateraclient.Change
	if p.Named["replica_count"] {
		if p.Replicas < v.Replicas {
			return to, fmt.Errorf("%w: the volume has %d replicas, asked for are %d", errLower, v.Replicas, p.Replicas)
		}
		to.Replicas = p.Replicas
	}
	if p.PlacementNamed {
		to.PlacementMode, to.PlacementPolicy = p.PlacementMode, p.PlacementPolicy
	}
	was := parseMarks(v.Description)
	base := was.withoutRates(v.QoS)
	now := was
	now.IOPS, now.Bandwidth = p.over(was).rates(base)
	limits := now.apply(p.limits(base), v.Size)
	to.QoS = &limits
	if now != was {
		to.Description = remark(v.Description, now)
		to.Meanwhile = remark(v.Description, now.orRatesOf(was))
	}
	return to, nil
}

// withoutRates are the limits as they would be if none followed the size.
func (m marks) withoutRates(q dateraclient.QoS) dateraclient.QoS {
	if m.IOPS.PerGiB > 0 {
		q.TotalIOPS = m.IOPS.Most
	}
	if m.Bandwidth.PerGiB > 0 {
		q.TotalBandwidth = m.Bandwidth.Most
	}
	return q
}

// orRatesOf are the marks while the limits change from those of was: a rate that goes
// stays noted until its limit is set, for nothing but its note tells the total of before.
func (m marks) orRatesOf(was marks) marks {
	m.IOPS, m.Bandwidth = cmp.Or(m.IOPS, was.IOPS), cmp.Or(m.Bandwidth, was.Bandwidth)
	return m
}

// over is p with the limits per GiB that it does not name as they were.
func (p parameters) over(was marks) parameters {
	if !p.Named["iops_per_gb"] {
		p.IOPSPerGiB = was.IOPS.PerGiB
	}
	if !p.Named["bandwidth_per_gb"] {
		p.BandwidthPerGiB = was.Bandwidth.PerGiB
	}
	return p
}
