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
	backends, err := s.candidates(want.Parameters, want.Place)
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
	answer := &csi.Volume{
		VolumeId:      want.ID.String(),
		CapacityBytes: v.Size.Bytes(),

		AccessibleTopology: renderTopology(want.Where),
	}
	if want.Parameters.RoundRobin {
		answer.VolumeContext = map[string]string{contextRoundRobin: strconv.FormatBool(true)}
	}
	return answer
}

// ensureVolume asks once: the array itself says when the name is taken.
func (s *Server) ensureVolume(ctx context.Context, want createRequest) (*dateraclient.Volume, error) {
	array, err := s.backends.array(want.ID.Backend)
	if err != nil {
		return nil, err
	}
	t, err := template(ctx, array, want)
	if err != nil {
		return nil, err
	}
	v, err := array.CreateVolume(ctx, want.spec(t))
	if errors.Is(err, dateraclient.ErrConflict) {
		return existing(ctx, array, want)
	}
	if err != nil {
		return nil, err
	}
	return want.accept(v)
}

// template reads the template of the class, and finds out before anything is made
// whether one that keeps its own size has the one asked for.
func template(ctx context.Context, array Array, want createRequest) (*dateraclient.Template, error) {
	if want.Parameters.Template == "" {
		return nil, nil //nolint:nilnil // no template is what was asked for
	}
	t, err := array.Template(ctx, want.Parameters.Template)
	if errors.Is(err, dateraclient.ErrNotFound) {
		return nil, fmt.Errorf("%w: template %s", errNoTemplate, want.Parameters.Template)
	}
	if err != nil {
		return nil, err
	}
	if want.Parameters.DisableTemplateOverride && !want.Size.holds(t.Size) {
		return nil, fmt.Errorf("%w: template %s makes %d GiB, asked for are %s; ask for its size or leave disable_template_override out of the class",
			errTemplateSize, t.Name, t.Size, want.Size)
	}
	return t, nil
}

// spec is what to ask of the array. A template decides about everything but the
// size, and about that too when the class says so.
func (r createRequest) spec(t *dateraclient.Template) dateraclient.VolumeSpec {
	p := r.Parameters
	spec := dateraclient.VolumeSpec{Name: r.ID.Name, Description: description(p), CHAP: r.CHAP}
	if t != nil {
		spec.Template, spec.QoS = t, t.QoS
		if !p.DisableTemplateOverride {
			spec.Size = r.Size.Size
		}
		return spec
	}
	spec.Size = r.Size.Size
	spec.Replicas = p.Replicas
	spec.PlacementMode = p.PlacementMode
	spec.PlacementPolicy = p.PlacementPolicy
	spec.IPPool = p.IPPool
	spec.QoS = p.limits(r.Size.Size)
	return spec
}

// existing finds the volume that has the name already, which is ours if it is as
// asked: made by an earlier call, by another replica or by the vendor's driver.
func existing(ctx context.Context, array Array, want createRequest) (*dateraclient.Volume, error) {
	v, err := array.Volume(ctx, want.ID.Name)
	if errors.Is(err, dateraclient.ErrNotFound) {
		return nil, errRemade // deleted since the array said that it exists
	}
	if errors.Is(err, dateraclient.ErrShape) {
		return nil, fmt.Errorf("%w: %w", errIncompatible, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUndecided, err)
	}
	return want.accept(v)
}

// accept takes a volume that is as asked, and says how another one differs.
// Everything that the array shows is compared; passwords it does not show. A
// volume that differs is never deleted here, not even when the array has just
// made it: a lost answer may have led to a volume with somebody's data.
func (r createRequest) accept(v *dateraclient.Volume) (*dateraclient.Volume, error) {
	var d differences
	if !r.Size.holds(v.Size) {
		d.add("size", fmt.Sprintf("%d GiB", v.Size), r.Size.String())
	}
	if !v.Source.IsZero() {
		d.add("source", v.Source.Volume+v.Source.Snapshot, "none")
	}
	if r.Parameters.Template == "" || r.CHAP != nil { // else the template decides
		d.compare("CHAP", v.CHAP, chapMode(r.CHAP))
	}
	d.class(v, r.Parameters, r.Size.Size)
	if len(d) > 0 {
		return nil, fmt.Errorf("%w: %s", errIncompatible, d)
	}
	return v, nil
}

// chapMode is how the array shows that such secrets are set.
func chapMode(c *dateraclient.CHAP) string {
	switch {
	case c == nil:
		return "none"
	case c.UserIn == "":
		return "chap"
	}
	return "mchap"
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

// class compares a volume with a StorageClass.
func (d *differences) class(v *dateraclient.Volume, p parameters, size dateraclient.GiB) {
	d.compare("template", v.Template, p.Template)
	if p.Template != "" {
		return // it has decided about all else
	}
	if v.Replicas != p.Replicas {
		d.add("replica_count", strconv.Itoa(v.Replicas), strconv.Itoa(p.Replicas))
	}
	d.placement(v, p)
	d.compare("ip_pool", v.IPPool, p.IPPool)
	if want := p.limits(size); v.QoS != want {
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
	id, err := parseDelete(req)
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
		return fmt.Errorf("%w to %s; detach it there first, or take the initiator out of the volume's ACL if its node is gone for good", errPublished, strings.Join(nodes, ", "))
	}
	if err := array.DeleteVolume(ctx, v); err != nil && !errors.Is(err, dateraclient.ErrNotFound) {
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
		return nil, withStatus(fmt.Errorf("validate: %w", err))
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
	d.class(v, *r.Parameters, v.Size)
	return d.String()
}
