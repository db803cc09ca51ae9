package dateraclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Names of the children that this driver makes.
const (
	storageName = "storage-1"
	childName   = "volume-1"
)

// CreateVolume makes a volume with one request. A clone, and CHAP beside an
// AppTemplate, may take more, see Conform.
//
// ErrConflict means that the name is taken, by whatever: the caller reads and
// compares. When the answer to the request is lost, the volume is looked up by its
// name; if it is there and as asked it is returned, and if it is not, the request
// is sent again, which is safe because a name can be taken once only. ErrAnswerLost
// means that even so nobody knows whether the volume was, or will be, made, or that
// it was made and is not as asked yet. With any other error this call has left
// nothing behind.
func (c *Client) CreateVolume(ctx context.Context, spec VolumeSpec) (*Volume, error) {
	ctx, cancel := patiently(ctx)
	defer cancel()
	r, err := c.createRequest(ctx, spec)
	if err != nil {
		return nil, err
	}
	v, mine, err := c.create(ctx, r, spec)
	if err != nil {
		return nil, unknownReference(spec, err)
	}
	if spec.Source.IsZero() && (spec.Template == nil || spec.CHAP == nil) {
		return v, nil
	}
	done, err := c.Conform(ctx, v, spec)
	switch {
	case err == nil:
		return done, nil
	case mine && undoable(err):
		return nil, c.undo(ctx, v, err)
	}
	return nil, undecided(fmt.Errorf("%s was made, but not to its end", v.Name), err)
}

// createAttempts bounds how often a request is sent whose answers all get lost.
const createAttempts = 3

// create sends r until its outcome is known. The volume is mine only if the array
// has answered that it has made it: one that was looked up after a lost answer may
// be of long ago, with somebody's data, and is never deleted again.
func (c *Client) create(ctx context.Context, r request, spec VolumeSpec) (_ *Volume, mine bool, _ error) {
	wait := backoff{retryFirst, retryMost}
	var lost error // why the first answer did not come: what it was asked for may be made yet
	for attempt := 1; ; attempt++ {
		a, err := call[appInstance](ctx, c, r)
		switch {
		case err == nil:
			v, shapeErr := c.made(ctx, &a)
			return v, true, shapeErr
		case lost == nil && !unanswered(err):
			return nil, false, err
		case lost == nil:
			lost = err
		case !unanswered(err) && !errors.Is(err, ErrConflict): // that would be the attempt's own volume
			return nil, false, undecided(lost, fmt.Errorf("asked again: %w", err))
		}
		v, lookErr := c.Volume(ctx, spec.Name)
		switch {
		case lookErr == nil && spec.describes(v):
			return v, false, nil
		case lookErr == nil:
			return nil, false, &Error{kind: ErrConflict, Message: fmt.Sprintf("%s exists, but not as asked", spec.Name)}
		case !errors.Is(lookErr, ErrNotFound):
			return nil, false, undecided(err, lookErr)
		case attempt == createAttempts || errors.Is(err, ErrFault) || !wait.wait(ctx):
			return nil, false, err
		}
	}
}

// made is the volume that the array says it has just made. What is not a volume is
// taken back.
func (c *Client) made(ctx context.Context, a *appInstance) (*Volume, error) {
	v, shapeErr := a.volume()
	if shapeErr == nil {
		return v, nil
	}
	if !isName(string(a.ID)) || a.inUse() {
		return nil, undecided(shapeErr, fmt.Errorf("app instance %q may be somebody else's", clip(string(a.Name), excerptBytes)))
	}
	path := "/app_instances/" + string(a.ID)
	err := run(ctx, c, put(path, adminState{State: offline}))
	if err == nil {
		err = run(ctx, c, del(path))
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, undecided(shapeErr, fmt.Errorf("it could not be deleted: %w", err))
	}
	return nil, shapeErr
}

// inUse tells whether an app instance cannot be new: somebody uses it, or wants to
// keep what it held.
func (a *appInstance) inUse() bool {
	used := len(a.Snapshots) > 0
	for _, si := range a.StorageInstances {
		used = used || len(si.ACL.Initiators)+len(si.ACL.Groups)+len(si.ActiveInitiators) > 0
		for _, v := range si.Volumes {
			used = used || len(v.Snapshots) > 0
		}
	}
	return used
}

// describes tells whether v can be the outcome of s.
func (s VolumeSpec) describes(v *Volume) bool {
	switch {
	case s.Template.name() != v.Template, s.CHAP != nil && s.CHAP.Mode() != v.CHAP && s.Source.IsZero() && s.Template == nil:
		return false
	case !s.Source.IsZero(): // the rest is for Conform
		return sameSource(s.Source, v.Source) && described(s.Description) == v.Description && !v.used()
	case !v.Source.IsZero():
		return false
	}
	return (s.Size == v.Size || s.Template != nil && s.Size == 0) && s.QoS == v.QoS &&
		(s.Replicas == 0 || s.Replicas == v.Replicas) && (s.IPPool == "" || s.IPPool == v.IPPool)
}

