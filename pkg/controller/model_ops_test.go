package controller_test

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/datera-csi/datera-csi/pkg/controller"
)

// choose picks an operation with its arguments; calling the result makes it for
// the model as it then is.
func (w *worker) choose() func() operation {
	const (
		clones    = csi.ControllerServiceCapability_RPC_CLONE_VOLUME
		snapshots = csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT
		listing   = csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS
		one       = csi.ControllerServiceCapability_RPC_GET_SNAPSHOT
		modify    = csi.ControllerServiceCapability_RPC_MODIFY_VOLUME
	)
	name := w.volume()
	node := modelNodes()[w.r.IntN(len(modelNodes()))]
	menu := []func() operation{
		w.creation(w.free(name)), w.creation(name), w.recreation(name), w.deletion(name), w.deletion(name), w.deletion(name),
		w.publishing(name, node), w.publishing(name, node), w.publishing(name, node),
		w.unpublishing(name, node), w.unpublishing(name, node), w.unpublishing(name, ""),
		w.login(name, node), w.expansion(name), w.expansion(name),
		w.getting(name), w.listing(), w.health(name), w.capacity(), w.validation(name),
	}
	if w.offers[snapshots] {
		snapshot := w.snapshot(name)
		menu = append(menu, w.snapshotCreation(name, snapshot), w.snapshotCreation(name, snapshot), w.snapshotDeletion(name, snapshot))
		menu = append(menu, w.snapshotDeletions(name)...)
		menu = append(menu, w.cloning(w.free(name), "snapshot"), w.cloning(w.free(name), "snapshot"))
		if w.offers[listing] {
			menu = append(menu, w.snapshotListing(name))
		}
		if w.offers[one] {
			menu = append(menu, w.snapshotGetting(name, snapshot))
		}
	}
	if w.offers[clones] {
		menu = append(menu, w.cloning(w.free(name), "volume"))
	}
	if w.offers[modify] {
		menu = append(menu, w.modification(name), w.modification(name))
	}
	return menu[w.r.IntN(len(menu))]
}

// volume is the app instance name of one of the worker's few volumes, so that
// operations meet.
func (w *worker) volume() string { return fmt.Sprintf("CSI-%svol%d", w.prefix, w.r.IntN(6)) }

// free is mostly a volume that does not exist.
func (w *worker) free(otherwise string) string {
	for range 6 {
		if name := w.volume(); !w.model.has(name) {
			return name
		}
	}
	return otherwise
}

func csiName(app string) string { return strings.TrimPrefix(app, "CSI-") }

// class is a StorageClass: two with fixed limits, one whose limit follows the size,
// one whose volumes outlive their deletion.
func (w *worker) class() map[string]string {
	return [...]map[string]string{
		{"replica_count": "2"},
		{"replica_count": "2", "total_iops_max": "5000", "read_bandwidth_max": "100"},
		{"replica_count": "2", "iops_per_gb": "100"},
		{"replica_count": "2", "deletionPolicy": "retain-offline"},
	}[w.r.IntN(4)]
}

// templated is a class that leaves most, or less, to the template gold.
func (w *worker) templated() map[string]string {
	return [...]map[string]string{
		{"template": "gold"},
		{"template": "gold", "replica_count": "3", "total_iops_max": "700"},
	}[w.r.IntN(2)]
}

// made is what a request makes of a volume, member by member, at a size.
func made(req *csi.CreateVolumeRequest, size int) map[string]string {
	class := req.GetParameters()
	m := map[string]string{"": strconv.Itoa(size), "replicas": class["replica_count"], "qos": qos(class, size), "template": class["template"]}
	if class["template"] != "" && class["replica_count"] == "" {
		m["replicas"] = "2" // of the template gold
	}
	if len(req.GetSecrets()) > 0 {
		m["chap"] = "chap"
	}
	if class["deletionPolicy"] != "" {
		m["retain"] = "yes"
	}
	return m
}

// qos is what a class gives a volume of a size, above what its template does.
func qos(class map[string]string, size int) string {
	policy := map[string]any{}
	if class["template"] == "gold" {
		policy["total_iops_max"], policy["read_iops_max"] = 900.0, 50.0
	}
	for key, value := range class {
		n, _ := strconv.ParseFloat(value, 64)
		policy[key] = n
	}
	if per, ok := policy["iops_per_gb"].(float64); ok {
		policy["total_iops_max"] = per * float64(size)
	}
	return limits(policy)
}

