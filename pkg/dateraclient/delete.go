package dateraclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// adminState is the body of a PUT that takes an app instance, or a storage
// instance, offline or online.
type adminState struct {
	State string `json:"admin_state"`
	Force bool   `json:"force,omitempty"`
}

// DeleteVolume deletes v, which the caller has just read, in two requests:
// offline, then DELETE. ErrNotFound means that it was gone before, nil that this
// call has ended it.
//
// ErrInUse: v has snapshots, which the array would delete along with it, or
// initiators that are logged in, or somebody was admitted to it since the caller has
// read it. All are looked for in the array's answer to going offline, which is as
// late as can be, and v goes online again. Whom v shows to be admitted is the
// caller's to judge. The offline is not forced, so that the array itself refuses
// while somebody is logged in.
//
// The array answers DELETE with the object it has deleted. Only when that answer
// says that work goes on is the volume read until it is gone; a lost answer is
// cleared up by deleting again, until the array finds nothing to delete. A volume
// whose end an earlier call has begun is only waited for.
func (c *Client) DeleteVolume(ctx context.Context, v *Volume) error {
	ctx, cancel := patiently(ctx)
	defer cancel()
	if err := v.deletable(); err != nil {
		return err
	}
	if v.Leaving() {
		return c.awaitGone(ctx, v)
	}
	last, err := c.takeOffline(ctx, v)
	if err != nil {
		return err
	}
	if err = last.stillDeletable(v); err != nil {
		return c.takeBackOffline(ctx, v, last, err)
	}
	rest, err := call[appInstance](ctx, c, del(v.path()))
	if errors.Is(err, ErrNotFound) || err == nil && rest.OpState == "" {
		return nil
	}
	if err != nil {
		return err
	}
	return c.awaitGone(ctx, v)
}

// takeBackOffline brings a volume online again that is not deleted, because of why:
// if it was online, or if whoever was admitted since will want it.
func (c *Client) takeBackOffline(ctx context.Context, v, last *Volume, why error) error {
	if !v.Online && len(last.newcomers(v)) == 0 {
		return why
	}
	if err := run(ctx, c, put(v.path(), adminState{State: online})); err != nil {
		return inUse("%v; and it could not be brought online again: %v", why, err)
	}
	return why
}

// awaitGone returns when the array has forgotten v.
func (c *Client) awaitGone(ctx context.Context, v *Volume) error {
	return poll(ctx, v.Name+" to be gone", func(ctx context.Context) (bool, error) {
		_, err := c.reread(ctx, v)
		if errors.Is(err, ErrNotFound) {
			return true, nil
		}
		return false, err
	})
}

// deletable names what would be lost, or who would lose it.
func (v *Volume) deletable() error {
	var stamps []string
	for _, s := range v.Snapshots {
		stamps = append(stamps, s.UTCTS)
	}
	switch {
	case len(stamps) > 0:
		return inUse("%s has the snapshots %s: delete them first", v.Name, strings.Join(stamps, ", "))
	case len(v.ActiveInitiators) > 0:
		return inUse("%s is in use by %s: unpublish it first", v.Name, Few(v.ActiveInitiators))
	}
	return nil
}

// stillDeletable is deletable of v as it is now, when it was as before when the
// caller decided to delete it.
func (v *Volume) stillDeletable(before *Volume) error {
	if err := v.deletable(); err != nil {
		return err
	}
	if hosts := v.newcomers(before); len(hosts) > 0 {
		return inUse("%s was just published to %s: unpublish it first", v.Name, Few(hosts))
	}
	return nil
}

// newcomers are the initiators, and groups of them, that v admits and did not
// before.
func (v *Volume) newcomers(before *Volume) []string {
	return slices.Concat(
		slices.DeleteFunc(slices.Clone(v.Initiators), func(iqn string) bool { return listed(before.Initiators, iqn) }),
		slices.DeleteFunc(slices.Clone(v.InitiatorGroups), func(name string) bool { return slices.Contains(before.InitiatorGroups, name) }),
	)
}

// takeOffline takes the app instance offline and gives it as it is then. The
// array may refuse for reasons other than a session, such as an initiator that is
// admitted; it is forced only when a new look finds nobody logged in, and nobody
// admitted who was not before.
func (c *Client) takeOffline(ctx context.Context, v *Volume) (*Volume, error) {
	a, err := call[appInstance](ctx, c, put(v.path(), adminState{State: offline}))
	if errors.Is(err, ErrInvalid) || errors.Is(err, ErrConflict) {
		seen, readErr := c.reread(ctx, v)
		if readErr != nil {
			return nil, readErr
		}
		if inUse := seen.stillDeletable(v); inUse != nil {
			return nil, fmt.Errorf("%w: %w", inUse, err)
		}
		a, err = call[appInstance](ctx, c, put(v.path(), adminState{State: offline, Force: true}))
	}
	if err != nil {
		return nil, err
	}
	if last, shapeErr := a.volume(); shapeErr == nil {
		return last, nil
	}
	return c.reread(ctx, v) // the answer was not the whole app instance
}
