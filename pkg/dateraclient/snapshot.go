package dateraclient

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
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

// CreateSnapshot makes a snapshot of v and waits within ctx until it can be used.
// The uuid makes it safe to repeat: if v has a snapshot with this uuid already,
// that one is returned.
func (c *Client) CreateSnapshot(ctx context.Context, v *Volume, uuid string) (*Snapshot, error) {
	w, err := call[snapshotWire](ctx, c, post(v.Path()+"/snapshots", map[string]string{"uuid": uuid}))
	s := w.snapshot()
	if errors.Is(err, ErrConflict) || unanswered(err) {
		s, err = c.snapshotByUUID(ctx, v, uuid, err)
	}
	if err != nil {
		return nil, err
	}
	if s.UTCTS == "" {
		return nil, shape("the new snapshot of %s has no utc_ts", v.Name)
	}
	err = poll(ctx, "snapshot "+s.UTCTS+" of "+v.Name+" to become available", func(ctx context.Context) (bool, error) {
		if s.Available {
			return true, nil
		}
		seen, readErr := c.Snapshot(ctx, v, s.UTCTS)
		if readErr != nil {
			return false, readErr
		}
		s = *seen
		return s.Available, nil
	})
	if err != nil {
		return nil, err
	}
	return &s, nil
}

// snapshotByUUID finds out what became of a snapshot whose creation ended with
// cause; if there is none, cause stands.
func (c *Client) snapshotByUUID(ctx context.Context, v *Volume, uuid string, cause error) (Snapshot, error) {
	for s, err := range c.Snapshots(ctx, v) {
		if err != nil {
			return Snapshot{}, err
		}
		if s.UUID == uuid {
			return *s, nil
		}
	}
	return Snapshot{}, cause
}

// Snapshots lists the snapshots of a volume.
func (c *Client) Snapshots(ctx context.Context, v *Volume) iter.Seq2[*Snapshot, error] {
	return func(yield func(*Snapshot, error) bool) {
		for w, err := range pages[snapshotWire](ctx, c, v.Path()+"/snapshots", nil, 0) {
			s := w.snapshot()
			if !yield(&s, err) {
				return
			}
		}
	}
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
// it was not there.
func (c *Client) DeleteSnapshot(ctx context.Context, v *Volume, utcTS string) error {
	path, err := snapshotPath(v, utcTS)
	if err != nil {
		return err
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
	digit := func(r rune) bool { return r == '.' || r >= '0' && r <= '9' }
	if utcTS == "" || slices.ContainsFunc([]rune(utcTS), func(r rune) bool { return !digit(r) }) || utcTS[0] == '.' {
		return "", &Error{kind: ErrNotFound, Message: fmt.Sprintf("no snapshot is called %q", clip(utcTS, excerptBytes))}
	}
	return v.Path() + "/snapshots/" + utcTS, nil
}
