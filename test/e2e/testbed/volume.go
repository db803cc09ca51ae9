package testbed

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

const driver = "dsp.csi.daterainc.io"

// Volume is a volume and the way it is used.
type Volume struct {
	Name       string // CSI name, what a PersistentVolume is called
	ID         string
	Context    map[string]string
	Capability *csi.VolumeCapability
	Secrets    map[string]string // CHAP, of create and stage
}

// Mount is the capability of a file system that one node uses.
func Mount(fsType string, flags ...string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType, MountFlags: flags}},
	}
}

// Block is the capability of a raw device.
func Block(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	}
}

// Create makes a volume, as the external provisioner does.
func (b *Bed) Create(ctx context.Context, name string, bytes int64, parameters map[string]string, as *csi.VolumeCapability) (*Volume, error) {
	res, err := b.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: bytes},
		Parameters:         parameters,
		VolumeCapabilities: []*csi.VolumeCapability{as},
	})
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	v := res.GetVolume()
	return &Volume{Name: name, ID: v.GetVolumeId(), Context: v.GetVolumeContext(), Capability: as}, nil
}

// Delete deletes a volume, as the external provisioner does.
func (b *Bed) Delete(ctx context.Context, v *Volume) error {
	if _, err := b.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.ID}); err != nil {
		return fmt.Errorf("delete %s: %w", v.Name, err)
	}
	return nil
}

// Publish admits a worker to a volume, as the external attacher does, and returns the publish context.
func (b *Bed) Publish(ctx context.Context, v *Volume, w *Worker) (map[string]string, error) {
	res, err := b.Controller.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: v.ID, NodeId: w.ID, VolumeCapability: v.Capability, VolumeContext: v.Context,
	})
	if err != nil {
		return nil, fmt.Errorf("publish %s to %s: %w", v.Name, w.Name, err)
	}
	return res.GetPublishContext(), nil
}

// Unpublish expels a worker from a volume, as the external attacher does.
func (b *Bed) Unpublish(ctx context.Context, v *Volume, w *Worker) error {
	_, err := b.Controller.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: v.ID, NodeId: w.ID})
	if err != nil {
		return fmt.Errorf("unpublish %s from %s: %w", v.Name, w.Name, err)
	}
	return nil
}

// StagingPath is where kubelet has a volume staged.
func StagingPath(v *Volume) string {
	const plugins = "/var/lib/kubelet/plugins/kubernetes.io/csi/"
	if v.Capability.GetBlock() != nil {
		return plugins + "volumeDevices/staging/" + v.Name
	}
	return fmt.Sprintf(plugins+"%s/%x/globalmount", driver, sha256.Sum256([]byte(v.ID)))
}

// TargetPath is where kubelet has a volume published for a pod.
func TargetPath(v *Volume, pod string) string {
	if v.Capability.GetBlock() != nil {
		return "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/" + v.Name + "/" + pod
	}
	return "/var/lib/kubelet/pods/" + pod + "/volumes/kubernetes.io~csi/" + v.Name + "/mount"
}

// Stage stages a volume as kubelet does: the staging directory is there already.
func (w *Worker) Stage(ctx context.Context, v *Volume, published map[string]string) error {
	if _, err := w.Run(ctx, "mkdir", "-p", StagingPath(v)); err != nil {
		// What is mounted there may be dead, and cannot be looked at then.
		if _, unmounted := w.Run(ctx, "grep", "-qF", " "+StagingPath(v)+" ", "/proc/self/mountinfo"); unmounted != nil {
			return err
		}
	}
	_, err := w.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.ID, PublishContext: published, StagingTargetPath: StagingPath(v),
		VolumeCapability: v.Capability, VolumeContext: v.Context, Secrets: v.Secrets,
	})
	if err != nil {
		return fmt.Errorf("stage %s on %s: %w", v.Name, w.Name, err)
	}
	return nil
}

// Unstage undoes Stage.
func (w *Worker) Unstage(ctx context.Context, v *Volume) error {
	_, err := w.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.ID, StagingTargetPath: StagingPath(v)})
	if err != nil {
		return fmt.Errorf("unstage %s on %s: %w", v.Name, w.Name, err)
	}
	return nil
}

// PublishTo publishes a staged volume for a pod as kubelet does, which has made the parent of the target.
func (w *Worker) PublishTo(ctx context.Context, v *Volume, published map[string]string, pod string) error {
	if _, err := w.Run(ctx, "mkdir", "-p", path.Dir(TargetPath(v, pod))); err != nil {
		return err
	}
	_, err := w.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.ID, PublishContext: published, StagingTargetPath: StagingPath(v), TargetPath: TargetPath(v, pod),
		VolumeCapability: v.Capability, VolumeContext: v.Context,
	})
	if err != nil {
		return fmt.Errorf("publish %s for pod %s: %w", v.Name, pod, err)
	}
	return nil
}

// UnpublishFrom undoes PublishTo.
func (w *Worker) UnpublishFrom(ctx context.Context, v *Volume, pod string) error {
	_, err := w.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.ID, TargetPath: TargetPath(v, pod)})
	if err != nil {
		return fmt.Errorf("unpublish %s from pod %s: %w", v.Name, pod, err)
	}
	return nil
}

// Attach does all that brings a volume into a pod on a worker.
func (b *Bed) Attach(ctx context.Context, v *Volume, w *Worker, pod string) error {
	published, err := b.Publish(ctx, v, w)
	if err != nil {
		return err
	}
	if err := w.Stage(ctx, v, published); err != nil {
		return err
	}
	return w.PublishTo(ctx, v, published, pod)
}

// Detach undoes Attach.
func (b *Bed) Detach(ctx context.Context, v *Volume, w *Worker, pod string) error {
	if err := w.UnpublishFrom(ctx, v, pod); err != nil {
		return err
	}
	if err := w.Unstage(ctx, v); err != nil {
		return err
	}
	return b.Unpublish(ctx, v, w)
}