func (w *worker) creation(name string) func() operation {
	size, class := 1+w.r.IntN(8), w.class()
	block, chap := w.r.IntN(2) == 0, w.r.IntN(4) == 0
	if w.r.IntN(4) == 0 {
		class, chap = w.templated(), false
	}
	return func() operation {
		req := createRequest(csiName(name), bytesAsked(int64(size)*gib, 0), as(writer("xfs")))
		if block {
			req.VolumeCapabilities = []*csi.VolumeCapability{shared()}
		}
		req.Parameters = class
		if chap {
			secrets(false)(req)
		}
		return w.create("CreateVolume", name, req, size, "")
	}
}

// recreation repeats what made a volume, as a provisioner does that was restarted.
func (w *worker) recreation(name string) func() operation {
	return func() operation {
		req := w.asked[name]
		if req == nil || !w.model.has(name) {
			return w.creation(name)()
		}
		size := int(req.GetCapacityRange().GetRequiredBytes() / gib)
		op := w.create("CreateVolume again", name, proto.CloneOf(req), size, "")
		if req.GetVolumeContentSource() != nil {
			op.codes = append(op.codes, codes.NotFound) // the source may be gone
		}
		return op
	}
}

// create is CreateVolume, whether there is such a volume or not.
func (w *worker) create(what, name string, req *csi.CreateVolumeRequest, size int, source string) operation {
	op := operation{name: what, codes: []codes.Code{codes.OK}, after: w.model.clone(), loose: map[string][]string{}}
	switch {
	case !w.model.has(name):
		w.asked[name] = req
		for member, value := range made(req, size) {
			op.after.set(name, member, value)
		}
		op.after.set(name, "source", source)
	case !proto.Equal(w.asked[name].GetVolumeContentSource(), req.GetVolumeContentSource()):
		op.codes = []codes.Code{codes.AlreadyExists}
	case !w.is(name, req, size):
		op.codes = w.complete(op.after, name, req, size)
	}
	op.call = func(ctx context.Context, s *controller.Server) error {
		res, err := s.CreateVolume(ctx, req)
		if err == nil && (res.GetVolume().GetVolumeId() != name || res.GetVolume().GetCapacityBytes() < int64(size)*gib) {
			w.t.Errorf("CreateVolume answered %v, asked was %v", res, req)
		}
		return err
	}
	return op
}

// is says whether a volume, as it now is, is what a request asks for. A clone may
// have more replicas.
func (w *worker) is(name string, req *csi.CreateVolumeRequest, size int) bool {
	have := w.number(name, "")
	want := made(req, have)
	asked, _ := strconv.Atoi(want["replicas"])
	if w.number(name, "replicas") > asked && req.GetVolumeContentSource() != nil {
		delete(want, "replicas")
	}
	if class := req.GetParameters(); class["template"] != "" {
		if class["replica_count"] == "" {
			delete(want, "replicas") // the template decided, and a VolumeAttributesClass after it
		}
		limits := strings.Fields(w.model["v/"+name+"/qos"])
		if most := class["total_iops_max"]; most != "" {
			limits[2] = most
		}
		want["qos"] = strings.Join(limits, " ")
	}
	return have >= size && w.noted(name, req) && w.chap(name) == want["chap"] && w.holds(name, want)
}

// holds says whether a volume is as the members say.
func (w *worker) holds(name string, want map[string]string) bool {
	for member, value := range want {
		if w.model[strings.TrimSuffix("v/"+name+"/"+member, "/")] != value {
			return false
		}
	}
	return w.model["v/"+name+"/template"] == want["template"]
}

func (w *worker) chap(name string) string { return w.model["v/"+name+"/chap"] }

// noted says whether the marks in the description of a volume are those of a request.
func (w *worker) noted(name string, req *csi.CreateVolumeRequest) bool {
	was, now := w.asked[name].GetParameters(), req.GetParameters()
	return was["iops_per_gb"] == now["iops_per_gb"] && was["deletionPolicy"] == now["deletionPolicy"]
}

