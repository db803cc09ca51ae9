package dateraclient

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Origin names what a clone is made from: a volume, or a snapshot of it.
type Origin struct {
	Volume string // name
	UTCTS  string // of the snapshot; "" is the volume as it is now
}

func (o Origin) source(path string) Source {
	if o.UTCTS == "" {
		return Source{Volume: path}
	}
	return Source{Snapshot: path + "/snapshots/" + o.UTCTS}
}

// CloneVolume makes a volume with the content of another one or of a snapshot:
// one request, and one for each thing in which spec differs from what the array
// gives a clone (see Conform). Errors are those of CreateVolume, and:
//
// ErrNotFound: there is no such volume or snapshot. ErrUnavailable: it is not ready
// to be cloned yet. ErrLarger: it is larger than spec.Most.
func (c *Client) CloneVolume(ctx context.Context, spec VolumeSpec, from Origin) (*Volume, error) {
	ctx, cancel := patiently(ctx)
	defer cancel()
	if from.UTCTS != "" && !isTimestamp(from.UTCTS) {
		return nil, noSnapshot(from.UTCTS)
	}
	path, err := c.guessPath(ctx, from.Volume)
	if err != nil {
		return nil, err
	}
	spec.Source = from.source(path)
	v, refusal := c.CreateVolume(ctx, spec)
	if !errors.Is(refusal, ErrNotFound) && !errors.Is(refusal, ErrInvalid) {
		return v, refusal
	}
	origin, err := c.origin(ctx, from)
	if err != nil {
		return nil, err
	}
	if errors.Is(refusal, ErrNotFound) && origin.uncommon() && origin.Path() != path {
		spec.Source = from.source(origin.Path())
		return c.CreateVolume(ctx, spec)
	}
	return nil, refusal
}

// CheckPlace finds out before a clone is made whether it can get the pool and the
// placement of spec, which the array gives it only afterwards: ErrInvalid if it
// knows no such thing. An array that does not let itself be asked may know it.
func (c *Client) CheckPlace(ctx context.Context, spec VolumeSpec) error {
	ctx, cancel := patiently(ctx)
	defer cancel()
	_, policy, err := c.placement(ctx, spec)
	if err != nil {
		return err
	}
	pool, err := reference("/access_network_ip_pools/", spec.IPPool)
	if err != nil {
		return err
	}
	for _, r := range []*ref{pool, policy} {
		if r == nil || r.name() == "default" { // which is always there
			continue
		}
		err = run(ctx, c, get(r.Path))
		switch {
		case errors.Is(err, ErrNotFound):
			return invalid("it does not know %s: %v", r.Path, err)
		case err != nil && !errors.Is(err, ErrPermission) && !errors.Is(err, ErrInvalid):
			return err
		}
	}
	return nil
}

// origin reads the volume that a clone was to be made from, and says what hinders.
func (c *Client) origin(ctx context.Context, from Origin) (*Volume, error) {
	v, err := c.Volume(ctx, from.Volume)
	if err != nil {
		return nil, err
	}
	notReady := func(what string) error {
		return &Error{kind: ErrUnavailable, Message: what + " is not ready to be cloned yet"}
	}
	if from.UTCTS == "" {
		if v.OpState != "" {
			return nil, notReady(v.Name + ", which is " + v.OpState + ",")
		}
		return v, nil
	}
	for _, s := range v.OwnSnapshots() {
		switch {
		case s.UTCTS != from.UTCTS:
		case !s.Available:
			return nil, notReady("snapshot " + from.UTCTS + " of " + v.Name)
		default:
			return v, nil
		}
	}
	return nil, &Error{kind: ErrNotFound, Message: fmt.Sprintf("volume %s has no snapshot %s", v.Name, from.UTCTS)}
}

