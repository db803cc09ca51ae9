package dateraclient

import (
	"context"
	"fmt"
	"strings"
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
		var found []string
		for _, s := range w.Storage {
			for _, v := range s.Volumes {
				found = append(found, string(s.Name+"/"+v.Name))
			}
		}
		return nil, shape("AppTemplate %s makes %d storage instances with the volumes [%s], not one with one",
			name, len(w.Storage), strings.Join(found, ", "))
	}
	s, v := w.Storage[0], w.Storage[0].Volumes[0]
	return &Template{
		Name: name, Path: path, StorageInstance: string(s.Name), Child: string(v.Name),
		Size: GiB(v.Size), Replicas: int(v.Replicas),
		PlacementMode: string(v.Mode), PlacementPolicy: v.Policy.name(),
		IPPool: s.IPPool.name(), QoS: v.QoS.qos(),
	}, nil
}

func (t *Template) name() string {
	if t == nil {
		return ""
	}
	return t.Name
}
