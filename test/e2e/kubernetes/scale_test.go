//go:build e2e

package kubernetes_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
)

// Which pods of a StatefulSet start while others are not ready yet: none, as is the default, or all.
const (
	oneByOne = "OrderedReady"
	atOnce   = "Parallel"
)

// pets is a StatefulSet whose pods only hold their volume; claims go with their pods.
func pets(name string, replicas int, start string) string {
	return fmt.Sprintf(`{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: %[1]s}, spec: {serviceName: %[1]s, replicas: %[2]d,
  podManagementPolicy: %[4]s, persistentVolumeClaimRetentionPolicy: {whenScaled: Delete, whenDeleted: Delete},
  selector: {matchLabels: {app: %[1]s}}, template: {metadata: {labels: {app: %[1]s}}, spec: {terminationGracePeriodSeconds: 1,
  containers: [{name: pause, image: "%[3]s", volumeMounts: [{name: data, mountPath: /data}]}]}},
  volumeClaimTemplates: [{metadata: {name: data}, spec: {storageClassName: datera, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]}}`,
		name, replicas, kubernetes.PauseImage, start)
}

// A StatefulSet goes from nothing to many replicas at once and back, and nothing is left. What of a pod's way
// to ready is spent in the driver, where it waits for its turn too, is printed beside the whole of it.
func TestScaleUpAndBackLeavesNothing(t *testing.T) {
	const replicas = 50 // as many as two emulated workers carry
	r := useClusterFor(t, 2*morePatient)
	r.scaleUp(replicas, atOnce)
	began := time.Now()
	r.kubectl("scale", "statefulset", "pets", "--replicas=0")
	r.emptied(morePatient)
	t.Logf("%d to 0 in %.0f s", replicas, time.Since(began).Seconds())
}

// A StatefulSet that starts its pods one after the other, as it does by default, shows what a pod's own volume
// takes of its way to ready.
func TestScaleUpOneByOne(t *testing.T) {
	const replicas = 5
	useCluster(t).scaleUp(replicas, oneByOne)
}

// scaleUp brings a StatefulSet to life and prints where the time went.
func (r *room) scaleUp(replicas int, start string) {
	r.Helper()
	before, err := r.Spent(r.ctx)
	if err != nil {
		r.Fatal(err)
	}
	began := time.Now()
	r.apply(pets("pets", replicas, start))
	r.awaitReplicas("pets", replicas)
	wall := time.Since(began)
	after, err := r.Spent(r.ctx)
	if err != nil {
		r.Fatal(err)
	}
	r.report(replicas, wall, before, after)
	if apps, lookErr := r.Array.AppInstances(r.ctx); lookErr != nil || len(apps) != replicas {
		r.Errorf("the array has %d app instances, want %d: %v", len(apps), replicas, lookErr)
	}
}

func (r *room) awaitReplicas(set string, replicas int) {
	r.Helper()
	r.kubectl("rollout", "status", "statefulset/"+set, "--timeout=35m")
	if got := r.field("{.status.readyReplicas}", "statefulset", set); got != fmt.Sprint(replicas) {
		r.Errorf("%s has %s replicas ready, want %d", set, got, replicas)
	}
}

// report prints where the time of a scale-up went.
func (r *room) report(replicas int, wall time.Duration, before, after kubernetes.Spent) {
	r.Helper()
	var pods struct {
		Items []struct {
			Metadata struct{ CreationTimestamp time.Time }
			Status   struct {
				Conditions []struct {
					Type               string
					LastTransitionTime time.Time
				}
			}
		}
	}
	if err := r.Get(r.ctx, &pods, "pods", "--namespace="+r.namespace); err != nil {
		r.Fatal(err)
	}
	var total time.Duration
	for _, p := range pods.Items {
		for _, c := range p.Status.Conditions {
			if c.Type == "Ready" {
				total += c.LastTransitionTime.Sub(p.Metadata.CreationTimestamp)
			}
		}
	}
	perPod := total.Seconds() / float64(max(1, len(pods.Items)))
	var ours float64
	for _, call := range []string{"CreateVolume", "ControllerPublishVolume", "NodeStageVolume", "NodePublishVolume"} {
		spent := after[call].Minus(before[call])
		r.Logf("%-24s %3d calls, %6.2f s each", call, spent.Calls, spent.Each())
		if spent.Calls < replicas {
			r.Errorf("the metrics know %d calls of %s, want %d at least", spent.Calls, call, replicas)
		}
		ours += spent.Seconds / float64(replicas)
	}
	r.Logf("0 to %d in %.0f s; a pod takes %.1f s from its creation to ready, %.1f s of it in calls of the driver (%.0f %%)",
		replicas, wall.Seconds(), perPod, ours, 100*ours/perPod)
}

