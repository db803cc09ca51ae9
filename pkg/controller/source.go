package controller

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// contentSource is what a volume begins with. The zero contentSource is nothing.
type contentSource struct {
	Volume volumeID // or the volume of the snapshot
	UTCTS  string   // of the snapshot; "" is the volume itself
}

func (c contentSource) isZero() bool { return c == contentSource{} }

// String is the id of the volume or snapshot.
func (c contentSource) String() string {
	switch {
	case c.isZero():
		return "none"
	case c.UTCTS == "":
		return "volume " + c.Volume.String()
	}
	return "snapshot " + snapshotID(c).String()
}

// mark is what the clone's description tells of its source; "" for none. It says
// to a repeated call whether it asks for the same, even after the source is gone.
func (c contentSource) mark() string {
	if c.isZero() {
		return ""
	}
	return hash16(c.Volume.Name + ":" + c.UTCTS)
}

func (c contentSource) origin() dateraclient.Origin {
	return dateraclient.Origin{Volume: c.Volume.Name, UTCTS: c.UTCTS}
}

// render gives back what the volume was made from, as CSI asks.
func (c contentSource) render() *csi.VolumeContentSource {
	switch {
	case c.isZero():
		return nil
	case c.UTCTS == "":
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: c.Volume.String()},
		}}
	}
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshotID(c).String()},
	}}
}

// order is a createRequest with what had to be read before the array could be
// asked: the template, and the source's size where no size was named.
type order struct {
	createRequest
	Template *dateraclient.Template // nil: none
}

// prepare reads what the request refers to, and finds out before anything is made
// whether a template that keeps its own size has the one asked for.
func (r createRequest) prepare(ctx context.Context, array Array) (order, error) {
	o := order{createRequest: r}
	if r.Source.isZero() || r.Size != (sizeRange{Size: defaultSize}) {
		return o, o.readTemplate(ctx, array)
	}
	v, err := array.Volume(ctx, r.Source.Volume.Name)
	if err != nil {
		return o, fmt.Errorf("content source %s: %w", r.Source, err)
	}
	o.Size.Size = v.Size
	return o, o.readTemplate(ctx, array)
}

func (o *order) readTemplate(ctx context.Context, array Array) error {
	name := o.Parameters.Template
	if name == "" {
		return nil
	}
	t, err := array.Template(ctx, name)
	if errors.Is(err, dateraclient.ErrNotFound) {
		return fmt.Errorf("%w: template %s", errNoTemplate, name)
	}
	if err != nil {
		return err
	}
	o.Template = t
	if !o.Parameters.DisableTemplateOverride {
		return nil
	}
	if !o.Size.holds(t.Size) {
		return fmt.Errorf("%w: template %s makes %d GiB, asked for are %s; ask for its size or leave disable_template_override out of the class",
			errTemplateSize, t.Name, t.Size, o.Size)
	}
	o.Size.Size = t.Size
	return nil
}

// marks are what later calls must know of the volume.
func (o order) marks() marks {
	m := marks{Source: o.Source.mark(), Retain: o.Parameters.RetainOffline}
	m.IOPS, m.Bandwidth = o.Parameters.rates(o.base())
	return m
}

// base are the limits that the class's come over.
func (o order) base() dateraclient.QoS {
	if o.Template == nil {
		return dateraclient.QoS{}
	}
	return o.Template.QoS
}

// spec is what to ask of the array for a volume of this size. The class decides
// about everything; with a template, about what it names. A clone cannot be made
// from a template: it gets what the template says like what a class says.
func (o order) spec(size dateraclient.GiB) dateraclient.VolumeSpec {
	p, m := o.Parameters, o.marks()
	spec := dateraclient.VolumeSpec{
		Name: o.ID.Name, Description: description(p, m), CHAP: o.CHAP, Size: size, QoS: m.apply(p.limits(o.base()), size),
		Replicas: p.Replicas, PlacementMode: p.PlacementMode, PlacementPolicy: p.PlacementPolicy, IPPool: p.IPPool,
	}
	if !o.Source.isZero() {
		spec.Most = o.Size.mostGiB()
	}
	if o.Template == nil {
		return spec
	}
	t := *o.Template
	if o.Source.isZero() {
		spec.Template = o.Template
		t.Replicas, t.PlacementMode, t.PlacementPolicy, t.IPPool = 0, "", "", ""
		if p.DisableTemplateOverride {
			spec.Size = 0
		}
	}
	if !p.Named["replica_count"] {
		spec.Replicas = t.Replicas
	}
	if !p.PlacementNamed {
		spec.PlacementMode, spec.PlacementPolicy = t.PlacementMode, t.PlacementPolicy
	}
	if !p.Named["ip_pool"] {
		spec.IPPool = t.IPPool
	}
	return spec
}

// mostGiB is the largest clone that the range admits. Without a limit that is the
// size asked for: a volume smaller than its source is not possible.
func (r sizeRange) mostGiB() dateraclient.GiB {
	if r.Most == 0 {
		return r.Size
	}
	return dateraclient.GiB(r.Most / dateraclient.GiB(1).Bytes())
}

// make asks the array for the volume. A clone that is larger than asked for, within
// the limit, has the limits per GiB of its own size.
func (o order) make(ctx context.Context, array Array) (*dateraclient.Volume, error) {
	spec := o.spec(o.Size.Size)
	if o.Source.isZero() {
		return array.CreateVolume(ctx, spec)
	}
	if err := o.checkPlace(ctx, array); err != nil {
		return nil, err
	}
	v, err := array.CloneVolume(ctx, spec, o.Source.origin())
	if errors.Is(err, dateraclient.ErrNotFound) {
		return nil, fmt.Errorf("content source %s: %w", o.Source, err)
	}
	if err != nil || v.Size == spec.Size {
		return v, err
	}
	if v, err = array.Conform(ctx, v, o.spec(v.Size)); err != nil {
		return nil, fmt.Errorf("%w: %w", errUndecided, err)
	}
	return v, nil
}

