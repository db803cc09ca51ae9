//go:build e2e

package kubernetes_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
)

const zoneLabel = "topology.kubernetes.io/zone"

// Two backends in two zones, tenants of one array: a pod's volume is made in the backend that its node
// reaches, and the pod stays where its volume is.
func TestVolumesAreMadeInTheZoneOfTheirPod(t *testing.T) {
	r := useCluster(t)
	zones := map[string]string{"east": r.Workers[0].Name, "west": r.Workers[1].Name}
	for zone, node := range zones {
		r.makeBackend(zone)
		r.kubectl("label", "node", node, zoneLabel+"="+zone)
	}
	t.Cleanup(func() { r.oneBackend(zones) })
	r.deploy("zones")
	for zone, node := range zones {
		r.apply(claim("data-"+zone, 2, once), pod("writer-"+zone, "data-"+zone, "nodeSelector: {"+zoneLabel+": "+zone+"},"))
		r.ready("writer-" + zone)
		r.fill("writer-" + zone)
		if got := r.node("writer-" + zone).Name; got != node {
			t.Errorf("the pod of %s is on %s, want %s", zone, got, node)
		}
		if handle := r.app("data-" + zone); !strings.HasPrefix(handle, zone+"/") {
			t.Errorf("the volume of %s is %s", zone, handle)
		}
		bound := r.field("{.spec.nodeAffinity.required.nodeSelectorTerms[*].matchExpressions[*].values[*]}", "pv", r.field("{.spec.volumeName}", "pvc", "data-"+zone))
		if bound != zone {
			t.Errorf("the volume of %s is reached from %q", zone, bound)
		}
	}
	r.kubectl("delete", "pod", "writer-east", "writer-west")
	r.kubectl("delete", "pvc", "data-east", "data-west")
	r.expect("", "{.items[*].metadata.name}", "pv")
}

// makeBackend makes a tenant of the array and the Secret of a backend for it, reached from the zone of its
// name.
func (r *room) makeBackend(zone string) {
	r.Helper()
	var made struct{}
	if err := r.Array.REST(r.ctx, http.MethodPost, "/tenants", map[string]string{"name": zone}, &made); err != nil {
		r.Fatal(err)
	}
	dir := r.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(r.Array.Backends, "default"))); err != nil {
		r.Fatal(err)
	}
	for name, content := range map[string]string{"tenant": "/root/" + zone, "topology": zoneLabel + "=" + zone} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			r.Fatal(err)
		}
	}
	r.kubectl("create", "secret", "generic", "datera-csi-backend-"+zone, "--namespace="+kubernetes.Namespace, "--from-file="+dir)
}

// oneBackend puts the cluster back.
func (r *room) oneBackend(zones map[string]string) {
	defer r.outlive()()
	for zone, node := range zones {
		r.kubectl("label", "node", node, zoneLabel+"-")
		r.kubectl("delete", "secret", "datera-csi-backend-"+zone, "--namespace="+kubernetes.Namespace)
	}
	r.deploy("")
}

// deploy applies one of the laboratory's manifests and waits until it serves.
func (r *room) deploy(overlay string) {
	r.Helper()
	if err := r.Deploy(r.ctx, overlay); err != nil {
		r.Fatal(err)
	}
}
