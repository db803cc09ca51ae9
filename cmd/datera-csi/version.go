package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// versionInfo is what a bug report needs to say.
type versionInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	CSISpec  string `json:"csiSpec"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

const (
	unknown = "unknown"
	csiSpec = "github.com/container-storage-interface/spec"
)

// readVersion combines what the linker set with what Go embeds.
func readVersion() versionInfo {
	v := versionInfo{
		Version: version, Commit: commit, CSISpec: unknown,
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.complete(info)
	}
	if v.Version == "" {
		v.Version = unknown
	}
	if v.Commit == "" {
		v.Commit = unknown
	}
	return v
}

func (v *versionInfo) complete(info *debug.BuildInfo) {
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	for _, dep := range info.Deps {
		if dep.Path == csiSpec {
			v.CSISpec = dep.Version
		}
	}
	if v.Commit != "" {
		return
	}
	settings := make(map[string]string)
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	v.Commit = settings["vcs.revision"]
	if settings["vcs.modified"] == "true" {
		v.Commit += "-dirty"
	}
}

func versionCommand() *cobra.Command {
	output := "text"
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of the plugin, its commit and the CSI specification it speaks",
		Example: `  datera-csi version
  datera-csi version --output=json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printVersion(cmd.OutOrStdout(), output, readVersion())
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", output, "text or json")
	return cmd
}

func printVersion(w io.Writer, output string, v versionInfo) error {
	switch output {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "text":
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		_, err := fmt.Fprintf(t, "datera-csi\t%s\ncommit\t%s\nCSI spec\t%s\nGo\t%s\nplatform\t%s\n",
			v.Version, v.Commit, v.CSISpec, v.Go, v.Platform)
		return errors.Join(err, t.Flush())
	}
	return fmt.Errorf("--output: %q is neither text nor json", output)
}
