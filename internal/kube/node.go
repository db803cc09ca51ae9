package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Node is what counts here of a Node.
type Node struct {
	Metadata struct {
		Name              string
		ResourceVersion   string
		DeletionTimestamp *time.Time
	}
	Spec struct {
		Unschedulable bool
		Taints        []Taint
	}
	Status struct {
		Conditions      []struct{ Type, Status, Message string }
		VolumesInUse    []string
		VolumesAttached []struct{ Name string }
	}
}

// Taint keeps all that a taint has, so that writing the others back loses nothing.
type Taint struct {
	Key    string
	fields json.RawMessage
}

// UnmarshalJSON reads the key and keeps the rest as it is.
func (t *Taint) UnmarshalJSON(b []byte) error {
	var known struct{ Key string }
	if err := json.Unmarshal(b, &known); err != nil {
		return err
	}
	t.Key, t.fields = known.Key, slices.Clone(b)
	return nil
}

// MarshalJSON writes what was read.
func (t Taint) MarshalJSON() ([]byte, error) { return t.fields, nil }

// Node reads the node of that name.
func (c *Client) Node(ctx context.Context, name string) (*Node, error) {
	var n Node
	if err := c.call(ctx, http.MethodGet, "api/v1/nodes/"+name, nil, &n); err != nil {
		return nil, err
	}
	return &n, nil
}

// Leaving says why the node is about to lose its pods, or "": it is cordoned,
// being deleted, has one of the taints by which autoscalers announce its end, or
// its kubelet shuts down.
func (n *Node) Leaving(taints []string) string {
	switch {
	case n.Metadata.DeletionTimestamp != nil:
		return "it is being deleted"
	case n.Spec.Unschedulable:
		return "it is cordoned"
	}
	for _, t := range n.Spec.Taints {
		if slices.Contains(taints, t.Key) {
			return "it has the taint " + t.Key
		}
	}
	for _, c := range n.Status.Conditions {
		// The kubelet says so nowhere else (graceful node shutdown).
		if c.Type == "Ready" && c.Status != "True" && strings.Contains(c.Message, "node is shutting down") {
			return "it shuts down"
		}
	}
	return ""
}

// Volumes are the handles of the driver's volumes that the node still needs its
// plugin for, sorted: in use by its kubelet, or attached. A volume is in use from
// before it is attached until it has been unstaged, and Kubernetes waits for the
// same list before it detaches.
func (n *Node) Volumes(driver string) []string {
	prefix := "kubernetes.io/csi/" + driver + "^"
	var handles []string
	add := func(name string) {
		if handle, ours := strings.CutPrefix(name, prefix); ours {
			handles = append(handles, handle)
		}
	}
	for _, name := range n.Status.VolumesInUse {
		add(name)
	}
	for _, v := range n.Status.VolumesAttached {
		add(v.Name)
	}
	slices.Sort(handles)
	return slices.Compact(handles)
}

// RemoveTaint removes the taints with that key. It is ErrConflict when the node has
// changed since n was read, and nothing happens when there is no such taint.
func (c *Client) RemoveTaint(ctx context.Context, n *Node, key string) error {
	others := slices.DeleteFunc(slices.Clone(n.Spec.Taints), func(t Taint) bool { return t.Key == key })
	if len(others) == len(n.Spec.Taints) {
		return nil
	}
	patch := map[string]any{
		"metadata": map[string]any{"resourceVersion": n.Metadata.ResourceVersion},
		"spec":     map[string]any{"taints": others},
	}
	return c.call(ctx, http.MethodPatch, "api/v1/nodes/"+n.Metadata.Name, patch, &Node{})
}

// csiNode is what counts here of a CSINode: the drivers that the kubelet of the node
// of that name has registered.
type csiNode struct {
	Metadata struct{ Name string }
	Spec     struct {
		Drivers []struct{ Name, NodeID string }
	}
}

// Registered says whether the kubelet of a node has registered the driver.
func (c *Client) Registered(ctx context.Context, node, driver string) (bool, error) {
	var csi csiNode
	if err := c.call(ctx, http.MethodGet, "apis/storage.k8s.io/v1/csinodes/"+node, nil, &csi); err != nil {
		return false, fmt.Errorf("is %s registered: %w", driver, err)
	}
	for _, d := range csi.Spec.Drivers {
		if d.Name == driver {
			return true, nil
		}
	}
	return false, nil
}
