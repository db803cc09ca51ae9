// Package namesakes keeps which nodes have one initiator name (FM 10) in a small file.
// The container that may ask the Kubernetes API writes it, the controller beside it,
// which asks nobody, reads it.
package namesakes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/internal/durable"
)

// MaxAge is how old a list may be and still be believed. Its writer lasts out an API
// that is away, and is back before the attacher has work again; an older list means
// that the writer itself is broken, which is no reason to refuse volumes.
const MaxAge = time.Hour

// List is what the file holds.
type List struct {
	Made time.Time `json:"made"`
	// Shared are the initiator names that several nodes have, in lower case, each with
	// its nodes in order.
	Shared map[string][]string `json:"shared"`
}

// Find makes a list of the ids that nodes have, by the nodes' names. Initiator names
// are the same whatever their case (RFC 7143, 4.2.7.2).
func Find(ids map[string]string, now time.Time) List {
	nodes := map[string][]string{}
	for node, id := range ids {
		id = strings.ToLower(id)
		nodes[id] = append(nodes[id], node)
	}
	for id := range nodes {
		if len(nodes[id]) == 1 {
			delete(nodes, id)
			continue
		}
		slices.Sort(nodes[id])
	}
	return List{Made: now, Shared: nodes}
}

// Write puts the list in the place of the one before, whole: a reader sees either.
func (l List) Write(path string) error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return durable.Replace(path, append(text, '\n'))
}

// File is a list as its reader sees it. It is safe for concurrent use.
type File struct {
	path  string
	clock func() time.Time

	mu   sync.Mutex
	told string // what was last said to be wrong with it
}

// Open makes a File; it need not be there yet.
func Open(path string, clock func() time.Time) *File { return &File{path: path, clock: clock} }

// Nodes are those that have the initiator's name, when there are several. Without a
// list that can be believed there are none: silence refuses nothing. The log says so
// once, and once that there is a list again.
func (f *File) Nodes(ctx context.Context, initiator string) []string {
	list, err := f.read()
	f.tell(ctx, err)
	if err != nil {
		return nil
	}
	return list.Shared[strings.ToLower(initiator)]
}

func (f *File) read() (List, error) {
	var list List
	text, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return List{}, fmt.Errorf("%s is not there: the container \"initiators\" of this pod writes it; its log says what it lacks", f.path)
	}
	if err != nil {
		return List{}, err
	}
	if err = json.Unmarshal(text, &list); err != nil {
		return List{}, fmt.Errorf("%s is no list of shared initiator names: %w", f.path, err)
	}
	if f.clock().Sub(list.Made) > MaxAge {
		return List{}, fmt.Errorf("%s was made at %s, which is too long ago: the log of the container \"initiators\" says why", f.path, list.Made.Format(time.RFC3339))
	}
	return list, nil
}

func (f *File) tell(ctx context.Context, err error) {
	now := ""
	if err != nil {
		now = err.Error()
	}
	f.mu.Lock()
	before := f.told
	f.told = now
	f.mu.Unlock()
	switch {
	case now == before:
	case err != nil:
		klog.FromContext(ctx).Error(err, "Volumes are published without a look at whether nodes share an initiator name")
	default:
		klog.FromContext(ctx).Info("It is known again which nodes share an initiator name")
	}
}
