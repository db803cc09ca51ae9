package sim

import (
	"encoding/json"
	"fmt"
	"math"
)

// body is a request body that has been checked: texts are string, integers
// int64, flags bool, references their path, lists []string or []body.
type body map[string]any

func (b body) has(key string) bool      { _, ok := b[key]; return ok }
func (b body) str(key string) string    { s, _ := b[key].(string); return s }
func (b body) int(key string) int64     { n, _ := b[key].(int64); return n }
func (b body) flag(key string) bool     { t, _ := b[key].(bool); return t }
func (b body) obj(key string) body      { o, _ := b[key].(body); return o }
func (b body) list(key string) []body   { l, _ := b[key].([]body); return l }
func (b body) strs(key string) []string { l, _ := b[key].([]string); return l }

// or is the text at key, or what it defaults to.
func (b body) or(key, otherwise string) string {
	return or(b.str(key), otherwise)
}

func or(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

// merged is old with the members of changes put over it.
func merged(old, changes body) body {
	out := make(body, len(old)+len(changes))
	for k, v := range old {
		out[k] = v
	}
	for k, v := range changes {
		out[k] = v
	}
	return out
}

// UnmarshalJSON brings a stored body back with the types it had.
func (b *body) UnmarshalJSON(raw []byte) error {
	var in map[string]any
	if err := json.Unmarshal(raw, &in); err != nil {
		return fmt.Errorf("read a stored object: %w", err)
	}
	if in == nil {
		return nil // null: there was none
	}
	*b = make(body, len(in))
	for k, v := range in {
		(*b)[k] = restored(v)
	}
	return nil
}

func restored(v any) any {
	switch v := v.(type) {
	case float64:
		if v == math.Trunc(v) {
			return int64(v)
		}
	case map[string]any:
		o := make(body, len(v))
		for key, inner := range v {
			o[key] = restored(inner)
		}
		return o
	case []any:
		return restoredList(v)
	}
	return v
}

func restoredList(items []any) any {
	texts := make([]string, 0, len(items))
	objects := make([]body, 0, len(items))
	for _, item := range items {
		switch item := restored(item).(type) {
		case string:
			texts = append(texts, item)
		case body:
			objects = append(objects, item)
		}
	}
	if len(objects) > 0 {
		return objects
	}
	return texts
}
