package controller

import (
	"fmt"
	"maps"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// sidecarKeys begin the keys of a StorageClass that are for the sidecars, such as those that name Secrets.
const sidecarKeys = "csi.storage.k8s.io/"

// capacityRequest asks what a class could still make.
type capacityRequest struct {
	Parameters parameters
	Place      *requirement // nil: anywhere
	Refusal    string       // why there can be no such volume at all
	Mistake    error        // of the class, which has no parameters then
}

// parseCapacity reads a class as external-provisioner passes it on here: with its keys of the sidecars, which
// CreateVolume never sees. A class with a mistake must not seem to be without space: pods would stay Pending for
// want of storage, and what CreateVolume has to say of it would never reach their claims.
func parseCapacity(req *csi.GetCapacityRequest) (capacityRequest, error) {
	class := maps.Clone(req.GetParameters())
	maps.DeleteFunc(class, func(key, _ string) bool { return strings.HasPrefix(key, sidecarKeys) })
	params, err := parseParameters(class)
	want := capacityRequest{Parameters: params, Mistake: err}
	// A cluster without topology has one place, without segments.
	if t := req.GetAccessibleTopology(); len(t.GetSegments()) > 0 {
		if want.Place, err = parseRequirement(&csi.TopologyRequirement{Requisite: []*csi.Topology{t}}); err != nil {
			return capacityRequest{}, invalid(fmt.Errorf("accessible_topology: %w", err))
		}
	}
	if caps := req.GetVolumeCapabilities(); len(caps) > 0 {
		if _, err = checkCapabilities(caps); err != nil {
			want.Refusal = err.Error()
		}
	}
	return want, nil
}
