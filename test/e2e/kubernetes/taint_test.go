//go:build e2e

package kubernetes_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
)

const startupTaint = "dsp.csi.daterainc.io/starting"

// A node that begins with the taint gets pods once the driver is registered on it. The right that this takes is
// good for nothing else: the admission policy refuses whoever has a guard's token everything but its own taint.
func TestStartupTaintGoesAndItsRightIsGoodForNothingElse(t *testing.T) {
	r := useCluster(t)
	node, other := r.Workers[1].Name, r.Workers[0].Name
	r.kubectl("taint", "node", node, startupTaint+"=:NoSchedule")
	t.Cleanup(func() { r.withoutStartupTaint(node) })
	r.deploy("startup-taint")
	r.eventually("the taint to go", func() error {
		if taints := r.field("{.spec.taints[*].key}", "node", node); strings.Contains(taints, startupTaint) {
			return errors.New("the node has " + taints)
		}
		return nil
	})

	guard := r.field("{.items[0].metadata.name}", "pods", "--namespace="+kubernetes.Namespace, "--selector=app.kubernetes.io/component=node", "--field-selector=spec.nodeName="+node)
	token := r.kubectl("create", "token", "datera-csi-node", "--namespace="+kubernetes.Namespace, "--bound-object-kind=Pod", "--bound-object-name="+guard)
	const onlyTaints = "changes its taints only"
	for _, refused := range []struct {
		with string
		args []string
	}{
		{"changes no other node", []string{"taint", "node", other, startupTaint + "=:NoSchedule"}},
		{"removes its startup taint", []string{"taint", "node", node, "mine=:NoSchedule"}},
		{onlyTaints, []string{"label", "node", node, "mine=yes"}},
		// The garbage collector would delete it for an owner that does not exist (CVE-2025-5187).
		{onlyTaints, []string{"patch", "node", node, "--patch", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Namespace","name":"gone","uid":"0"}]}}`}},
		{onlyTaints, []string{"patch", "node", node, "--patch", `{"metadata":{"finalizers":["example.com/mine"]}}`}},
		{onlyTaints, []string{"patch", "node", node, "--patch", `{"spec":{"providerID":"example://mine"}}`}},
		{"nodes \"" + node + "\" is forbidden", []string{"delete", "node", node}},
	} {
		out, err := r.Kubectl(r.ctx, append([]string{"--token=" + token}, refused.args...)...)
		if err == nil || !strings.Contains(err.Error(), refused.with) {
			t.Errorf("kubectl %s with a guard's token: %s %v, want it refused: %s", strings.Join(refused.args, " "), out, err, refused.with)
		}
	}
	if _, err := r.Kubectl(r.ctx, "--token="+token, "taint", "node", node, startupTaint+"=:PreferNoSchedule"); err != nil {
		t.Errorf("its own taint is its own: %v", err)
	}
}

// withoutStartupTaint puts the cluster back.
func (r *room) withoutStartupTaint(node string) {
	defer r.outlive()()
	if strings.Contains(r.field("{.spec.taints[*].key}", "node", node), startupTaint) {
		r.kubectl("taint", "node", node, startupTaint+"-")
	}
	r.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "datera-csi-node")
	r.kubectl("delete", "clusterrolebinding,clusterrole", "datera-csi-node-startup-taint")
	r.deploy("")
}