// complete is what becomes of a volume of the right source that is not as asked
// for: a clone that nobody uses may be half made and is brought to its end.
func (w *worker) complete(after state, name string, req *csi.CreateVolumeRequest, size int) []codes.Code {
	used := len(w.model.nodes(name))+len(w.model.below("v/"+name+"/session"))+len(w.model.snapshots(name)) > 0
	want := made(req, size)
	other := w.chap(name) != "" && w.chap(name) != want["chap"]
	if req.GetVolumeContentSource() == nil || used || other || !w.noted(name, req) || w.number(name, "") > size {
		return []codes.Code{codes.AlreadyExists}
	}
	asked, _ := strconv.Atoi(want["replicas"])
	want["replicas"] = strconv.Itoa(max(asked, w.number(name, "replicas")))
	for member, value := range want {
		after.set(name, member, value)
	}
	return []codes.Code{codes.OK}
}

func (w *worker) number(name, member string) int {
	n, _ := strconv.Atoi(w.model[strings.TrimSuffix("v/"+name+"/"+member, "/")])
	return n
}

func (w *worker) deletion(name string) func() operation {
	return func() operation {
		op := operation{name: "DeleteVolume", codes: []codes.Code{codes.OK}, after: w.model.clone()}
		if len(w.model.nodes(name)) > 0 || len(w.model.snapshots(name)) > 0 {
			op.codes = []codes.Code{codes.FailedPrecondition}
		}
		if w.model["v/"+name+"/retain"] != "" {
			op.codes = append(op.codes, codes.Aborted) // the name is dated to the second, and taken in this one
			op.after["r/"+name] = strconv.Itoa(w.retired(name) + 1)
		}
		op.after.drop(name)
		op.call = func(ctx context.Context, s *controller.Server) error {
			_, err := s.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: name})
			return err
		}
		return op
	}
}

// retired is how many volumes of this name were deleted and retained.
func (w *worker) retired(name string) int {
	n, _ := strconv.Atoi(w.model["r/"+name])
	return n
}

func (w *worker) publishing(name, node string) func() operation {
	return func() operation {
		op := operation{name: "ControllerPublish", codes: []codes.Code{codes.OK}, after: w.model.clone()}
		c := writer("xfs")
		if made := w.asked[name]; made != nil {
			c = made.GetVolumeCapabilities()[0]
		}
		strangers := slices.DeleteFunc(w.model.nodes(name), func(n string) bool { return n == node })
		switch {
		case !w.model.has(name):
			op.codes = []codes.Code{codes.NotFound}
		case c.GetBlock() == nil && len(strangers) > 0:
			op.codes = []codes.Code{codes.FailedPrecondition}
		}
		op.after.set(name, "node/"+node, "admitted")
		op.call = func(ctx context.Context, s *controller.Server) error {
			res, err := s.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{VolumeId: name, NodeId: node, VolumeCapability: c})
			if err == nil && len(res.GetPublishContext()) == 0 {
				w.t.Error("ControllerPublishVolume tells the node nothing")
			}
			return err
		}
		return op
	}
}

// unpublishing takes one node away, or all of them for "".
func (w *worker) unpublishing(name, node string) func() operation {
	return func() operation {
		op := operation{name: "ControllerUnpublish", codes: []codes.Code{codes.OK}, after: w.model.clone()}
		for _, n := range append(w.model.nodes(name), w.model.below("v/"+name+"/session")...) {
			if node == "" || n == node {
				op.after.set(name, "node/"+n, "")
				op.after.set(name, "session/"+n, "")
			}
		}
		op.call = func(ctx context.Context, s *controller.Server) error {
			return (&lab{Server: s}).unpublish(ctx, name, node)
		}
		return op
	}
}

// login is what a node does once a volume is published to it.
func (w *worker) login(name, node string) func() operation {
	return func() operation {
		op := operation{name: "(a node logs in)", codes: []codes.Code{codes.OK, codes.Unknown}, after: w.model.clone()}
		if slices.Contains(w.model.nodes(name), node) {
			op.after.set(name, "session/"+node, "logged in")
		}
		op.call = func(context.Context, *controller.Server) error {
			if !slices.Contains(w.model.nodes(name), node) {
				return nil
			}
			return w.array.Array.LogIn(w.witness.target(name), node) // refused while it is being exported
		}
		return op
	}
}

