package controller

import (
	"errors"
	"fmt"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// This file and its siblings request_*.go, one a noun, parse every request. They
// are pure, and refuse what is wrong with a request by itself, as InvalidArgument or
// OutOfRange; what only the array or the backends can tell is a row of status.go.

const (
	defaultSize = dateraclient.GiB(16)
	maxSize     = dateraclient.GiB(262_144) // of a volume of the array: 256 TiB

	contextRoundRobin = "round_robin" // key of the volume_context
)

func invalid(err error) error { return status.Error(codes.InvalidArgument, err.Error()) }

func outOfRange(format string, args ...any) error {
	return status.Errorf(codes.OutOfRange, format, args...)
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
