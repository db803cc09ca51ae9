package main

import (
	"runtime/debug"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVersionFallsBackToBuildInfo(t *testing.T) {
	info := &debug.BuildInfo{
		Main:     debug.Module{Version: "v1.2.3"},
		Deps:     []*debug.Module{{Path: "example.com/other", Version: "v9"}, {Path: csiSpec, Version: "v1.13.0"}},
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "0123abc"}, {Key: "vcs.modified", Value: "true"}},
	}
	for name, c := range map[string]struct{ linked, want versionInfo }{
		"nothing was linked in": {versionInfo{}, versionInfo{Version: "v1.2.3", Commit: "0123abc-dirty", CSISpec: "v1.13.0"}},
		"the linker wins": {
			versionInfo{Version: "v2.0.0", Commit: "fedcba"},
			versionInfo{Version: "v2.0.0", Commit: "fedcba", CSISpec: "v1.13.0"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.linked
			got.complete(info)
			if d := cmp.Diff(got, c.want); d != "" {
				t.Error(d)
			}
		})
	}
}