func (w *worker) expansion(name string) func() operation {
	by, limited := w.r.IntN(6)-2, w.r.IntN(3) == 0
	return func() operation {
		op := operation{name: "ControllerExpand", codes: []codes.Code{codes.OK}, after: w.model.clone()}
		have, _ := strconv.Atoi(w.model["v/"+name])
		size := max(1, have+by)
		r := &csi.CapacityRange{RequiredBytes: int64(size) * gib}
		if limited {
			r.LimitBytes = r.GetRequiredBytes()
		}
		switch {
		case !w.model.has(name):
			op.codes = []codes.Code{codes.NotFound}
		case limited && have > size:
			op.codes = []codes.Code{codes.OutOfRange}
		default: // a limit that an earlier growth was cut off before is made good
			op.after.set(name, "", strconv.Itoa(max(have, size)))
			w.follow(op.after, name, max(have, size))
		}
		op.call = func(ctx context.Context, s *controller.Server) error {
			res, err := s.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: name, CapacityRange: r})
			if err == nil && (res.GetCapacityBytes() < r.GetRequiredBytes() || !res.GetNodeExpansionRequired()) {
				w.t.Errorf("ControllerExpandVolume to %d bytes answered %v", r.GetRequiredBytes(), res)
			}
			return err
		}
		return op
	}
}

// follow lets the limit that is per GiB follow the size.
func (w *worker) follow(s state, name string, size int) {
	class := w.asked[name].GetParameters()
	if class["iops_per_gb"] == "" || !w.offers[csi.ControllerServiceCapability_RPC_MODIFY_VOLUME] {
		return
	}
	parts := strings.Fields(s["v/"+name+"/qos"])
	parts[2] = strings.Fields(qos(class, size))[2]
	s.set(name, "qos", strings.Join(parts, " "))
}

func (w *worker) modification(name string) func() operation {
	reads, replicas := 1+w.r.IntN(3), w.r.IntN(6) == 0
	return func() operation {
		op := operation{name: "ControllerModify", codes: []codes.Code{codes.OK}, after: w.model.clone()}
		req := &csi.ControllerModifyVolumeRequest{VolumeId: name, MutableParameters: map[string]string{"read_iops_max": strconv.Itoa(1000 * reads)}}
		if replicas {
			req.MutableParameters["replica_count"] = "3"
		}
		if !w.model.has(name) {
			op.codes = []codes.Code{codes.NotFound}
		} else {
			parts := strings.Fields(w.model["v/"+name+"/qos"])
			parts[0] = strconv.Itoa(1000 * reads)
			op.after.set(name, "qos", strings.Join(parts, " "))
			if replicas {
				op.after.set(name, "replicas", "3")
			}
			// A growth that was cut off is made good.
			size, _ := strconv.Atoi(w.model["v/"+name])
			w.follow(op.after, name, size)
		}
		op.call = func(ctx context.Context, s *controller.Server) error {
			_, err := s.ControllerModifyVolume(ctx, req)
			return err
		}
		return op
	}
}

func (w *worker) getting(name string) func() operation {
	return func() operation {
		op := operation{name: "ControllerGetVolume", codes: w.there(name)}
		op.call = func(ctx context.Context, s *controller.Server) error {
			res, err := s.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: name})
			if err == nil {
				w.compare(res.GetVolume(), res.GetStatus().GetPublishedNodeIds())
			}
			return err
		}
		return op
	}
}

func (w *worker) there(name string) []codes.Code {
	if w.model.has(name) {
		return []codes.Code{codes.OK}
	}
	return []codes.Code{codes.NotFound}
}

// compare holds what an answer says of a volume against the model.
func (w *worker) compare(v *csi.Volume, nodes []string) {
	slices.Sort(nodes)
	if size := fmt.Sprint(v.GetCapacityBytes() / gib); size != w.model["v/"+v.GetVolumeId()] || !slices.Equal(nodes, w.model.nodes(v.GetVolumeId())) {
		w.t.Errorf("%s is told to have %s GiB and the nodes %v; the model has %v", v.GetVolumeId(), size, nodes, w.model)
	}
}

