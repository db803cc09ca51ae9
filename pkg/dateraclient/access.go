package dateraclient

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// member is one change of an ACL. The whole list is never written: what another
// writer adds meanwhile would be lost (FM 9).
type member struct {
	Path string `json:"path"`
	Op   string `json:"op"`
}

// memberRequest admits or expels one initiator. Repeating it is not safe without
// a look at the list in between, and what the list shows is no proof while one is
// under way.
func (v *Volume) memberRequest(op, iqn string) request {
	r := put(v.storagePath()+"/acl_policy/initiators", member{Path: "/initiators/" + iqn, Op: op})
	r.once, r.awaited = true, true
	return r
}

// Grant admits one initiator to v, which the caller has just read, brings v online
// and waits within ctx until it is exported. It returns the volume as read after
// that. What v shows to be done already is not done again. On the common path it
// takes two requests: the add, and the read that proves it.
//
// An add that is under way when ctx ends is awaited, for two minutes at most, so that
// this call admits nobody after it has returned. So is what Revoke has under way.
//
// ErrInUse: access control of v is off, so that admitting means nothing and no
// host could ever be kept out again.
func (c *Client) Grant(ctx context.Context, v *Volume, iqn string) (*Volume, error) {
	ctx, cancel := patiently(ctx)
	defer cancel()
	if !IsInitiator(iqn) {
		return nil, invalid("%q is not an initiator's name", iqn)
	}
	wait := backoff{pollFirst, pollMost}
	for first := true; ; first = false {
		switch {
		case v.AllowAll:
			return nil, unfenced(v)
		case v.admits(iqn) && (!first || slices.Contains(v.Initiators, iqn)):
			return v, nil
		case !first && !wait.wait(ctx):
			return nil, notAdmitted(ctx, v, iqn)
		}
		if err := c.admit(ctx, v, iqn); err != nil {
			return nil, err
		}
		if err := c.bringOnline(ctx, v, !first); err != nil {
			return nil, err
		}
		now, err := c.reread(ctx, v)
		if err != nil && !first && ctx.Err() != nil {
			return nil, notAdmitted(ctx, v, iqn) // says more than that a read was cut off
		}
		if err != nil {
			return nil, err
		}
		v = now
	}
}

func notAdmitted(ctx context.Context, v *Volume, iqn string) error {
	return &Error{kind: ErrUnavailable, cause: context.Cause(ctx), Message: fmt.Sprintf(
		"waited in vain for %s to admit %s: online %t, exported %t", v.Name, iqn, v.Online, v.Exported)}
}

// admits tells whether iqn can use v now.
func (v *Volume) admits(iqn string) bool {
	return v.Online && v.Exported && listed(v.Initiators, iqn)
}

func unfenced(v *Volume) error {
	return inUse("%s admits any initiator, so that nobody can be kept out of it: "+
		"set its access_control_mode to deny_all", v.Name)
}

// admit adds iqn to the ACL, and makes it known to the array if that is what is
// missing. Of an answer that was lost, and of the conflict when somebody was
// faster, nothing is said here: the next look at the volume tells. Beside another
// spelling of the name it is added, too, for an array that takes them for two.
func (c *Client) admit(ctx context.Context, v *Volume, iqn string) error {
	if slices.Contains(v.Initiators, iqn) {
		return nil
	}
	err := run(ctx, c, v.memberRequest("add", iqn))
	if errors.Is(err, ErrNotFound) {
		if _, err = c.reread(ctx, v); err != nil {
			return err // it is the volume that is not there
		}
		if err = c.introduce(ctx, iqn); unanswered(err) {
			return nil
		}
		if err != nil {
			return err
		}
		err = run(ctx, c, v.memberRequest("add", iqn))
	}
	if errors.Is(err, ErrConflict) || unanswered(err) {
		return nil
	}
	return err
}

// introduce makes an initiator known to the tenant. To make a tenant's own copy
// of an initiator that a parent knows, the array wants to be told twice (force).
func (c *Client) introduce(ctx context.Context, iqn string) error {
	host := map[string]any{"id": iqn, "name": described("CSI-" + iqn)}
	err := run(ctx, c, post("/initiators", host))
	if e, ok := errors.AsType[*Error](err); ok && e.Name == "InvalidRequestError" && errors.Is(err, ErrInvalid) {
		host["force"] = true
		err = run(ctx, c, post("/initiators", host))
	}
	if errors.Is(err, ErrConflict) {
		return nil
	}
	if errors.Is(err, ErrNoSpace) {
		return &Error{kind: ErrHosts, Message: fmt.Sprintf(
			"%s is new to it (%v); delete initiators that no ACL names, see docs/operate-initiators.md", iqn, err)}
	}
	if err != nil {
		return fmt.Errorf("make initiator %s known: %w", iqn, err)
	}
	return nil
}

// bringOnline turns on the app instance, which brings its storage instance along;
// if that was not enough, the storage instance by itself.
func (c *Client) bringOnline(ctx context.Context, v *Volume, again bool) error {
	if v.Online {
		return nil
	}
	err := run(ctx, c, put(v.path(), adminState{State: online}))
	if err == nil && again {
		err = run(ctx, c, put(v.storagePath(), adminState{State: online}))
	}
	return err
}

