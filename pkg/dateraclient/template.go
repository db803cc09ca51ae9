package dateraclient

import (
	"context"
	"errors"
	"fmt"
)

// Template is an AppTemplate that makes one volume.
type Template struct {
	Name string
	Path string

	// Names that the children of its app instances get.
	StorageInstance, Child string

	Size            GiB
	Replicas        int
	PlacementMode   string
	PlacementPolicy string
	IPPool          string
	QoS             QoS
}

type templateWire struct {
	Name    text `json:"name"`
	Path    text `json:"path"`
	Storage []struct {
		Name    text `json:"name"`
		IPPool  *ref `json:"ip_pool"`
		Volumes []struct {
			Name     text     `json:"name"`
			Size     number   `json:"size"`
			Replicas number   `json:"replica_count"`
			Mode     text     `json:"placement_mode"`
			Policy   *ref     `json:"placement_policy"`
			QoS      *qosWire `json:"performance_policy"`
		} `json:"volume_templates"`
	} `json:"storage_templates"`
}

// Template reads an AppTemplate: ErrNotFound if there is none of this name,
// ErrShape if it makes more or less than one volume.
func (c *Client) Template(ctx context.Context, name string) (*Template, error) {
	path := "/app_templates/" + name
	if !isName(name) {
		return nil, &Error{kind: ErrNotFound, Message: fmt.Sprintf("no AppTemplate is called %q", name)}
	}
	w, err := call[templateWire](ctx, c, get(path))
	if err != nil {
		return nil, err
	}
	if len(w.Storage) != 1 || len(w.Storage[0].Volumes) != 1 {
		volumes := 0
		for _, s := range w.Storage {
			volumes += len(s.Volumes)
		}
		return nil, shape("AppTemplate %s makes %d storage instances with %d volumes, not one with one",
			name, len(w.Storage), volumes)
	}
	s, v := w.Storage[0], w.Storage[0].Volumes[0]
	return &Template{
		Name: name, Path: path, StorageInstance: string(s.Name), Child: string(v.Name),
		Size: GiB(v.Size), Replicas: int(v.Replicas),
		PlacementMode: string(v.Mode), PlacementPolicy: v.Policy.name(),
		IPPool: s.IPPool.name(), QoS: v.QoS.qos(),
	}, nil
}

// needTemplate is Template for a caller that was asked to use it: not to find it
// is a fault of the request.
func (c *Client) needTemplate(ctx context.Context, name string) (*Template, error) {
	t, err := c.Template(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return nil, invalid("tenant %s has no AppTemplate %q", c.tenant, name)
	}
	return t, err
}
