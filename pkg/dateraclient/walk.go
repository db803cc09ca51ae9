package dateraclient

import (
	"context"
	"encoding/json"
	"iter"
	"net/url"
	"strconv"
)

// Place is a place in the list of the tenant's app instances in the order of
// their names. The zero Place is before the first. The name is what counts; the
// offset says where it was last seen, so that it is found again with one request.
type Place struct {
	After  string // name of the app instance that comes before
	Offset int    // how many came before
}

// Step is one app instance of a walk.
type Step struct {
	Name   string
	Volume *Volume // nil: it is not one volume
	Shape  error   // why it is not, an ErrShape
	Place  Place   // from here the walk may go on later
	Last   bool    // none came after it when its page was read
}

// MaxPage is the most app instances that the array sends at a time.
const MaxPage = 1000

// Walk visits the tenant's app instances in the order of their names, from a
// place on, with at most size of them in memory and one request for each size-1.
// The array counts its pages from the start of the list; here each page begins
// with the last app instance of the one before it, and where it does not, because
// some were made or deleted meanwhile, the place is looked for by its name. So
// what exists all the time is visited exactly once. An error is the last thing
// yielded.
func (c *Client) Walk(ctx context.Context, from Place, size int) iter.Seq2[Step, error] {
	return func(yield func(Step, error) bool) {
		size = max(2, min(size, MaxPage))
		for {
			p, err := c.after(ctx, from, size)
			if err != nil {
				yield(Step{}, err)
				return
			}
			for i, a := range p.apps {
				from.Offset = p.offset + i + 1
				if a.name != "" {
					from.After = a.name
				}
				step := Step{Name: a.name, Place: from, Last: p.end && i == len(p.apps)-1}
				if step.Volume, step.Shape = a.volume(); !yield(step, nil) {
					return
				}
			}
			if p.end {
				return
			}
		}
	}
}

// stretch is a piece of the list.
type stretch struct {
	apps   []listedApp
	offset int  // of the first
	end    bool // nothing comes after it
}

// after finds what comes after a place: at least one app instance unless that is
// the end.
func (c *Client) after(ctx context.Context, from Place, size int) (stretch, error) {
	start, back := max(0, from.Offset-1), size
	for blind := false; ; {
		p, err := c.stretch(ctx, start, size)
		if err != nil {
			return stretch{}, err
		}
		// Some before the place were deleted: it is further to the front now.
		if !blind && start > 0 && p.beyond(from.After) {
			start, back = max(0, start-back), 2*back
			continue
		}
		next := start + len(p.apps)
		rest := p.apps[p.passed(from.After):]
		if len(rest) > 0 || p.end {
			return stretch{apps: rest, offset: next - len(rest), end: p.end}, nil
		}
		// The place is further back. Here too pages overlap, unless the array
		// sends one app instance at a time.
		blind = len(p.apps) == 1
		start, back = next, size
		if !blind {
			start--
		}
	}
}

// beyond says that p lies after a name, and perhaps not directly after it.
func (s stretch) beyond(name string) bool {
	return len(s.apps) == 0 || s.apps[0].name > name
}

// passed counts the app instances up to a name or to where it would be. A name
// that is there is found in whatever order the array has them.
func (s stretch) passed(name string) int {
	if name == "" {
		return 0
	}
	n := 0
	for i, a := range s.apps {
		if a.name == name {
			return i + 1
		}
		if a.name < name {
			n = i + 1
		}
	}
	return n
}

func (c *Client) stretch(ctx context.Context, offset, size int) (stretch, error) {
	query := url.Values{"sort": {"name"}, "limit": {strconv.Itoa(size)}}
	p, err := page[listedApp](ctx, c, "/app_instances", query, offset)
	if err != nil {
		return stretch{}, err
	}
	s := stretch{offset: offset, apps: make([]listedApp, len(p.items))}
	for i, item := range p.items {
		s.apps[i] = item.value
	}
	s.end = len(s.apps) == 0 || p.total >= 0 && offset+len(s.apps) >= p.total
	return s, nil
}

// listedApp is an element of a list that has a place there whatever it is like.
type listedApp struct {
	name string
	app  appInstance
	err  error
}

func (l *listedApp) UnmarshalJSON(raw []byte) error {
	err := json.Unmarshal(raw, &l.app)
	if err == nil {
		l.name = string(l.app.Name)
		return nil
	}
	var only struct {
		Name text `json:"name"`
	}
	if json.Unmarshal(raw, &only) == nil {
		l.name = string(only.Name)
	}
	l.err = shape("app instance %q: %s in %s", l.name, err, excerpt(raw, nil))
	return nil
}

func (l *listedApp) volume() (*Volume, error) {
	if l.err != nil {
		return nil, l.err
	}
	return l.app.volume()
}
