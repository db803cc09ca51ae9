package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	mount "k8s.io/mount-utils"

	"github.com/datera-csi/datera-csi/internal/durable"
	"github.com/datera-csi/datera-csi/internal/mountinfo"
	"github.com/datera-csi/datera-csi/internal/topology"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

const (
	execNsenter = "nsenter"
	execIscsid  = "iscsid"
	execDirect  = "direct"

	toolsImage = "image"
	toolsHost  = "host"
)

// nodeFlags are the flags of the node service.
type nodeFlags struct {
	hostExec      string
	hostRoot      string
	fsTools       string
	records       string
	multipath     string
	maxVolumes    int64
	maxSessions   int64
	stages        int64
	formatTimeout time.Duration
	topology      []string // key=value

	reconcile         string
	reconcileInterval time.Duration
	reconcileOnce     bool
	forgottenAfter    time.Duration
}

func (f *nodeFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.hostExec, "host-exec", execNsenter,
		"how to run the host's iscsiadm and multipathd: nsenter (from a pod with hostPID and privileges), iscsid (likewise, but into the container of iscsid, as on Talos) or direct (this is the host)")
	flags.StringVar(&f.hostRoot, "host-root", "",
		"where the host's root directory is, for /etc/iscsi and /run (default /proc/1/root, with direct /)")
	flags.StringVar(&f.fsTools, "fs-tools", toolsImage,
		"whose mkfs, blkid, xfs_growfs, resize2fs, xfs_repair and e2fsck run: those beside this program (image) or those of PID 1 (host)")
	flags.StringVar(&f.records, "record-dir", "/var/lib/datera-csi",
		"directory for one small file a staged volume; it must outlive this process, its pod and a reboot")
	flags.StringVar(&f.multipath, "multipath", string(iscsi.MultipathAuto),
		"auto (a map over every portal when multipathd runs, else one session), require (a map or an error) or off (one session)")
	flags.Int64Var(&f.maxVolumes, "max-volumes-per-node", 0,
		"volumes that this host takes; 0 is as many as it has sessions for: those of --max-sessions that others do not use, divided by the portals of a volume")
	flags.Int64Var(&f.maxSessions, "max-sessions", 512,
		"iSCSI sessions that this host may have, those of others included; fewer where iscsid may not open so many files")
	flags.Int64Var(&f.stages, "parallel-stages", 0,
		"volumes that this host stages at a time, and as many that it unstages, the others wait for their turn; 0 is two for each processor")
	flags.DurationVar(&f.formatTimeout, "format-timeout", 30*time.Minute,
		"after this long a mkfs is killed; it goes on when the call that began it is over")
	flags.StringVar(&f.reconcile, "reconcile", string(node.ReconcileRepair),
		"what to do about sessions, paths and maps that are not as the records have them: repair (log in to missing portals, take down what is provably forgotten), observe (a dry run that logs) or off")
	flags.DurationVar(&f.reconcileInterval, "reconcile-interval", time.Minute,
		"how often to look, about; the first time is at once")
	flags.DurationVar(&f.forgottenAfter, "forgotten-after", 15*time.Minute,
		"for how long the array must refuse this host a staged volume that nobody uses before it is unstaged")
	flags.StringSliceVar(&f.topology, "topology", nil,
		"where this host is, as key=value, e.g. topology.kubernetes.io/zone=east; repeat it for more keys; an empty value leaves its key out")
}

