package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// GetCapacity tells how much a class could still make at a place: what is free on
// the media of the class, divided by its copies, in whole GiB. Where CreateVolume
// may choose between backends the free space of all counts, that of an array with
// several of them once, and the largest volume is what the largest of them takes. While
// no backend is told where it is, every node reaches every volume, and a place has what
// there is anywhere. A class with a mistake has the capacity of an empty one: it is
// CreateVolume that tells, where claims show it.
func (s *Server) GetCapacity(ctx context.Context, req *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	want, err := parseCapacity(req)
	if err != nil {
		return nil, err
	}
	room, err := s.roomOfClass(ctx, want)
	if err != nil {
		return nil, withStatus(fmt.Errorf("get capacity: %w", err))
	}
	return &csi.GetCapacityResponse{
		AvailableCapacity: room.Free.Bytes(),
		MaximumVolumeSize: wrapperspb.Int64(room.Largest.Bytes()),
		MinimumVolumeSize: wrapperspb.Int64(room.Smallest.Bytes()),
	}, nil
}

// room is what is left for a class.
type room struct {
	Free, Largest dateraclient.GiB
	Smallest      dateraclient.GiB // volume that can be made
	Array         string           // its UUID; "" is not known
}

// roomOfClass is the room for a class; for one with a mistake, that for an empty one.
func (s *Server) roomOfClass(ctx context.Context, want capacityRequest) (room, error) {
	if want.Mistake == nil {
		found, err := s.room(ctx, want)
		if !errors.Is(err, errNoTemplate) && !errors.Is(err, errUnknownBackend) {
			return found, err
		}
		want.Mistake = err
	}
	klog.FromContext(ctx).Info("CreateVolume will refuse this class", "mistake", want.Mistake)
	var err error
	if want.Parameters, err = parseParameters(nil); err != nil {
		return room{}, err
	}
	return s.room(ctx, want)
}

func (s *Server) room(ctx context.Context, want capacityRequest) (room, error) {
	all := room{Smallest: 1}
	if want.Refusal != "" {
		return all, nil
	}
	candidates, err := s.candidates(ctx, want.Parameters, want.Place)
	if errors.Is(err, errPlaceless) {
		// Nodes have places, backends not yet: external-provisioner asks for each place of a
		// node, and without an answer the scheduler takes every array for full.
		candidates, err = s.candidates(ctx, want.Parameters, nil)
	}
	if errors.Is(err, errPlace) {
		return all, nil
	}
	if err != nil {
		return room{}, err
	}
	counted := map[string]dateraclient.GiB{} // by array: tenants of one share its space
	for i, c := range candidates {
		one, err := s.roomAt(ctx, c.Backend, want.Parameters)
		if err != nil {
			return room{}, fmt.Errorf("backend %s: %w", c.Backend, err)
		}
		if one.Array == "" {
			one.Array = "of backend " + c.Backend
		}
		all.Free += max(0, one.Free-counted[one.Array])
		counted[one.Array] = max(counted[one.Array], one.Free)
		all.Largest = max(all.Largest, one.Largest)
		if i == 0 || one.Smallest < all.Smallest {
			all.Smallest = one.Smallest
		}
	}
	return all, nil
}

func (s *Server) roomAt(ctx context.Context, backend string, p parameters) (room, error) {
	array, err := s.backends.array(backend)
	if err != nil {
		return room{}, err
	}
	made := layout{Replicas: p.Replicas, Mode: p.PlacementMode, Policy: p.PlacementPolicy}
	if p.Template != "" {
		if made, err = templated(ctx, array, p); err != nil {
			return room{}, err
		}
	}
	system, err := array.System(ctx)
	if err != nil {
		return room{}, err
	}
	free := made.media(system).Available / int64(max(1, made.Replicas))
	r := room{Free: max(0, dateraclient.GiB(free>>30)), Smallest: 1, Array: system.UUID}
	r.Largest = min(r.Free, maxSize)
	if made.Fixed > 0 {
		r.Smallest = made.Fixed
		if r.Largest = made.Fixed; r.Free < made.Fixed {
			r.Free, r.Largest = 0, 0
		}
	}
	return r, nil
}

// layout is what of a class costs space.
type layout struct {
	Replicas     int
	Mode, Policy string
	Fixed        dateraclient.GiB // the one size there is; 0: any
}

// templated is the layout of what a template makes: of what the class names, the
// class decides, as in CreateVolume.
func templated(ctx context.Context, array Array, p parameters) (layout, error) {
	t, err := array.Template(ctx, p.Template)
	if errors.Is(err, dateraclient.ErrNotFound) {
		return layout{}, fmt.Errorf("%w: template %s", errNoTemplate, p.Template)
	}
	if err != nil {
		return layout{}, err
	}
	made := layout{Replicas: t.Replicas, Mode: t.PlacementMode, Policy: t.PlacementPolicy}
	if p.Named["replica_count"] {
		made.Replicas = p.Replicas
	}
	if p.PlacementNamed {
		made.Mode, made.Policy = p.PlacementMode, p.PlacementPolicy
	}
	if p.DisableTemplateOverride {
		made.Fixed = t.Size
	}
	return made, nil
}

// media are the figures of the nodes that a volume of this layout lies on: of the
// all-flash ones when it asks for them by mode or by the factory's policy, else of
// the hybrid ones. An array that does not tell its nodes apart has one figure.
func (l layout) media(s *dateraclient.System) dateraclient.Capacity {
	class := s.Hybrid
	if l.Policy == "all-flash" || l.Mode == "all_flash" && (l.Policy == "" || l.Policy == "default") {
		class = s.AllFlash
	}
	if class.Total == 0 {
		return s.All
	}
	return class
}
