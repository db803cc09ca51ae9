package sim

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// ref checks a reference. A reference has the one member "path"; v2 writes the
// path alone, and so do some clients later on where the field is loose.
func (c *checker) ref(at string, f *field, v any) any {
	if s, ok := v.(string); ok && (f.loose || c.version == v2) {
		v = map[string]any{"path": s}
	}
	o, ok := v.(map[string]any)
	if !ok {
		c.fault(at, "must be an object with a path")
		return nil
	}
	for key := range o {
		if key != "path" {
			c.fault(join(at, key), "additional properties are not allowed")
			return nil
		}
	}
	path, ok := o["path"].(string)
	if !ok || !strings.HasPrefix(path, "/") {
		c.fault(join(at, "path"), "must be a path that begins with /")
		return nil
	}
	return path
}

func (c *checker) refs(at string, f *field, v any) any {
	items, ok := v.([]any)
	if !ok {
		c.fault(at, "must be an array")
		return nil
	}
	paths := make([]string, 0, len(items))
	for i, item := range items {
		if path, isPath := c.ref(fmt.Sprintf("%s[%d]", at, i), f, item).(string); isPath {
			paths = append(paths, path)
		}
	}
	return paths
}

func (c *checker) texts(at string, f *field, v any) any {
	items, ok := v.([]any)
	if !ok {
		c.fault(at, "must be an array")
		return nil
	}
	one := *f
	one.kind = kindText
	out := make([]string, 0, len(items))
	for i, item := range items {
		if s, isText := c.text(fmt.Sprintf("%s[%d]", at, i), &one, item).(string); isText {
			out = append(out, s)
		}
	}
	return out
}

// list checks an array of objects. In v2 the same is an object keyed by name.
func (c *checker) list(at string, f *field, v any) any {
	if o, ok := v.(map[string]any); ok && c.version == v2 {
		v = arrayOf(o)
	}
	items, ok := v.([]any)
	if !ok {
		c.fault(at, "must be an array")
		return nil
	}
	out := make([]body, 0, len(items))
	for i, item := range items {
		where := fmt.Sprintf("%s[%d]", at, i)
		o, isObject := item.(map[string]any)
		if !isObject {
			c.fault(where, "must be an object")
			continue
		}
		out = append(out, c.object(where, f.of, o))
	}
	return out
}

// arrayOf turns a v2 collection into the array that later versions write.
func arrayOf(o map[string]any) []any {
	items := make([]any, 0, len(o))
	for _, name := range slices.Sorted(maps.Keys(o)) {
		value := o[name]
		item, ok := value.(map[string]any)
		if ok && item["name"] == nil {
			item["name"] = name
		}
		items = append(items, value)
	}
	return items
}

func (c *checker) keyed(at string, f *field, v any) any {
	o, ok := v.(map[string]any)
	if !ok {
		c.fault(at, "must be an object")
		return nil
	}
	out := make(body, len(o))
	for key, value := range o {
		inner, isObject := value.(map[string]any)
		if !isObject {
			c.fault(join(at, key), "must be an object")
			continue
		}
		out[key] = c.object(join(at, key), f.of, inner)
	}
	return out
}

func (c *checker) values(at string, v any) any {
	o, ok := v.(map[string]any)
	if !ok {
		c.fault(at, "must be an object")
		return nil
	}
	for key, value := range o {
		switch value.(type) {
		case string, bool, json.Number:
		default:
			c.fault(join(at, key), "must be a string, a number or a boolean")
		}
	}
	return o
}

// The array's patterns.
var (
	reName      = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_\-\.]{2,63}$`)
	reDescr     = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_\-\s\.]{2,127})?$`)
	reUUID      = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	reNameUUID  = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_\-\.]{2,63}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$`)
	reInitiator = regexp.MustCompile(`^(iqn\.[0-9]{4}-[0-9]{2}\.[a-zA-Z0-9\-.:_]{4,211}|eui\.[0-9a-fA-F]{16})$`)
	rePassword  = regexp.MustCompile(`^\S{12,16}$`)
	reUser      = regexp.MustCompile(`^[a-zA-Z0-9_]{3,32}$`)
	reLogin     = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_\-\.]{2,127}$`)
)

func nameField() field {
	return text("name").like(reName, "a letter or _, then letters, digits, _ - . ; 3 to 64 characters").must()
}

func descrField() field {
	return text("descr").like(reDescr, "a letter or _, then letters, digits, blanks, _ - . ; 3 to 128 characters").orNull()
}

func uuidField(name string) field {
	return text(name).like(reUUID, "a UUID in lower case")
}