func (w *worker) listing() func() operation {
	most := int32(w.r.IntN(20))
	return func() operation {
		return operation{name: "ListVolumes", codes: []codes.Code{codes.OK}, call: func(ctx context.Context, s *controller.Server) error {
			var mine []string
			for token := ""; ; {
				res, err := s.ListVolumes(ctx, &csi.ListVolumesRequest{MaxEntries: most, StartingToken: token})
				if err != nil {
					return err
				}
				for _, e := range res.GetEntries() {
					if id := e.GetVolume().GetVolumeId(); strings.HasPrefix(id, "CSI-"+w.prefix) {
						mine = append(mine, id)
						w.compare(e.GetVolume(), e.GetStatus().GetPublishedNodeIds())
					}
				}
				if token = res.GetNextToken(); token == "" {
					break
				}
			}
			if want := w.model.below("v"); !slices.Equal(mine, want) {
				w.t.Errorf("ListVolumes in pages of %d has %v, want %v", most, mine, want)
			}
			return nil
		}}
	}
}

func (w *worker) health(name string) func() operation {
	return func() operation {
		return operation{name: "ControllerGetVolumeHealth", codes: w.there(name), call: func(ctx context.Context, s *controller.Server) error {
			if _, err := s.ControllerListVolumeHealth(ctx, &csi.ControllerListVolumeHealthRequest{}); err != nil {
				return err
			}
			_, err := s.ControllerGetVolumeHealth(ctx, &csi.ControllerGetVolumeHealthRequest{VolumeId: name})
			return err
		}}
	}
}

func (w *worker) capacity() func() operation {
	class := w.class()
	return func() operation {
		return operation{name: "GetCapacity", codes: []codes.Code{codes.OK}, call: func(ctx context.Context, s *controller.Server) error {
			_, err := s.GetCapacity(ctx, &csi.GetCapacityRequest{Parameters: class})
			return err
		}}
	}
}

func (w *worker) validation(name string) func() operation {
	return func() operation {
		return operation{name: "ValidateVolumeCapabilities", codes: w.there(name), call: func(ctx context.Context, s *controller.Server) error {
			res, err := s.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{VolumeId: name,
				VolumeCapabilities: []*csi.VolumeCapability{writer("xfs")}})
			if err == nil && res.GetConfirmed() == nil {
				w.t.Errorf("not confirmed: %v", res)
			}
			return err
		}}
	}
}

// snapshotUUID is the array's uuid for a CSI name: version 5 in the namespace of
// the vendor's driver.
func snapshotUUID(name string) string {
	space, _ := hex.DecodeString("7079eaec26604a359a489c47204c01a9")
	sum := sha1.Sum(append(space, name...))
	sum[6], sum[8] = sum[6]&0x0f|0x50, sum[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// snapshot is the CSI name of one of the few snapshots of a volume.
func (w *worker) snapshot(volume string) string {
	return fmt.Sprintf("%s-snap%d", csiName(volume), w.r.IntN(3))
}

func (w *worker) snapshotCreation(name, snapshot string) func() operation {
	return func() operation {
		op := operation{name: "CreateSnapshot", codes: w.there(name), after: w.model.clone()}
		op.after.set(name, "snapshot/"+snapshotUUID(snapshot), "there")
		op.call = func(ctx context.Context, s *controller.Server) error {
			res, err := s.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: name, Name: snapshot})
			if err == nil && (res.GetSnapshot().GetSourceVolumeId() != name || !strings.HasPrefix(res.GetSnapshot().GetSnapshotId(), name+":")) {
				w.t.Errorf("CreateSnapshot of %s answered %v", name, res)
			}
			return err
		}
		return op
	}
}

// snapshotID asks the array for the id of a snapshot; "" if there is none.
func (w *worker) snapshotID(name, uuid string) string {
	var apps []struct {
		Storage []struct {
			Volumes []struct {
				Snapshots []struct {
					UUID, UTCTS string
					TS          string `json:"utc_ts"`
				} `json:"snapshots"`
			} `json:"volumes"`
		} `json:"storage_instances"`
	}
	w.witness.get("/app_instances", map[string][]string{"filter": {"name=" + name}}, &apps)
	for _, a := range apps {
		for _, s := range a.Storage[0].Volumes[0].Snapshots {
			if s.UUID == uuid {
				return name + ":" + s.TS
			}
		}
	}
	return ""
}

