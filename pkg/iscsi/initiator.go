package iscsi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/datera-csi/datera-csi/internal/keylock"
)

// MultipathMode says what to do about dm-multipath.
type MultipathMode string

const (
	// MultipathAuto uses a map when multipathd runs and does not blacklist the
	// device: every portal then carries a session. Otherwise it uses one session
	// to one portal, because two disks that are one LUN and have no map above
	// them invite a write to both.
	MultipathAuto MultipathMode = "auto"
	// MultipathRequire uses a map or fails with ErrNotReady.
	MultipathRequire MultipathMode = "require"
	// MultipathOff uses one session, whatever runs.
	MultipathOff MultipathMode = "off"
)

// Config of an Initiator. The zero value works on a bare host.
type Config struct {
	Host      Runner        // runs iscsiadm and multipathd; nil means Direct
	Root      string        // the host's root directory as seen from here, for /etc/iscsi, /run and /proc; "" means /
	Sysfs     string        // "" means /sys
	Dev       string        // "" means /dev
	Network   string        // the network namespace that iscsid logs in from, as a file; "" is this process's own
	Multipath MultipathMode // "" means MultipathAuto

	LoginTimeout time.Duration // for one login to one portal, in whole seconds; 0 means 10 s
	DiskTimeout  time.Duration // for a disk to appear once its portal is logged in; 0 means 30 s
	MapTimeout   time.Duration // for multipathd to make, change or remove a map; 0 means 20 s
	FlushTimeout time.Duration // for a device to write out what the kernel buffers; 0 means 60 s
	RefusalPause time.Duration // until an array that refuses this host is asked again; 0 means 2 s
}

// Initiator attaches and detaches LUNs with this host's iSCSI initiator. Its
// methods may be called in parallel; calls for one target wait for each other.
// For one volume the caller keeps calls apart.
type Initiator struct {
	cfg      Config
	sysfs    sysfs
	iscsiadm *iscsiadm
	kernel   kernel
	bounds   bounds
	targets  keylock.Keys // by IQN: LUNs of one target share its sessions

	asking keylock.Keys // one question to multipath about a new disk at a time
	tell   atomic.Bool  // multipathd was seen to wait until it is told of a disk
	seen   sync.Map     // directories in /proc, by the name of what runs there

	failing sync.Map // WWIDs of maps that disableQueueing changed and that still are
}

// New returns an Initiator; it looks at nothing yet.
func New(cfg Config) *Initiator { return newInitiator(cfg, linux{}) }

