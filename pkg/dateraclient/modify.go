package dateraclient

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// GrowVolume makes a volume at least as large as asked and returns when the array
// says it is. To ask for less than there is changes nothing.
func (c *Client) GrowVolume(ctx context.Context, name string, to GiB) (*Volume, error) {
	ctx, cancel := patiently(ctx)
	defer cancel()
	v, err := c.Volume(ctx, name)
	if err != nil {
		return nil, err
	}
	return c.grow(ctx, v, to)
}

func (c *Client) grow(ctx context.Context, v *Volume, to GiB) (*Volume, error) {
	if to > maxSize {
		return nil, invalid("%s cannot have the size %d GiB", v.Name, to)
	}
	if v.Size >= to {
		return v, nil
	}
	if err := run(ctx, c, put(v.Path(), map[string]GiB{"size": to})); err != nil {
		return nil, err
	}
	what := fmt.Sprintf("%s to have %d GiB", v.Name, to)
	err := poll(ctx, what, func(ctx context.Context) (bool, error) {
		seen, err := call[appInstance](ctx, c, get(v.path()))
		if err != nil {
			return false, err
		}
		if v, err = seen.volume(); err != nil {
			return false, err
		}
		resizing := seen.StorageInstances[0].Volumes[0].OpStatus == "volume_resize_in_progress"
		return v.Size >= to && !resizing, nil
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// SetQoS sets all limits of a volume; the zero QoS lifts them.
func (c *Client) SetQoS(ctx context.Context, v *Volume, q QoS) error {
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
	err := run(ctx, c, put(path, allLimits(q)))
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	// There is no policy yet, or no volume: making one tells.
	err = run(ctx, c, post(path, allLimits(q)))
	if errors.Is(err, ErrConflict) || unanswered(err) {
		return run(ctx, c, put(path, allLimits(q)))
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

// Conform gives a clone, or a volume from an AppTemplate, what the array does not
// give it at birth: CHAP for both; pool, placement, replicas, limits and size for a
// clone. It changes only what differs from spec, so that it may be repeated after
// a failure, and returns the volume as it then is.
func (c *Client) Conform(ctx context.Context, v *Volume, spec VolumeSpec) (*Volume, error) {
	ctx, cancel := patiently(ctx)
	defer cancel()
	v, err := c.rested(ctx, v)
	if err != nil {
		return nil, err
	}
	changed := false
	steps := []func(context.Context, *Volume, VolumeSpec) (bool, error){c.conformCHAP}
	if spec.Template == "" {
		steps = append(steps, c.conformPool, c.conformPlacement, c.conformQoS)
	}
	for _, step := range steps {
		did, err := step(ctx, v, spec)
		if err != nil {
			return nil, fmt.Errorf("make %s conform: %w", v.Name, err)
		}
		changed = changed || did
	}
	if spec.Template == "" && spec.Size > v.Size {
		return c.grow(ctx, v, spec.Size)
	}
	if !changed {
		return v, nil
	}
	return c.reread(ctx, v)
}

// rested waits until a clone is complete: until then the array may refuse to
// change it.
func (c *Client) rested(ctx context.Context, v *Volume) (*Volume, error) {
	err := poll(ctx, v.Name+" to be cloned", func(ctx context.Context) (bool, error) {
		if v.OpState != "cloning" {
			return true, nil
		}
		var err error
		v, err = c.reread(ctx, v)
		return false, err
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (c *Client) conformCHAP(ctx context.Context, v *Volume, spec VolumeSpec) (bool, error) {
	if spec.CHAP == nil || v.CHAP == spec.CHAP.kind() {
		return false, nil
	}
	r := put(v.storagePath()+"/auth", spec.CHAP.body())
	r.secrets = spec.CHAP.secrets()
	return true, run(ctx, c, r)
}

// conformPool moves the storage instance to another pool, which the array does
// only while it is offline. A new clone has no sessions to lose.
func (c *Client) conformPool(ctx context.Context, v *Volume, spec VolumeSpec) (bool, error) {
	pool, err := reference("/access_network_ip_pools/", spec.IPPool)
	if err != nil || pool == nil || v.IPPool == spec.IPPool {
		return false, err
	}
	if err = run(ctx, c, put(v.path(), adminState{State: offline})); err != nil {
		return true, err
	}
	err = run(ctx, c, put(v.storagePath(), map[string]*ref{"ip_pool": pool}))
	if back := run(ctx, c, put(v.path(), adminState{State: online})); err == nil {
		err = back
	}
	return true, err
}

func (c *Client) conformPlacement(ctx context.Context, v *Volume, spec VolumeSpec) (bool, error) {
	mode, policy, err := c.placement(ctx, spec)
	if err != nil {
		return false, err
	}
	change := map[string]any{}
	if mode != "" && mode != v.PlacementMode {
		change["placement_mode"] = mode
	}
	if policy != nil && policy.name() != v.PlacementPolicy {
		change["placement_policy"] = policy
	}
	if spec.Replicas > v.Replicas { // the array only adds replicas
		change["replica_count"] = spec.Replicas
	}
	if len(change) == 0 {
		return false, nil
	}
	return true, run(ctx, c, put(v.Path(), change))
}

func (c *Client) conformQoS(ctx context.Context, v *Volume, spec VolumeSpec) (bool, error) {
	if spec.QoS == v.QoS {
		return false, nil
	}
	return true, c.SetQoS(ctx, v, spec.QoS)
}

// isVolumePath tells a volume's path from its app instance's.
func isVolumePath(path string) bool { return strings.Contains(path, "/volumes/") }
