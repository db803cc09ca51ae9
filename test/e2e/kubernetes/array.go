package kubernetes

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"strings"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

// Access is who may use a volume, and at which target.
type Access struct {
	IQN        string
	Initiators []string // those that the array admits
}

// AccessOf asks the array who may use the volume of an app instance.
func (c *Cluster) AccessOf(ctx context.Context, app string) (Access, error) {
	var storage struct {
		Access struct {
			IQN string `json:"iqn"`
		} `json:"access"`
		Policy struct {
			Initiators []struct {
				Path string `json:"path"`
			} `json:"initiators"`
		} `json:"acl_policy"`
	}
	if err := c.Array.REST(ctx, http.MethodGet, "/app_instances/"+app+"/storage_instances/storage-1", nil, &storage); err != nil {
		return Access{}, err
	}
	access := Access{IQN: storage.Access.IQN}
	for _, initiator := range storage.Policy.Initiators {
		access.Initiators = append(access.Initiators, path.Base(initiator.Path))
	}
	return access, nil
}

// MakeApp makes an app instance with one volume, as an administrator of the array does.
func (c *Cluster) MakeApp(ctx context.Context, app string, sizeGiB int) error {
	var made struct{}
	return c.Array.REST(ctx, http.MethodPost, "/app_instances", map[string]any{
		"name": app, "create_mode": "kubernetes", "access_control_mode": "deny_all",
		"storage_instances": []any{map[string]any{
			"name":    "storage-1",
			"volumes": []any{map[string]any{"name": "volume-1", "size": sizeGiB, "replica_count": 3}},
		}},
	}, &made)
}

// Admit makes an initiator known to the array and puts it into the access list of an app instance's volume, as an
// administrator does, or a driver whose nodes do it.
func (c *Cluster) Admit(ctx context.Context, app, initiator, host string) error {
	var done struct{}
	if err := c.Array.REST(ctx, http.MethodGet, "/initiators/"+initiator, nil, &done); err != nil {
		if err = c.Array.REST(ctx, http.MethodPost, "/initiators", map[string]string{"id": initiator, "name": host}, &done); err != nil {
			return err
		}
	}
	if err := c.Array.REST(ctx, http.MethodPut, "/app_instances/"+app+"/storage_instances/storage-1/acl_policy/initiators",
		map[string]string{"path": "/initiators/" + initiator, "op": "add"}, &done); err != nil {
		return err
	}
	return c.Array.REST(ctx, http.MethodPut, "/app_instances/"+app, map[string]any{"admin_state": "online"}, &done)
}

// DeleteApp deletes an app instance.
func (c *Cluster) DeleteApp(ctx context.Context, app string) error {
	var gone struct{}
	if err := c.Array.REST(ctx, http.MethodPut, "/app_instances/"+app, map[string]any{"admin_state": "offline"}, &gone); err != nil {
		return err
	}
	return c.Array.REST(ctx, http.MethodDelete, "/app_instances/"+app, struct{}{}, &gone)
}

// Leftovers says what is left of volumes on the array and on every worker: nothing, after all were deleted.
func (c *Cluster) Leftovers(ctx context.Context) ([]string, error) {
	left, err := c.Array.Leftovers(ctx)
	if err != nil {
		return nil, err
	}
	for _, w := range c.Workers {
		more, err := leftoversOn(ctx, w)
		if err != nil {
			return nil, err
		}
		left = append(left, more...)
	}
	return left, nil
}

// NothingLeft fails with what is left of volumes.
func (c *Cluster) NothingLeft(ctx context.Context) error {
	left, err := c.Leftovers(ctx)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
	}
	return err
}

func leftoversOn(ctx context.Context, w *vm.Guest) ([]string, error) {
	return testbed.GuestLeftovers(ctx, w, `/kubernetes.io/csi/|/dev/sd|/dev/mapper|/dev/dm-`)
}
