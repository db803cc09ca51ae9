package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"k8s.io/klog/v2"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
	"github.com/datera-csi/datera-csi/pkg/node"
)

// inspection returns a look at all of the host that volumes need.
func (f *nodeFlags) inspection() func(context.Context) []iscsi.Finding {
	initiator, tools := f.initiator(), f.tools()
	host, _ := f.host()
	return func(ctx context.Context) []iscsi.Finding {
		return append(initiator.Preflight(ctx), node.Inspect(ctx, node.Inspection{
			Tools: tools, Host: host, FileSystems: "/proc/filesystems", RecordDir: f.records, Now: time.Now(),
		})...)
	}
}

var errUnfit = errors.New("this host is not fit for volumes")

// printFindings is for people or for programs; the error is for scripts.
func printFindings(w io.Writer, output string, found []iscsi.Finding) error {
	switch output {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if err := enc.Encode(found); err != nil {
			return err
		}
	case "text":
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, f := range found {
			if _, err := fmt.Fprintf(t, "%s\t%s\t%s\n", f.Severity, f.Check, f.What); err != nil {
				return err
			}
			if f.Remedy == "" {
				continue
			}
			if _, err := fmt.Fprintf(t, "\t\t-> %s\n", f.Remedy); err != nil {
				return err
			}
		}
		if err := t.Flush(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("--output: %q is neither text nor json", output)
	}
	if slices.ContainsFunc(found, func(f iscsi.Finding) bool { return f.Severity == iscsi.Unfit }) {
		return errUnfit
	}
	return nil
}

// logFindings says at the start what is wrong with the host.
func logFindings(ctx context.Context, found []iscsi.Finding) {
	for _, f := range found {
		if f.Severity != iscsi.Fine {
			klog.FromContext(ctx).Info("Preflight", "severity", f.Severity, "check", f.Check, "what", f.What, "remedy", f.Remedy)
		}
	}
}
