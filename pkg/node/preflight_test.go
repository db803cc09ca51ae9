package node_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

func TestInspectTellsWhatTheNodeServiceLacks(t *testing.T) {
	inspect := func(has toolbox, filesystems string) (lacks []string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "filesystems")
		ok(t, os.WriteFile(file, []byte(filesystems), 0o600))
		dir, now := t.TempDir(), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
		if has == nil {
			dir, now = "/proc/nothing", time.Unix(0, 0)
		}
		for _, f := range node.Inspect(t.Context(), node.Inspection{Tools: has, Host: has, FileSystems: file, RecordDir: dir, Now: now}) {
			if f.Severity == iscsi.Fine || has != nil && (f.Check == "clock" || f.Check == "record directory" && f.Severity == iscsi.Warning) { // of this machine
				continue
			}
			lacks = append(lacks, string(f.Severity)+" "+f.Check)
			if f.Remedy == "" {
				t.Errorf("no remedy: %+v", f)
			}
		}
		return lacks
	}
	const xfs, ext4 = "nodev\tsysfs\n\txfs\n", "\text4\n"
	tools := func(more ...string) toolbox {
		has := toolbox{"blkid": true}
		for _, m := range more {
			has[m] = true
		}
		return has
	}
	for name, c := range map[string]struct {
		has         toolbox
		filesystems string
		want        []string
	}{
		"nothing":             {tools("mkfs.xfs", "mke2fs"), xfs + ext4, nil},
		"nothing, if loaded":  {tools("mkfs.xfs", "mke2fs", "modprobe xfs", "modprobe ext4"), "", nil},
		"xfs's tool":          {tools("mke2fs"), xfs + ext4, []string{"warning mkfs.xfs"}},
		"ext4's module":       {tools("mkfs.xfs", "mke2fs"), xfs, []string{"warning module ext4"}},
		"a whole file system": {tools("mkfs.xfs"), ext4, []string{"unfit module xfs", "unfit mke2fs"}},
		"modprobe":            {tools("mkfs.xfs", "mke2fs", "no modprobe"), xfs, []string{"warning module ext4"}},
		"blkid":               {toolbox{"mkfs.xfs": true, "mke2fs": true}, xfs + ext4, []string{"unfit blkid"}},
		"a right to blkid":    {toolbox{"mkfs.xfs": true, "mke2fs": true, "blkid is no program": true}, xfs + ext4, []string{"unfit blkid"}},
		"everything": {nil, "", []string{
			"unfit mkfs.xfs", "unfit module xfs", "unfit mke2fs", "unfit module ext4", "unfit blkid", "unfit record directory", "warning clock",
		}},
	} {
		if diff := cmp.Diff(c.want, inspect(c.has, c.filesystems)); diff != "" {
			t.Errorf("without %s (-want +got):\n%s", name, diff)
		}
	}
}

// Kubelet asks for NodeGetInfo while the plugin inspects its host at the start.
func TestInspectionsDoNotDisturbEachOther(t *testing.T) {
	dir, all := t.TempDir(), toolbox{"blkid": true, "mkfs.xfs": true, "mke2fs": true}
	var inspections sync.WaitGroup
	for range 50 {
		inspections.Go(func() {
			for _, f := range node.Inspect(t.Context(), node.Inspection{Tools: all, Host: all, FileSystems: "/proc/filesystems", RecordDir: dir, Now: time.Now()}) {
				if f.Check == "record directory" && f.Severity == iscsi.Unfit {
					t.Errorf("%s: %s", f.Check, f.What)
				}
			}
		})
	}
	inspections.Wait()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// toolbox is a host that has some tools, and some modules.
type toolbox map[string]bool

func (b toolbox) Run(_ context.Context, argv ...string) ([]byte, error) {
	switch tool := argv[0]; {
	case tool == "modprobe" && b["no modprobe"]:
		return nil, &iscsi.ExitError{Tool: tool, Code: 127}
	case tool == "modprobe" && !b["modprobe "+argv[len(argv)-1]]:
		return nil, &iscsi.ExitError{Tool: tool, Code: 1}
	case b[tool+" is no program"]:
		return nil, &iscsi.ExitError{Tool: tool, Code: 126}
	case tool == "modprobe" || b[tool]:
		return nil, nil
	default:
		return nil, &iscsi.ExitError{Tool: tool, Code: 127}
	}
}

// FM 26: no volume could work here, so no pod shall be sent here; it is told what
// lacks, and asked anew each time.
func TestAnUnfitNodeIsNotRegistered(t *testing.T) {
	found := []iscsi.Finding{{Severity: iscsi.Warning, Check: "multipathd", What: "does not run"}}
	m := newMachine(t, func(c *node.Config) { c.Inspect = func(context.Context) []iscsi.Finding { return found } })
	info := func() error {
		_, err := m.server.NodeGetInfo(m.ctx(), &csi.NodeGetInfoRequest{})
		return err
	}
	if err := info(); err != nil {
		t.Errorf("a warning: %v", err)
	}
	found = append(found, iscsi.Finding{Severity: iscsi.Unfit, Check: "iscsid", What: "does not run", Remedy: "start it"})
	err := info()
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "iscsid: does not run (start it)") || strings.Contains(err.Error(), "multipathd") {
		t.Errorf("unfit: %v", err)
	}
	found = nil
	if err := info(); err != nil {
		t.Errorf("mended: %v", err)
	}
}

// FM 26: kubelet drops a driver whose registration fails, and nobody could take
// down what it has staged.
func TestAnUnfitNodeThatHasVolumesStaysRegistered(t *testing.T) {
	var found []iscsi.Finding
	m := newMachine(t, func(c *node.Config) { c.Inspect = func(context.Context) []iscsi.Finding { return found } })
	v := m.volume("a")
	ok(t, v.stage())
	found = []iscsi.Finding{{Severity: iscsi.Unfit, Check: "iscsid", What: "does not run", Remedy: "start it"}}
	_, err := m.server.NodeGetInfo(m.ctx(), &csi.NodeGetInfoRequest{})
	ok(t, err, v.unstage())
	if _, err = m.server.NodeGetInfo(m.ctx(), &csi.NodeGetInfoRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("when nothing is staged any more: %v", err)
	}
}