// sessionGrace is how long a session may outlive its entry in the ACL before the
// target is taken down to end it, and then how long it may outlive that.
const sessionGrace = 3 * time.Second

// Revoke expels one initiator from v, which the caller has just read, and returns
// nil only when the array shows that it is neither admitted nor logged in: this is
// the fence between two hosts (FM 4). If v shows both already, nothing is sent. On
// the common path it takes two requests, the removal and the read that proves it.
//
// A session that outlives its admission by a few seconds is ended by taking the
// app instance offline, if nobody else is admitted; the next Grant brings it back.
// ErrInUse says who stands in the way otherwise, the initiator itself if the array
// does not take it out. ErrNotFound: the volume was read and is gone; whatever else
// the array does not find is no proof of anything.
func (c *Client) Revoke(ctx context.Context, v *Volume, iqn string) error {
	ctx, cancel := patiently(ctx)
	defer cancel()
	e := eviction{c: c, iqn: iqn}
	wait := backoff{pollFirst, pollMost}
	for first := true; ; first = false {
		switch {
		case v.AllowAll:
			return unfenced(v)
		case !listed(v.Initiators, iqn) && !listed(v.ActiveInitiators, iqn):
			if first && !IsInitiator(iqn) { // of what is listed, the array has judged
				return invalid("%q is not an initiator's name", iqn)
			}
			return c.otherWays(ctx, v, iqn)
		case !first && !wait.wait(ctx):
			return &Error{kind: ErrUnavailable, cause: context.Cause(ctx), Message: fmt.Sprintf(
				"waited in vain for %s to leave %s: admitted %t, logged in %t",
				iqn, v.Name, listed(v.Initiators, iqn), listed(v.ActiveInitiators, iqn))}
		}
		if err := e.step(ctx, v); err != nil {
			return err
		}
		var err error
		if v, err = c.reread(ctx, v); err != nil {
			return err
		}
		if e.refusal != nil && listed(v.Initiators, iqn) && !v.Leaving() { // of one that leaves, the end is waited for
			return inUse("%s still admits %s, which the array does not take out of the ACL: %v", v.Name, iqn, e.refusal)
		}
	}
}

// eviction is the memory of a Revoke.
type eviction struct {
	c       *Client
	iqn     string
	refusal error     // the array would not remove it
	since   time.Time // the session has had no right to be since then
	forced  bool      // the app instance was taken offline for it
}

// step does what v, as it was just read, still needs.
func (e *eviction) step(ctx context.Context, v *Volume) error {
	if listed(v.Initiators, e.iqn) {
		err := e.c.expel(ctx, v, e.iqn)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrConflict) || errors.Is(err, ErrInvalid) {
			e.refusal = err // unless it has left the list, which it had to in any case
			return nil
		}
		return err
	}
	const ifDead = "if the host is dead, the array gives the session up by itself, and the next attempt sees it"
	switch {
	case e.since.IsZero():
		e.since = time.Now()
		return nil
	case time.Since(e.since) < sessionGrace:
		return nil
	case e.forced:
		return inUse("%s is still logged in to %s, which is offline: restart its session on that host; %s",
			e.iqn, v.Name, ifDead)
	case len(v.Initiators)+len(v.InitiatorGroups) > 0:
		return inUse("%s is still logged in to %s, and %s too: log it out on that host; %s",
			e.iqn, v.Name, Few(slices.Concat(v.Initiators, v.InitiatorGroups))+" may use it", ifDead)
	}
	e.forced, e.since = true, time.Now()
	end := put(v.path(), adminState{State: offline, Force: true})
	end.awaited = true
	err := run(ctx, e.c, end)
	if errors.Is(err, ErrNotFound) {
		return nil // the next look at the volume tells whether it is gone
	}
	return err
}

// expel removes every spelling of iqn from the ACL. A lost answer says nothing:
// the next look at the volume tells.
func (c *Client) expel(ctx context.Context, v *Volume, iqn string) error {
	for _, entry := range v.Initiators {
		if !strings.EqualFold(entry, iqn) {
			continue
		}
		if err := run(ctx, c, v.memberRequest("remove", entry)); err != nil && !unanswered(err) {
			return err
		}
	}
	return nil
}

// otherWays makes sure that iqn does not come in as a member of a group that an
// administrator has admitted.
func (c *Client) otherWays(ctx context.Context, v *Volume, iqn string) error {
	for _, group := range v.InitiatorGroups {
		for w, err := range pages[initiatorWire](ctx, c, "/initiator_groups/"+url.PathEscape(group)+"/members", nil, 0) {
			if errors.Is(err, ErrNotFound) {
				break // the group is gone, and its rights with it
			}
			if err != nil {
				return err
			}
			if strings.EqualFold(w.iqn(), iqn) {
				return inUse("%s still admits %s, as a member of initiator group %s: remove it from the group, "+
					"or the group from the volume", v.Name, iqn, group)
			}
		}
	}
	return nil
}

// listed compares as iSCSI does: names that differ in case only are one name.
func listed(iqns []string, iqn string) bool {
	return slices.ContainsFunc(iqns, func(s string) bool { return strings.EqualFold(s, iqn) })
}
