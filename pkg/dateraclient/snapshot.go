package dateraclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

type snapshotWire struct {
	Path    text `json:"path"`
	UTCTS   text `json:"utc_ts"`
	UUID    text `json:"uuid"`
	OpState text `json:"op_state"`
}

func (w snapshotWire) snapshot() Snapshot {
	return Snapshot{
		Path: string(w.Path), UTCTS: string(w.UTCTS), UUID: string(w.UUID),
		Available: w.OpState == available,
	}
}

// OwnSnapshots are those of the volume itself, without those of the whole app
// instance: of these a key does not tell which they are.
func (v *Volume) OwnSnapshots() []Snapshot {
	return slices.DeleteFunc(slices.Clone(v.Snapshots), func(s Snapshot) bool { return !isVolumePath(s.Path) })
}

// SnapshotSpec is a snapshot to be made.
type SnapshotSpec struct {
	UUID     string // makes it safe to repeat: a volume has one snapshot of a uuid
	Provider string // uuid of a remote provider; "" keeps the snapshot on the array
	Type     string // local, remote or local_and_remote, with a Provider only
}

// The body of POST …/snapshots. Products before 3.2 know the uuid only.
type snapshotBody struct {
	UUID     string `json:"uuid"`
	Provider string `json:"remote_provider_uuid,omitempty"`
	Type     string `json:"type,omitempty"`
}

// CreateSnapshot makes a snapshot of a volume with one request, and reads the
// volume with another one. The snapshot may not be available yet, see
// AwaitSnapshot. It is safe to repeat: a snapshot with spec's uuid that the volume
// has already is returned.
//
// ErrNotFound: there is no such volume. ErrConflict: another volume has a snapshot
// with this uuid. Unless an error is an ErrUnavailable or ctx has ended, the volume
// has been looked at and has no such snapshot.
func (c *Client) CreateSnapshot(ctx context.Context, volume string, spec SnapshotSpec) (*Volume, *Snapshot, error) {
	ctx, cancel := patiently(ctx)
	defer cancel()
	path, err := c.guessPath(ctx, volume)
	if err != nil {
		return nil, nil, err
	}
	body := snapshotBody(spec)
	made, cause := call[snapshotWire](ctx, c, post(path+"/snapshots", body))
	v, err := c.Volume(ctx, volume)
	if errors.Is(cause, ErrNotFound) && err == nil && v.Path() != path && v.uncommon() {
		made, cause = call[snapshotWire](ctx, c, post(v.Path()+"/snapshots", body))
		v, err = c.Volume(ctx, volume)
	}
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil, err
	case errors.Is(err, ErrShape) && cause == nil:
		return nil, nil, c.forget(ctx, made, err)
	case err != nil:
		return nil, nil, undecided(cause, err)
	}
	for _, s := range v.OwnSnapshots() {
		if s.UUID == spec.UUID {
			return v, &s, nil
		}
	}
	return nil, nil, unmade(v, spec, cause)
}

// unmade is the error of a snapshot that v does not show.
func unmade(v *Volume, spec SnapshotSpec, cause error) error {
	switch {
	case cause == nil:
		return &Error{kind: ErrAnswerLost, Message: fmt.Sprintf("%s does not show the snapshot just made", v.Name)}
	case unanswered(cause):
		return undecided(cause, errors.New("it is not there, and may come"))
	case errors.Is(cause, ErrNotFound):
		return invalid("it does not know the remote provider %q: %v", spec.Provider, cause)
	}
	return cause
}

// forget deletes a snapshot that was made of what turns out not to be a volume.
func (c *Client) forget(ctx context.Context, made snapshotWire, cause error) error {
	if !strings.HasPrefix(string(made.Path), "/app_instances/") {
		return undecided(cause, errors.New("the snapshot just made has no path"))
	}
	if err := run(ctx, c, del(string(made.Path))); err != nil && !errors.Is(err, ErrNotFound) {
		return undecided(cause, err)
	}
	return cause
}

// undecided is the error of a change of which nobody knows whether it was made:
// why it failed, if that is known, and why looking did not help.
func undecided(cause, look error) error {
	if errors.Is(look, context.Canceled) || errors.Is(look, context.DeadlineExceeded) {
		return look
	}
	message := fmt.Sprint(look)
	if cause != nil {
		message = fmt.Sprintf("%v; looked at what is there: %v", cause, look)
	}
	return &Error{kind: ErrAnswerLost, Message: message}
}

// AwaitSnapshot waits within ctx until a snapshot can be used.
func (c *Client) AwaitSnapshot(ctx context.Context, v *Volume, s *Snapshot) (*Snapshot, error) {
	err := poll(ctx, "snapshot "+s.UTCTS+" of "+v.Name+" to become available", func(ctx context.Context) (bool, error) {
		if s.Available {
			return true, nil
		}
		seen, err := c.Snapshot(ctx, v, s.UTCTS)
		if err != nil {
			return false, err
		}
		s = seen
		return s.Available, nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Snapshot is one snapshot of a volume by the array's own key; ErrNotFound if
// there is none.
func (c *Client) Snapshot(ctx context.Context, v *Volume, utcTS string) (*Snapshot, error) {
	path, err := snapshotPath(v, utcTS)
	if err != nil {
		return nil, err
	}
	w, err := call[snapshotWire](ctx, c, get(path))
	if err != nil {
		return nil, err
	}
	s := w.snapshot()
	return &s, nil
}

// DeleteSnapshot deletes one snapshot and returns when it is gone; ErrNotFound if
// it was not there. It is never forced: what the array does not want to lose, it
// keeps.
func (c *Client) DeleteSnapshot(ctx context.Context, v *Volume, utcTS string) error {
	path, err := snapshotPath(v, utcTS)
	if err != nil {
		return err
	}
	if v.Leaving() {
		return &Error{kind: ErrUnavailable, Message: v.Name + " is being deleted, and its snapshots with it"}
	}
	if err := run(ctx, c, del(path)); err != nil {
		return err
	}
	return poll(ctx, "snapshot "+utcTS+" of "+v.Name+" to go", func(ctx context.Context) (bool, error) {
		_, err := c.Snapshot(ctx, v, utcTS)
		if errors.Is(err, ErrNotFound) {
			return true, nil
		}
		return false, err
	})
}

// snapshotPath refuses keys that no snapshot can have, as they would name another
// resource.
func snapshotPath(v *Volume, utcTS string) (string, error) {
	if !isTimestamp(utcTS) {
		return "", noSnapshot(utcTS)
	}
	return v.Path() + "/snapshots/" + utcTS, nil
}

func noSnapshot(utcTS string) error {
	return &Error{kind: ErrNotFound, Message: fmt.Sprintf("no snapshot is called %q", clip(utcTS, excerptBytes))}
}

func isTimestamp(s string) bool {
	foreign := func(r rune) bool { return r != '.' && (r < '0' || r > '9') }
	return s != "" && s[0] != '.' && !strings.ContainsFunc(s, foreign)
}
