package controller

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// CreateVolume makes a volume, or finds the one that an earlier call of the same
// name has made. It answers the same each time.
func (s *Server) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	want, err := parseCreate(req)
	if err != nil {
		return nil, err
	}
	backends, err := s.candidates(ctx, want.Parameters, want.Place)
	if err != nil {
		return nil, withCreateStatus(fmt.Errorf("create volume %s: %w", want.ID, err))
	}
	unlock, err := s.lockEach(want.ID.Name, backends)
	if err != nil {
		return nil, withCreateStatus(err)
	}
	defer unlock()
	want, v, err := s.ensurePlaced(ctx, want, backends)
	if err != nil {
		return nil, withCreateStatus(fmt.Errorf("create volume %s: %w", want.ID, err))
	}
	return &csi.CreateVolumeResponse{Volume: render(want, v)}, nil
}

// render is the one answer of CreateVolume.
func render(want createRequest, v *dateraclient.Volume) *csi.Volume {
	return &csi.Volume{
		VolumeId:      want.ID.String(),
		CapacityBytes: v.Size.Bytes(),
		ContentSource: want.Source.render(),
		VolumeContext: renderVolumeContext(want.Parameters),

		AccessibleTopology: renderTopology(want.Where),
	}
}

// ensureVolume asks once: the array itself says when the name is taken. Before an
// error that would be final, it makes sure that there is no volume of this name: an
// earlier call may have made one and never heard of it.
func (s *Server) ensureVolume(ctx context.Context, want createRequest) (*dateraclient.Volume, error) {
	array, err := s.backends.array(want.ID.Backend)
	if err != nil {
		return nil, err
	}
	o, err := want.prepare(ctx, array)
	if err == nil {
		var v *dateraclient.Volume
		if v, err = o.make(ctx, array); err == nil {
			return o.accept(v)
		}
	}
	switch {
	case errors.Is(err, dateraclient.ErrConflict):
		return o.existing(ctx, array)
	case passing(err):
		return nil, err
	}
	_, lookErr := array.Volume(ctx, want.ID.Name)
	switch {
	case errors.Is(lookErr, dateraclient.ErrNotFound):
		return nil, err
	case lookErr == nil || errors.Is(lookErr, dateraclient.ErrShape):
		return o.existing(ctx, array)
	}
	return nil, fmt.Errorf("%w: %w; the search for it failed too: %w", errUndecided, err, lookErr)
}

// differences between what is and what was asked for.
type differences []string

func (d *differences) add(what, is, want string) {
	*d = append(*d, fmt.Sprintf("%s is %s, asked for %s", what, is, want))
}

func (d *differences) compare(what, is, want string) {
	if is != want {
		d.add(what, strconv.Quote(is), strconv.Quote(want))
	}
}

// class compares a volume with a StorageClass. A template decides about what the
// class does not name. A clone shows no template, and may have more replicas than
// the class wants, as the array does not take any away.
func (d *differences) class(v *dateraclient.Volume, p parameters) {
	cloned, base := !v.Source.IsZero(), dateraclient.QoS{}
	if !cloned {
		d.compare("template", v.Template, p.Template)
	}
	if p.Template != "" {
		base = v.QoS
	}
	decided := func(key string) bool { return p.Template == "" || p.Named[key] }
	more := cloned && v.Replicas > p.Replicas
	if decided("replica_count") && v.Replicas != p.Replicas && !more {
		d.add("replica_count", strconv.Itoa(v.Replicas), strconv.Itoa(p.Replicas))
	}
	d.placement(v, p)
	if decided("ip_pool") {
		d.compare("ip_pool", v.IPPool, p.IPPool)
	}
	var m marks
	m.IOPS, m.Bandwidth = p.rates(base)
	if want := m.apply(p.limits(base), v.Size); v.QoS != want {
		d.add("the QoS limits", fmt.Sprintf("%+v", v.QoS), fmt.Sprintf("%+v", want))
	}
}

// placement is compared only when the class names one: what the array makes of a
// preset depends on its media. The policy counts where the array has policies.
func (d *differences) placement(v *dateraclient.Volume, p parameters) {
	switch {
	case !p.PlacementNamed:
	case p.PlacementPolicy != "" && (v.PlacementPolicy != "" || p.PlacementMode == ""):
		d.compare("placement_policy", v.PlacementPolicy, p.PlacementPolicy)
	default:
		d.compare("placement_mode", v.PlacementMode, p.PlacementMode)
	}
}

func (d differences) String() string { return strings.Join(d, "; ") }

// DeleteVolume deletes a volume that nobody uses. A volume that is not there is
// deleted; any doubt is an error, and no data goes with it.
func (s *Server) DeleteVolume(ctx context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id, err := parseVolume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	unlock, err := s.lock(id)
	if err != nil {
		return nil, withStatus(err)
	}
	defer unlock()
	if err := s.ensureDeleted(ctx, id); err != nil {
		return nil, withStatus(fmt.Errorf("delete volume %s: %w", id, err))
	}
	if placed, _ := s.placed.find(id.Name); placed == id.Backend {
		s.placed.forget(id.Name)
	}
	return &csi.DeleteVolumeResponse{}, nil
}

func (s *Server) ensureDeleted(ctx context.Context, id volumeID) error {
	array, v, err := s.find(ctx, id)
	if errors.Is(err, dateraclient.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(v.Snapshots) > 0 {
		ids := make([]string, len(v.Snapshots))
		for i, snap := range v.Snapshots {
			ids[i] = id.String() + ":" + snap.UTCTS
		}
		return fmt.Errorf("%w that would be lost with it: %s; delete them first", errSnapshots, strings.Join(ids, ", "))
	}
	if nodes := admitted(v); len(nodes) > 0 {
		return fmt.Errorf("%w to %s; detach it there first, or take the initiator out of the volume's ACL if its node is gone for good", errPublished, dateraclient.Few(nodes))
	}
	remove := array.DeleteVolume
	if parseMarks(v.Description).Retain {
		remove = s.retirement(array)
	}
	if err := remove(ctx, v); err != nil && !errors.Is(err, dateraclient.ErrNotFound) {
		return err
	}
	return nil
}

// ValidateVolumeCapabilities confirms what a volume can do, or says what it
// cannot.
func (s *Server) ValidateVolumeCapabilities(ctx context.Context, req *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	want, err := parseValidate(req)
	if err != nil {
		return nil, err
	}
	_, v, err := s.find(ctx, want.ID)
	if err != nil {
		return nil, withStatus(fmt.Errorf("validate volume %s: %w", want.ID, err))
	}
	if refusal := want.refusal(v); refusal != "" {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: refusal}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext:      req.GetVolumeContext(),
		VolumeCapabilities: req.GetVolumeCapabilities(),
		Parameters:         req.GetParameters(),
	}}, nil
}

func (r validateRequest) refusal(v *dateraclient.Volume) string {
	switch {
	case r.Refusal != "":
		return r.Refusal
	case r.Readers && v.Source.IsZero():
		return errEmpty().Error()
	case r.Parameters == nil:
		return ""
	}
	var d differences
	d.class(v, *r.Parameters)
	return d.String()
}
