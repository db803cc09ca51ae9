//go:build e2e

package kubernetes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
	"github.com/datera-csi/datera-csi/test/e2e/vm/vmtest"
)

// The commands of docs/install.md and docs/operate.md with Helm, as they are written: the chart takes the place of the
// manifests, a pod gets a volume, the pod goes on while the chart is upgraded, its volume leaves and comes back with
// the new plugins, and nothing of the chart is left when it is removed.
func TestTheChartIsInstalledUpgradedAndRemoved(t *testing.T) {
	r := useClusterFor(t, morePatient)
	dir := r.workplace(map[string]string{"values.yaml": chartValues(2), "password": r.backend("password"), "ca.crt": r.backend("ca.crt") + "\n"})
	t.Cleanup(func() { r.backToTheManifests(dir) })
	r.asWritten(dir, "install.md", "kubectl delete -k deploy/kubernetes/base")
	r.asWritten(dir, "install.md", "kubectl create namespace datera-csi")
	r.asWritten(dir, "install.md", "kubectl label namespace datera-csi")
	r.asWritten(dir, "install.md", "kubectl -n datera-csi create secret generic datera-csi-backend-default")
	r.asWritten(dir, "install.md", "helm install")
	r.rolledOut(dir)
	r.apply(claim("data", 2, once), pod("writer", "data", ""))
	r.ready("writer")
	sum := r.fill("writer")
	r.exec("writer", loop)

	if err := os.WriteFile(filepath.Join(dir, "values.yaml"), []byte(chartValues(4)), 0o600); err != nil {
		t.Fatal(err)
	}
	r.asWritten(dir, "operate.md", "helm upgrade")
	r.rolledOut(dir)
	args := r.field(`{.items[*].spec.initContainers[?(@.name=="datera-csi")].args}`, "pods", inDriver, "--selector=app.kubernetes.io/component=node")
	if strings.Count(args, `"-v=4"`) != len(r.Workers) {
		t.Errorf("after the upgrade the plugins have the arguments %s, want -v=4 on every node", args)
	}
	r.expectUnbroken("writer", 30)
	r.kubectl("delete", "pod", "writer")
	r.apply(pod("reader", "data", ""))
	r.ready("reader")
	r.expectRows("reader", sum)

	r.kubectl("delete", "pod", "reader")
	r.kubectl("delete", "pvc", "data")
	r.expect("", "{.items[*].metadata.name}", "pv")
	r.asWritten(dir, "install.md", "helm uninstall")
	r.expect("", "{.items[*].metadata.name}",
		"csidrivers,clusterroles,clusterrolebindings,roles,rolebindings,serviceaccounts,deployments,daemonsets,pods,poddisruptionbudgets,networkpolicies",
		inDriver, "--selector=app.kubernetes.io/name=datera-csi")
}

// chartValues make of the chart what the laboratory's manifests are: one controller, and less patience. Images need no
// value, as the chart and the manifests name the same.
func chartValues(logLevel int) string {
	return fmt.Sprintf("logLevel: %d\ncontroller: {replicas: 1}\nnode: {extraArgs: [--reconcile-interval=15s, --forgotten-after=30s]}\n", logLevel)
}

// asWritten runs the command of a document that begins with some words, with what is the laboratory's own put in.
func (r *room) asWritten(dir, doc, beginning string) {
	r.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "docs", doc))
	if err != nil {
		r.Fatal(err)
	}
	for _, command := range commandsOf(string(text)) {
		if !strings.HasPrefix(command, beginning) {
			continue
		}
		script := strings.NewReplacer(r.backendsNames()...).Replace(command)
		out, err := r.Shell(r.ctx, dir, r.namespace, script)
		r.Logf("%s: %s\n%s", doc, script, tailOf(out, 600))
		if err != nil {
			r.Fatalf("%s: %s: %v", doc, command, err)
		}
		return
	}
	r.Fatalf("%s has no command that begins with %q", doc, beginning)
}

// rolledOut waits until what the chart makes serves.
func (r *room) rolledOut(dir string) {
	r.Helper()
	r.asWritten(dir, "operate.md", "kubectl -n datera-csi rollout status")
	if err := r.AwaitReady(r.ctx); err != nil {
		r.Fatal(err)
	}
}

// backToTheManifests puts the cluster back, however far the test has come. Of a test that failed it keeps the logs
// first: they go with the chart's pods.
func (r *room) backToTheManifests(dir string) {
	if r.Failed() {
		vmtest.SaveLogs(r.T, r.CollectLogs)
	}
	defer r.outlive()()
	script := fmt.Sprintf(`helm uninstall datera-csi --namespace %[1]s --ignore-not-found --wait
kubectl apply -f deploy/kubernetes/base/namespace.yaml
kubectl -n %[1]s create secret generic datera-csi-backend-default --from-file=%[2]s --dry-run=client -o yaml | kubectl apply -f -`,
		kubernetes.Namespace, filepath.Join(r.Array.Backends, "default"))
	r.eventually("the chart to be gone, and its namespace to have a backend", func() error {
		out, err := r.Shell(r.ctx, dir, r.namespace, script)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, tailOf(out, 600))
		}
		return err
	})
	r.deploy("")
}
