package node_test

import (
	"context"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

func TestInspectTellsWhatTheNodeServiceLacks(t *testing.T) {
	inspect := func(run toolbox, dir string, now time.Time) map[string]iscsi.Severity {
		got := map[string]iscsi.Severity{}
		for _, f := range node.Inspect(t.Context(), run, dir, now) {
			got[f.Check] = f.Severity
			if f.Severity != iscsi.Fine && f.Remedy == "" {
				t.Errorf("no remedy: %+v", f)
			}
		}
		return got
	}
	dir, now := t.TempDir(), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	all := inspect(toolbox{}, dir, now)
	if all["mkfs.xfs"] != iscsi.Fine || all["mke2fs"] != iscsi.Fine || all["blkid"] != iscsi.Fine || all["record directory"] == iscsi.Unfit {
		t.Errorf("got %v", all)
	}
	none := inspect(toolbox{"mkfs.xfs": true, "mke2fs": true}, "/proc/nothing", time.Unix(0, 0))
	if none["mkfs.xfs"] != iscsi.Unfit || none["mke2fs"] != iscsi.Warning || none["record directory"] != iscsi.Unfit || none["clock"] != iscsi.Warning {
		t.Errorf("got %v", none)
	}
}

// toolbox is a host that lacks some tools.
type toolbox map[string]bool

func (b toolbox) Run(_ context.Context, argv ...string) ([]byte, error) {
	if b[argv[0]] {
		return nil, &iscsi.ExitError{Tool: argv[0], Code: 127}
	}
	return nil, nil
}
