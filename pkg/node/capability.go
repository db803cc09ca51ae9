package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"
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