// used says that v has been in somebody's hands: it is no volume that was made just
// now, and nothing of it may be changed as if it were.
func (v *Volume) used() bool {
	return len(v.Initiators)+len(v.InitiatorGroups)+len(v.ActiveInitiators)+len(v.Snapshots) > 0
}

// unknownReference translates the array's "not found" where it can only mean
// something that spec refers to, for the volume itself is not there yet.
func unknownReference(spec VolumeSpec, err error) error {
	if !errors.Is(err, ErrNotFound) || !spec.Source.IsZero() {
		return err
	}
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	out := *e
	out.kind = ErrInvalid
	out.Message = fmt.Sprintf("it does not know the %s: %s", spec.references(), e.Message)
	return &out
}

// references name what of the array's a volume is made with, in words.
func (s VolumeSpec) references() string {
	var all []string
	for _, r := range []struct{ what, name string }{
		{"template", s.Template.name()}, {"IP pool", s.IPPool}, {"placement", s.PlacementPolicy + s.PlacementMode},
	} {
		if r.name != "" {
			all = append(all, fmt.Sprintf("%s %q", r.what, r.name))
		}
	}
	return strings.Join(all, " or the ")
}

// undo deletes a volume that this call has made and that cannot become what was
// asked for, so that a final error leaves nothing behind.
func (c *Client) undo(ctx context.Context, v *Volume, cause error) error {
	if hosts := slices.Concat(v.Initiators, v.InitiatorGroups); len(hosts) > 0 {
		return undecided(cause, fmt.Errorf("%s is admitted to %s", v.Name, Few(hosts)))
	}
	if err := c.DeleteVolume(ctx, v); err != nil && !errors.Is(err, ErrNotFound) {
		return undecided(cause, fmt.Errorf("%s was made, does not fit and could not be deleted: %w", v.Name, err))
	}
	return cause
}

// The body of POST /app_instances. The array knows no other fields.
type createBody struct {
	Name       string `json:"name"`
	Descr      string `json:"descr,omitempty"`
	CreateMode string `json:"create_mode"`
	ACMode     string `json:"access_control_mode,omitempty"`

	StorageInstances []createStorage `json:"storage_instances,omitempty"`

	Template *ref         `json:"app_template,omitempty"`
	Override *overrideSIs `json:"template_override,omitempty"`

	CloneSrc  *ref `json:"clone_src,omitempty"`
	CloneVol  *ref `json:"clone_volume_src,omitempty"`
	CloneSnap *ref `json:"clone_snapshot_src,omitempty"`
}

type createStorage struct {
	Name    string         `json:"name"`
	IPPool  *ref           `json:"ip_pool,omitempty"`
	Auth    authBody       `json:"auth"`
	Volumes []createVolume `json:"volumes"`
}

type createVolume struct {
	Name     string   `json:"name"`
	Size     GiB      `json:"size"`
	Replicas int      `json:"replica_count,omitempty"`
	Mode     string   `json:"placement_mode,omitempty"`
	Policy   *ref     `json:"placement_policy,omitempty"`
	QoS      *qosWire `json:"performance_policy,omitempty"`
}

// overrideSIs is keyed by names, and holds the size as a string.
type overrideSIs struct {
	StorageInstances map[string]overrideStorage `json:"storage_instances"`
}

type overrideStorage struct {
	IPPool  *ref                      `json:"ip_pool,omitempty"`
	Volumes map[string]overrideVolume `json:"volumes,omitempty"`
}

type overrideVolume struct {
	Size     string `json:"size,omitempty"`
	Replicas int    `json:"replica_count,omitempty"`
	Mode     string `json:"placement_mode,omitempty"`
	Policy   *ref   `json:"placement_policy,omitempty"`

	QoS map[string]int `json:"performance_policy,omitempty"` // all of them: nothing is left to a merge
}

// createRequest checks spec and makes the POST of it.
func (c *Client) createRequest(ctx context.Context, spec VolumeSpec) (request, error) {
	if !isName(spec.Name) {
		return request{}, invalid("%q cannot be the name of an app instance", spec.Name)
	}
	body := createBody{Name: spec.Name, Descr: described(spec.Description), CreateMode: "kubernetes"}
	var err error
	switch {
	case spec.Template != nil && !spec.Source.IsZero():
		err = invalid("%s can be made from AppTemplate %s or from a source, not from both", spec.Name, spec.Template.Name)
	case spec.Template != nil:
		err = c.fromTemplate(ctx, &body, spec)
	case !spec.Source.IsZero():
		err = body.fromSource(spec.Source)
	default:
		err = c.inline(ctx, &body, spec)
	}
	r := post("/app_instances", body)
	r.secrets = spec.CHAP.secrets()
	return r, err
}

