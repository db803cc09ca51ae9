package deploy_test

import (
	"os"
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

// TestEveryArgumentIsUnderstood gives each container's arguments to the binary with
// --help behind them: flags are parsed before help is printed, so an unknown one is
// an error.
func TestEveryArgumentIsUnderstood(t *testing.T) {
	dir := binaries(t)
	tried := 0
	for _, k := range kustomizations(t) {
		for _, p := range pods(build(t, k)) {
			for _, c := range p.containers() {
				if !strings.HasPrefix(c.Image, ours) || c.Command != nil {
					continue // another program's, such as nsenter
				}
				tried++
				program, _, _ := strings.Cut(strings.TrimPrefix(c.Image, ours), ":")
				out, err := exec.CommandContext(t.Context(), filepath.Join(dir, program), append(c.Args, "--help")...).CombinedOutput()
				if err != nil || !strings.Contains(string(out), "Usage:") {
					t.Errorf("%s: %s/%s: %s: %v\n%s", k, p.name, c.Name, strings.Join(c.Args, " "), err, out)
				}
			}
		}
	}
	if tried < 10 {
		t.Errorf("only %d commands tried", tried)
	}
}

// TestCommandsInANodesPodHaveItsArguments: --check and --reconcile-once there know no flags of the plugin, so the
// documents give them those that are not the defaults.
func TestCommandsInANodesPodHaveItsArguments(t *testing.T) {
	same := []string{"node", "--endpoint=unix:///csi/csi.sock", "--health-address=:9808", "--host-exec=nsenter", "--record-dir=/var/lib/datera-csi", "-v=2"}
	for overlay, documents := range map[string][]string{"base": nil, "overlays/talos": {"configure.md", "operate.md"}} {
		for _, p := range pods(build(t, filepath.Join(manifests, overlay))) {
			if p.name != "datera-csi-node" {
				continue
			}
			own := slices.DeleteFunc(slices.Clone(p.spec.InitContainers[0].Args), func(arg string) bool { return slices.Contains(same, arg) })
			if len(documents) == 0 && len(own) > 0 {
				t.Errorf("%s: %s: the documents say that none has to be given", overlay, own)
			}
			for _, doc := range documents {
				text, err := os.ReadFile(filepath.Join("../../docs", doc))
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(string(text), strings.Join(own, " ")) {
					t.Errorf("docs/%s does not have %s of %s", doc, own, overlay)
				}
			}
		}
	}
}

// TestTheControllerReadsWhatInitiatorsWrites: one file, in memory that only that container writes, which alone of the
// two has the token. Without the file the controller would publish to nodes that share an initiator name (FM 10).
func TestTheControllerReadsWhatInitiatorsWrites(t *testing.T) {
	all := map[string][]pod{"the chart": pods(objects(t, "snapshots: false"))}
	for _, k := range kustomizations(t) {
		all[k] = pods(build(t, k))
	}
	seen := 0
	for where, found := range all {
		for _, p := range found {
			if p.name != "datera-csi-controller" {
				continue
			}
			seen++
			read, readOnly := p.fileOf(t, "datera-csi", "--shared-initiators-file=")
			written, kept := p.fileOf(t, "initiators", "--file=")
			if read != written || !readOnly || kept {
				t.Errorf("%s: the controller reads %s (read-only %t), initiators writes %s (read-only %t)", where, read, readOnly, written, kept)
			}
			for _, c := range p.containers() {
				for _, m := range c.VolumeMounts {
					if m.Name == "initiators" && c.Name != "initiators" && c.Name != "datera-csi" {
						t.Errorf("%s: %s has the file, too", where, c.Name)
					}
				}
			}
		}
	}
	if seen < 6 {
		t.Errorf("only %d controllers seen", seen)
	}
}

// fileOf is the file that a flag of a container names, as VOLUME/NAME, and whether it is mounted read-only.
func (p pod) fileOf(t *testing.T, container, flag string) (file string, readOnly bool) {
	t.Helper()
	for _, c := range p.containers() {
		at := slices.IndexFunc(c.Args, func(arg string) bool { return strings.HasPrefix(arg, flag) })
		if c.Name != container || at < 0 {
			continue
		}
		path := strings.TrimPrefix(c.Args[at], flag)
		for _, m := range c.VolumeMounts {
			volume := slices.IndexFunc(p.spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
			if m.MountPath == filepath.Dir(path) && volume >= 0 && p.spec.Volumes[volume].EmptyDir != nil {
				return m.Name + "/" + filepath.Base(path), m.ReadOnly
			}
		}
	}
	t.Fatalf("%s/%s: no %s in a directory that containers share", p.name, container, flag)
	return "", false
}

// TestEveryProbeAsksAPortOfItsContainer: the kubelet takes any name, and fails each probe of one that is not there.
func TestEveryProbeAsksAPortOfItsContainer(t *testing.T) {
	probed := 0
	for _, k := range kustomizations(t) {
		for _, p := range pods(build(t, k)) {
			for _, c := range p.containers() {
				for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
					if probe == nil || probe.HTTPGet == nil {
						continue
					}
					probed++
					if !slices.ContainsFunc(c.Ports, func(port corev1.ContainerPort) bool { return port.Name == probe.HTTPGet.Port.StrVal }) {
						t.Errorf("%s: %s/%s: a probe asks port %q, which it has not", k, p.name, c.Name, probe.HTTPGet.Port.StrVal)
					}
				}
			}
		}
	}
	if probed < 10 {
		t.Errorf("only %d probes seen", probed)
	}
}
