package controller

import (
	"github.com/container-storage-interface/spec/lib/go/csi"
)

type modifyRequest struct {
	ID         volumeID
	Parameters parameters // those that are named count
}

// parseModify checks every value before anything is changed.
func parseModify(req *csi.ControllerModifyVolumeRequest) (modifyRequest, error) {
	id, err := parseVolumeID(req.GetVolumeId())
	if err != nil {
		return modifyRequest{}, invalid(err)
	}
	params, err := parseClass(nil, req.GetMutableParameters())
	if err != nil {
		return modifyRequest{}, invalid(err)
	}
	return modifyRequest{ID: id, Parameters: params}, nil
}
