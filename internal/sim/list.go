package sim

import (
	"cmp"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

const (
	defaultPage = 100
	maxPage     = 1000
)

func listParams() []field {
	return []field{
		integer("limit", 0, maxPage),
		integer("offset", 0, 1<<40).from22(),
		text("sort"),
		text("filter"),
	}
}

// page renders the part of rows that the request asks for. Only what is on the
// page is rendered, unless the request filters or sorts by something else than
// the name.
func page[T any](r *request, rows []T, render func(T) object, name func(T) string) (any, error) {
	unfiltered := len(rows)
	rows, err := filtered(r, rows, render, name)
	if err != nil {
		return nil, err
	}
	if err := sorted(r, &rows, render, name); err != nil {
		return nil, err
	}
	total := len(rows)
	if r.query.Get("filter") != "" && !r.is33() {
		total = unfiltered // products before 3.3 count what the filter left out
	}
	limit, offset := r.window(len(rows))
	start := min(offset, len(rows))
	end := min(start+limit, len(rows))
	out := make(contained, 0, end-start)
	for _, x := range rows[start:end] {
		out = append(out, render(x))
	}
	if r.version == v21 {
		r.meta = object{{"total", total}}
	} else {
		r.meta = object{{"total_count", total}, {"request_count", len(out)}, {"limit", limit}, {"offset", offset}}
	}
	return out, nil
}

// window is the page's size and start. Version 2.1 answers the whole list when
// no limit is given; later ones 100 rows.
func (r *request) window(rows int) (limit, offset int) {
	limit, offset = r.queryInt("limit"), r.queryInt("offset")
	if limit == 0 {
		limit = defaultPage
		if r.version < v22 {
			limit = rows
		}
	}
	return limit, offset
}

// queryInt is a query parameter that the schema has found to be an integer.
func (r *request) queryInt(key string) int {
	n, err := json.Number(r.query.Get(key)).Int64()
	if err != nil {
		return 0
	}
	return int(n)
}

var (
	reEquals = regexp.MustCompile(`^([a-z_]+)=(.*)$`)
	reMatch  = regexp.MustCompile(`^match\(([a-z_]+),(.*)\)$`)
)

// filtered understands the two evidenced forms of the query language:
// name=value and match(name,regular expression).
func filtered[T any](r *request, rows []T, render func(T) object, name func(T) string) ([]T, error) {
	expression := strings.TrimSpace(r.query.Get("filter"))
	if expression == "" {
		return rows, nil
	}
	var attribute string
	var fits func(string) bool
	if m := reMatch.FindStringSubmatch(expression); m != nil {
		re, err := regexp.Compile("^(?:" + strings.TrimSpace(m[2]) + ")$")
		if err != nil {
			return nil, errValidation("filter: " + err.Error())
		}
		attribute, fits = m[1], re.MatchString
	} else if m := reEquals.FindStringSubmatch(expression); m != nil {
		want := strings.Trim(m[2], `'"`)
		attribute, fits = m[1], func(s string) bool { return s == want }
	} else {
		return nil, errValidation("filter: not understood; use name=value or match(name,regular expression)")
	}
	value := attributeOf(attribute, render, name)
	var kept []T
	for _, x := range rows {
		if fits(value(x)) {
			kept = append(kept, x)
		}
	}
	return kept, nil
}

// attributeOf reads one attribute of a row as text.
func attributeOf[T any](attribute string, render func(T) object, name func(T) string) func(T) string {
	if attribute == "name" {
		return name
	}
	return func(x T) string {
		v, ok := render(x).get(attribute)
		if !ok {
			return ""
		}
		if s, isText := v.(string); isText {
			return s
		}
		return string(encoder{}.append(nil, v))
	}
}

// sorted orders rows by the attributes named, ascending; "-" before a name
// turns it around. Without sort, rows stay in the order they were made.
func sorted[T any](r *request, rows *[]T, render func(T) object, name func(T) string) error {
	var by []func(a, b T) int
	for _, attribute := range strings.FieldsFunc(r.query.Get("sort"), func(c rune) bool { return c == ',' || c == ' ' }) {
		plain, descending := strings.CutPrefix(attribute, "-")
		value := attributeOf(plain, render, name)
		by = append(by, func(a, b T) int {
			order := cmp.Compare(value(a), value(b))
			if descending {
				return -order
			}
			return order
		})
	}
	if len(by) == 0 {
		return nil
	}
	*rows = slices.Clone(*rows)
	slices.SortStableFunc(*rows, func(a, b T) int {
		for _, compare := range by {
			if order := compare(a, b); order != 0 {
				return order
			}
		}
		return 0
	})
	return nil
}