// checkPlace refuses a class whose pool or policy is not there before there is a
// clone: one that was interrupted afterwards could neither be finished nor be proven
// to be nobody's. What the class does not name is there.
func (o order) checkPlace(ctx context.Context, array Array) error {
	var named dateraclient.VolumeSpec
	if o.Parameters.Named["ip_pool"] {
		named.IPPool = o.Parameters.IPPool
	}
	if o.Parameters.PlacementNamed {
		named.PlacementMode, named.PlacementPolicy = o.Parameters.PlacementMode, o.Parameters.PlacementPolicy
	}
	if named.IPPool+named.PlacementPolicy == "" {
		return nil
	}
	return array.CheckPlace(ctx, named)
}

// existing finds the volume that has the name already, which is ours if it is as
// asked: made by an earlier call, by another replica or by the vendor's driver.
func (o order) existing(ctx context.Context, array Array) (*dateraclient.Volume, error) {
	v, err := array.Volume(ctx, o.ID.Name)
	if errors.Is(err, dateraclient.ErrNotFound) {
		return nil, errRemade // deleted since the array said that it exists
	}
	if errors.Is(err, dateraclient.ErrShape) {
		return nil, fmt.Errorf("%w: %w", errIncompatible, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUndecided, err)
	}
	if v.Leaving() {
		return nil, errLeaving
	}
	if v, err = o.complete(ctx, array, v); err != nil {
		return nil, err
	}
	return o.accept(v)
}

// complete finishes what an earlier call has begun and could not end: a clone gets
// its size and limits after it is made, as does CHAP come to what a template made.
// It does nothing to a volume of another source, or that somebody has used, or whose
// notes are those of another class: that one is complete, and is refused as it is.
func (o order) complete(ctx context.Context, array Array, v *dateraclient.Volume) (*dateraclient.Volume, error) {
	same, err := o.sameSource(ctx, array, v)
	if err != nil {
		return nil, err
	}
	other := v.CHAP != "none" && v.CHAP != o.CHAP.Mode() // a half-made volume has none yet
	late := !o.Source.isZero() || o.Template != nil && o.CHAP != nil && v.Template == o.Template.Name
	switch {
	case !same:
		return nil, fmt.Errorf("%w: its content source is another one than %s", errIncompatible, o.Source)
	case !late || other || len(admitted(v))+len(v.Snapshots) > 0 || !o.Size.admits(v.Size) || !parseMarks(v.Description).sameClass(o.marks()):
		return v, nil
	}
	if v, err = array.Conform(ctx, v, o.spec(max(v.Size, o.Size.Size))); err != nil {
		return nil, fmt.Errorf("%w: %w", errUndecided, err)
	}
	return v, nil
}

// admits says whether a clone of this size can still become what was asked for.
func (r sizeRange) admits(size dateraclient.GiB) bool {
	return size <= r.Size || r.Most > 0 && size.Bytes() <= r.Most
}

// sameSource says whether v began as the request wants it to. The mark tells; a
// volume without one, such as the vendor's driver made, is compared with the source
// as the array shows it.
func (o order) sameSource(ctx context.Context, array Array, v *dateraclient.Volume) (bool, error) {
	mark := parseMarks(v.Description).Source
	switch {
	case mark != "":
		return mark == o.Source.mark(), nil
	case o.Source.isZero():
		return v.Source.IsZero(), nil
	case v.Source.IsZero():
		return false, nil
	}
	source, err := array.Volume(ctx, o.Source.Volume.Name)
	if errors.Is(err, dateraclient.ErrNotFound) {
		return false, fmt.Errorf("content source %s: %w", o.Source, err)
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", errUndecided, err)
	}
	return v.MadeFrom(source, o.Source.origin()), nil
}

// accept takes a volume that is as asked, and says how another one differs.
// Everything that the array shows is compared; passwords it does not show. A
// volume that differs is never deleted here, not even when the array has just
// made it: a lost answer may have led to a volume with somebody's data.
func (o order) accept(v *dateraclient.Volume) (*dateraclient.Volume, error) {
	var d differences
	if !o.Size.holds(v.Size) {
		d.add("size", fmt.Sprintf("%d GiB", v.Size), o.Size.String())
	}
	if v.Source.IsZero() != o.Source.isZero() {
		d.add("the content source", v.Source.Volume+v.Source.Snapshot, o.Source.String())
	}
	if o.Template == nil || o.CHAP != nil { // else the template decides
		d.compare("CHAP", v.CHAP, o.CHAP.Mode())
	}
	is, want := parseMarks(v.Description), o.marks()
	if is.IOPS != want.IOPS || is.Bandwidth != want.Bandwidth {
		d.add("what is noted of the limits per GiB", fmt.Sprintf("%+v, %+v", is.IOPS, is.Bandwidth), fmt.Sprintf("%+v, %+v", want.IOPS, want.Bandwidth))
	}
	if is.Retain != want.Retain {
		d.add("deletionPolicy: retain-offline", strconv.FormatBool(is.Retain), strconv.FormatBool(want.Retain))
	}
	d.class(v, o.Parameters)
	if len(d) > 0 {
		return nil, fmt.Errorf("%w: %s", errIncompatible, d)
	}
	return v, nil
}
