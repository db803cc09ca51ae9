package sim

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// object is a JSON object whose members keep their order, as the array's own
// answers do.
type object []member

type member struct {
	key   string
	value any
}

// set adds a member.
func (o *object) set(key string, value any) { *o = append(*o, member{key, value}) }

// setIf adds a member when its condition holds.
func (o *object) setIf(cond bool, key string, value any) {
	if cond {
		o.set(key, value)
	}
}

// get finds a member's value.
func (o object) get(key string) (any, bool) {
	for _, m := range o {
		if m.key == key {
			return m.value, true
		}
	}
	return nil, false
}

// The three ways in which one object of the array speaks of another one.
type (
	ref       string                        // {"path": …}; the empty ref is null
	resolved  struct{ path, tenant string } // {"path": …, "resolved_path": …, "resolved_tenant": …}
	contained []object                      // inlined in full
)

// encoder renders values as JSON. API v2 knows neither reference objects nor
// arrays of contained objects: it writes plain paths and objects keyed by name.
type encoder struct{ v2 bool }

func (e encoder) append(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case string:
		return appendString(b, v)
	case bool:
		return strconv.AppendBool(b, v)
	case int:
		return strconv.AppendInt(b, int64(v), 10)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case float64:
		return appendFloat(b, v)
	case object:
		return e.appendObject(b, v)
	case contained:
		return e.appendContained(b, v)
	case ref, resolved, []ref:
		return e.appendReference(b, v)
	case []string:
		return appendList(b, v, appendString)
	case []any:
		return appendList(b, v, e.append)
	case body:
		return e.appendOther(b, map[string]any(v))
	default:
		return e.appendOther(b, v)
	}
}

func (e encoder) appendOther(b []byte, v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		// Every value comes from this package or was decoded from JSON, so this
		// is a bug in a renderer and must not look like data.
		panic("sim: render " + err.Error())
	}
	return append(b, raw...)
}

func (e encoder) appendObject(b []byte, o object) []byte {
	b = append(b, '{')
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, m.key)
		b = append(b, ':')
		b = e.append(b, m.value)
	}
	return append(b, '}')
}

func (e encoder) appendContained(b []byte, list contained) []byte {
	if !e.v2 {
		return appendList(b, list, e.appendObject)
	}
	keyed := make(object, 0, len(list))
	for _, o := range list {
		keyed.set(containedKey(o), o)
	}
	return e.appendObject(b, keyed)
}

// containedKey is the key under which v2 lists an object.
func containedKey(o object) string {
	if id, ok := o.get("id"); ok && reInitiator.MatchString(fmt.Sprint(id)) {
		return fmt.Sprint(id) // initiators go by their IQN
	}
	for _, key := range []string{"name", "timestamp", "uuid"} {
		if v, ok := o.get(key); ok {
			if s, isString := v.(string); isString && s != "" {
				return s
			}
		}
	}
	return ""
}

func (e encoder) appendReference(b []byte, v any) []byte {
	switch v := v.(type) {
	case ref:
		if e.v2 {
			return appendString(b, string(v))
		}
		b = append(b, `{"path":`...)
		return append(appendString(b, string(v)), '}')
	case resolved:
		if e.v2 {
			return appendString(b, v.path)
		}
		return e.appendObject(b, object{{"path", v.path}, {"resolved_path", v.path}, {"resolved_tenant", v.tenant}})
	case []ref:
		return appendList(b, v, func(b []byte, r ref) []byte { return e.appendReference(b, r) })
	}
	return b
}

func appendList[T any](b []byte, list []T, one func([]byte, T) []byte) []byte {
	b = append(b, '[')
	for i, v := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = one(b, v)
	}
	return append(b, ']')
}

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			raw, err := json.Marshal(s)
			if err != nil {
				return append(b, `""`...)
			}
			return append(b, raw...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// appendFloat writes whole numbers without a fraction: clients of the array
// decode them into integers.
func appendFloat(b []byte, f float64) []byte {
	if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return strconv.AppendInt(b, int64(f), 10)
	}
	return strconv.AppendFloat(b, f, 'f', -1, 64)
}