func (f *nodeFlags) check() error {
	var errs []error
	if !slices.Contains([]string{execNsenter, execIscsid, execDirect}, f.hostExec) {
		errs = append(errs, fmt.Errorf("--host-exec: %q is not %s, %s or %s", f.hostExec, execNsenter, execIscsid, execDirect))
	}
	if !slices.Contains([]string{toolsImage, toolsHost}, f.fsTools) {
		errs = append(errs, fmt.Errorf("--fs-tools: %q is neither %s nor %s", f.fsTools, toolsImage, toolsHost))
	}
	if !slices.Contains([]iscsi.MultipathMode{iscsi.MultipathAuto, iscsi.MultipathRequire, iscsi.MultipathOff}, iscsi.MultipathMode(f.multipath)) {
		errs = append(errs, fmt.Errorf("--multipath: %q is not %s, %s or %s", f.multipath, iscsi.MultipathAuto, iscsi.MultipathRequire, iscsi.MultipathOff))
	}
	if f.maxVolumes < 0 {
		errs = append(errs, fmt.Errorf("--max-volumes-per-node: %d is negative; 0 is as many as the host has sessions for", f.maxVolumes))
	}
	if f.maxSessions < 1 {
		errs = append(errs, fmt.Errorf("--max-sessions: %d leaves no volume a session", f.maxSessions))
	}
	if f.stages < 0 {
		errs = append(errs, fmt.Errorf("--parallel-stages: %d is negative; 0 is two for each processor", f.stages))
	}
	if !slices.Contains([]node.ReconcileMode{node.ReconcileRepair, node.ReconcileObserve, node.ReconcileOff}, node.ReconcileMode(f.reconcile)) {
		errs = append(errs, fmt.Errorf("--reconcile: %q is not %s, %s or %s", f.reconcile, node.ReconcileRepair, node.ReconcileObserve, node.ReconcileOff))
	}
	if f.reconcileInterval < time.Second || f.forgottenAfter < f.reconcileInterval {
		errs = append(errs, fmt.Errorf("--reconcile-interval: %v is under a second, or longer than --forgotten-after, %v", f.reconcileInterval, f.forgottenAfter))
	}
	if f.formatTimeout <= 0 {
		errs = append(errs, fmt.Errorf("--format-timeout: %v leaves mkfs no time", f.formatTimeout))
	}
	if !filepath.IsAbs(f.records) {
		errs = append(errs, fmt.Errorf("--record-dir: %q is not an absolute path", f.records))
	}
	if f.hostRoot != "" && !filepath.IsAbs(f.hostRoot) {
		errs = append(errs, fmt.Errorf("--host-root: %q is not an absolute path", f.hostRoot))
	}
	if _, err := f.place(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// place is where this host is. A deployment may pass labels that only some hosts
// have, so an empty value is no value.
func (f *nodeFlags) place() (topology.Segments, error) {
	given := slices.DeleteFunc(slices.Clone(f.topology), func(pair string) bool { return strings.HasSuffix(pair, "=") })
	place, err := topology.Parse(strings.Join(given, ","))
	if err != nil {
		return nil, fmt.Errorf("--topology: %w", err)
	}
	return place, nil
}

func (f *nodeFlags) placed() bool {
	place, err := f.place()
	return err == nil && len(place) > 0
}

// host runs the host's tools, and says where its root directory is.
func (f *nodeFlags) host() (tools iscsi.Runner, root string) {
	tools, root = iscsi.Nsenter(), "/proc/1/root"
	switch f.hostExec {
	case execIscsid:
		tools = iscsi.NsenterDaemon("/proc")
	case execDirect:
		tools, root = iscsi.Direct(), "/"
	}
	if f.hostRoot != "" {
		root = f.hostRoot
	}
	return tools, root
}

// initiator is that of the host.
func (f *nodeFlags) initiator() *iscsi.Initiator {
	host, root := f.host()
	cfg := iscsi.Config{Host: host, Root: root, Multipath: iscsi.MultipathMode(f.multipath)}
	if f.hostExec != execDirect {
		cfg.Network = iscsi.HostNetwork // the pod's leads elsewhere
	}
	return iscsi.New(cfg)
}

// tools runs the tools of file systems. Devices and the kubelet's mounts are the
// same here and on the host.
func (f *nodeFlags) tools() iscsi.Runner {
	if f.fsTools == toolsHost && f.hostExec != execDirect {
		return iscsi.Nsenter()
	}
	return iscsi.Direct()
}

// build makes the node service and the initiator beneath it. The host's
// initiator must have a name: it is the node's id.
func (f *nodeFlags) build() (*node.Server, *iscsi.Initiator, error) {
	initiator := f.initiator()
	if err := durable.MakeDir(f.records); err != nil {
		return nil, nil, fmt.Errorf("--record-dir: %w", err)
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return nil, nil, fmt.Errorf("find which kernel runs: %w", err)
	}
	name, err := initiator.Name()
	if err != nil {
		return nil, nil, fmt.Errorf("find the id of this node: %w", err)
	}
	place, err := f.place()
	if err != nil {
		return nil, nil, err
	}
	service, err := node.New(node.Config{
		NodeID:         name,
		Attacher:       initiator,
		Mounts:         node.NewMounts(mount.NewWithoutSystemd(""), mountinfo.File("/proc/self/mountinfo")),
		Devices:        node.NewDevices("/sys"),
		Runner:         f.tools(),
		Kernel:         strings.TrimSpace(string(kernel)),
		Topology:       place,
		RecordDir:      f.records,
		Paths:          initiator,
		TargetPrefix:   "iqn.2013-05.com.daterainc:",
		ForgottenTime:  f.forgottenAfter,
		MaxVolumes:     f.maxVolumes,
		MaxSessions:    f.maxSessions,
		Inspect:        f.inspection(),
		OnePath:        iscsi.MultipathMode(f.multipath) == iscsi.MultipathOff,
		FormatTimeout:  f.formatTimeout,
		ParallelStages: cmp.Or(f.stages, int64(2*runtime.NumCPU())),
		Clock:          time.Now,
	})
	return service, initiator, err
}

const hostHelp = `The host's own iscsid, iscsiadm and, if it runs, multipathd do the work. The
host's initiator name in /etc/iscsi/initiatorname.iscsi is the node's id and must
be the host's own; it is what the array admits to a volume. File systems are made,
looked at and grown by the tools of the image; they leave out what the running
kernel, or the oldest one that a class names, cannot mount.`

func nodeCommand() *cobra.Command {
	var (
		common serveFlags
		flags  nodeFlags
		check  bool
		output = "text"
	)
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Serve CSI's node service: attach, format, mount and grow volumes on this host",
		Long: `Serve CSI's identity and node services. Run it on every host, beside the node
driver registrar. It holds no array credentials and never calls the array;
volumes that are mounted go on without it.

With --check it only looks at the host, says what is wrong and what to do, and
exits with 1 if no volume could work here; a warning does not count. The same is
logged at the start, and such a host is not registered until it is mended.

--check and --reconcile-once know no flags of a plugin that serves on this host:
give them the same ones.

` + hostHelp,
		Example: `  # in a privileged pod with hostPID, /dev and the kubelet's directory
  datera-csi node

  # what the running plugin would repair, as JSON; exit status 1 when there is something
  datera-csi node --reconcile-once

  # what is wrong with this host
  datera-csi node --check --host-exec=direct

  # on the host itself
  datera-csi node --host-exec=direct --endpoint=unix:///run/datera-csi/csi.sock`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(common.check(), flags.check()); err != nil {
				return err
			}
			if check {
				return printFindings(cmd.OutOrStdout(), output, flags.inspection()(cmd.Context()))
			}
			service, initiator, err := flags.build()
			if err != nil {
				return err
			}
			if flags.reconcileOnce {
				return reconcileOnce(cmd.Context(), cmd.OutOrStdout(), service)
			}
			return serve(cmd.Context(), &common, services{
				node: service, ready: initiator.Ready, drain: service.Drain, placed: flags.placed, background: flags.background(service),
			})
		},
	}
	common.add(cmd.Flags())
	flags.add(cmd.Flags())
	cmd.Flags().BoolVar(&flags.reconcileOnce, "reconcile-once", false,
		"do not serve; print what --reconcile=repair would find, as JSON, change nothing, and exit with 1 when anything is not as it should be")
	cmd.Flags().BoolVar(&check, "check", check, "only look whether this host is fit for volumes, and say what to do")
	cmd.Flags().StringVarP(&output, "output", "o", output, "of --check: text or json")
	return cmd
}

// background is what the node service does unasked.
func (f *nodeFlags) background(service *node.Server) func(context.Context) {
	return func(ctx context.Context) {
		logFindings(ctx, f.inspection()(ctx)) // beside the service: tools that are slow must not keep it waiting
		service.RunReconcile(ctx, node.ReconcileMode(f.reconcile), f.reconcileInterval)
	}
}

// reconcileOnce prints a dry run. It only looks, because it has not the locks of
// the plugin that serves on this host.
func reconcileOnce(ctx context.Context, out io.Writer, service *node.Server) error {
	report := service.Reconcile(ctx, node.ReconcileObserve)
	printer := json.NewEncoder(out)
	printer.SetIndent("", "  ")
	if err := printer.Encode(report); err != nil {
		return err
	}
	if n := len(report.Findings); n > 0 {
		return fmt.Errorf("%d things are not as they should be", n)
	}
	return nil
}
