package sim

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
)

// kind is the shape of a field's value.
type kind int

const (
	kindText    kind = iota
	kindInteger      // whole number
	kindFlag         // true or false
	kindRef          // {"path": …}
	kindRefs         // [{"path": …}, …]
	kindTexts        // ["…", …]
	kindGroup        // an object with fields of its own
	kindList         // an array of such objects
	kindKeyed        // an object of such objects, keyed by name
	kindFree         // anything; accepted and not looked at
)

// field describes one member of a request body or one query parameter. The
// route tables are made of these; nothing else decides what a request may hold.
type field struct {
	name     string
	kind     kind
	required bool
	null     bool // null is accepted and means absent
	loose    bool // a number may come as a string, a string as a number
	pattern  *regexp.Regexp
	help     string // what to say when the pattern or the range does not fit
	enum     []string
	min, max int64
	of       []field
	gate     gate

	createOnly bool // not in a PUT
	secret     bool // never shown, not even in the fault that it has
	whole      bool // a reference that answers show resolved
}

func text(name string) field                   { return field{name: name, kind: kindText} }
func flag(name string) field                   { return field{name: name, kind: kindFlag} }
func reference(name string) field              { return field{name: name, kind: kindRef} }
func references(name string) field             { return field{name: name, kind: kindRefs} }
func texts(name string) field                  { return field{name: name, kind: kindTexts} }
func free(name string) field                   { return field{name: name, kind: kindFree} }
func choice(name string, enum ...string) field { return field{name: name, kind: kindText, enum: enum} }
func group(name string, of ...field) field     { return field{name: name, kind: kindGroup, of: of} }
func list(name string, of ...field) field      { return field{name: name, kind: kindList, of: of} }
func keyed(name string, of ...field) field     { return field{name: name, kind: kindKeyed, of: of} }
func integer(name string, lo, hi int64) field {
	return field{name: name, kind: kindInteger, min: lo, max: hi}
}
func (f field) fixed() field          { f.createOnly = true; return f }
func (f field) hidden() field         { f.secret = true; return f }
func (f field) shownWhole() field     { f.whole = true; return f }
func (f field) must() field           { f.required = true; return f }
func (f field) orNull() field         { f.null = true; return f }
func (f field) loosely() field        { f.loose = true; return f }
func (f field) from22() field         { f.gate.from = v22; return f }
func (f field) to(v version) field    { f.gate.to = v; return f }
func (f field) since(r release) field { f.gate.since = r; return f }
func (f field) like(re *regexp.Regexp, help string) field {
	f.pattern, f.help = re, help
	return f
}

// checker checks request bodies against fields.
type checker struct {
	version version
	product product
	form    bool // the values came as a form: all are texts
	faults  []string
}

func (c *checker) fault(at, format string, args ...any) {
	c.faults = append(c.faults, at+": "+fmt.Sprintf(format, args...))
}

func (c *checker) object(at string, fields []field, in map[string]any) body {
	out := make(body, len(in))
	for key, value := range in {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == key && f.gate.open(c.version, c.product) })
		if i < 0 {
			c.fault(join(at, key), "additional properties are not allowed")
			continue
		}
		if value == nil && fields[i].null {
			continue
		}
		if v := c.value(join(at, key), &fields[i], value); v != nil {
			out[key] = v
		}
	}
	for i := range fields {
		f := &fields[i]
		if f.required && f.gate.open(c.version, c.product) {
			if _, ok := in[f.name]; !ok {
				c.fault(join(at, f.name), "is required")
			}
		}
	}
	return out
}

func join(at, key string) string {
	if at == "" {
		return key
	}
	return at + "." + key
}

func (c *checker) value(at string, f *field, v any) any {
	switch f.kind {
	case kindText:
		return c.text(at, f, v)
	case kindInteger:
		return c.integer(at, f, v)
	case kindFlag:
		return c.flag(at, f, v)
	case kindRef:
		return c.ref(at, f, v)
	case kindRefs:
		return c.refs(at, f, v)
	case kindTexts:
		return c.texts(at, f, v)
	case kindGroup:
		if o, ok := v.(map[string]any); ok {
			return c.object(at, f.of, o)
		}
		c.fault(at, "must be an object")
	case kindList:
		return c.list(at, f, v)
	case kindKeyed:
		return c.keyed(at, f, v)
	case kindFree:
		return v
	}
	return nil
}

func (c *checker) text(at string, f *field, v any) any {
	s, ok := v.(string)
	if n, isNumber := v.(json.Number); isNumber && f.loose {
		s, ok = n.String(), true
	}
	switch {
	case !ok:
		c.fault(at, "must be a string")
	case len(f.enum) > 0 && !slices.Contains(f.enum, s):
		c.fault(at, "%q is not one of %q", s, f.enum)
	case f.pattern != nil && !f.pattern.MatchString(s):
		c.fault(at, "%s does not match: %s", f.quote(s), f.help)
	default:
		return s
	}
	return nil
}

func (f *field) quote(value string) string {
	if f.secret {
		return "it"
	}
	return strconv.Quote(value)
}

func (c *checker) integer(at string, f *field, v any) any {
	var s string
	switch v := v.(type) {
	case json.Number:
		s = v.String()
	case string:
		if f.loose || c.form {
			s = v
		}
	}
	x, err := strconv.ParseFloat(s, 64)
	switch {
	case err != nil || x != math.Trunc(x):
		c.fault(at, "must be an integer")
	case x < float64(f.min) || x > float64(f.max):
		c.fault(at, "%s is not in the range %d to %d", s, f.min, f.max)
	default:
		return int64(x)
	}
	return nil
}

func (c *checker) flag(at string, f *field, v any) any {
	if t, ok := v.(bool); ok {
		return t
	}
	if s, ok := v.(string); ok && (f.loose || c.form) && (s == "true" || s == "false") {
		return s == "true"
	}
	c.fault(at, "must be true or false")
	return nil
}
