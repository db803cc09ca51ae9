package dateraclient

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The array is not of one mind about its own types: versions and object kinds
// send a number as a string, a reference as a bare path. These types take both.

// text is a string that may arrive as a number or as null.
type text string

func (t *text) UnmarshalJSON(raw []byte) error {
	switch {
	case bytes.Equal(raw, []byte("null")):
		*t = ""
		return nil
	case raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw):
		*t = text(raw[1 : len(raw)-1]) // nearly always: no escapes to resolve
		return nil
	case raw[0] == '"':
		var s string
		err := json.Unmarshal(raw, &s)
		*t = text(s)
		return err
	case raw[0] == '{' || raw[0] == '[':
		return fmt.Errorf("%.40s is not a string", raw)
	}
	*t = text(raw)
	return nil
}

// number is a finite number that may arrive as a string; "" and null are 0.
type number float64

func (n *number) UnmarshalJSON(raw []byte) error {
	s := strings.Trim(string(raw), `"`)
	if s == "null" || s == "" {
		*n = 0
		return nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		return fmt.Errorf("%.40s is not a number", raw)
	}
	*n = number(f)
	return nil
}

// ref is a reference to another object.
type ref struct {
	Path string `json:"path"`
}

func (r *ref) UnmarshalJSON(raw []byte) error {
	if raw[0] == '"' {
		return json.Unmarshal(raw, &r.Path)
	}
	type plain ref // without this method
	return json.Unmarshal(raw, (*plain)(r))
}

// name is the last part of the path, the object's own key; "" if there is none.
func (r *ref) name() string {
	if r == nil {
		return ""
	}
	return r.Path[strings.LastIndexByte(r.Path, '/')+1:]
}

// names are the keys of several references.
func names(refs []ref) []string {
	var out []string
	for i := range refs {
		out = append(out, refs[i].name())
	}
	return out
}

// envelope is around everything the array answers, except logins and errors.
type envelope[T any] struct {
	Data     *T        `json:"data"`
	Metadata *listInfo `json:"metadata"`
}

// listInfo tells where a page lies in its list.
type listInfo struct {
	Total  *int `json:"total_count"`
	Offset *int `json:"offset"`
}
