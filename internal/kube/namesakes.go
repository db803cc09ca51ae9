package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/internal/namesakes"
)

// NodeIDs is the id of each node that has registered the driver, by the node's name.
// The API server answers from its cache, so the answer may be seconds old.
func (c *Client) NodeIDs(ctx context.Context, driver string) (map[string]string, error) {
	ids := map[string]string{}
	read := func(answer io.Reader) error {
		return eachItem(answer, func(n csiNode) {
			for _, d := range n.Spec.Drivers {
				if d.Name == driver {
					ids[n.Metadata.Name] = d.NodeID
				}
			}
		})
	}
	const path = "apis/storage.k8s.io/v1/csinodes?resourceVersion=0"
	if err := c.exchange(ctx, http.MethodGet, path, nil, read); err != nil {
		return nil, fmt.Errorf("ask for the ids of all nodes: %w", err)
	}
	return ids, nil
}

// eachItem decodes the items of a list one by one: a list of thousands of nodes is
// tens of megabytes, one of them two kilobytes.
func eachItem[T any](list io.Reader, use func(T)) error {
	d := json.NewDecoder(list)
	if err := enter(d, '{'); err != nil {
		return err
	}
	found := false
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		if key != "items" {
			var other json.RawMessage
			if err = d.Decode(&other); err != nil {
				return err
			}
			continue
		}
		found = true
		if err = enter(d, '['); err != nil {
			return err
		}
		for d.More() {
			var item T
			if err = d.Decode(&item); err != nil {
				return err
			}
			use(item)
		}
		if err = enter(d, ']'); err != nil {
			return err
		}
	}
	if !found {
		return errors.New("it is no list")
	}
	return enter(d, '}') // an answer that was cut off is no list either
}

func enter(d *json.Decoder, delim json.Delim) error {
	token, err := d.Token()
	if err == nil && token != delim {
		err = fmt.Errorf("it has %v where %v should be", token, delim)
	}
	return err
}

// Namesakes finds the nodes that have one initiator name, again and again.
type Namesakes struct {
	API    *Client
	Driver string
	Every  time.Duration
	Path   string // of the file that it writes, see package namesakes
	// Shared names that the log has told of, each with its nodes.
	told map[string][]string
}

// retryAfter is how soon an API that did not answer is asked again. The attacher goes
// on as soon as the API is back, and then the list should not be an old one.
const retryAfter = 5 * time.Second

// Run writes the file until ctx ends. An API that does not answer, or a file that
// cannot be written, leaves it as it is. What changes is logged, once.
func (n *Namesakes) Run(ctx context.Context) {
	log := klog.FromContext(ctx)
	failed := false
	for {
		err := n.look(ctx)
		pause := n.Every
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			pause = min(n.Every, retryAfter)
			if !failed {
				log.Error(err, "It is not known which nodes share an initiator name; what was known before stays", "file", n.Path)
			}
			failed = true
			log.V(4).Info("Asking again", "after", pause, "because", err) // ports in it differ each time
		case failed:
			log.Info("It is known again which nodes share an initiator name")
			failed = false
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

func (n *Namesakes) look(ctx context.Context) error {
	ids, err := n.API.NodeIDs(ctx, n.Driver)
	if err != nil {
		return err
	}
	list := namesakes.Find(ids, time.Now())
	if err = list.Write(n.Path); err != nil {
		return fmt.Errorf("write which nodes share an initiator name: %w", err)
	}
	n.tell(ctx, list.Shared)
	return nil
}

func (n *Namesakes) tell(ctx context.Context, shared map[string][]string) {
	log := klog.FromContext(ctx)
	for _, name := range slices.Sorted(maps.Keys(shared)) {
		if !slices.Equal(shared[name], n.told[name]) {
			log.Error(nil, "Several nodes have one initiator name, and get no volumes until each has its own: see docs/operate-initiators.md",
				"initiator", name, "nodes", strings.Join(shared[name], ", "))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(n.told)) {
		if _, still := shared[name]; !still {
			log.Info("No two nodes have this initiator name any more", "initiator", name)
		}
	}
	n.told = shared
}