// MadeFrom tells whether the array shows v as a clone of what origin names.
// volume is that volume as it was read. Where the array shows no more than the app
// instance, that has to do.
func (v *Volume) MadeFrom(volume *Volume, from Origin) bool {
	shown := v.Source.Snapshot + v.Source.Volume
	want := from.source(volume.Path())
	return shown != "" && withinPath(want.Snapshot+want.Volume, shown)
}

// withinPath tells whether path is base or below it.
func withinPath(path, base string) bool {
	return path == base || strings.HasPrefix(path, base+"/")
}

// sameSource compares what was asked for with what the array shows, which words
// an app instance by its id. Ids and names cannot be compared, so it says yes when
// everything else is equal; the description tells the rest.
func sameSource(asked, shown Source) bool {
	if asked == shown {
		return true
	}
	a, s := asked.Snapshot+asked.Volume, shown.Snapshot+shown.Volume
	if a == "" || s == "" {
		return false
	}
	key := regexp.MustCompile(`^/app_instances/([^/]+)`)
	askedKey, shownKey := key.FindStringSubmatch(a), key.FindStringSubmatch(s)
	if askedKey == nil || shownKey == nil || idPattern.MatchString(askedKey[1]) == idPattern.MatchString(shownKey[1]) {
		return false
	}
	return withinPath(strings.TrimPrefix(a, askedKey[0]), strings.TrimPrefix(s, shownKey[0]))
}

// Conform gives a clone, or a volume from an AppTemplate, what the array does not
// give it at birth: CHAP for both; pool, placement, replicas, limits and size for a
// clone. It changes only what differs from spec, so that it may be repeated after
// a failure, and returns the volume as it then is.
func (c *Client) Conform(ctx context.Context, v *Volume, spec VolumeSpec) (*Volume, error) {
	ctx, cancel := patiently(ctx)
	defer cancel()
	if !spec.Source.IsZero() && spec.Most > 0 && v.Size > spec.Most {
		return nil, &Error{kind: ErrLarger, Message: fmt.Sprintf("it has %d GiB, and at most %d GiB are wanted", v.Size, spec.Most)}
	}
	v, err := c.rested(ctx, v)
	if err != nil {
		return nil, err
	}
	steps := []func(context.Context, *Volume, VolumeSpec) (bool, error){c.conformCHAP}
	if spec.Template == nil {
		steps = append(steps, c.conformPool, c.conformPlacement, c.conformQoS)
	}
	changed := false
	for _, step := range steps {
		did, stepErr := step(ctx, v, spec)
		if errors.Is(stepErr, ErrNotFound) {
			stepErr = invalid("it does not know the %s: %v", spec.references(), stepErr)
		}
		if stepErr != nil {
			return nil, fmt.Errorf("make %s conform: %w", v.Name, stepErr)
		}
		changed = changed || did
	}
	if changed {
		if v, err = c.reread(ctx, v); err != nil {
			return nil, err
		}
	}
	if spec.Template != nil {
		return v, nil
	}
	return c.GrowVolume(ctx, v, spec.Size)
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
	if spec.CHAP == nil || v.CHAP == spec.CHAP.Mode() {
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

// conformPlacement changes placement and replicas with one request. The array only
// adds replicas.
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
	if spec.Replicas > v.Replicas {
		change["replica_count"] = spec.Replicas
	}
	if len(change) == 0 {
		return false, nil
	}
	return true, run(ctx, c, put(v.Path(), change))
}

func (c *Client) conformQoS(ctx context.Context, v *Volume, spec VolumeSpec) (bool, error) {
	return spec.QoS != v.QoS, c.limit(ctx, v, spec.QoS)
}

// isVolumePath tells a volume's path from its app instance's.
func isVolumePath(path string) bool { return strings.Contains(path, "/volumes/") }

// undoable are the failures after which a volume that was just made is taken back,
// because repeating the call would not help.
func undoable(err error) bool {
	kinds := []error{ErrInvalid, ErrNotFound, ErrPermission, ErrNoSpace, ErrShape, ErrInUse, ErrConflict, ErrLarger}
	return slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(err, kind) })
}
