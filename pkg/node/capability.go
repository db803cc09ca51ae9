package node

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/internal/filesystem"
	"github.com/datera-csi/datera-csi/internal/mountinfo"
)

// mode is how a volume is used: as a file system or as a raw device.
type mode string

const (
	modeMount mode = "mount"
	modeBlock mode = "block"
)

const (
	fsXFS  = filesystem.XFS
	fsExt4 = filesystem.Ext4
)

// capability is a VolumeCapability that this node serves.
type capability struct {
	Mode       mode
	FSType     string // of modeMount
	AnyFSType  bool   // none was asked for: FSType is for a volume that has none, and what is there is mounted
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
		c.FSType, c.AnyFSType = filesystem.Default, true
	case fsXFS, fsExt4:
	default:
		return capability{}, fmt.Errorf("volume_capability: fs_type %q is not supported; use xfs or ext4; empty means what the volume holds, and xfs for a new one", c.FSType)
	}
	if m.GetVolumeMountGroup() != "" {
		return capability{}, errors.New("volume_capability: volume_mount_group is not supported; the driver does not advertise VOLUME_MOUNT_GROUP")
	}
	if err := filesystem.CheckMountFlags(c.Flags); err != nil {
		return capability{}, fmt.Errorf("volume_capability: %w", err)
	}
	c.ReadOnly = slices.Contains(mountinfo.SplitOptions(strings.Join(c.Flags, ",")), "ro")
	return c, nil
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
	case csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:
		if c.Mode != modeBlock {
			return capability{}, fmt.Errorf("volume_capability: access mode %s is for block volumes only: %s on two nodes at once would be destroyed", m, c.FSType)
		}
	default:
		return capability{}, fmt.Errorf("volume_capability: access mode %s is not supported", m)
	}
	return c, nil
}
