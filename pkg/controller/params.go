package controller

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/datera-csi/datera-csi/internal/filesystem"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// The array's limits of a performance policy and of a volume.
const (
	maxIOPS      = 10_000_000
	maxBandwidth = 10_240_000 // KiB/s
	maxReplicas  = 5
)

// parameters is a StorageClass, parsed.
type parameters struct {
	Backend                 string
	BackendNamed            bool // the class names it
	Replicas                int
	PlacementMode           string
	PlacementPolicy         string
	PlacementNamed          bool // the class names a mode or a policy
	IPPool                  string
	Template                string
	DisableTemplateOverride bool
	RoundRobin              bool
	Filesystem              filesystem.Class
	QoS                     dateraclient.QoS
	IOPSPerGiB              int
	BandwidthPerGiB         int // KiB/s

	RetainOffline bool // DeleteVolume takes the volume offline and keeps it

	PVC, Namespace, PV string // what the provisioner says with --extra-create-metadata

	Named map[string]bool // the keys that count because the class names them
}

// limits are the QoS limits that are named, over those there are without.
func (p parameters) limits(base dateraclient.QoS) dateraclient.QoS {
	q := p.QoS
	for _, limit := range qosLimits() {
		if !p.Named[limit.key] {
			*limit.of(&q) = *limit.of(&base)
		}
	}
	return q
}

// rates are what the total limits follow the size by, below base.
func (p parameters) rates(base dateraclient.QoS) (iops, bandwidth rate) {
	most := p.limits(base)
	if p.IOPSPerGiB > 0 {
		iops = rate{p.IOPSPerGiB, most.TotalIOPS}
	}
	if p.BandwidthPerGiB > 0 {
		bandwidth = rate{p.BandwidthPerGiB, most.TotalBandwidth}
	}
	return iops, bandwidth
}

// qosLimit is one of the six limits of a volume.
type qosLimit struct {
	key string
	of  func(*dateraclient.QoS) *int
}

func qosLimits() []qosLimit {
	return []qosLimit{
		{"read_iops_max", func(q *dateraclient.QoS) *int { return &q.ReadIOPS }},
		{"write_iops_max", func(q *dateraclient.QoS) *int { return &q.WriteIOPS }},
		{"total_iops_max", func(q *dateraclient.QoS) *int { return &q.TotalIOPS }},
		{"read_bandwidth_max", func(q *dateraclient.QoS) *int { return &q.ReadBandwidth }},
		{"write_bandwidth_max", func(q *dateraclient.QoS) *int { return &q.WriteBandwidth }},
		{"total_bandwidth_max", func(q *dateraclient.QoS) *int { return &q.TotalBandwidth }},
	}
}

// mutable are the keys that a VolumeAttributesClass may hold.
func mutable() []string {
	keys := []string{"replica_count", "placement_mode", "placement_policy", "iops_per_gb", "bandwidth_per_gb"}
	for _, limit := range qosLimits() {
		keys = append(keys, limit.key)
	}
	return keys
}

// ofTemplate are the keys about which a template decides when it must not be
// overridden.
func ofTemplate() []string { return append(mutable(), "ip_pool") }

// parameter is a key of a StorageClass.
type parameter struct {
	key    string
	values string // what it takes, for people
	preset string // its value when the class does not name it
	help   string
	parse  func(p *parameters, value string) error
}

