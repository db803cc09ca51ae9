package dateraclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"strconv"
)

// pageSize is how many objects are asked for at a time; the array may send fewer.
const pageSize = 100

// pages iterates over a list from offset on, one page of it in memory at a time.
// query may sort or filter. An element that cannot be decoded is yielded as an
// ErrShape, and the iteration goes on if the caller does; any other error ends
// it. Objects that are made or deleted meanwhile may be missed or seen twice, as
// the array counts from the start of its list at every page.
func pages[T any](ctx context.Context, c *Client, path string, query url.Values, offset int) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		for {
			p, err := page[T](ctx, c, path, query, offset)
			if err != nil {
				yield(zero, err)
				return
			}
			for _, item := range p.items {
				if !yield(item.value, item.err) {
					return
				}
			}
			offset += len(p.items)
			// An empty page is the end whatever the total says: objects were
			// deleted since it was counted.
			if len(p.items) == 0 || p.total >= 0 && offset >= p.total {
				return
			}
		}
	}
}

type pageOf[T any] struct {
	items []element[T]
	total int // -1: the array does not say
}

type element[T any] struct {
	value T
	err   error
}

// page reads one page.
func page[T any](ctx context.Context, c *Client, path string, query url.Values, offset int) (pageOf[T], error) {
	r := get(path)
	r.query = url.Values{"limit": {strconv.Itoa(pageSize)}, "offset": {strconv.Itoa(offset)}}
	for key, values := range query {
		r.query[key] = values
	}
	var out pageOf[T]
	err := c.do(ctx, r, func(raw []byte) error {
		var err error
		out, err = decodePage[T](raw, offset)
		return err
	})
	return out, err
}

// decodePage decodes all elements at once; only if one of them is wrong, each by
// itself, to know which.
func decodePage[T any](raw []byte, offset int) (pageOf[T], error) {
	out := pageOf[T]{total: -1}
	var whole envelope[[]T]
	err := json.Unmarshal(raw, &whole)
	switch _, syntax := errors.AsType[*json.SyntaxError](err); {
	case syntax:
		return out, err
	case err != nil:
		return decodeEach[T](raw, offset)
	case whole.Data == nil:
		return out, errors.New("it has no data")
	}
	for _, value := range *whole.Data {
		out.items = append(out.items, element[T]{value: value})
	}
	return out, whole.Metadata.place(&out.total, offset)
}

func decodeEach[T any](raw []byte, offset int) (pageOf[T], error) {
	out := pageOf[T]{total: -1}
	var parts envelope[[]json.RawMessage]
	if err := json.Unmarshal(raw, &parts); err != nil {
		return out, err
	}
	for i, part := range *parts.Data {
		var e element[T]
		if err := json.Unmarshal(part, &e.value); err != nil {
			e = element[T]{err: shape("element %d of the list: %s in %s", offset+i, err, excerpt(part, nil))}
		}
		out.items = append(out.items, e)
	}
	return out, parts.Metadata.place(&out.total, offset)
}

// place takes the list's total, and checks that the page is the one asked for: an
// array that ignores offset would be listed for ever.
func (l *listInfo) place(total *int, offset int) error {
	if l == nil {
		return nil
	}
	if l.Offset != nil && *l.Offset != offset {
		return fmt.Errorf("it is the page at %d, not at %d,", *l.Offset, offset)
	}
	if l.Total != nil {
		*total = *l.Total
	}
	return nil
}
