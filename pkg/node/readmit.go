package node

import (
	"cmp"
	"context"
	"fmt"
)

// admit notes by which admission the array lets this node in. Another one than before
// means that the node was out in between, when the volume may have been used elsewhere:
// what is mounted here is older than what is on the volume, and may neither be written
// nor be read (FM 4).
func (r *record) admit(admission string) {
	r.Fenced = r.Fenced || r.Admission != "" && admission != "" && admission != r.Admission
	r.Admission = cmp.Or(admission, r.Admission)
}

// leaveFormer takes off what was mounted under an earlier admission, once nobody uses it,
// without a write. The attached LUN serves the present one.
func (s *Server) leaveFormer(ctx context.Context, op *operation, rec *record) error {
	if !rec.Fenced {
		return nil
	}
	numbers, err := s.knownNumbers(ctx, rec)
	if err != nil {
		return err
	}
	err = s.runWatched(ctx, op, rec, "unmounting", func(ctx context.Context) error { return s.takeOff(ctx, rec, rec.Staging, numbers) })
	if err != nil {
		return fmt.Errorf("the array took this node out of the volume's access list after it was mounted on %s, and let it in again; "+
			"what the node still holds is not written any more, for the volume may have been used elsewhere in between; %s: %w", rec.Staging, remount, err)
	}
	return nil
}

// cutOff keeps from the volume what this node holds of an earlier admission.
func (s *Server) cutOff(ctx context.Context, rec *record) error {
	if !rec.Fenced {
		return nil
	}
	if err := s.attacher.Sever(ctx, rec.target()); err != nil {
		return fmt.Errorf("keep from the volume what this node holds of an earlier admission: %w", err)
	}
	return nil
}

// rejoin ends cutOff: nothing of an earlier admission is left.
func (s *Server) rejoin(ctx context.Context, rec *record) error {
	if !rec.Fenced {
		return nil
	}
	if err := s.attacher.Rejoin(ctx, rec.target()); err != nil {
		return fmt.Errorf("use the volume under its new admission: %w", err)
	}
	rec.Fenced = false
	return s.records.save(rec)
}
