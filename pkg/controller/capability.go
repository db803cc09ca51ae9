package controller

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/internal/filesystem"
)

// capability is a VolumeCapability, parsed.
type capability struct {
	Block     bool
	FSType    string // of a file system
	ReadOnly  bool
	ManyNodes bool // several nodes may have the volume at once
}

// checkCapabilities takes what a volume of ours can do, all at once. It says
// whether the volume is for readers on many nodes, which must find something in it.
func checkCapabilities(caps []*csi.VolumeCapability) (manyReaders bool, err error) {
	if len(caps) == 0 {
		return false, errors.New("volume_capabilities are missing")
	}
	blocks, readers, writers := 0, 0, 0
	for _, c := range caps {
		parsed, err := parseCapability(c)
		if err != nil {
			return false, err
		}
		if parsed.Block {
			blocks++
		}
		switch {
		case !parsed.ReadOnly:
			writers++
		case parsed.ManyNodes:
			readers++
		}
	}
	switch {
	case blocks > 0 && blocks < len(caps):
		return false, errors.New("volume_capabilities: a volume is a block device or a file system, not both")
	case readers > 0 && writers > 0:
		return false, errors.New("volume_capabilities: MULTI_NODE_READER_ONLY excludes every mode that writes: the array cannot tell a reader from a writer, so nothing would keep one node from changing what others read")
	}
	return readers > 0, nil
}

// checkClass says whether the file systems of these capabilities can be made as
// their class says. A block volume has none.
func checkClass(class filesystem.Class, caps []*csi.VolumeCapability) error {
	for _, c := range caps {
		parsed, err := parseCapability(c)
		if err != nil || parsed.Block {
			continue // what is wrong with a capability is found elsewhere
		}
		if err := class.CheckFor(parsed.FSType); err != nil {
			return err
		}
	}
	return nil
}

// errEmpty is why readers alone cannot have a volume that begins empty.
func errEmpty() error {
	return errors.New("volume_capabilities: MULTI_NODE_READER_ONLY is for volumes made from a snapshot or from another volume: a new one is empty, and nobody could ever write to it")
}

func parseCapability(c *csi.VolumeCapability) (capability, error) {
	var parsed capability
	switch access := c.GetAccessType().(type) {
	case *csi.VolumeCapability_Block:
		parsed.Block = true
	case *csi.VolumeCapability_Mount:
		fsType := access.Mount.GetFsType()
		if !slices.Contains([]string{"", filesystem.XFS, filesystem.Ext4}, fsType) {
			return capability{}, fmt.Errorf("volume_capability: file system %q is not supported; use xfs or ext4", fsType)
		}
		parsed.FSType = cmp.Or(fsType, filesystem.Default)
		if err := filesystem.CheckMountFlags(access.Mount.GetMountFlags()); err != nil {
			return capability{}, fmt.Errorf("volume_capability: %w", err)
		}
	default:
		return capability{}, errors.New("volume_capability: the access type is missing, block or mount")
	}
	switch mode := c.GetAccessMode().GetMode(); mode {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:
		parsed.ReadOnly = true
	case csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:
		if !parsed.Block {
			return capability{}, errors.New("volume_capability: MULTI_NODE_MULTI_WRITER is for raw block only: xfs and ext4 are destroyed when two nodes write to them")
		}
		parsed.ManyNodes = true
	case csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		parsed.ReadOnly, parsed.ManyNodes = true, true
	case csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER:
		return capability{}, errors.New("volume_capability: MULTI_NODE_SINGLE_WRITER is not supported: the array admits an initiator for reading and writing or not at all, so nothing would keep the other nodes from writing")
	case csi.VolumeCapability_AccessMode_UNKNOWN:
		return capability{}, errors.New("volume_capability: the access mode is missing")
	default:
		return capability{}, fmt.Errorf("volume_capability: access mode %s is not known to this driver", mode)
	}
	return parsed, nil
}
