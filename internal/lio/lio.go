// Package lio shows an array's volumes as real iSCSI targets of this Linux
// host: the kernel's own target (LIO), worked through configfs and nothing else.
// It implements sim.Exporter.
//
// What it makes, below the root of the target's configfs tree:
//
//	core/fileio_7717/datera-IQN-lun-N   one backstore a volume: vendor DATERA,
//	                                    product IBLOCK, serial = volume uuid
//	iscsi/IQN/tpgt_1                    one target a storage instance
//
// A backstore is made before its target and removed after it, and its name holds
// the IQN, so one mkdir is also the mark that a target is ours: whatever step a
// crash interrupts, the next process finds what there is, and a target without
// the mark was made by somebody else and is never touched.
package lio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/datera-csi/datera-csi/internal/keylock"
	"github.com/datera-csi/datera-csi/internal/sim"
)

// DefaultRoot is where the kernel shows its target when configfs is mounted in
// the usual place.
const DefaultRoot = "/sys/kernel/config/target"

// The kinds of failure a caller can act on; match them with errors.Is.
var (
	ErrForeign = errors.New("the target was not made by this array") // somebody else's, or an administrator's
	ErrInUse   = errors.New("an initiator is logged in")             // and the change would pull its disk away
	ErrInvalid = errors.New("the target cannot be shown")            // bad IQN, portal, file, size or secret
)

// Config says where the kernel's target is. The zero value is this host's.
type Config struct {
	Root string // DefaultRoot when empty

	// Modprobe loads kernel modules; nil runs modprobe(8). Mount mounts configfs
	// on a directory; nil is mount(2). Tree works the files below Root; nil is
	// configfs itself. Tests hand in their own.
	Modprobe func(ctx context.Context, modules ...string) error
	Mount    func(dir string) error
	Tree     Tree
}

// Exporter is the kernel's iSCSI target. Its methods are safe for concurrent
// use; changes of one target wait for each other.
type Exporter struct {
	tree   Tree
	fabric string // ROOT/iscsi
	hba    string // ROOT/core/fileio_7717

	targets keylock.Keys
	hbaMu   sync.Mutex // the HBA's directory comes with the first backstore and goes with the last
	host    *os.File   // holds the host-wide lock until Close
}

var _ sim.Exporter = (*Exporter)(nil)

// New makes the kernel ready and takes hold of its target: it loads the modules,
// mounts configfs where it is not mounted, and refuses when another process
// already serves targets through this package on this host. It needs root.
// Targets of an earlier process stay as they are; see Targets.
func New(ctx context.Context, cfg Config) (*Exporter, error) {
	if cfg.Root == "" {
		cfg.Root = DefaultRoot
	}
	e := &Exporter{
		tree:   cfg.Tree,
		fabric: filepath.Join(cfg.Root, "iscsi"),
		hba:    filepath.Join(cfg.Root, "core", hbaName),
	}
	if e.tree == nil {
		e.tree = Configfs{}
		var err error
		if e.host, err = prepare(ctx, cfg); err != nil {
			return nil, err
		}
	}
	if err := e.probe(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Close lets another process take over. All targets stay and go on serving.
func (e *Exporter) Close() error {
	if e.host == nil {
		return nil
	}
	return e.host.Close()
}

// Apply makes the target look exactly as described; see sim.Exporter. Initiators
// that are no longer listed are cut off first, before anything that may fail. A
// target that describes no LUN is not shown at all.
//
// A backstore with another file, serial or a larger size than described is
// rebuilt while nobody is logged in, otherwise the answer is ErrInUse. A backing
// file that was replaced (not written to) needs a Remove before, because the
// kernel holds the old one open.
func (e *Exporter) Apply(ctx context.Context, t sim.Target) error {
	t, err := checked(t)
	if err != nil {
		return fmt.Errorf("show target %s: %w", t.IQN, err)
	}
	unlock, err := e.targets.Lock(ctx, t.IQN)
	if err != nil {
		return fmt.Errorf("show target %s: %w", t.IQN, err)
	}
	defer unlock()
	if err := e.apply(ctx, t); err != nil {
		return fmt.Errorf("show target %s: %w", t.IQN, err)
	}
	return nil
}

func (e *Exporter) apply(ctx context.Context, t sim.Target) error {
	if err := e.refuseForeign(t.IQN); err != nil {
		return err
	}
	if len(t.LUNs) == 0 {
		return e.remove(ctx, t.IQN)
	}
	if err := e.revoke(ctx, t); err != nil {
		return err
	}
	for _, l := range t.LUNs {
		if err := checkFile(l); err != nil {
			return err
		}
	}
	if err := e.clearStale(ctx, t); err != nil {
		return err
	}
	steps := []func(context.Context, sim.Target) error{
		e.backstores, e.group, e.luns, e.portals, e.attributes, e.admit, e.enable,
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// Remove takes away the target, its backstores and all that Apply made, finished
// or not; sessions end. An absent target is success. Backing files stay.
func (e *Exporter) Remove(ctx context.Context, iqn string) error {
	if err := checkIQN(iqn); err != nil {
		return fmt.Errorf("remove target: %w", err)
	}
	unlock, err := e.targets.Lock(ctx, iqn)
	if err != nil {
		return fmt.Errorf("remove target %s: %w", iqn, err)
	}
	defer unlock()
	if err = e.refuseForeign(iqn); err == nil {
		err = e.remove(ctx, iqn)
	}
	if err != nil {
		return fmt.Errorf("remove target %s: %w", iqn, err)
	}
	return nil
}

// Targets lists the IQNs of every target of ours, half-made ones included, so
// that a new process can adopt (Apply) or remove what an earlier one left.
func (e *Exporter) Targets() ([]string, error) {
	dirs, err := e.dirs(e.hba)
	if err != nil {
		return nil, fmt.Errorf("list targets: %w", err)
	}
	var iqns []string
	for _, d := range dirs {
		if iqn, _, ours := parseBackstore(d); ours {
			iqns = append(iqns, iqn)
		}
	}
	slices.Sort(iqns)
	return slices.Compact(iqns), nil
}

// refuseForeign fails when a target of this name exists without our mark.
func (e *Exporter) refuseForeign(iqn string) error {
	exists, err := e.exists(e.fabric, iqn)
	if err != nil || !exists {
		return err
	}
	marks, err := e.marks(iqn)
	if err != nil {
		return err
	}
	if len(marks) == 0 {
		return fmt.Errorf("%w: it is left alone; remove it by hand (targetcli) or use another name", ErrForeign)
	}
	return nil
}

// probe finds out now, not at the first volume, whether the kernel can do the
// work; it also removes an empty HBA that a crash left.
func (e *Exporter) probe() error {
	if err := e.mkdir(e.fabric); err != nil {
		return fmt.Errorf("the kernel offers no iSCSI target, load iscsi_target_mod: %w", err)
	}
	if err := e.mkdir(e.hba); err != nil {
		return fmt.Errorf("the kernel offers no file backstores, load target_core_file: %w", err)
	}
	return e.dropEmptyHBA()
}