// The leading controller is killed amid a scale-up: the other one takes over, every replica gets its volume,
// and none is made twice.
func TestControllerLeaderIsKilledAmidAScaleUp(t *testing.T) {
	r := useClusterFor(t, morePatient)
	const replicas = 20
	r.controllers(2)
	leader := r.leader()
	r.apply(pets("crowd", replicas, atOnce))
	r.eventually("some volumes to be made", func() error {
		apps, err := r.Array.AppInstances(r.ctx)
		if err == nil && len(apps) < 3 {
			err = fmt.Errorf("there are %d", len(apps))
		}
		return err
	})
	r.kubectl("delete", "pod", leader, "--namespace="+kubernetes.Namespace, "--grace-period=0", "--force")
	r.awaitReplicas("crowd", replicas)
	if apps, err := r.Array.AppInstances(r.ctx); err != nil || len(apps) != replicas {
		t.Errorf("the array has %d app instances, want %d: %v", len(apps), replicas, err)
	}
	if now := r.leader(); now == leader {
		t.Errorf("%s still leads", leader)
	}
	r.controllers(1)
}

// The leading controller is evicted, as when its node is drained: the budget lets one go and not both, and a claim gets
// its volume from the other.
func TestTheOtherControllerServesWhenOneIsEvicted(t *testing.T) {
	r := useCluster(t)
	t.Cleanup(func() {
		defer r.outlive()()
		r.controllers(1)
	})
	r.controllers(2)
	r.expect("2 1", "{.status.currentHealthy} {.status.disruptionsAllowed}", "poddisruptionbudget", "datera-csi-controller", inDriver)
	leader := r.leader()
	pods := strings.Fields(r.field("{.items[*].metadata.name}", "pods", inDriver, controllersOnly))
	pods = slices.DeleteFunc(pods, func(pod string) bool { return pod == leader })
	if len(pods) != 1 {
		t.Fatalf("beside %s there are %v, want one", leader, pods)
	}
	if out, err := r.evict(leader); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := r.evict(pods[0]); err == nil || !strings.Contains(out, "disruption budget") {
		t.Errorf("the last one that is ready is evicted, too: %s %v", out, err)
	}
	r.apply(claim("data", 2, once), pod("writer", "data", ""))
	r.ready("writer")
	r.fill("writer")
	if now := r.leader(); now == leader {
		t.Errorf("%s still leads", leader)
	}
}

const controllersOnly = "--selector=app.kubernetes.io/component=controller"

// controllers sets how many there are.
func (r *room) controllers(replicas int) {
	r.Helper()
	r.kubectl("scale", "deployment/datera-csi-controller", inDriver, fmt.Sprintf("--replicas=%d", replicas))
	r.kubectl("rollout", "status", "deployment/datera-csi-controller", inDriver, "--timeout=8m")
}

// evict asks for a pod of the driver to go, as a drain does, and returns what kubectl says.
func (r *room) evict(pod string) (string, error) {
	r.Helper()
	eviction := fmt.Sprintf(`{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": %q, "namespace": %q}}`, pod, kubernetes.Namespace)
	return r.Shell(r.ctx, r.TempDir(), r.namespace,
		fmt.Sprintf("kubectl create --raw /api/v1/namespaces/%s/pods/%s/eviction -f - <<<'%s'", kubernetes.Namespace, pod, eviction))
}

// leader is the pod whose provisioner leads.
func (r *room) leader() string {
	r.Helper()
	holder := r.field(`{.spec.holderIdentity}`, "lease", "dsp-csi-daterainc-io", "--namespace="+kubernetes.Namespace)
	for _, pod := range strings.Fields(r.field("{.items[*].metadata.name}", "pods", "--namespace="+kubernetes.Namespace, controllersOnly)) {
		if strings.Contains(holder, pod) {
			return pod
		}
	}
	r.Fatalf("no pod is %q, which leads", holder)
	return ""
}
