//go:build e2e

package kubernetes_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
)

// The overlay for trying the driver out brings its own array: the simulator on a node of the cluster, with that
// node's kernel as the target. Pods on that node and on the other one use its volumes, and data moves between them.
func TestSimulatorOfTheOverlayServesVolumes(t *testing.T) {
	r := useCluster(t)
	array, other := r.Workers[0].Name, r.Workers[1].Name
	r.kubectl("label", "node", array, "datera-csi/simulator=true")
	r.kubectl("delete", "secret", "datera-csi-backend-default", inDriver)
	t.Cleanup(func() { r.backToTheArray(array) })
	r.deploy("simulator")
	r.kubectl("rollout", "status", "deployment/datera-sim", inDriver, "--timeout=8m")
	r.nameTheSimulator(array)

	r.apply(claim("data", 2, once), pod("there", "data", on(other)))
	r.ready("there")
	sum := r.fill("there")
	if apps, err := r.Array.AppInstances(r.ctx); err != nil || len(apps) > 0 {
		t.Errorf("the volume is on the laboratory's array: %v, %v", apps, err)
	}
	r.kubectl("delete", "pod", "there")
	r.apply(pod("here", "data", on(array)))
	r.ready("here")
	r.expectRows("here", sum)
	r.kubectl("delete", "pod", "here")
	r.kubectl("delete", "pvc", "data")
	r.expect("", "{.items[*].metadata.name}", "pv")
}

const inDriver = "--namespace=" + kubernetes.Namespace

func on(node string) string { return "nodeSelector: {kubernetes.io/hostname: " + node + "}," }

// nameTheSimulator tells the controller where the simulator's Service is: the laboratory's cluster has neither DNS
// nor anything that translates the addresses of services.
func (r *room) nameTheSimulator(node string) {
	r.Helper()
	address := r.field(`{.status.addresses[?(@.type=="InternalIP")].address}`, "node", node)
	r.kubectl("patch", "deployment", "datera-csi-controller", inDriver, "-p", fmt.Sprintf(
		`{"spec": {"template": {"spec": {"hostAliases": [{"ip": %q, "hostnames": ["datera-sim.datera-csi.svc"]}]}}}}`, address))
	if err := r.AwaitReady(r.ctx); err != nil {
		r.Fatal(err)
	}
}

// backToTheArray puts the cluster back.
func (r *room) backToTheArray(node string) {
	defer r.outlive()()
	r.kubectl("delete", "deployment/datera-sim", "service/datera-sim", "secret/datera-csi-backend-default", inDriver, "--ignore-not-found")
	r.kubectl("label", "node", node, "datera-csi/simulator-")
	r.kubectl("patch", "deployment", "datera-csi-controller", inDriver, "-p", `{"spec": {"template": {"spec": {"hostAliases": null}}}}`)
	r.kubectl("create", "secret", "generic", "datera-csi-backend-default", inDriver, "--from-file="+filepath.Join(r.Array.Backends, "default"))
	r.deploy("")
}
