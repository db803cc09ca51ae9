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

// mode is how a volume is used: as a file system or as a raw device.
type mode string

const (
	modeMount mode = "mount"
	modeBlock mode = "block"
)

const (
	fsXFS  = "xfs"
	fsExt4 = "ext4"
)

// capability is a VolumeCapability that this node serves.
type capability struct {
	Mode       mode
	FSType     string // of modeMount
	Flags      []string
	ReadOnly   bool // the access mode or a flag says so
	ManyReader bool // other nodes may have it mounted at the same time
	OneTarget  bool // at most one target path on this node
}

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
		return fmt.Errorf("%s %q holds a ..", field, p)
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

func parseCapability(c *csi.VolumeCapability) (capability, error) {
	if c == nil {
		return capability{}, errors.New("volume_capability is missing")
	}
	var parsed capability
	var err error
	switch {
	case c.GetBlock() != nil:
		parsed = capability{Mode: modeBlock}
	case c.GetMount() != nil:
		parsed, err = parseMount(c.GetMount())
	default:
		err = errors.New("volume_capability: neither block nor mount is set")
	}
	if err != nil {
		return capability{}, err
	}
	return withAccess(parsed, c.GetAccessMode().GetMode())
}

func parseMount(m *csi.VolumeCapability_MountVolume) (capability, error) {
	c := capability{Mode: modeMount, FSType: m.GetFsType(), Flags: m.GetMountFlags()}
	switch c.FSType {
	case "":
		c.FSType = fsXFS
	case fsXFS, fsExt4:
	default:
		return capability{}, fmt.Errorf("volume_capability: fs_type %q is not supported; use xfs or ext4, empty means xfs", c.FSType)
	}
	if m.GetVolumeMountGroup() != "" {
		return capability{}, errors.New("volume_capability: volume_mount_group is not supported; the driver does not advertise VOLUME_MOUNT_GROUP")
	}
	for _, f := range c.Flags {
		if err := checkFlag(f); err != nil {
			return capability{}, err
		}
	}
	c.ReadOnly = slices.Contains(splitOptions(strings.Join(c.Flags, ",")), "ro")
	return c, nil
}

// checkFlag refuses what would mount something else than the device, or
// somewhere else, or not mount at all.
func checkFlag(flag string) error {
	if flag == "" || len(flag) > 4096 || strings.ContainsFunc(flag, unicode.IsControl) || !utf8.ValidString(flag) {
		return fmt.Errorf("volume_capability: mount flag %q is empty, too long or holds a control character", flag)
	}
	if strings.Count(flag, `"`)%2 != 0 {
		return fmt.Errorf("volume_capability: mount flag %q has an open quote", flag)
	}
	for _, o := range splitOptions(flag) {
		name, _, _ := strings.Cut(o, "=")
		switch strings.ToLower(name) {
		case "":
			return fmt.Errorf("volume_capability: mount flag %q holds an empty option", flag)
		case "bind", "rbind", "remount", "move", "loop", "offset", "sizelimit", "encryption", "helper", "uhelper", "defaults", "noauto", "user", "users", "owner", "group",
			"shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable", "nofail", "logdev", "rtdev", "journal_path", "journal_dev", "sb", "norecovery", "noload":
			return fmt.Errorf("volume_capability: mount flag %q is not allowed: the driver decides what is mounted and where", o)
		}
		if strings.HasPrefix(strings.ToLower(name), "x-") || strings.HasPrefix(name, "-") {
			return fmt.Errorf("volume_capability: mount flag %q is not allowed: it speaks to mount, not to the file system", o)
		}
	}
	return nil
}

// splitOptions splits at the commas that are outside quotes: an SELinux context
// holds commas.
func splitOptions(s string) []string {
	var parts []string
	quoted, from := false, 0
	for i, r := range s {
		switch {
		case r == '"':
			quoted = !quoted
		case r == ',' && !quoted:
			parts = append(parts, s[from:i])
			from = i + 1
		}
	}
	return append(parts, s[from:])
}

func withAccess(c capability, m csi.VolumeCapability_AccessMode_Mode) (capability, error) {
	switch m {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER:
		c.OneTarget = true
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:
		c.ReadOnly = true
	case csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		c.ReadOnly, c.ManyReader = true, true
	case csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER, csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:
		if c.Mode != modeBlock {
			return capability{}, fmt.Errorf("volume_capability: access mode %s is for block volumes only: %s on two nodes at once would be destroyed", m, c.FSType)
		}
	default:
		return capability{}, fmt.Errorf("volume_capability: access mode %s is not supported", m)
	}
	return c, nil
}

// Keys of the node stage secret, as in /etc/iscsi/iscsid.conf.
const (
	secretUser       = "node.session.auth.username"
	secretPassword   = "node.session.auth.password" //nolint:gosec // the key, not the secret
	secretUserIn     = "node.session.auth.username_in"
	secretPasswordIn = "node.session.auth.password_in" //nolint:gosec // the key, not the secret
)

// parseCHAP returns nil when there is no secret. Its errors name keys and
// lengths, never values (FM 40). Keys that it does not know belong to others: one
// Kubernetes Secret often serves several purposes.
func parseCHAP(secrets map[string]string) (*iscsi.CHAP, error) {
	c := iscsi.CHAP{User: secrets[secretUser], Password: secrets[secretPassword], UserIn: secrets[secretUserIn], PasswordIn: secrets[secretPasswordIn]}
	if c == (iscsi.CHAP{}) {
		return nil, nil //nolint:nilnil // no CHAP is an answer, and iscsi.Attacher writes it so
	}
	if err := checkPair(secretUser, c.User, secretPassword, c.Password); err != nil {
		return nil, err
	}
	if c.UserIn != "" || c.PasswordIn != "" {
		if err := checkPair(secretUserIn, c.UserIn, secretPasswordIn, c.PasswordIn); err != nil {
			return nil, err
		}
		if c.Password == c.PasswordIn {
			return nil, fmt.Errorf("secrets: %s and %s are the same; a target refuses that, because it would prove nothing", secretPassword, secretPasswordIn)
		}
	}
	return &c, nil
}

func checkPair(userKey, user, passwordKey, password string) error {
	switch {
	case user == "" || password == "":
		return fmt.Errorf("secrets: %s and %s come together, one is empty", userKey, passwordKey)
	case len(user) > maxName || strings.ContainsFunc(user, unicode.IsControl):
		return fmt.Errorf("secrets: %s is longer than %d bytes or holds a control character", userKey, maxName)
	case len(password) < 12 || len(password) > 16:
		return fmt.Errorf("secrets: %s has %d bytes; CHAP takes 12 to 16", passwordKey, len(password))
	case strings.ContainsFunc(password, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("secrets: %s holds a space or a character beyond ASCII; initiators and targets disagree on those", passwordKey)
	}
	return nil
}
