package node

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// Inspection is where Inspect looks.
type Inspection struct {
	Tools       iscsi.Runner // runs the tools of file systems
	Host        iscsi.Runner // runs the host's modprobe
	FileSystems string       // what the kernel has, as /proc/filesystems
	RecordDir   string
	Now         time.Time
}

// Inspect looks at what of this host the node service depends on besides iSCSI.
func Inspect(ctx context.Context, in Inspection) []iscsi.Finding {
	const limit = 15 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	xfs := in.fileSystem(ctx, fsXFS, "mkfs.xfs", "xfsprogs")
	ext4 := in.fileSystem(ctx, fsExt4, "mke2fs", "e2fsprogs")
	found := slices.Concat(xfs, ext4)
	if !slices.ContainsFunc(xfs, unfit) || !slices.ContainsFunc(ext4, unfit) { // one suffices
		for n := range found {
			if unfit(found[n]) {
				found[n].Severity = iscsi.Warning
			}
		}
	}
	return append(found, inspectTool(ctx, in.Tools, "blkid", "util-linux"), inspectRecordDir(in.RecordDir), inspectClock(in.Now))
}

func unfit(f iscsi.Finding) bool { return f.Severity == iscsi.Unfit }

// fileSystem looks for what makes a file system, and for what mounts it.
func (in Inspection) fileSystem(ctx context.Context, fsType, mkfs, home string) []iscsi.Finding {
	module := iscsi.Finding{Severity: iscsi.Fine, Check: "module " + fsType, What: "loaded"}
	known, err := os.ReadFile(in.FileSystems)
	if err != nil || !slices.Contains(strings.Fields(string(known)), fsType) {
		module = iscsi.InspectModule(ctx, in.Host, fsType, iscsi.Unfit)
	}
	return []iscsi.Finding{inspectTool(ctx, in.Tools, mkfs, home), module}
}

// inspectTool asks a tool for its version.
func inspectTool(ctx context.Context, tools iscsi.Runner, tool, home string) iscsi.Finding {
	_, err := tools.Run(ctx, tool, "-V")
	var exit *iscsi.ExitError
	switch {
	case err == nil:
		return iscsi.Finding{Severity: iscsi.Fine, Check: tool, What: "installed"}
	case errors.As(err, &exit) && exit.NoSuchTool():
		return iscsi.Finding{Severity: iscsi.Unfit, Check: tool, What: err.Error(), Remedy: "install " + home + " where --fs-tools has them run: in the plugin's image, or on the host"}
	}
	return iscsi.Finding{Severity: iscsi.Warning, Check: tool, What: err.Error(), Remedy: "run it where --fs-tools has it run: " + tool + " -V"}
}

// inspectRecordDir writes a file where the records go.
func inspectRecordDir(dir string) iscsi.Finding {
	const check = "record directory"
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = tryToWrite(dir)
	}
	if err != nil {
		return iscsi.Finding{Severity: iscsi.Unfit, Check: check, What: err.Error(), Remedy: "mount a writable directory of the host there, or choose another by --record-dir"}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC || st.Type == unix.OVERLAYFS_SUPER_MAGIC) {
		return iscsi.Finding{
			Severity: iscsi.Warning, Check: check, What: dir + " is in memory or in the container, and is lost with it; what is staged would then be known from sysfs and mounts alone",
			Remedy: "use a directory of the host's disk, e.g. a hostPath on /var/lib/datera-csi",
		}
	}
	return iscsi.Finding{Severity: iscsi.Fine, Check: check, What: dir + " can be written"}
}

// inspectClock wants a time that is past this release, and one that is kept.
func inspectClock(now time.Time) iscsi.Finding {
	const check, remedy = "clock", "set it, and run chrony or systemd-timesyncd"
	if written := time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC); now.Before(written) {
		return iscsi.Finding{Severity: iscsi.Warning, Check: check, What: now.UTC().Format(time.RFC3339) + " is before this plugin was written", Remedy: remedy}
	}
	state, err := unix.Adjtimex(&unix.Timex{})
	if err == nil && state == unix.TIME_ERROR {
		return iscsi.Finding{Severity: iscsi.Warning, Check: check, What: "is not synchronized: times in logs and records of different nodes cannot be compared", Remedy: remedy}
	}
	return iscsi.Finding{Severity: iscsi.Fine, Check: check, What: now.UTC().Format(time.RFC3339)}
}

// tryToWrite makes a file in a directory and takes it away again.
func tryToWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".check-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), os.Remove(f.Name()))
}
