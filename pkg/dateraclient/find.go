package dateraclient

import (
	"context"
	"fmt"
	"iter"
	"net/url"
)

// Volume reads a volume by its name: ErrNotFound if the tenant has none, ErrShape
// if the app instance is not one volume.
func (c *Client) Volume(ctx context.Context, name string) (*Volume, error) {
	if !isName(name) {
		return nil, c.absent(name)
	}
	a, err := call[appInstance](ctx, c, get("/app_instances/"+name))
	if err != nil {
		return nil, err
	}
	// The array finds app instances by id as well. An id must not become a
	// second name of a volume: everything that locks and compares goes by name.
	if string(a.Name) != name {
		return nil, c.absent(name)
	}
	return a.volume()
}

func (c *Client) absent(name string) error {
	return &Error{kind: ErrNotFound, Message: fmt.Sprintf("tenant %s has no app instance %q", c.tenant, clip(name, excerptBytes))}
}

// reread reads a volume again, by its id: what was made under the same name since
// is another volume.
func (c *Client) reread(ctx context.Context, v *Volume) (*Volume, error) {
	a, err := call[appInstance](ctx, c, get(v.path()))
	if err != nil {
		return nil, err
	}
	return a.volume()
}

// Volumes lists the tenant's app instances by name, from offset on. One that is
// not a volume is yielded as an ErrShape that names it, after which the caller may
// go on; any other error is the last thing yielded. Each step, errors of shape
// included, advances the list by one, so that offset plus the number of steps is
// where to go on later.
func (c *Client) Volumes(ctx context.Context, offset int) iter.Seq2[*Volume, error] {
	return func(yield func(*Volume, error) bool) {
		byName := url.Values{"sort": {"name"}}
		for a, err := range pages[appInstance](ctx, c, "/app_instances", byName, offset) {
			var v *Volume
			if err == nil {
				v, err = a.volume()
			}
			if !yield(v, err) {
				return
			}
		}
	}
}

// isName tells whether s can be the name of an app instance or of what one refers
// to. Anything else would be another path.
func isName(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for _, r := range s {
		if !isNameRune(r) {
			return false
		}
	}
	return true
}

func isNameRune(r rune) bool {
	return r == '_' || r == '-' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

// described turns s into what the array takes for a description: letters, digits,
// blanks and "_-." of at most 128 characters, the first a letter or "_". Any other
// character becomes "-", and a first one "_"; "" if fewer than 3 are left.
func described(s string) string {
	out := make([]rune, 0, len(s))
	for _, r := range s {
		switch {
		case !isNameRune(r) && r != ' ':
			r = '-'
		case len(out) == 0 && (r == '-' || r == '.' || r == ' ' || r >= '0' && r <= '9'):
			r = '_'
		}
		if len(out) == 0 && r == '-' {
			r = '_'
		}
		if len(out) < 128 {
			out = append(out, r)
		}
	}
	if len(out) < 3 {
		return ""
	}
	return string(out)
}