// inline spells out the storage instance and the volume. Access is denied to all
// from the beginning: Grant admits.
func (c *Client) inline(ctx context.Context, body *createBody, spec VolumeSpec) error {
	if spec.Size <= 0 || spec.Size > maxSize {
		return invalid("%s cannot have the size %d GiB", spec.Name, spec.Size)
	}
	mode, policy, err := c.placement(ctx, spec)
	if err != nil {
		return err
	}
	pool, err := reference("/access_network_ip_pools/", spec.IPPool)
	if err != nil {
		return err
	}
	v := createVolume{Name: childName, Size: spec.Size, Replicas: spec.Replicas, Mode: mode, Policy: policy}
	if spec.QoS != (QoS{}) {
		q := qosWire(spec.QoS)
		v.QoS = &q
	}
	body.ACMode = denyAll
	body.StorageInstances = []createStorage{{
		Name: storageName, IPPool: pool, Auth: spec.CHAP.body(), Volumes: []createVolume{v},
	}}
	return nil
}

// placement says where a volume shall lie in the words of the array's product:
// since 3.3 a policy, unless only a mode was asked for, before it a mode.
func (c *Client) placement(ctx context.Context, spec VolumeSpec) (mode string, policy *ref, err error) {
	s, err := c.login(ctx, nil)
	if err != nil {
		return "", nil, err
	}
	switch {
	case s.product.hasPlacementPolicies() && spec.PlacementPolicy != "":
		policy, err = reference("/placement_policies/", spec.PlacementPolicy)
		return "", policy, err
	case s.product.hasPlacementPolicies(), spec.PlacementMode != "":
		return spec.PlacementMode, nil, nil
	case spec.PlacementPolicy != "" && spec.PlacementPolicy != "default":
		return "", nil, invalid("placement policy %q needs product 3.3 on the array, it runs %d.%d: use a placement mode",
			spec.PlacementPolicy, s.product[0], s.product[1])
	default:
		return "", nil, nil
	}
}

// reference makes the reference to a named object; none for no name.
func reference(collection, name string) (*ref, error) {
	if name == "" {
		return nil, nil //nolint:nilnil // no reference is what was asked for
	}
	if !isName(name) {
		return nil, invalid("%q cannot be a name in %s", name, collection)
	}
	return &ref{Path: collection + name}, nil
}

// fromTemplate makes what spec wants otherwise an override, which goes by the names
// in the template.
func (c *Client) fromTemplate(ctx context.Context, body *createBody, spec VolumeSpec) error {
	t := spec.Template
	body.Template = &ref{Path: t.Path}
	v := overrideVolume{Replicas: spec.Replicas}
	if spec.Size > 0 {
		v.Size = strconv.FormatInt(int64(spec.Size), 10)
	}
	if spec.QoS != t.QoS {
		v.QoS = allLimits(spec.QoS)
	}
	var err error
	if spec.PlacementMode+spec.PlacementPolicy != "" {
		if v.Mode, v.Policy, err = c.placement(ctx, spec); err != nil {
			return err
		}
	}
	pool, err := reference("/access_network_ip_pools/", spec.IPPool)
	if err != nil {
		return err
	}
	storage := overrideStorage{IPPool: pool}
	if !v.empty() {
		storage.Volumes = map[string]overrideVolume{t.Child: v}
	}
	if pool != nil || !v.empty() {
		body.Override = &overrideSIs{map[string]overrideStorage{t.StorageInstance: storage}}
	}
	return nil
}

func (o overrideVolume) empty() bool {
	return o.Size == "" && o.Replicas == 0 && o.Mode == "" && o.Policy == nil && o.QoS == nil
}

func (b *createBody) fromSource(s Source) error {
	switch {
	case s.Snapshot != "" && s.Volume != "":
		return invalid("a clone has one source, not the volume %s and the snapshot %s", s.Volume, s.Snapshot)
	case s.Snapshot != "":
		b.CloneSnap = &ref{Path: s.Snapshot}
	case isVolumePath(s.Volume):
		b.CloneVol = &ref{Path: s.Volume}
	default:
		b.CloneSrc = &ref{Path: s.Volume}
	}
	return nil
}

// authBody is the auth of a storage instance. Seen from the array, the initiator
// presents the target's credentials, and the target presents the initiator's.
type authBody struct {
	Type       string `json:"type"`
	User       string `json:"target_user_name,omitempty"`
	Password   string `json:"target_pswd,omitempty"`
	UserIn     string `json:"initiator_user_name,omitempty"`
	PasswordIn string `json:"initiator_pswd,omitempty"`
}

// Mode is how the array shows that such secrets are set: Volume.CHAP.
func (c *CHAP) Mode() string {
	switch {
	case c == nil:
		return "none"
	case c.UserIn != "":
		return "mchap"
	default:
		return "chap"
	}
}

func (c *CHAP) body() authBody {
	b := authBody{Type: c.Mode()}
	if c != nil {
		b.User, b.Password = c.User, c.Password
	}
	if b.Type == "mchap" {
		b.UserIn, b.PasswordIn = c.UserIn, c.PasswordIn
	}
	return b
}

func (c *CHAP) secrets() []string {
	if c == nil {
		return nil
	}
	return slices.DeleteFunc([]string{c.Password, c.PasswordIn}, func(s string) bool { return s == "" })
}
