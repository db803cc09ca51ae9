package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/datera-csi/datera-csi/internal/mountinfo"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// numbers of a device: of what is mounted, and of the paths beneath it. A path
// may come or go meanwhile, and then has no number; the device must have one.
func (s *Server) numbers(device iscsi.Device) (map[Number]bool, error) {
	own, err := s.devices.Number(device.Path)
	if err != nil {
		return nil, err
	}
	set := map[Number]bool{own: true}
	for _, path := range device.Paths {
		n, err := s.devices.Number(path)
		if err == nil {
			set[n] = true
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return set, nil
}

// numbersOf are the numbers of the volume's device and of the paths beneath it,
// as numbers of Server reads them, from sysfs alone.
func numbersOf(c iscsi.Condition) map[Number]bool {
	set := map[Number]bool{}
	for _, p := range c.Paths {
		if n, ok := mountinfo.ParseNumber(p.Number); ok {
			set[n] = true
		}
	}
	if c.Map != nil {
		if n, ok := mountinfo.ParseNumber(c.Map.Number); ok {
			set[n] = true
		}
	}
	return set
}

// knownNumbers are the numbers of the recorded volume's device and of its paths, by
// where they are in sysfs; none when it is not attached or has no record. What is taken
// down needs no proof of identity: a disk that cannot say who it is, or that says it is
// another, may be mounted all the same.
func (s *Server) knownNumbers(ctx context.Context, rec *record) (map[Number]bool, error) {
	if rec == nil {
		return nil, nil //nolint:nilnil // an empty set
	}
	c, err := s.attacher.Condition(ctx, rec.target())
	if err != nil {
		return nil, fmt.Errorf("find the device: %w", err)
	}
	return numbersOf(c), nil
}
