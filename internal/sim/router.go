package sim

import (
	"maps"
	"net/url"
	"slices"
	"strings"
)

// route is one path of the API and what can be done there. In its path ":x"
// stands for one segment and "*x" for all that follow.
type route struct {
	path string
	gate gate
	ops  map[string]op // by HTTP method
}

// op is one operation of a route.
type op struct {
	do     func(*request) (any, error)
	in     []field // members of the body
	query  []field // query parameters besides those of a list
	list   bool    // answers a collection: limit, offset, sort and filter are known
	public bool    // needs no key
	anyone bool    // no privilege to write is needed
	bare   bool    // the answer has no envelope
	free   bool    // the keys of the body are free
	url    []field // parameters in the path that are more than a text

	raw   func(*request) error // reads a body that is not JSON
	descr string
}

// node is one segment in the tree of routes.
type node struct {
	fixed map[string]*node
	param *node
	name  string // of the parameter that leads here
	rest  bool   // the parameter takes all that follows
	route *route
}

type router struct{ root *node }

// newRouter makes the tree of routes, and the list of them sorted by path.
func newRouter(routes []route) (*router, []*route) {
	r := &router{root: &node{}}
	var table []*route
	for i := range routes {
		if r.add(&routes[i]) {
			table = append(table, &routes[i])
		}
	}
	slices.SortFunc(table, func(x, y *route) int { return strings.Compare(x.path, y.path) })
	return r, table
}

// add says whether the route is a new one: several tables may describe
// operations of one path.
func (r *router) add(rt *route) bool {
	n := r.root
	for _, segment := range split(rt.path) {
		switch segment[0] {
		case ':', '*':
			if n.param == nil {
				n.param = &node{name: segment[1:], rest: segment[0] == '*'}
			}
			n = n.param
		default:
			if n.fixed == nil {
				n.fixed = map[string]*node{}
			}
			if n.fixed[segment] == nil {
				n.fixed[segment] = &node{}
			}
			n = n.fixed[segment]
		}
	}
	if n.route != nil {
		maps.Copy(n.route.ops, rt.ops)
		return false
	}
	n.route = rt
	return true
}

// find gives the route of a path and the values of its parameters, keyed by
// name. A fixed segment wins over a parameter.
func (r *router) find(path string) (*route, params) {
	n := r.root
	var found params
	segments := split(path)
	for i, segment := range segments {
		if next := n.fixed[segment]; next != nil {
			n = next
			continue
		}
		if n.param == nil {
			return nil, nil
		}
		n = n.param
		if n.rest {
			found = append(found, param{n.name, strings.Join(unescaped(segments[i:]), "/")})
			break
		}
		found = append(found, param{n.name, unescape(segment)})
	}
	return n.route, found
}

type param struct{ name, value string }

type params []param

func (p params) get(name string) string {
	for _, x := range p {
		if x.name == name {
			return x.value
		}
	}
	return ""
}

func split(path string) []string {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

func unescape(segment string) string {
	if s, err := url.PathUnescape(segment); err == nil {
		return s
	}
	return segment
}

func unescaped(segments []string) []string {
	out := make([]string, len(segments))
	for i, s := range segments {
		out[i] = unescape(s)
	}
	return out
}
