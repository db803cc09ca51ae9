//go:build e2e

package kubernetes_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
)

// FM 10: a node whose initiator name another node has, too, gets no volume, which its pod's events say with both
// nodes' names; when it has the name for itself again, the pod starts. The other is a CSINode alone, as a kubelet
// on a cloned machine would make it, in another case.
func TestNodesWithOneInitiatorNameGetNoVolume(t *testing.T) {
	r := useCluster(t)
	const cloned = "cloned-node"
	worker := r.Workers[0].Name
	id := r.field(`{.spec.drivers[?(@.name=="`+kubernetes.Driver+`")].nodeID}`, "csinode", worker)
	t.Cleanup(func() {
		_, _ = r.Kubectl(context.WithoutCancel(r.ctx), "delete", "csinode", cloned, "--ignore-not-found")
	})
	if err := r.Apply(r.ctx, fmt.Sprintf(`{apiVersion: storage.k8s.io/v1, kind: CSINode, metadata: {name: %s}, spec: {drivers: [{name: %s, nodeID: "%s"}]}}`,
		cloned, kubernetes.Driver, strings.ToUpper(id))); err != nil {
		t.Fatal(err)
	}
	r.initiatorsSay("Several nodes have one initiator name", cloned)
	r.apply(claim("data", 2, once), pod("app", "data", on(worker)))
	r.eventually("the event that the attach is refused", func() error {
		events, err := r.Kubectl(r.ctx, "--namespace="+r.namespace, "get", "events", "-o", `jsonpath={range .items[?(@.reason=="FailedAttachVolume")]}{.message}{"\n"}{end}`)
		for _, part := range []string{id, worker, cloned, "docs/operate-initiators.md"} {
			if err == nil && !strings.Contains(events, part) {
				err = fmt.Errorf("no %s in the events %q", part, events)
			}
		}
		return err
	})
	r.kubectl("delete", "csinode", cloned)
	r.initiatorsSay("No two nodes have this initiator name any more", strings.ToLower(id))
	r.ready("app")
}

// initiatorsSay waits for a line of the container's log that has all parts.
func (r *room) initiatorsSay(parts ...string) {
	r.Helper()
	r.eventually(fmt.Sprintf("the log of initiators to have %q", parts), func() error {
		log, err := r.Kubectl(r.ctx, "--namespace="+kubernetes.Namespace, "logs", "--selector=app.kubernetes.io/component=controller", "--container=initiators", "--tail=-1")
		if err != nil {
			return err
		}
		for line := range strings.Lines(log) {
			missing := 0
			for _, part := range parts {
				if !strings.Contains(line, part) {
					missing++
				}
			}
			if missing == 0 {
				return nil
			}
		}
		return fmt.Errorf("it says %q", tailOf(log, 500))
	})
}
