//go:build e2e

package kubernetes_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// documents in the order in which they are followed.
var documents = []string{"install.md", "configure.md", "operate.md", "troubleshoot.md", "upgrade-from-vendor.md"}

// notRun are the beginnings of commands that the test leaves out, and why.
var notRun = map[string]string{
	"kubectl apply -k deploy/kubernetes/base":  "the laboratory has deployed the same with its own images, and would lose them",
	"kubectl delete -k deploy/kubernetes/base": "TestTheChartIsInstalledUpgradedAndRemoved does it",
	"kubectl create namespace":                 "as above",
	"helm ":                                    "as above",
	"kubectl delete csidriver":                 "TestVolumesOfTheVendorsDriverAreTakenOver does it",
	"kubectl patch pv PV":                      "a claim of the laboratory would lose its volume: TestStaticVolumeIsRetained gives one to another claim",
	"kubectl get pv PV":                        "as above",
	"kubectl delete pvc NAME":                  "as above",
	"kubectl delete pv PV":                     "as above",
	"kubectl create -f pv.yaml":                "as above",
	"kubectl label node NODE datera-csi/sim":   "TestSimulatorOfTheOverlayServesVolumes does it",
	"kubectl -n datera-csi create secret generic datera-csi-backend-default \\\n  --from-literal": "TestTheChartIsInstalledUpgradedAndRemoved does it",
}

// nothingFound is an answer, too, of a pipe from kubectl to grep, but not that kubectl failed, which pipefail shows as
// the same status.
const nothingFound = ` || { all=("${PIPESTATUS[@]}"); [ "${all[0]}" = 0 ] && [ "${all[-1]}" -le 1 ]; }`

// commandsOf are the commands with kubectl and helm of a document: those of its code blocks, whole, and those in its
// lines.
func commandsOf(markdown string) []string {
	var all []string
	begins, inLine := regexp.MustCompile(`^(kubectl|helm) `), regexp.MustCompile("`(kubectl|helm) [^`]+`")
	inBlock, open := false, ""
	for line := range strings.Lines(markdown) {
		line = strings.TrimRight(line, "\n")
		switch text := strings.TrimSpace(line); {
		case strings.HasPrefix(text, "```"):
			inBlock = !inBlock
		case open != "":
			open += "\n  " + text
			if !strings.HasSuffix(text, "\\") {
				all, open = append(all, open), ""
			}
		case inBlock && begins.MatchString(text) && strings.HasSuffix(text, "\\"):
			open = text
		case inBlock && begins.MatchString(text):
			all = append(all, text)
		case !inBlock:
			for _, code := range inLine.FindAllString(text, -1) {
				all = append(all, strings.Trim(code, "`"))
			}
		}
	}
	return all
}

func TestCommandsAreFound(t *testing.T) {
	const doc = "Ask `kubectl get pods`, or `ping`, `helm x`.\n\n```\nkubectl a \\\n  --b\n   kubectl c | jq\nls\n```\n\n   ```\n   kubectl d\n   helm y\n   ```\n"
	want := []string{"kubectl get pods", "helm x", "kubectl a \\\n  --b", "kubectl c | jq", "kubectl d", "helm y"}
	if got := commandsOf(doc); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestNothingFoundIsAnAnswerAndNoAnswerIsNot(t *testing.T) {
	for script, good := range map[string]bool{
		"echo a | grep a": true, "echo a | grep b": true, "(echo a; exit 1) | grep a": false, "(exit 1) | grep b": false, "echo a | grep": false,
	} {
		err := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script+nothingFound).Run()
		if (err == nil) != good {
			t.Errorf("%s: %v, want it to be good: %v", script, err, good)
		}
	}
}