// volumeParameters is every key a StorageClass may hold. Documentation and the
// list in error messages come from it.
func volumeParameters() []parameter {
	return []parameter{
		{"backend", "name of a backend", defaultBackend, "The array and tenant that hold the volume: a directory below `--backends-dir`. Where backends have a topology, a class without this key has the backend that the chosen node or the preferred zone reaches.", func(p *parameters, v string) error {
			p.Backend = v
			return checkBackendName(v)
		}},
		{"replica_count", "1 to 5", "3", "Copies the array keeps. A volume made from a snapshot or a volume has at least as many as its source, because the array takes none away.", whole(1, maxReplicas, func(p *parameters) *int { return &p.Replicas })},
		{"placement_mode", "`hybrid`, `single_flash`, `all_flash`", "hybrid", "Media of the copies. On products from 3.3 on it counts only when `placement_policy` is not in the class.", oneOf([]string{"hybrid", "single_flash", "all_flash"}, func(p *parameters) *string { return &p.PlacementMode })},
		{"placement_policy", "name of a placement policy", "default", "Media of the copies, on products from 3.3 on; older ones know no policies and refuse it, unless the class also has a `placement_mode` for them.", object(func(p *parameters) *string { return &p.PlacementPolicy })},
		{"ip_pool", "name of an access network IP pool", "default", "Where the target's addresses come from.", object(func(p *parameters) *string { return &p.IPPool })},
		{"template", "name of an app template", "", "Makes the volume from this template, which must describe exactly one volume. The other keys of the class override it.", object(func(p *parameters) *string { return &p.Template })},
		{"disable_template_override", "`true`, `false`", "false", "`true`: the volume is as its template says, whatever else is in the class; a size outside what the claim asks for is an error.", boolean(func(p *parameters) *bool { return &p.DisableTemplateOverride })},
		{"round_robin", "`true`, `false`", "false", "`true`: nodes use one portal only, chosen by the volume's id so that volumes spread over the portals. While that portal is down, so is the volume.", boolean(func(p *parameters) *bool { return &p.RoundRobin })},
		{filesystem.KeyOptions, "options of `mkfs.xfs` or `mke2fs`", "", "How the file system is made, e.g. `-m reflink=0 -d agcount=16` or `-i 65536 -m 1`: flags and values parted by blanks, without quotes. Options that force, discard, name a device or a file are refused. Raw block volumes leave it alone.", ofClass(filesystem.KeyOptions)},
		{filesystem.KeyOldest, "a version of Linux, e.g. `4.18`", "5.10", "The oldest kernel among the nodes. File systems are made without features that it, or the node that makes them, cannot mount.", ofClass(filesystem.KeyOldest)},
		{filesystem.KeyFsck, "`never`, `check`, `preen`", "never", "What is done with a file system that the kernel refuses to mount because it is damaged; nothing is checked otherwise. `check`: `xfs_repair -n` or `e2fsck -n` looks, writes nothing, and the error says what it found. `preen`: ext4 is repaired as far as `e2fsck -p` does without a question; xfs is checked only.", ofClass(filesystem.KeyFsck)},
		{"read_iops_max", "0 to 10000000", "0", "Reads per second; 0 is unlimited.", whole(0, maxIOPS, func(p *parameters) *int { return &p.QoS.ReadIOPS })},
		{"write_iops_max", "0 to 10000000", "0", "Writes per second; 0 is unlimited.", whole(0, maxIOPS, func(p *parameters) *int { return &p.QoS.WriteIOPS })},
		{"total_iops_max", "0 to 10000000", "0", "Reads and writes per second; 0 is unlimited.", whole(0, maxIOPS, func(p *parameters) *int { return &p.QoS.TotalIOPS })},
		{"read_bandwidth_max", "0 to 10240000", "0", "KiB/s read; 0 is unlimited.", whole(0, maxBandwidth, func(p *parameters) *int { return &p.QoS.ReadBandwidth })},
		{"write_bandwidth_max", "0 to 10240000", "0", "KiB/s written; 0 is unlimited.", whole(0, maxBandwidth, func(p *parameters) *int { return &p.QoS.WriteBandwidth })},
		{"total_bandwidth_max", "0 to 10240000", "0", "KiB/s read and written; 0 is unlimited.", whole(0, maxBandwidth, func(p *parameters) *int { return &p.QoS.TotalBandwidth })},
		{"iops_per_gb", "0 to 10000000", "0", "Lowers `total_iops_max` to this number for each GiB of the volume, also after it has grown; 0 does nothing.", whole(0, maxIOPS, func(p *parameters) *int { return &p.IOPSPerGiB })},
		{"bandwidth_per_gb", "0 to 10240000", "0", "Lowers `total_bandwidth_max` to this many KiB/s for each GiB of the volume, also after it has grown; 0 does nothing.", whole(0, maxBandwidth, func(p *parameters) *int { return &p.BandwidthPerGiB })},
		{"deletionPolicy", "`delete`, `retain-offline`", "delete", "`retain-offline`: DeleteVolume destroys nothing; the volume is taken offline and renamed, and an administrator restores or purges it (docs/operate-retained-volumes.md).", func(p *parameters, v string) error {
			p.RetainOffline = v == "retain-offline"
			return oneOf([]string{"delete", "retain-offline"}, func(*parameters) *string { return new(string) })(p, v)
		}},
		{"delete_on_unmount", "`false`", "false", "Kept for classes of the vendor's driver. `true` is refused: unmounting a volume never deletes its data. Use `reclaimPolicy` or generic ephemeral volumes.", never("a node never deletes data; use reclaimPolicy: Delete, or a generic ephemeral volume")},
		{"csi.storage.k8s.io/pvc/name", "set by the provisioner", "", "Goes into the description of the app instance.", func(p *parameters, v string) error { p.PVC = v; return nil }},
		{"csi.storage.k8s.io/pvc/namespace", "set by the provisioner", "", "Goes into the description of the app instance.", func(p *parameters, v string) error { p.Namespace = v; return nil }},
		{"csi.storage.k8s.io/pv/name", "set by the provisioner", "", "Goes into the description of the app instance.", func(p *parameters, v string) error { p.PV = v; return nil }},
	}
}

// dropped are keys the vendor's README names and its driver never read. Taking
// them in silence would promise what is not done.
func dropped() map[string]string {
	return map[string]string{
		"fs_type": "it was never honoured; say csi.storage.k8s.io/fstype: xfs or ext4",
		"fs_args": "it was never honoured; say mkfsOptions, and csi.storage.k8s.io/fstype to choose the file system",
	}
}

// parseParameters reads a StorageClass. The error names every key that is wrong.
func parseParameters(given map[string]string) (parameters, error) {
	return parseClass(given, nil)
}