func newInitiator(cfg Config, k kernel) *Initiator {
	if cfg.Host == nil {
		cfg.Host = Direct()
	}
	setDefault(&cfg.Root, "/")
	setDefault(&cfg.Sysfs, "/sys")
	setDefault(&cfg.Dev, "/dev")
	setDefault(&cfg.Multipath, MultipathAuto)
	setDefault(&cfg.LoginTimeout, 10*time.Second)
	setDefault(&cfg.DiskTimeout, 30*time.Second)
	setDefault(&cfg.MapTimeout, 20*time.Second)
	setDefault(&cfg.FlushTimeout, time.Minute)
	setDefault(&cfg.RefusalPause, 2*time.Second)
	return &Initiator{
		cfg:      cfg,
		sysfs:    sysfs{root: cfg.Sysfs, names: &targetNames{}},
		iscsiadm: &iscsiadm{host: cfg.Host, syncDir: k.SyncDir, root: cfg.Root, db: nodeDB{root: cfg.Root}, templates: recordTemplates{root: cfg.Root}},
		kernel:   k,
	}
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Name returns the name of this host's initiator, which the array admits or
// refuses. A missing, empty or placeholder name is ErrNotReady.
func (i *Initiator) Name() (string, error) {
	const file = "etc/iscsi/initiatorname.iscsi"
	b, err := os.ReadFile(filepath.Join(i.cfg.Root, file))
	if errors.Is(err, fs.ErrNotExist) {
		return "", unready{fmt.Errorf("no /%s", file), "install open-iscsi on the host"}
	}
	if err != nil {
		return "", fmt.Errorf("%w: read the initiator name: %w", ErrNotReady, err)
	}
	name := initiatorName(string(b))
	if err := CheckName(name); err != nil {
		return "", unready{fmt.Errorf("/%s: %w", file, err), "generate a name with iscsi-iname and restart iscsid"}
	}
	return name, nil
}

func initiatorName(text string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.TrimSpace(key) == "InitiatorName" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// CheckName says why a name cannot be this host's initiator name: it is none, or it has
// no part that is this host's alone, so that another host may carry it too and both
// would be one to the array (FM 10). Nil: it can.
func CheckName(name string) error {
	kind, rest, _ := strings.Cut(name, ".")
	_, unique, _ := strings.Cut(rest, ":")
	switch {
	case name == "":
		return errors.New("no InitiatorName is set")
	case !validName(name):
		return fmt.Errorf("InitiatorName %q is not an iSCSI name", name)
	case strings.Contains(name, ".example"):
		return fmt.Errorf("InitiatorName %q is the example of a manual, other hosts may have it too", name)
	case kind == "iqn" && strings.Trim(unique, ":0") == "", kind != "iqn" && strings.Trim(rest, "0") == "":
		return fmt.Errorf("InitiatorName %q has no part of its own, other hosts may have it too", name)
	}
	return nil
}

// validName holds for iSCSI names (RFC 7143, 4.2.7) in their normal form. Such a
// name is also a safe file name, which node records need.
func validName(name string) bool {
	const longest = 223
	prefixed := strings.HasPrefix(name, "iqn.") || strings.HasPrefix(name, "eui.") || strings.HasPrefix(name, "naa.")
	return prefixed && len(name) <= longest && len(name) > len("iqn.") && strings.IndexFunc(name, func(r rune) bool {
		lower := r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == ':'
		return !lower && (r < 'A' || r > 'Z') && r != '_'
	}) < 0
}

// Ready says whether this host can attach at all; ErrNotReady says what is
// missing and what to do. It runs a tool only to load a module that is missing.
func (i *Initiator) Ready(ctx context.Context) error {
	if _, err := i.Name(); err != nil {
		return err
	}
	if err := i.daemonListens(); err != nil {
		return err
	}
	return i.transport(ctx)
}

// daemonListens looks for the socket on which iscsid, or systemd for it, waits
// for iscsiadm. PID 1 tells, because the socket lives in the host's network
// namespace.
func (i *Initiator) daemonListens() error {
	const socket = "@ISCSIADM_ABSTRACT_NAMESPACE"
	b, err := os.ReadFile(filepath.Join(i.cfg.Root, "proc/1/net/unix"))
	if err != nil {
		return unready{fmt.Errorf("cannot look for iscsid: %w", err), "does the container share the host's PID namespace?"}
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[len(fields)-1] == socket {
			return nil
		}
	}
	return unready{errors.New("iscsid does not run"), "start it: systemctl enable --now iscsid.socket"}
}

func (i *Initiator) transport(ctx context.Context) error {
	const module = "iscsi_tcp"
	dir := filepath.Join(i.cfg.Sysfs, "class/iscsi_transport/tcp")
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	_, err := i.cfg.Host.Run(ctx, "modprobe", module)
	if _, statErr := os.Stat(dir); statErr == nil {
		return nil
	}
	return unready{together(fmt.Errorf("the kernel has no module %s", module), err), "install the kernel's extra modules"}
}

// check refuses a target that no array promises, before anything is touched.
func (t Target) check() error {
	const mostLUNs = 256 // beyond, LUNs are numbered in another format (SAM-5, 4.7)
	switch {
	case !validName(t.IQN):
		return fmt.Errorf("target name %q is not an iSCSI name", t.IQN)
	case t.LUN < 0 || t.LUN >= mostLUNs:
		return fmt.Errorf("target %s: LUN %d is not between 0 and %d", t.IQN, t.LUN, mostLUNs-1)
	}
	return nil
}

// checkPromise is check for a target that is about to be attached.
func (t Target) checkPromise() error {
	if err := t.check(); err != nil {
		return err
	}
	switch {
	case len(t.Portals) == 0:
		return fmt.Errorf("target %s has no portal", t.IQN)
	case t.Serial == "":
		return fmt.Errorf("target %s: no serial number is promised, so no device could be proven to be it", t.IQN)
	case t.Bytes <= 0:
		return fmt.Errorf("target %s: %d bytes are not a size", t.IQN, t.Bytes)
	}
	for _, p := range t.Portals {
		if !p.IsValid() || p.Addr().Zone() != "" || p.Addr().IsUnspecified() {
			return fmt.Errorf("target %s: %q is not a portal", t.IQN, p)
		}
	}
	return nil
}

// check refuses secrets that cannot stand in a line of a node record.
func (c *CHAP) check() error {
	if c == nil {
		return nil
	}
	const longest = 255
	for what, v := range map[string]string{"user": c.User, "password": c.Password, "mutual user": c.UserIn, "mutual password": c.PasswordIn} {
		if len(v) > longest || strings.TrimSpace(v) != v || strings.IndexFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0 {
			return fmt.Errorf("CHAP %s: longer than %d bytes, or with control characters or blanks at its ends", what, longest)
		}
	}
	if c.User == "" || c.Password == "" || (c.UserIn == "") != (c.PasswordIn == "") {
		return errors.New("CHAP needs a user and a password, and for mutual CHAP both of the target too")
	}
	return nil
}

// lock takes the target for one call, and waits for others that use it.
func (i *Initiator) lock(ctx context.Context, t Target) (unlock func(), err error) {
	if unlock, err = i.targets.Lock(ctx, t.IQN); err != nil {
		return nil, fmt.Errorf("wait for another call that uses %s: %w", t.IQN, err)
	}
	return unlock, nil
}