func (w *worker) snapshotDeletion(name, snapshot string) func() operation {
	return w.snapshotDeletionOf(name, snapshotUUID(snapshot))
}

func (w *worker) snapshotDeletionOf(name, uuid string) func() operation {
	return func() operation {
		op := operation{name: "DeleteSnapshot", codes: []codes.Code{codes.OK}, after: w.model.clone()}
		id := w.snapshotID(name, uuid)
		if id == "" {
			id = name + ":1446076293.118600738" // of long ago
		}
		op.after.set(name, "snapshot/"+uuid, "")
		op.call = func(ctx context.Context, s *controller.Server) error {
			_, err := s.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: id})
			return err
		}
		return op
	}
}

// snapshotDeletions takes down every snapshot of a volume.
func (w *worker) snapshotDeletions(name string) []func() operation {
	var all []func() operation
	for _, uuid := range w.model.snapshots(name) {
		all = append(all, w.snapshotDeletionOf(name, uuid))
	}
	return all
}

func (w *worker) snapshotListing(name string) func() operation {
	most := int32(w.r.IntN(3))
	return func() operation {
		return operation{name: "ListSnapshots", codes: []codes.Code{codes.OK}, call: func(ctx context.Context, s *controller.Server) error {
			seen := map[string]bool{}
			for token := ""; ; {
				res, err := s.ListSnapshots(ctx, &csi.ListSnapshotsRequest{SourceVolumeId: name, MaxEntries: most, StartingToken: token})
				if err != nil {
					return err
				}
				for _, e := range res.GetEntries() {
					if e.GetSnapshot().GetSourceVolumeId() != name || seen[e.GetSnapshot().GetSnapshotId()] {
						w.t.Errorf("snapshot %v is of another volume, or there twice", e)
					}
					seen[e.GetSnapshot().GetSnapshotId()] = true
				}
				if token = res.GetNextToken(); token == "" {
					break
				}
			}
			if want := w.model.snapshots(name); len(seen) != len(want) {
				w.t.Errorf("ListSnapshots of %s has %v, want %d", name, slices.Sorted(maps.Keys(seen)), len(want))
			}
			return nil
		}}
	}
}

func (w *worker) snapshotGetting(name, snapshot string) func() operation {
	return func() operation {
		op := operation{name: "GetSnapshot", codes: []codes.Code{codes.OK}}
		id := w.snapshotID(name, snapshotUUID(snapshot))
		if id == "" {
			id, op.codes = name+":1446076293.118600738", []codes.Code{codes.NotFound}
		}
		op.call = func(ctx context.Context, s *controller.Server) error {
			res, err := s.GetSnapshot(ctx, &csi.GetSnapshotRequest{SnapshotId: id})
			if err == nil && res.GetSnapshot().GetSnapshotId() != id {
				return errors.New("another snapshot was answered")
			}
			return err
		}
		return op
	}
}

// cloning makes a volume from another one of the worker, or from its snapshot.
func (w *worker) cloning(name, kind string) func() operation {
	from, class, larger, chap := w.volume(), w.class(), w.r.IntN(3), w.r.IntN(4) == 0
	return func() operation {
		snapshots := w.model.snapshots(from)
		if !w.model.has(from) || from == name || kind == "snapshot" && len(snapshots) == 0 || w.model["v/"+from+"/replicas"] != "2" {
			return w.getting(from)()
		}
		size, _ := strconv.Atoi(w.model["v/"+from])
		source := &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: from}}}
		if kind == "snapshot" {
			id := w.snapshotID(from, snapshots[0])
			source = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
		}
		req := createRequest(csiName(name), bytesAsked(int64(size+larger)*gib, 0), as(writer("xfs")))
		req.Parameters, req.VolumeContentSource = class, source
		if chap {
			secrets(false)(req)
		}
		op := w.create("CreateVolume from a "+kind, name, req, size+larger, kind)
		if !w.model.has(name) {
			for had := 1; had <= size; had++ { // of the source, or of the snapshot
				op.loose["v/"+name] = append(op.loose["v/"+name], strconv.Itoa(had))
			}
			op.loose["v/"+name+"/qos"] = []string{qos(nil, 0)}
			op.loose["v/"+name+"/chap"] = []string{""}
		}
		return op
	}
}
