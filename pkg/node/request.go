package node

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/internal/publishctx"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// This file parses every request. It is pure, and the only maker of
// InvalidArgument and OutOfRange.

func invalid(err error) error { return status.Error(codes.InvalidArgument, err.Error()) }

// Lengths in bytes. CSI v1.13 asks for 128 in general and lets paths be as long
// as the system takes.
const (
	maxID   = 128
	maxPath = 4095
	maxName = 255
)

type stageRequest struct {
	Volume     string
	Staging    string
	Capability capability
	Context    publishctx.Context
	CHAP       *iscsi.CHAP // nil: none
}

func parseStage(req *csi.NodeStageVolumeRequest) (stageRequest, error) {
	r := stageRequest{Volume: req.GetVolumeId(), Staging: req.GetStagingTargetPath()}
	var err error
	if err = errors.Join(checkID(r.Volume), checkPath("staging_target_path", r.Staging)); err != nil {
		return stageRequest{}, invalid(err)
	}
	if r.Capability, err = parseCapability(req.GetVolumeCapability()); err != nil {
		return stageRequest{}, invalid(err)
	}
	if r.Context, err = parseContext(req.GetPublishContext()); err != nil {
		return stageRequest{}, invalid(err)
	}
	if r.CHAP, err = parseCHAP(req.GetSecrets()); err != nil {
		return stageRequest{}, invalid(err)
	}
	r.Capability.ReadOnly = r.Capability.ReadOnly || r.Context.ReadOnly
	return r, nil
}

// noReplay says that the journal must not be replayed: others may read at the same
// time, or nothing may be written.
func (r stageRequest) noReplay() bool { return r.Capability.ManyReader || r.Context.ReadOnly }

type unstageRequest struct{ Volume, Staging string }

func parseUnstage(req *csi.NodeUnstageVolumeRequest) (unstageRequest, error) {
	r := unstageRequest{Volume: req.GetVolumeId(), Staging: req.GetStagingTargetPath()}
	if err := errors.Join(checkID(r.Volume), checkPath("staging_target_path", r.Staging)); err != nil {
		return unstageRequest{}, invalid(err)
	}
	return r, nil
}

type publishRequest struct {
	Volume          string
	Staging, Target string
	Capability      capability
	ReadOnly        bool
	Context         publishctx.Context
}

func parsePublish(req *csi.NodePublishVolumeRequest) (publishRequest, error) {
	r := publishRequest{Volume: req.GetVolumeId(), Staging: req.GetStagingTargetPath(), Target: req.GetTargetPath()}
	var err error
	if err = errors.Join(checkID(r.Volume), checkPath("target_path", r.Target)); err != nil {
		return publishRequest{}, invalid(err)
	}
	if r.Capability, err = parseCapability(req.GetVolumeCapability()); err != nil {
		return publishRequest{}, invalid(err)
	}
	if r.Staging == "" { // FailedPrecondition by the specification, as a volume that was never staged
		return publishRequest{}, statusOf(fmt.Errorf("%w: staging_target_path is empty", errNotStaged))
	}
	if err = checkPath("staging_target_path", r.Staging); err != nil {
		return publishRequest{}, invalid(err)
	}
	if r.Target == r.Staging || strings.HasPrefix(r.Target, r.Staging+"/") {
		return publishRequest{}, invalid(fmt.Errorf("target_path %q lies within the staging path", r.Target))
	}
	if r.Context, err = parseContext(req.GetPublishContext()); err != nil {
		return publishRequest{}, invalid(err)
	}
	r.ReadOnly = req.GetReadonly() || r.Capability.ReadOnly || r.Context.ReadOnly
	return r, nil
}

// staging is the stage that the publish builds upon.
func (r publishRequest) staging(rec *record) stageRequest {
	return stageRequest{Volume: r.Volume, Staging: rec.Staging, Capability: r.Capability, Context: r.Context}
}

type unpublishRequest struct{ Volume, Target string }

func parseUnpublish(req *csi.NodeUnpublishVolumeRequest) (unpublishRequest, error) {
	r := unpublishRequest{Volume: req.GetVolumeId(), Target: req.GetTargetPath()}
	if err := errors.Join(checkID(r.Volume), checkPath("target_path", r.Target)); err != nil {
		return unpublishRequest{}, invalid(err)
	}
	return r, nil
}

