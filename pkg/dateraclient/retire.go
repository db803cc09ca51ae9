package dateraclient

import "context"

// RetireVolume takes v, which the caller has just read, out of use without
// destroying anything: one request takes it offline and gives it another name and
// description. Under its old name it is gone. ErrInUse: it has snapshots, whose
// names would change with it, or initiators that are logged in; the offline is not
// forced. ErrConflict: the new name is taken.
func (c *Client) RetireVolume(ctx context.Context, v *Volume, name, description string) error {
	if err := v.deletable(); err != nil {
		return err
	}
	if !isName(name) {
		return invalid("%q cannot be the name of an app instance", name)
	}
	return run(ctx, c, put(v.path(), map[string]string{
		"name": name, "descr": described(description), "admin_state": offline,
	}))
}
