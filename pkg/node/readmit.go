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

const former = "the array took this node out of the volume's access list after it was mounted here, and let it in again; " +
	"nothing that the node still holds is written any more, for the volume may have been used elsewhere in between"

// boundTargets are the target paths of the record that are mounts.
func (r *record) boundTargets(mounts []Mount) []string {
	var bound []string
	for _, p := range r.Targets {
		if len(at(mounts, p.Path)) > 0 {
			bound = append(bound, p.Path)
		}
	}
	return bound
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

// leaveFormer takes down what was staged under an earlier admission, once nobody uses it,
// so that a stage begins anew.
func (s *Server) leaveFormer(ctx context.Context, op *operation, rec *record) error {
	if !rec.Fenced {
		return nil
	}
	numbers, err := s.knownNumbers(ctx, rec)
	if err != nil {
		return err
	}
	if err = s.takeDown(ctx, op, rec, rec.Staging, numbers); err != nil {
		return fmt.Errorf("%s; %s: %w", former, remount, err)
	}
	return s.forgetFence(rec)
}

// heedAdmission notes the admission that a publish comes with. What was mounted under an
// earlier one is taken off, once nobody uses it, and the volume attached anew; what it
// mounts then, a remount does.
func (s *Server) heedAdmission(ctx context.Context, op *operation, rec *record, admission string) error {
	was := *rec
	rec.admit(admission)
	rec.Remount = rec.Remount || rec.Fenced && rec.Mode == modeMount
	if rec.Admission != was.Admission || rec.Remount != was.Remount {
		if err := s.records.save(rec); err != nil {
			return err
		}
	}
	if !rec.Fenced {
		return nil
	}
	numbers, err := s.knownNumbers(ctx, rec)
	if err != nil {
		return err
	}
	err = s.unmountStaging(ctx, op, rec, rec.Staging, numbers)
	if err == nil {
		err = s.attacher.Rejoin(ctx, rec.target())
	}
	if err != nil {
		return fmt.Errorf("%s; %s: %w", former, remount, err)
	}
	return s.forgetFence(rec)
}

// forgetFence says that nothing of an earlier admission is left.
func (s *Server) forgetFence(rec *record) error {
	rec.Fenced = false
	return s.records.save(rec)
}
