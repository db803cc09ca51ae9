package controller

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// listMost bounds an answer of a list, whatever is asked for, so that neither it
// nor the array's pages under it fill the memory: the rest is behind next_token.
const listMost = dateraclient.MaxPage - 1

// listRequest asks for a piece of a list of all backends.
type listRequest struct {
	Most int // entries
	From position
}

// position is a place in that list: backends come in the order of their names.
type position struct {
	Backend string
	Place   dateraclient.Place
}

func parseList(maxEntries int32, token string) (listRequest, error) {
	if maxEntries < 0 {
		return listRequest{}, invalid(fmt.Errorf("max_entries is %d, and must not be negative", maxEntries))
	}
	want := listRequest{Most: listMost}
	if maxEntries > 0 {
		want.Most = min(int(maxEntries), listMost)
	}
	var err error
	want.From, err = parseToken(token)
	return want, err
}

// String is the token of a position: `[OFFSET]:[BACKEND/]NAME`. The name is what
// counts, so that a token outlives what is made and deleted in the meantime. The
// offset, in base 36, spares a search, and is left out where it would make the
// token longer than CSI allows.
func (p position) String() string { return p.within(maxID) }

// within is String for a part of a token that may be this long.
func (p position) within(most int) string {
	id := p.Backend + "/" + p.Place.After
	if p.Backend == defaultBackend {
		id = p.Place.After
	}
	token := strconv.FormatInt(int64(p.Place.Offset), 36) + ":" + id
	if len(token) > most {
		return ":" + id
	}
	return token
}

// parseToken is the inverse of String; what this driver never made is errToken.
func parseToken(token string) (position, error) {
	if token == "" {
		return position{}, nil
	}
	offset, id, found := strings.Cut(token, ":")
	p := position{Backend: defaultBackend, Place: dateraclient.Place{After: id}}
	if backend, name, ok := strings.Cut(id, "/"); ok {
		p.Backend, p.Place.After = backend, name
	}
	var err error
	if offset != "" {
		var n uint64
		n, err = strconv.ParseUint(offset, 36, 31)
		p.Place.Offset = int(n)
	}
	known := p.Place.After == "" || appInstancePattern.MatchString(p.Place.After)
	if !found || err != nil || !known || checkBackendName(p.Backend) != nil || len(token) > maxID {
		return position{}, withStatus(fmt.Errorf("%w: %q was not given by this driver; list again from the beginning", errToken, token))
	}
	return p, nil
}
