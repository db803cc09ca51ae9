package dateraclient

import (
	"context"
	"regexp"
)

// guessPath is the path of a volume by its name, before anybody has read it: the
// children have the names that this driver gives. Where they do not, the array
// says that it finds nothing there, and the volume is read. A name that looks like
// an id is read at once, for the array would find another app instance by it.
func (c *Client) guessPath(ctx context.Context, name string) (string, error) {
	switch {
	case !isName(name):
		return "", c.absent(name)
	case idPattern.MatchString(name):
		v, err := c.Volume(ctx, name)
		if err != nil {
			return "", err
		}
		return v.Path(), nil
	}
	return "/app_instances/" + name + "/storage_instances/" + storageName + "/volumes/" + childName, nil
}

// uncommon says that the children of v have other names than this driver gives.
func (v *Volume) uncommon() bool { return v.StorageInstance != storageName || v.Child != childName }

var idPattern = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
