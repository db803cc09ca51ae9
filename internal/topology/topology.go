// Package topology is where things are, in CSI's terms: segments such as
// topology.kubernetes.io/zone=east of a node, and the sets of them from which an
// array can be reached.
package topology

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Segments is a place: a value for each domain, e.g. zone and rack. What is not
// named is not restricted.
type Segments map[string]string

// Parse reads segments as people write them: key=value, with commas between
// several. The empty text is no segments.
func Parse(text string) (Segments, error) {
	s := Segments{}
	for pair := range strings.SplitSeq(text, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		key, value, found := strings.Cut(pair, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !found {
			return nil, fmt.Errorf("%q is not of the form key=value", pair)
		}
		if _, twice := s[key]; twice {
			return nil, fmt.Errorf("the key %q is there twice", key)
		}
		s[key] = value
	}
	return s, s.Check()
}

// Keys and values as Kubernetes takes them for labels, which is what nodes turn
// them into; CSI v1.13 asks the same of keys.
var (
	prefixPattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	wordPattern   = regexp.MustCompile(`^[a-zA-Z0-9]([-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$`)
)

// Check says what is wrong with s as labels of a node.
func (s Segments) Check() error {
	for _, key := range slices.Sorted(maps.Keys(s)) {
		if err := checkKey(key); err != nil {
			return err
		}
		if !wordPattern.MatchString(s[key]) {
			return fmt.Errorf("%s=%q: a value has 1 to 63 letters, digits, '-', '_' and '.', a letter or digit at both ends", key, s[key])
		}
	}
	return nil
}

func checkKey(key string) error {
	name := key
	if prefix, rest, found := strings.Cut(key, "/"); found {
		if name = rest; len(prefix) > 253 || !prefixPattern.MatchString(prefix) {
			return fmt.Errorf("key %q: %q is not a DNS name in lower case", key, prefix)
		}
	}
	if !wordPattern.MatchString(name) {
		return fmt.Errorf("key %q: a name has 1 to 63 letters, digits, '-', '_' and '.', a letter or digit at both ends, and may have a DNS name and '/' before it", key)
	}
	return nil
}

// String is what Parse reads.
func (s Segments) String() string {
	pairs := make([]string, 0, len(s))
	for _, key := range slices.Sorted(maps.Keys(s)) {
		pairs = append(pairs, key+"="+s[key])
	}
	return strings.Join(pairs, ",")
}

// Meets says whether something at s can be reached from the place p, as far as p
// is told: nothing contradicts it, and p names at least one domain of s. A place
// that names fewer domains than s stands for many nodes; some of them are meant.
func (s Segments) Meets(p Segments) bool {
	met := false
	for key, value := range s {
		switch there, named := p[key]; {
		case named && there != value:
			return false
		case named:
			met = true
		}
	}
	return met
}

// Set is several places, of which each will do. The empty Set is everywhere.
type Set []Segments

// ParseSet reads one place a line. Empty lines and those that begin with # do
// not count.
func ParseSet(text string) (Set, error) {
	var set Set
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		s, err := Parse(line)
		if err != nil {
			return nil, err
		}
		if len(s) > 0 && !slices.ContainsFunc(set, func(x Segments) bool { return maps.Equal(x, s) }) {
			set = append(set, s)
		}
	}
	if len(set) == 0 {
		return nil, errors.New("it names no place; write key=value, e.g. topology.kubernetes.io/zone=east")
	}
	return set, nil
}

// Meets says whether the set can be reached from the place p.
func (t Set) Meets(p Segments) bool {
	return len(t) == 0 || slices.ContainsFunc(t, func(s Segments) bool { return s.Meets(p) })
}

// String is one place after the other.
func (t Set) String() string {
	places := make([]string, len(t))
	for i, s := range t {
		places[i] = s.String()
	}
	return strings.Join(places, " or ")
}
