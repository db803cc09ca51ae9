package controller

import (
	"context"
	"fmt"
	"strconv"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// retiredPrefix begins the name of what was deleted and is retained.
const retiredPrefix = "RETAINED-"

// retirement is a deletion that destroys nothing: the volume is offline and has
// another name when it returns, so that for CSI it is gone, and an administrator
// can bring it back. What it was called and when it went stands in its description.
func (s *Server) retirement(array Array) func(context.Context, *dateraclient.Volume) error {
	return func(ctx context.Context, v *dateraclient.Volume) error {
		now := s.clock().UTC()
		name := retiredName(v.Name, now.Unix())
		words := fmt.Sprintf("deleted %s was %s", now.Format("2006-01-02T150405Z"), v.Name)
		if err := array.RetireVolume(ctx, v, name, withMarks(words, parseMarks(v.Description))); err != nil {
			return fmt.Errorf("retain it as %s: %w", name, err)
		}
		return nil
	}
}

// retiredName dates a name. One that would be too long is shortened, and gets a
// hash of the whole to stay unlike others.
func retiredName(name string, seconds int64) string {
	begin := retiredPrefix + strconv.FormatInt(seconds, 10) + "-"
	if room := maxArrayName - len(begin); len(name) > room {
		end := "-" + hash16(name)
		name = name[:room-len(end)] + end
	}
	return begin + name
}