// parseClass reads a StorageClass, and over it a VolumeAttributesClass. A template
// that must not be overridden keeps what the StorageClass says of it: its values
// are checked and do not count. Those of a VolumeAttributesClass do, because it was
// chosen for this volume.
func parseClass(given, attributes map[string]string) (parameters, error) {
	table := volumeParameters()
	p := parameters{Named: map[string]bool{}}
	var wrong []string
	take := func(into *parameters, param parameter, value string) {
		if err := param.parse(into, value); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s %q %v", param.key, value, err))
		}
	}
	fixed, _ := parseBool(given["disable_template_override"]) // what is neither true nor false is found below
	for _, param := range table {
		value, ok := given[param.key]
		ignored := fixed && given["template"] != "" && slices.Contains(ofTemplate(), param.key)
		switch {
		case !ok || value == "" && param.preset == "": // no need to have been written
		case ignored:
			take(new(parameters), param, value)
		default:
			take(&p, param, value)
			p.Named[param.key] = true
		}
		if !p.Named[param.key] && param.preset != "" {
			take(&p, param, param.preset)
		}
		if value, ok := attributes[param.key]; ok && slices.Contains(mutable(), param.key) { // "" is found wrong
			take(&p, param, value)
			p.Named[param.key] = true
		}
	}
	p.choosePlacement()
	p.BackendNamed = p.Named["backend"]
	wrong = append(wrong, strangers(table, given)...)
	wrong = append(wrong, immutable(attributes)...)
	if len(wrong) > 0 {
		return parameters{}, errors.New("parameters: " + strings.Join(wrong, "; "))
	}
	return p, nil
}

// immutable names the keys of a VolumeAttributesClass that cannot be changed.
func immutable(attributes map[string]string) []string {
	var wrong []string
	for key := range attributes {
		if !slices.Contains(mutable(), key) {
			wrong = append(wrong, fmt.Sprintf("mutable_parameters: %q cannot be changed; those that can are %s", key, strings.Join(mutable(), ", ")))
		}
	}
	slices.Sort(wrong)
	return wrong
}

// choosePlacement drops the preset of what the class leaves out when it names the
// other: a preset policy would win over the mode that was asked for, and a preset
// mode would hide that an older product knows no policies.
func (p *parameters) choosePlacement() {
	mode, policy := p.Named["placement_mode"], p.Named["placement_policy"]
	p.PlacementNamed = mode || policy
	if mode && !policy {
		p.PlacementPolicy = ""
	}
	if policy && !mode {
		p.PlacementMode = ""
	}
}

// strangers names the keys that no table has.
func strangers(table []parameter, given map[string]string) []string {
	known := make([]string, len(table))
	for i, param := range table {
		known[i] = param.key
	}
	gone := dropped()
	var wrong, unknown []string
	for key := range given {
		if why, ok := gone[key]; ok {
			wrong = append(wrong, fmt.Sprintf("%s is not supported: %s", key, why))
		} else if !slices.Contains(known, key) {
			unknown = append(unknown, strconv.Quote(key))
		}
	}
	slices.Sort(wrong)
	slices.Sort(unknown)
	if len(unknown) > 0 {
		wrong = append(wrong, fmt.Sprintf("%s not known; the known ones are %s", strings.Join(unknown, ", "), strings.Join(known, ", ")))
	}
	return wrong
}

// ofClass reads one key of what the class says of its file systems.
func ofClass(key string) func(*parameters, string) error {
	return func(p *parameters, value string) error {
		said := map[string]string{}
		p.Filesystem.Write(said)
		said[key] = value
		class, err := filesystem.Parse(said)
		if err != nil {
			return errors.New(strings.TrimPrefix(err.Error(), fmt.Sprintf("%s %q ", key, value)))
		}
		p.Filesystem = class
		return nil
	}
}

func whole(least, most int, into func(*parameters) *int) func(*parameters, string) error {
	return func(p *parameters, value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < least || n > most {
			return fmt.Errorf("is not a whole number from %d to %d", least, most)
		}
		*into(p) = n
		return nil
	}
}

func boolean(into func(*parameters) *bool) func(*parameters, string) error {
	return func(p *parameters, value string) error {
		b, err := parseBool(value)
		*into(p) = b
		return err
	}
}

// parseBool takes what YAML and the vendor's driver call a boolean.
func parseBool(value string) (bool, error) {
	switch strings.ToLower(value) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errors.New("is neither true nor false")
}

func never(why string) func(*parameters, string) error {
	return func(_ *parameters, value string) error {
		b, err := parseBool(value)
		if b {
			return errors.New("is refused: " + why)
		}
		return err
	}
}

func oneOf(values []string, into func(*parameters) *string) func(*parameters, string) error {
	return func(p *parameters, value string) error {
		*into(p) = value
		if !slices.Contains(values, value) {
			return fmt.Errorf("is none of %s", strings.Join(values, ", "))
		}
		return nil
	}
}

func object(into func(*parameters) *string) func(*parameters, string) error {
	return func(p *parameters, value string) error {
		*into(p) = value
		return checkObjectName(value)
	}
}
