package controller

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// This file parses every request. It is pure, and the only maker of
// InvalidArgument and OutOfRange.

const (
	defaultSize = dateraclient.GiB(16)
	maxSize     = dateraclient.GiB(262_144) // of a volume of the array: 256 TiB

	contextRoundRobin = "round_robin" // key of the volume_context
)

func invalid(err error) error { return status.Error(codes.InvalidArgument, err.Error()) }

func outOfRange(format string, args ...any) error {
	return status.Errorf(codes.OutOfRange, format, args...)
}

type createRequest struct {
	ID         volumeID
	Size       sizeRange
	Parameters parameters
	CHAP       *dateraclient.CHAP // nil: none
}

func parseCreate(req *csi.CreateVolumeRequest) (createRequest, error) {
	if err := checkName(req.GetName()); err != nil {
		return createRequest{}, invalid(err)
	}
	if err := checkCapabilities(req.GetVolumeCapabilities()); err != nil {
		return createRequest{}, invalid(err)
	}
	params, err := parseParameters(req.GetParameters())
	if err != nil {
		return createRequest{}, invalid(err)
	}
	chap, err := parseCHAP(req.GetSecrets())
	if err != nil {
		return createRequest{}, invalid(err)
	}
	if err = checkNothingElse(req); err != nil {
		return createRequest{}, invalid(err)
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
	}, nil
}

