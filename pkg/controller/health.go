package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"

	"github.com/datera-csi/datera-csi/internal/health"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// ControllerGetVolumeHealth tells what the array finds wrong with a volume;
// nothing when all is well.
func (s *Server) ControllerGetVolumeHealth(ctx context.Context, req *csi.ControllerGetVolumeHealthRequest) (*csi.ControllerGetVolumeHealthResponse, error) {
	id, err := parseVolume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	_, v, err := s.find(ctx, id)
	if err != nil {
		return nil, withStatus(fmt.Errorf("health of volume %s: %w", id, err))
	}
	return &csi.ControllerGetVolumeHealthResponse{
		VolumeHealth: &csi.VolumeHealth{VolumeId: id.String(), HealthStatuses: diagnose(v)},
	}, nil
}

// ControllerListVolumeHealth lists the volumes of ours that something is wrong with.
func (s *Server) ControllerListVolumeHealth(ctx context.Context, req *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	want, err := parseList(req.GetMaxEntries(), req.GetStartingToken())
	if err != nil {
		return nil, err
	}
	answer := &csi.ControllerListVolumeHealthResponse{}
	answer.NextToken, err = s.tour(ctx, want, func(v listed) proto.Message {
		found := diagnose(v.Volume)
		if len(found) == 0 {
			return nil
		}
		entry := &csi.VolumeHealth{VolumeId: v.id.String(), HealthStatuses: found}
		answer.Entries = append(answer.Entries, entry)
		return entry
	})
	if err != nil {
		return nil, withStatus(fmt.Errorf("list the health of volumes: %w", err))
	}
	return answer, nil
}

// diagnosis collects what is wrong.
type diagnosis struct{ health.Findings }

// diagnose translates the array's words. An entry comes from one member of the
// array's answer and stays as long as the member does, whatever else is found. A
// word that is not known is told as it is: it is only there when something is
// wrong.
func diagnose(v *dateraclient.Volume) []*csi.VolumeHealth_VolumeHealthEntry {
	var d diagnosis
	parts := []part{
		{"app instance", "App", v.Health.App},
		{"storage instance", "StorageInstance", v.Health.StorageInstance},
		{"volume", "Volume", v.Health.Volume},
	}
	d.reach(v)
	for _, p := range parts {
		d.deployment(p, v.Online)
	}
	d.storage(v.Health.Volume)
	for _, p := range parts {
		d.health(p)
	}
	return d.Entries()
}

// part is one of the three objects of a volume.
type part struct {
	name, reason string
	dateraclient.Condition
}

// reach says whether hosts can use the volume. A volume that is offline and that
// no node is admitted to is at rest: it goes online when it is published.
func (d *diagnosis) reach(v *dateraclient.Volume) {
	si, vol := v.Health.StorageInstance, v.Health.Volume
	switch {
	case !v.Online && len(admitted(v)) > 0:
		d.Add(health.Inaccessible, "Offline", "the app instance or its storage instance is offline on the array, and nodes are admitted to it")
	case v.Online && !slices.Contains([]string{"", "available"}, si.OpState):
		d.Add(health.Inaccessible, "Target"+camel(si.OpState), "op_state of the storage instance is "+si.OpState)
	}
	if !slices.Contains([]string{"", "available"}, vol.Availability) {
		d.Add(health.Inaccessible, "Volume"+camel(vol.Availability), "availability_state of the volume is "+vol.Availability)
	}
	// The volume's op_state is free text; these two say what they mean.
	if v.Online && slices.Contains([]string{"unavailable", "failed"}, vol.OpState) {
		d.Add(health.Inaccessible, "Volume"+camel(vol.OpState), "op_state of the volume is "+vol.OpState)
	}
}

func (d *diagnosis) deployment(p part, online bool) {
	message := fmt.Sprintf("deployment_state of the %s is %s", p.name, p.Deployment)
	switch p.Deployment {
	case "", "deployed":
	case "failed":
		d.Add(health.Inaccessible, "DeploymentFailed", message)
	case "not_deployed":
		if online {
			d.Add(health.Inaccessible, "NotDeployed", message)
		}
	default:
		d.Add(health.Degraded, "Deployment"+camel(p.Deployment), message)
	}
}

// storage says how the copies of the data are. A recovery that has failed is a
// loss when the array cannot serve the volume either; else a copy is left.
func (d *diagnosis) storage(c dateraclient.Condition) {
	if c.Storage != "" {
		d.Add(health.Degraded, camel(c.Storage), "storage_state of the volume is "+c.Storage)
	}
	message := "recovery_state of the volume is " + c.Recovery
	switch {
	case c.Recovery == "":
	case c.Recovery == "recovery_failed" && c.Availability == "unavailable":
		d.Add(health.DataLoss, camel(c.Recovery), message+", and its availability_state is "+c.Availability)
	default:
		d.Add(health.Degraded, camel(c.Recovery), message)
	}
}

func (d *diagnosis) health(p part) {
	if slices.Contains([]string{"", "ok", "unknown"}, p.Health) {
		return
	}
	message := fmt.Sprintf("health of the %s is %s", p.name, p.Health)
	if len(p.Causes) > 0 {
		message += ": " + strings.Join(p.Causes, ", ")
	}
	d.Add(health.Degraded, p.reason+"Health"+camel(p.Health), message)
}

// camel turns the array's word_by_word into WordByWord.
func camel(s string) string {
	var b strings.Builder
	upper := true
	for _, r := range s {
		if r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			upper = true
			continue
		}
		if upper {
			r = unicode.ToUpper(r)
		}
		upper = false
		b.WriteRune(r)
	}
	return b.String()
}
