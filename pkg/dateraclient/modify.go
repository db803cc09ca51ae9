package dateraclient

import (
	"context"
	"errors"
	"fmt"
)

// GrowVolume makes v, which the caller has just read, at least as large as asked,
// with one request, and returns when the array says it is. To ask for less than
// there is changes nothing.
func (c *Client) GrowVolume(ctx context.Context, v *Volume, to GiB) (*Volume, error) {
	ctx, cancel := patiently(ctx)
	defer cancel()
	if to > maxSize {
		return nil, invalid("%s cannot have the size %d GiB", v.Name, to)
	}
	if v.Size >= to {
		return v, nil
	}
	// The answer is the volume as it now is; if it is anything else, the array
	// is asked for it.
	w, err := call[volumeWire](ctx, c, put(v.Path(), map[string]GiB{"size": to}))
	if err != nil {
		return nil, err
	}
	if w.grown(to) {
		grown := *v
		grown.Size = GiB(w.Size)
		return &grown, nil
	}
	what := fmt.Sprintf("%s to have %d GiB", v.Name, to)
	err = poll(ctx, what, func(ctx context.Context) (bool, error) {
		seen, readErr := call[appInstance](ctx, c, get(v.path()))
		if readErr != nil {
			return false, readErr
		}
		if v, readErr = seen.volume(); readErr != nil {
			return false, readErr
		}
		return seen.StorageInstances[0].Volumes[0].grown(to), nil
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// grown tells whether the volume has a size and is not about to get it.
func (w *volumeWire) grown(to GiB) bool {
	return w.Size >= number(to) && w.OpStatus != "volume_resize_in_progress"
}

// Change is what may be changed of a volume while it is used. Zero fields stay as
// they are.
type Change struct {
	Description     string
	Meanwhile       string // the description until the limits are set; "" is Description
	Replicas        int    // the array only adds replicas
	PlacementMode   string
	PlacementPolicy string
	QoS             *QoS // all six limits
}

// ModifyVolume changes v, which the caller has just read: one request for replicas and
// placement, one for the description, one for the limits, each only if it differs, and one
// more where the description is another one until the limits are set. First comes what an
// array is likeliest to refuse, for lack of nodes, room or a policy, so that nothing has
// changed then, and a volume is not left with limits that nobody sees. It is safe to repeat
// after a failure. ErrInvalid: the array does not want it so, and nothing has changed.
// ErrHalfway: it refused a later part, and what was changed before stays, by this call or by
// one before that was cut off.
func (c *Client) ModifyVolume(ctx context.Context, v *Volume, to Change) error {
	ctx, cancel := patiently(ctx)
	defer cancel()
	if to.Replicas != 0 && to.Replicas < v.Replicas {
		return invalid("%s has %d replicas, and the array only adds some", v.Name, v.Replicas)
	}
	if to.Description = described(to.Description); to.Description == "" {
		to.Description = v.Description
	}
	if to.Meanwhile = described(to.Meanwhile); to.Meanwhile == "" {
		to.Meanwhile = to.Description
	}
	if to.QoS == nil {
		to.QoS = &v.QoS
	}
	if err := c.place(ctx, v, to); err != nil {
		return err
	}
	err := c.describe(ctx, v, to.Meanwhile)
	if to.places() {
		err = halfway(err, "its placement is as asked, its description is refused")
	}
	if err != nil {
		return err
	}
	noted := *v
	noted.Description = to.Meanwhile
	err = c.limit(ctx, v, *to.QoS)
	if errors.Is(err, ErrInvalid) {
		return c.setBack(ctx, &noted, v.Description, halfway(err, "its limits are refused"))
	}
	if err != nil {
		return err
	}
	return halfway(c.describe(ctx, &noted, to.Description), "its limits are as asked, its description is refused")
}

func (to Change) places() bool {
	return to.Replicas != 0 || to.PlacementMode != "" || to.PlacementPolicy != ""
}

// halfway is what an error means for which a part of a change has been made: what is
// refused now is not all that was asked for.
func halfway(err error, what string) error {
	if !errors.Is(err, ErrInvalid) {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrHalfway, what, err)
}

// setBack gives v a description again, because of why.
func (c *Client) setBack(ctx context.Context, v *Volume, description string, why error) error {
	if err := c.describe(ctx, v, description); err != nil {
		return fmt.Errorf("%w; and its description could not be set back: %w", why, err)
	}
	return why
}

func (c *Client) describe(ctx context.Context, v *Volume, description string) error {
	if description == v.Description {
		return nil
	}
	return run(ctx, c, put(v.path(), map[string]string{"descr": description}))
}

func (c *Client) limit(ctx context.Context, v *Volume, to QoS) error {
	if to == v.QoS {
		return nil
	}
	return c.setQoS(ctx, v, to)
}

func (c *Client) place(ctx context.Context, v *Volume, to Change) error {
	_, err := c.conformPlacement(ctx, v, VolumeSpec{
		Replicas: to.Replicas, PlacementMode: to.PlacementMode, PlacementPolicy: to.PlacementPolicy,
	})
	if errors.Is(err, ErrNotFound) {
		return invalid("it does not know the placement %q: %v", to.PlacementPolicy+to.PlacementMode, err)
	}
	return err
}

// setQoS sets all limits of v, which the caller has just read, with one request;
// the zero QoS lifts them.
func (c *Client) setQoS(ctx context.Context, v *Volume, q QoS) error {
	ctx, cancel := patiently(ctx)
	defer cancel()
	path := v.Path() + "/performance_policy"
	if q == (QoS{}) {
		err := run(ctx, c, del(path))
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	}
	if v.QoS == (QoS{}) { // no policy, or one without limits
		err := run(ctx, c, post(path, allLimits(q)))
		if !errors.Is(err, ErrConflict) && !unanswered(err) {
			return err
		}
		again := run(ctx, c, put(path, allLimits(q)))
		if errors.Is(again, ErrNotFound) { // so it was not made
			return err
		}
		return again
	}
	err := run(ctx, c, put(path, allLimits(q)))
	if errors.Is(err, ErrNotFound) { // lifted meanwhile
		return run(ctx, c, post(path, allLimits(q)))
	}
	return err
}

// allLimits names every limit: in an update, one that is left out would keep its
// value.
func allLimits(q QoS) map[string]int {
	return map[string]int{
		"read_iops_max": q.ReadIOPS, "write_iops_max": q.WriteIOPS, "total_iops_max": q.TotalIOPS,
		"read_bandwidth_max": q.ReadBandwidth, "write_bandwidth_max": q.WriteBandwidth,
		"total_bandwidth_max": q.TotalBandwidth,
	}
}