// checkNothingElse refuses what a request asks for beyond what is done: to ignore
// it would be to answer OK to something else.
func checkNothingElse(req *csi.CreateVolumeRequest) error {
	switch {
	case req.GetVolumeContentSource() != nil:
		return errors.New("volume_content_source: this driver does not make volumes from snapshots or other volumes")
	case req.GetAccessibilityRequirements() != nil:
		return errors.New("accessibility_requirements: this driver does not offer VOLUME_ACCESSIBILITY_CONSTRAINTS, every node reaches every volume")
	case len(req.GetMutableParameters()) > 0:
		return errors.New("mutable_parameters: this driver does not offer VolumeAttributesClasses")
	}
	return nil
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

// sizeRange is a CapacityRange in whole GiB.
type sizeRange struct {
	Size        dateraclient.GiB // to make
	Least, Most int64            // bytes that satisfy the request; Most 0 is no limit
}

// holds says whether a volume of this size is what was asked for.
func (r sizeRange) holds(size dateraclient.GiB) bool {
	return size.Bytes() >= r.Least && (r.Most == 0 || size.Bytes() <= r.Most)
}

func (r sizeRange) String() string {
	if r.Most == 0 {
		return fmt.Sprintf("%d bytes or more", r.Least)
	}
	return fmt.Sprintf("%d to %d bytes", r.Least, r.Most)
}

// parseSize rounds up to whole GiB and stays within the limit. No range at all
// asks for the default.
func parseSize(r *csi.CapacityRange) (sizeRange, error) {
	if r == nil {
		return sizeRange{Size: defaultSize}, nil
	}
	required, limit := r.GetRequiredBytes(), r.GetLimitBytes()
	switch {
	case required < 0 || limit < 0:
		return sizeRange{}, invalid(fmt.Errorf("capacity_range: sizes are not negative: required %d, limit %d", required, limit))
	case required == 0 && limit == 0:
		return sizeRange{}, invalid(errors.New("capacity_range: neither required_bytes nor limit_bytes is set; leave the range out for the default"))
	case limit > 0 && required > limit:
		return sizeRange{}, invalid(fmt.Errorf("capacity_range: required %d bytes exceed the limit of %d bytes", required, limit))
	case required > maxSize.Bytes():
		return sizeRange{}, outOfRange("capacity_range: %d bytes required, the largest volume of the array has %d bytes (%d GiB)", required, maxSize.Bytes(), maxSize)
	}
	unit := dateraclient.GiB(1).Bytes()
	size := dateraclient.GiB((required + unit - 1) / unit)
	if required == 0 {
		size = min(defaultSize, dateraclient.GiB(limit/unit))
	}
	if size == 0 || limit > 0 && size.Bytes() > limit {
		return sizeRange{}, outOfRange("capacity_range: no whole number of GiB lies between %d and %d bytes, and the array makes volumes of whole GiB; raise limit_bytes", required, limit)
	}
	return sizeRange{Size: size, Least: required, Most: limit}, nil
}

type publishRequest struct {
	ID         volumeID
	Node       string // initiator IQN
	Capability capability
	RoundRobin bool
}

func parsePublish(req *csi.ControllerPublishVolumeRequest) (publishRequest, error) {
	id, err := parseVolumeID(req.GetVolumeId())
	if err != nil {
		return publishRequest{}, invalid(err)
	}
	if err = checkNodeText(req.GetNodeId()); err != nil {
		return publishRequest{}, invalid(err)
	}
	if req.GetVolumeCapability() == nil {
		return publishRequest{}, invalid(errors.New("volume_capability is missing"))
	}
	c, err := parseCapability(req.GetVolumeCapability())
	if err != nil {
		return publishRequest{}, invalid(err)
	}
	if req.GetReadonly() {
		return publishRequest{}, invalid(errors.New("readonly: this driver does not offer PUBLISH_READONLY, so the field must be false (CSI v1.13); a node mounts read-only by NodePublishVolume's readonly"))
	}
	roundRobin, err := parseRoundRobin(req.GetVolumeContext())
	if err != nil {
		return publishRequest{}, invalid(err)
	}
	if !initiatorPattern.MatchString(req.GetNodeId()) {
		return publishRequest{}, status.Errorf(codes.NotFound, "node %q does not exist: a node's id is the name of its iSCSI initiator, iqn.YYYY-MM.… or eui.…", req.GetNodeId())
	}
	return publishRequest{ID: id, Node: req.GetNodeId(), Capability: c, RoundRobin: roundRobin}, nil
}

// parseRoundRobin reads our one key of a volume_context. The others belong to
// provisioners and to administrators.
func parseRoundRobin(volumeContext map[string]string) (bool, error) {
	value, ok := volumeContext[contextRoundRobin]
	if !ok {
		return false, nil
	}
	b, err := parseBool(value)
	if err != nil {
		return false, fmt.Errorf("volume_context: %s %q %w", contextRoundRobin, value, err)
	}
	return b, nil
}

// initiatorPattern is what the array admits (RFC 7143, 4.2.7): a reversed domain
// with a date, or a 64-bit extended unique identifier.
var initiatorPattern = regexp.MustCompile(`^(iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[a-zA-Z0-9][a-zA-Z0-9.:_-]{0,210}|eui\.[0-9a-fA-F]{16})$`)

func checkNodeText(node string) error {
	const maxNodeID = 256 // CSI v1.13
	switch {
	case node == "":
		return errors.New("node_id is missing")
	case len(node) > maxNodeID:
		return fmt.Errorf("node_id is %d bytes long, at most %d are allowed", len(node), maxNodeID)
	case strings.ContainsFunc(node, unicode.IsControl):
		return fmt.Errorf("node_id %q holds control characters", node)
	}
	return nil
}

type unpublishRequest struct {
	ID   volumeID
	Node string // initiator IQN; "" is every node
	// Never says that no volume of ours was ever published to such a node,
	// because its name is none an array admits.
	Never bool
}

func parseUnpublish(req *csi.ControllerUnpublishVolumeRequest) (unpublishRequest, error) {
	id, err := parseVolumeID(req.GetVolumeId())
	if err != nil {
		return unpublishRequest{}, invalid(err)
	}
	node := req.GetNodeId()
	if node == "" {
		return unpublishRequest{ID: id}, nil
	}
	if err := checkNodeText(node); err != nil {
		return unpublishRequest{}, invalid(err)
	}
	return unpublishRequest{ID: id, Node: node, Never: !initiatorPattern.MatchString(node)}, nil
}

func parseDelete(req *csi.DeleteVolumeRequest) (volumeID, error) {
	id, err := parseVolumeID(req.GetVolumeId())
	if err != nil {
		return volumeID{}, invalid(err)
	}
	return id, nil
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
	_, err = parseRoundRobin(req.GetVolumeContext())
	refusals := []error{checkCapabilities(req.GetVolumeCapabilities()), err}
	if len(req.GetParameters()) > 0 {
		parsed.Parameters = new(parameters)
		*parsed.Parameters, err = parseParameters(req.GetParameters())
		refusals = append(refusals, err)
	}
	parsed.Refusal = sentences(refusals)
	return parsed, nil
}

// sentences are the errors there are on one line.
func sentences(errs []error) string {
	var all []string
	for _, err := range errs {
		if err != nil {
			all = append(all, err.Error())
		}
	}
	return strings.Join(all, "; ")
}
