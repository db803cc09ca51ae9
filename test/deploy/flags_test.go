package deploy_test

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// binaries builds the programs of this repository as the image has them.
func binaries(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", dir+"/", "./cmd/...")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// TestEveryArgumentIsUnderstood gives each container's arguments, and the commands of
// its probes, to the binary with --help behind them: flags are parsed before help is
// printed, so an unknown one is an error.
func TestEveryArgumentIsUnderstood(t *testing.T) {
	dir := binaries(t)
	tried := 0
	for _, k := range kustomizations(t) {
		for _, p := range pods(build(t, k)) {
			for _, c := range p.containers() {
				if !strings.HasPrefix(c.Image, ours) {
					continue
				}
				for _, argv := range commands(c) {
					tried++
					out, err := exec.CommandContext(t.Context(), filepath.Join(dir, argv[0]), append(argv[1:], "--help")...).CombinedOutput()
					if err != nil || !strings.Contains(string(out), "Usage:") {
						t.Errorf("%s: %s/%s: %s: %v\n%s", k, p.name, c.Name, strings.Join(argv, " "), err, out)
					}
				}
			}
		}
	}
	if tried < 10 {
		t.Errorf("only %d commands tried", tried)
	}
}

// commands are what a container runs of ours: its arguments and its probes. A command
// that is another program's, such as nsenter, is left out.
func commands(c corev1.Container) [][]string {
	name, _, _ := strings.Cut(strings.TrimPrefix(c.Image, ours), ":")
	var all [][]string
	if c.Command == nil {
		all = append(all, append([]string{name}, c.Args...))
	}
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		if probe != nil && probe.Exec != nil {
			all = append(all, slices.Clone(probe.Exec.Command))
		}
	}
	return all
}