// Every kubectl command of the documents works as it is written, names put in, and what it promises comes true.
func TestCommandsOfTheDocumentsWork(t *testing.T) {
	r := useClusterFor(t, morePatient)
	r.apply(claim("data", 10, once), pod("data", "data", ""))
	r.ready("data")
	node := r.node("data").Name
	r.kubectl("delete", "pod", "data") // nothing would start it elsewhere, so a drain would refuse
	t.Cleanup(func() {
		for _, undo := range [][]string{{"uncordon", node}, {"taint", "node", node, "node.kubernetes.io/out-of-service-"}} {
			_, _ = r.Kubectl(context.WithoutCancel(r.ctx), undo...) // the second only if the test ended before its own
		}
	})
	dir := r.workplace(map[string]string{"new-password": r.backend("password"), "ca.crt": r.backend("ca.crt") + "\n"})
	names := strings.NewReplacer(append(r.backendsNames(),
		"pvc NAME", "pvc data-test-petset-0", "pod NAME", "pod test-petset-0", "volumesnapshot NAME", "volumesnapshot data-today", "sc NAME", "sc datera",
		"node NODE ", "node "+node+" ", "drain NODE ", "drain "+node+" ", "csinode NODE ", "csinode "+node+" ", "uncordon NODE", "uncordon "+node, "grep NODE", "grep "+node,
	)...)
	unused := maps.Clone(notRun)
	for _, doc := range documents {
		text, err := os.ReadFile(filepath.Join(dir, "docs", doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range commandsOf(string(text)) {
			if prefix := leftOut(command); prefix != "" {
				delete(unused, prefix)
				continue
			}
			plugin := r.field("{.items[0].metadata.name}", "pods", "--namespace="+kubernetes.Namespace, "--selector=app.kubernetes.io/component=node")
			script := strings.ReplaceAll(names.Replace(command), " POD ", " "+plugin+" ")
			if strings.Contains(script, "| grep") {
				script += nothingFound
			}
			out, err := r.Shell(r.ctx, dir, r.namespace, script)
			t.Logf("%s: %s\n%s", doc, script, tailOf(out, 600))
			if err != nil {
				t.Errorf("%s: %s: %v", doc, command, err)
			}
			if strings.HasPrefix(command, "kubectl apply") { // a reader waits, too, before the next step
				r.settle()
			}
		}
	}
	for prefix := range unused {
		t.Errorf("no document has a command that begins with %q", prefix)
	}
	r.expect("200Gi", "{.status.capacity.storage}", "pvc", "data-test-petset-0")
	r.expect("datera-fast", "{.status.currentVolumeAttributesClassName}", "pvc", "data-test-petset-0")
	r.expect("true", "{.status.readyToUse}", "volumesnapshot", "data-today")
	r.kubectl("delete", "statefulset", "test-petset")
	r.kubectl("delete", "pvc", "--all", "--wait=false")
	r.kubectl("delete", "volumesnapshot", "data-today")
}

// backend is what a file of the laboratory's backend holds.
func (r *room) backend(file string) string {
	r.Helper()
	content, err := os.ReadFile(filepath.Join(r.Array.Backends, "default", file))
	if err != nil {
		r.Fatal(err)
	}
	return strings.TrimSpace(string(content))
}

// backendsNames are, in pairs, what the documents' commands say of a backend and what it is here.
func (r *room) backendsNames() []string {
	r.Helper()
	return []string{"https://10.0.0.5:7718", r.backend("endpoint"), "tenant=/root/prod", "tenant=" + r.backend("tenant"), "username=kubernetes", "username=" + r.backend("username")}
}

func leftOut(command string) string {
	for prefix := range notRun {
		if strings.HasPrefix(command, prefix) {
			return prefix
		}
	}
	return ""
}

// settle waits until the pods of what was applied run.
func (r *room) settle() {
	r.Helper()
	r.eventually("all pods to run", func() error {
		phases := strings.Fields(r.field("{.items[*].status.phase}", "pods"))
		if slices.ContainsFunc(phases, func(phase string) bool { return phase != "Running" }) {
			return fmt.Errorf("they are %s", phases)
		}
		return nil
	})
}

// workplace is a directory in which the documents' commands find what they name: the project, and some files.
func (r *room) workplace(files map[string]string) string {
	r.Helper()
	root, err := testbed.ModuleRoot()
	if err != nil {
		r.Fatal(err)
	}
	dir := r.TempDir()
	for _, part := range []string{"deploy", "docs"} {
		if err := os.Symlink(filepath.Join(root, part), filepath.Join(dir, part)); err != nil {
			r.Fatal(err)
		}
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			r.Fatal(err)
		}
	}
	return dir
}
