package controller

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// parseContent reads what a volume is to begin with. What cannot be the id of
// anything of ours names nothing that exists.
func parseContent(c *csi.VolumeContentSource) (contentSource, error) {
	missing := func(err error) error {
		return status.Errorf(codes.NotFound, "volume_content_source: %v", err)
	}
	switch source := c.GetType().(type) {
	case *csi.VolumeContentSource_Snapshot:
		id, err := parseSnapshotID(source.Snapshot.GetSnapshotId())
		switch {
		case errors.Is(err, errForeignID):
			return contentSource{}, missing(err)
		case err != nil:
			return contentSource{}, invalid(fmt.Errorf("volume_content_source: %w", err))
		}
		return contentSource(id), nil
	case *csi.VolumeContentSource_Volume:
		id, err := parseVolumeID(source.Volume.GetVolumeId())
		if err != nil {
			return contentSource{}, invalid(fmt.Errorf("volume_content_source: %w", err))
		}
		return contentSource{Volume: id}, nil
	case nil:
		if c != nil {
			return contentSource{}, invalid(errors.New("volume_content_source: it is neither a snapshot nor a volume"))
		}
		return contentSource{}, nil
	default:
		return contentSource{}, invalid(errors.New("volume_content_source: its type is not known to this driver; it makes volumes from snapshots and from volumes"))
	}
}

// follow puts a volume where its source is: an array copies nothing from another
// one, nor from another tenant.
func (p *parameters) follow(source contentSource) error {
	if source.isZero() {
		return nil
	}
	if p.BackendNamed && p.Backend != source.Volume.Backend {
		return fmt.Errorf("volume_content_source: %s is on backend %s, and the class wants %s; use a class of backend %s",
			source, source.Volume.Backend, p.Backend, source.Volume.Backend)
	}
	p.Backend, p.BackendNamed = source.Volume.Backend, true
	return nil
}

type createSnapshotRequest struct {
	Name     string
	Source   volumeID
	Spec     dateraclient.SnapshotSpec
	Warnings []string
}

func parseCreateSnapshot(req *csi.CreateSnapshotRequest) (createSnapshotRequest, error) {
	if err := checkName(req.GetName()); err != nil {
		return createSnapshotRequest{}, invalid(err)
	}
	source, err := parseVolumeID(req.GetSourceVolumeId())
	if err != nil {
		return createSnapshotRequest{}, invalid(fmt.Errorf("source_volume_id: %w", err))
	}
	if req.GetAccessibilityRequirements() != nil {
		return createSnapshotRequest{}, invalid(errors.New("accessibility_requirements: this driver does not offer SNAPSHOT_ACCESSIBILITY_CONSTRAINTS, a snapshot lies on the array of its volume"))
	}
	class, err := parseSnapshotClass(req.GetParameters())
	if err != nil {
		return createSnapshotRequest{}, invalid(err)
	}
	return createSnapshotRequest{
		Name: req.GetName(), Source: source, Warnings: class.Warnings,
		Spec: dateraclient.SnapshotSpec{UUID: snapshotUUID(req.GetName()), Provider: class.Provider, Type: class.Type},
	}, nil
}

type deleteSnapshotRequest struct {
	ID    snapshotID
	Never bool // no snapshot ever had such an id
}

func parseDeleteSnapshot(req *csi.DeleteSnapshotRequest) (deleteSnapshotRequest, error) {
	id, err := parseSnapshotID(req.GetSnapshotId())
	if errors.Is(err, errForeignID) {
		return deleteSnapshotRequest{Never: true}, nil
	}
	if err != nil {
		return deleteSnapshotRequest{}, invalid(err)
	}
	return deleteSnapshotRequest{ID: id}, nil
}

func parseGetSnapshot(req *csi.GetSnapshotRequest) (snapshotID, error) {
	id, err := parseSnapshotID(req.GetSnapshotId())
	if errors.Is(err, errForeignID) {
		return id, status.Error(codes.NotFound, err.Error())
	}
	if err != nil {
		return id, invalid(err)
	}
	return id, nil
}

type listSnapshotsRequest struct {
	Most   int
	From   snapshotPosition
	ID     snapshotID // zero: any
	Source volumeID   // zero: any
	Never  bool       // the ids are none of ours: nothing is to be listed
}

