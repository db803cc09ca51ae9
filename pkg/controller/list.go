package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// ListVolumes lists the volumes of all backends that this driver may own, and the
// nodes that the array admits to each. A backend that cannot be asked fails the
// call: what is missing from a list is taken for detached (FM 23).
func (s *Server) ListVolumes(ctx context.Context, req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	want, err := parseList(req.GetMaxEntries(), req.GetStartingToken())
	if err != nil {
		return nil, err
	}
	answer := &csi.ListVolumesResponse{}
	answer.NextToken, err = s.tour(ctx, want, func(v listed) proto.Message {
		entry := &csi.ListVolumesResponse_Entry{
			Volume: v.render(),
			Status: &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: v.Initiators},
		}
		answer.Entries = append(answer.Entries, entry)
		return entry
	})
	if err != nil {
		return nil, withStatus(fmt.Errorf("list volumes: %w", err))
	}
	return answer, nil
}

// ControllerGetVolume tells what ListVolumes tells, of one volume, whoever made it.
func (s *Server) ControllerGetVolume(ctx context.Context, req *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	id, err := parseVolume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	v, err := s.get(ctx, id)
	if err != nil {
		return nil, withStatus(fmt.Errorf("get volume %s: %w", id, err))
	}
	return &csi.ControllerGetVolumeResponse{
		Volume: v.render(),
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: v.Initiators},
	}, nil
}

// listed is a volume as it is found, not as it was asked for.
type listed struct {
	*dateraclient.Volume
	id    volumeID
	where []*csi.Topology
}

func (s *Server) get(ctx context.Context, id volumeID) (listed, error) {
	_, v, err := s.find(ctx, id)
	if err != nil {
		return listed{}, err
	}
	where, err := s.backends.topology(id.Backend)
	return listed{v, id, renderTopology(where)}, err
}

// render leaves out what the array does not know: the volume_context, which is the
// class's, and the content source, of which it keeps a path and no name.
func (v listed) render() *csi.Volume {
	return &csi.Volume{
		VolumeId:           v.id.String(),
		CapacityBytes:      v.Size.Bytes(),
		AccessibleTopology: v.where,
	}
}

// owned is the rule of what this driver lists: what was made for Kubernetes or
// bears the prefix that every name of ours has. The vendor's driver kept both. What
// was deleted and is retained is no volume any more.
func owned(v *dateraclient.Volume) bool {
	return (v.CreateMode == "kubernetes" || strings.HasPrefix(v.Name, namePrefix)) && !strings.HasPrefix(v.Name, retiredPrefix)
}

// budget is what an answer may still hold and cost. What is beyond it is behind
// next_token.
type budget struct {
	entries int
	bytes   int
	visits  int // app instances that are read
}

const (
	// mostBytes keeps an answer well below the 4 MiB that a gRPC client takes: a
	// thousand volumes, each with a hundred nodes, are more.
	mostBytes = 2 << 20

	// mostVisits ends a call that finds little, a list of the ill where all are
	// well, before its deadline does: that would find nothing, ever.
	mostVisits = 5 * dateraclient.MaxPage
)

// take counts an app instance, and the entry that was made of it; nil is none.
func (b *budget) take(entry proto.Message) {
	b.visits--
	if entry != nil {
		b.entries--
		b.bytes -= proto.Size(entry)
	}
}

func (b *budget) spent() bool { return b.entries <= 0 || b.bytes <= 0 || b.visits <= 0 }

// stride is how many app instances are read at a time to find entries: one more
// than those, as pages overlap.
func stride(entries int) int { return max(100, entries+1) }

// tour shows the volumes of ours from a position on to take, which gives the entry
// that it made of one or nil, and gives the token of what comes after the last that
// the answer has room for; "" at the end.
func (s *Server) tour(ctx context.Context, want listRequest, take func(listed) proto.Message) (next string, err error) {
	names, err := s.backends.Names()
	if err != nil {
		return "", err
	}
	slices.Sort(names)
	left := budget{want.Most, mostBytes, mostVisits}
	for i, name := range names {
		place := dateraclient.Place{}
		switch strings.Compare(name, want.From.Backend) {
		case -1:
			continue
		case 0:
			place = want.From.Place
		}
		stop, err := s.visit(ctx, name, place, &left, take)
		switch {
		case err != nil:
			return "", fmt.Errorf("backend %s: %w", name, err)
		case stop != nil && !stop.Last:
			return position{name, stop.Place}.String(), nil
		case stop != nil && i+1 < len(names):
			return position{Backend: names[i+1]}.String(), nil
		}
	}
	return "", nil
}

// visit is tour for one backend. It gives the step at which the budget was spent,
// nil when it came to the end before that.
func (s *Server) visit(ctx context.Context, backend string, from dateraclient.Place, left *budget, take func(listed) proto.Message) (*dateraclient.Step, error) {
	array, err := s.backends.array(backend)
	if err != nil {
		return nil, err
	}
	where, err := s.backends.topology(backend)
	if err != nil {
		return nil, err
	}
	topologies := renderTopology(where)
	for step, err := range array.Walk(ctx, from, stride(left.entries)) {
		if err != nil {
			return nil, err
		}
		var entry proto.Message
		switch id := (volumeID{Backend: backend, Name: step.Name}); {
		case step.Volume == nil:
			klog.FromContext(ctx).V(4).Info("Left out of a list, not a volume", "appInstance", id, "reason", step.Shape)
		case owned(step.Volume) && id.speakable():
			entry = take(listed{step.Volume, id, topologies})
		}
		if left.take(entry); left.spent() {
			return &step, nil
		}
	}
	return nil, nil //nolint:nilnil // the end, with room left
}