type expandRequest struct {
	Volume, Path string
	Least        int64 // bytes; 0 is whatever is there
}

// parseExpand takes any path: one where no volume can be is a volume not found.
func parseExpand(req *csi.NodeExpandVolumeRequest) (expandRequest, error) {
	r := expandRequest{Volume: req.GetVolumeId(), Path: req.GetVolumePath(), Least: req.GetCapacityRange().GetRequiredBytes()}
	if err := errors.Join(checkID(r.Volume), checkText("volume_path", r.Path, maxPath)); err != nil {
		return expandRequest{}, invalid(err)
	}
	if c := req.GetVolumeCapability(); c != nil {
		if _, err := parseCapability(c); err != nil {
			return expandRequest{}, invalid(err)
		}
	}
	limit := req.GetCapacityRange().GetLimitBytes()
	if r.Least < 0 || limit < 0 || limit > 0 && r.Least > limit {
		return expandRequest{}, status.Errorf(codes.OutOfRange, "capacity_range: required %d bytes, limit %d bytes: no size is both", r.Least, limit)
	}
	return r, nil
}

type statsRequest struct{ Volume, Path string }

// parseStats takes any path, as parseExpand does.
func parseStats(req *csi.NodeGetVolumeStatsRequest) (statsRequest, error) {
	r := statsRequest{Volume: req.GetVolumeId(), Path: req.GetVolumePath()}
	if err := errors.Join(checkID(r.Volume), checkText("volume_path", r.Path, maxPath)); err != nil {
		return statsRequest{}, invalid(err)
	}
	return r, nil
}

type healthRequest struct{ Volume, Path string }

// parseHealth takes any path, as parseExpand does; that where the volume is staged
// is known here.
func parseHealth(req *csi.NodeGetVolumeHealthRequest) (healthRequest, error) {
	r := healthRequest{Volume: req.GetVolumeId(), Path: req.GetVolumePublishPath()}
	err := checkID(r.Volume)
	for field, path := range map[string]string{"volume_publish_path": r.Path, "staging_target_path": req.GetStagingTargetPath()} {
		if path != "" {
			err = errors.Join(err, checkPath(field, path))
		}
	}
	if err != nil {
		return healthRequest{}, invalid(err)
	}
	return r, nil
}

func checkText(field, text string, most int) error {
	switch {
	case text == "":
		return fmt.Errorf("%s is empty", field)
	case len(text) > most:
		return fmt.Errorf("%s has %d bytes, at most %d are allowed", field, len(text), most)
	case strings.ContainsFunc(text, unicode.IsControl), !utf8.ValidString(text):
		return fmt.Errorf("%s %q holds a control character or is not UTF-8", field, text)
	}
	return nil
}

// checkID wants [BACKEND/]NAME.
func checkID(id string) error {
	if err := checkText("volume_id", id, maxID); err != nil {
		return err
	}
	parts := strings.Split(id, "/")
	if len(parts) > 2 || slices.ContainsFunc(parts, func(p string) bool { return p == "" || p == "." || p == ".." }) {
		return fmt.Errorf("volume_id %q is not NAME or BACKEND/NAME", id)
	}
	return nil
}

// checkPath wants an absolute path below the root with nothing to resolve in it.
func checkPath(field, p string) error {
	if err := checkText(field, p, maxPath); err != nil {
		return err
	}
	switch {
	case !path.IsAbs(p):
		return fmt.Errorf("%s %q is not absolute", field, p)
	case path.Clean(p) == "/":
		return fmt.Errorf("%s is the root directory", field)
	case slices.Contains(strings.Split(p, "/"), ".."):
		return fmt.Errorf("%s %q: .. is not allowed in it", field, p)
	case strings.TrimSuffix(p, "/") != path.Clean(p):
		return fmt.Errorf("%s %q is not clean; did you mean %q?", field, p, path.Clean(p))
	}
	for part := range strings.SplitSeq(p, "/") {
		if len(part) > maxName {
			return fmt.Errorf("%s: a name of %d bytes in it is too long, at most %d are allowed", field, len(part), maxName)
		}
	}
	return nil
}

func parseContext(m map[string]string) (publishctx.Context, error) {
	if len(m) == 0 {
		return publishctx.Context{}, errors.New("publish_context is empty; a volume is staged after ControllerPublishVolume, and with what it answered")
	}
	return publishctx.Decode(m)
}