func parseListSnapshots(req *csi.ListSnapshotsRequest) (listSnapshotsRequest, error) {
	page, err := parseList(req.GetMaxEntries(), "")
	if err != nil {
		return listSnapshotsRequest{}, err
	}
	want := listSnapshotsRequest{Most: page.Most}
	if want.From, err = parseSnapshotToken(req.GetStartingToken()); err != nil {
		return want, err
	}
	if s := req.GetSnapshotId(); s != "" {
		want.ID, err = parseSnapshotID(s)
		if errors.Is(err, errForeignID) {
			want.Never, err = true, nil
		}
		if err != nil {
			return want, invalid(err)
		}
	}
	if s := req.GetSourceVolumeId(); s != "" {
		want.Source, err = parseVolumeID(s)
		if err != nil && checkText("source_volume_id", s) == nil {
			want.Never, err = true, nil // such a volume has no snapshots
		}
		if err != nil {
			return want, invalid(err)
		}
	}
	return want, nil
}

// snapshotPosition is a place in a list of snapshots: after one of them.
type snapshotPosition struct {
	position        // of its volume
	UTCTS    string // its key
}

// String is the token of a position: `UTC_TS@` and the token of the volume.
func (p snapshotPosition) String() string {
	key := p.UTCTS + "@"
	return key + p.within(maxID-len(key))
}

func parseSnapshotToken(token string) (snapshotPosition, error) {
	if token == "" {
		return snapshotPosition{}, nil
	}
	ts, rest, _ := strings.Cut(token, "@")
	volume, err := parseToken(rest)
	if err != nil || volume.Place.After == "" || !utcPattern.MatchString(ts) || len(token) > maxID {
		return snapshotPosition{}, withStatus(fmt.Errorf("%w: %q was not given by this driver; list again from the beginning", errToken, token))
	}
	return snapshotPosition{volume, ts}, nil
}

// snapshotClass is a VolumeSnapshotClass, parsed.
type snapshotClass struct {
	Provider string // uuid of a remote provider
	Type     string
	Warnings []string
}

// snapshotParameter is a key of a VolumeSnapshotClass.
type snapshotParameter struct{ key, values, help string }

// snapshotParameters is every key a VolumeSnapshotClass may hold.
func snapshotParameters() []snapshotParameter {
	return []snapshotParameter{
		{"remote_provider_uuid", "uuid of a remote provider", "Where to keep a copy outside of the array; needs product 3.2 or later."},
		{"type", "`local`, `remote`, `local_and_remote`", "Where the snapshot is kept. Without a provider only `local`, which is the default, is possible; with one, the array's default applies."},
		{"remote_provider", "as `remote_provider_uuid`", "What the README of the vendor's driver called it by mistake. Taken, with a warning in the log."},
		{"csi.storage.k8s.io/volumesnapshot/name", "set by the snapshotter", "Not used: the array has no field for it."},
		{"csi.storage.k8s.io/volumesnapshot/namespace", "set by the snapshotter", "Not used."},
		{"csi.storage.k8s.io/volumesnapshotcontent/name", "set by the snapshotter", "Not used."},
	}
}

func parseSnapshotClass(given map[string]string) (snapshotClass, error) {
	known := make([]string, 0, len(snapshotParameters()))
	for _, p := range snapshotParameters() {
		known = append(known, p.key)
	}
	var wrong []string
	for key := range given {
		if !slices.Contains(known, key) {
			wrong = append(wrong, fmt.Sprintf("%q is not known; the known ones are %s", key, strings.Join(known, ", ")))
		}
	}
	slices.Sort(wrong)
	class := snapshotClass{Provider: given["remote_provider_uuid"], Type: given["type"]}
	if misspelt := given["remote_provider"]; misspelt != "" {
		class.Warnings = append(class.Warnings, "remote_provider is a mistake of the vendor's documentation; write remote_provider_uuid")
		if class.Provider != "" && class.Provider != misspelt {
			wrong = append(wrong, "remote_provider and remote_provider_uuid differ")
		}
		class.Provider = misspelt
	}
	err := class.check(wrong)
	return class, err
}

func (c *snapshotClass) check(wrong []string) error {
	types := []string{"", "local", "remote", "local_and_remote"}
	switch {
	case !slices.Contains(types, c.Type):
		wrong = append(wrong, fmt.Sprintf("type %q is none of %s", c.Type, strings.Join(types[1:], ", ")))
	case c.Provider == "" && c.Type != "" && c.Type != "local":
		wrong = append(wrong, fmt.Sprintf("type %s needs a remote_provider_uuid", c.Type))
	}
	if c.Provider != "" && !uuidPattern.MatchString(c.Provider) {
		wrong = append(wrong, fmt.Sprintf("remote_provider_uuid %q is not a uuid", c.Provider))
	}
	if c.Provider == "" {
		c.Type = "" // products before 3.2 do not know the field
	}
	if len(wrong) > 0 {
		return errors.New("parameters: " + strings.Join(wrong, "; "))
	}
	return nil
}
