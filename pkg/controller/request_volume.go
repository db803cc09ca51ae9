package controller

import (
	"errors"
	"fmt"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/internal/topology"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

type createRequest struct {
	ID         volumeID
	Size       sizeRange
	Parameters parameters
	CHAP       *dateraclient.CHAP // nil: none
	Source     contentSource
	Place      *requirement // nil: anywhere
	Where      topology.Set // the backend is, once it is chosen
}

func parseCreate(req *csi.CreateVolumeRequest) (createRequest, error) {
	if err := checkName(req.GetName()); err != nil {
		return createRequest{}, invalid(err)
	}
	readers, err := checkCapabilities(req.GetVolumeCapabilities())
	if err == nil && readers && req.GetVolumeContentSource() == nil {
		err = errEmpty()
	}
	if err != nil {
		return createRequest{}, invalid(err)
	}
	params, err := parseClass(req.GetParameters(), req.GetMutableParameters())
	if err != nil {
		return createRequest{}, invalid(err)
	}
	if err = checkClass(params.Filesystem, req.GetVolumeCapabilities()); err != nil {
		return createRequest{}, invalid(fmt.Errorf("parameters: %w", err))
	}
	source, err := parseContent(req.GetVolumeContentSource())
	if err != nil {
		return createRequest{}, err
	}
	if err = params.follow(source); err != nil {
		return createRequest{}, invalid(err)
	}
	chap, err := parseCHAP(req.GetSecrets())
	if err != nil {
		return createRequest{}, invalid(err)
	}
	place, err := parseRequirement(req.GetAccessibilityRequirements())
	if err != nil {
		return createRequest{}, invalid(fmt.Errorf("accessibility_requirements: %w", err))
	}
	size, err := parseSize(req.GetCapacityRange())
	if err != nil {
		return createRequest{}, err
	}
	return createRequest{
		ID:         volumeID{Backend: params.Backend, Name: appInstanceName(req.GetName())},
		Size:       size,
		Parameters: params,
		CHAP:       chap,
		Source:     source,
		Place:      place,
	}, nil
}

func checkName(name string) error {
	if err := checkText("name", name); err != nil {
		return err
	}
	if strings.ContainsAny(name, `/\`) {
		return fmt.Errorf("name %q holds a slash", name)
	}
	return nil
}

// parseVolume is the volume of a request that names no more than that.
func parseVolume(id string) (volumeID, error) {
	parsed, err := parseVolumeID(id)
	if err != nil {
		return volumeID{}, invalid(err)
	}
	return parsed, nil
}

type expandRequest struct {
	ID   volumeID
	Size sizeRange
}

func parseExpand(req *csi.ControllerExpandVolumeRequest) (expandRequest, error) {
	id, err := parseVolumeID(req.GetVolumeId())
	if err != nil {
		return expandRequest{}, invalid(err)
	}
	if req.GetCapacityRange() == nil {
		return expandRequest{}, invalid(errors.New("capacity_range is missing"))
	}
	size, err := parseSize(req.GetCapacityRange())
	if err != nil {
		return expandRequest{}, err
	}
	if c := req.GetVolumeCapability(); c != nil { // optional
		if _, err := parseCapability(c); err != nil {
			return expandRequest{}, invalid(err)
		}
	}
	return expandRequest{ID: id, Size: size}, nil
}

type validateRequest struct {
	ID         volumeID
	Parameters *parameters // nil: not given
	// Refusal says why the request cannot be confirmed whatever the volume is
	// like; "" when it can.
	Refusal string
	Readers bool // only a volume made from something will do
}

// parseValidate takes what this driver cannot do as an answer, not as an error:
// to ask is the purpose of the call.
func parseValidate(req *csi.ValidateVolumeCapabilitiesRequest) (validateRequest, error) {
	id, err := parseVolumeID(req.GetVolumeId())
	if err != nil {
		return validateRequest{}, invalid(err)
	}
	if len(req.GetVolumeCapabilities()) == 0 {
		return validateRequest{}, invalid(errors.New("volume_capabilities are missing"))
	}
	parsed := validateRequest{ID: id}
	_, class, err := parseVolumeContext(req.GetVolumeContext())
	if err == nil {
		err = checkClass(class, req.GetVolumeCapabilities())
	}
	readers, capErr := checkCapabilities(req.GetVolumeCapabilities())
	refusals := []error{capErr, err}
	parsed.Readers = readers
	if len(req.GetParameters())+len(req.GetMutableParameters()) > 0 {
		parsed.Parameters = new(parameters)
		*parsed.Parameters, err = parseClass(req.GetParameters(), req.GetMutableParameters())
		if err == nil {
			err = checkClass(parsed.Parameters.Filesystem, req.GetVolumeCapabilities())
		}
		refusals = append(refusals, err)
	}
	parsed.Refusal = sentences(refusals)
	return parsed, nil
}
