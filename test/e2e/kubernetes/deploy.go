package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// manifests are the shipped ones, with what emulation asks for.
const manifests = "test/e2e/kubernetes/manifests"

// slow bounds what takes seconds on an idle machine; emulated workers on a busy one take minutes.
const slow = 10 * time.Minute

// deploy installs the driver as docs/install.md says and waits until it serves on every node.
func (c *Cluster) deploy(ctx context.Context) error {
	if _, err := c.Kubectl(ctx, "create", "namespace", Namespace); err != nil {
		return err
	}
	if err := c.applyBackend(ctx, "default"); err != nil {
		return err
	}
	return c.Deploy(ctx, "")
}

// Deploy applies the laboratory's manifests, or those in a directory below them, and waits until they serve.
func (c *Cluster) Deploy(ctx context.Context, overlay string) error {
	if _, err := c.Kubectl(ctx, "apply", "-k", filepath.Join(c.parts.root, manifests, overlay)); err != nil {
		return fmt.Errorf("deploy the driver: %w", err)
	}
	return c.AwaitReady(ctx)
}

// applyBackend makes the Secret of a backend from the directory that the array offers.
func (c *Cluster) applyBackend(ctx context.Context, name string) error {
	_, err := c.Kubectl(ctx, "create", "secret", "generic", "datera-csi-backend-"+name, "--namespace="+Namespace,
		"--from-file="+filepath.Join(c.Array.Backends, name))
	return err
}

// AwaitReady waits until every node is ready with the driver on it, and every controller serves.
func (c *Cluster) AwaitReady(ctx context.Context) error {
	for _, w := range c.Workers {
		if err := c.awaitNode(ctx, w.Name); err != nil {
			return err
		}
	}
	c.tell("Both nodes are ready")
	for _, w := range c.Workers {
		err := Eventually(ctx, "the driver on "+w.Name, slow, func() error {
			drivers, err := c.Field(ctx, "{.spec.drivers[*].name}", "csinode", w.Name)
			if err == nil && !strings.Contains(drivers, Driver) {
				err = errors.New("it is not registered")
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	const daemons, replicas = "{.status.desiredNumberScheduled} {.status.updatedNumberScheduled} {.status.numberReady}",
		"{.spec.replicas} {.status.updatedReplicas} {.status.readyReplicas} {.status.replicas}"
	for _, wait := range [][]string{
		{"daemonset/datera-csi-node", Namespace, daemons},
		{"deployment/datera-csi-controller", Namespace, replicas},
		{"deployment/snapshot-controller", "kube-system", replicas},
	} {
		if err := c.awaitAll(ctx, wait[0], wait[1], wait[2]); err != nil {
			return err
		}
	}
	c.tell("The driver serves on both")
	return nil
}

// awaitAll waits until all pods of a workload are ready and of its newest template, and no others are left: until
// all counts are the same. "kubectl wait" for a Deployment's condition Available is content with one less, and
// "rollout status" gives up after ten minutes.
func (c *Cluster) awaitAll(ctx context.Context, workload, namespace, counts string) error {
	const generations = " {.metadata.generation} {.status.observedGeneration}"
	return Eventually(ctx, workload+" to be ready", 2*slow, func() error {
		out, err := c.Field(ctx, counts+generations, workload, "--namespace="+namespace)
		if err != nil {
			return err
		}
		n := strings.Fields(out)
		pods, seen := n[:max(0, len(n)-2)], n[max(0, len(n)-2):]
		if len(n) != strings.Count(counts, "{")+2 || len(slices.Compact(pods)) > 1 || len(slices.Compact(seen)) > 1 {
			return fmt.Errorf("%s and the two generations are %q", counts, out)
		}
		return nil
	})
}

func (c *Cluster) awaitNode(ctx context.Context, name string) error {
	return Eventually(ctx, "node "+name+" to be ready", slow, func() error {
		ready, err := c.Field(ctx, `{.status.conditions[?(@.type=="Ready")].status}`, "node", name)
		if err == nil && ready != "True" {
			err = fmt.Errorf("its condition Ready is %q", ready)
		}
		return err
	})
}

// CollectLogs writes what is known of the cluster to dir: objects, events, logs of pods, servers and guests.
func (c *Cluster) CollectLogs(ctx context.Context, dir string) error {
	all := []error{c.VM.CollectLogs(ctx, dir), os.MkdirAll(filepath.Join(dir, "cluster"), 0o755)}
	servers, err := filepath.Glob(c.plane.file("*.log"))
	all = append(all, err)
	for _, path := range servers {
		content, err := os.ReadFile(path)
		all = append(all, err, os.WriteFile(filepath.Join(dir, "cluster", filepath.Base(path)), content, 0o600))
	}
	for name, args := range map[string][]string{
		"objects.txt":  {"get", "-o", "wide", "-A", "nodes,pods,pvc,pv,volumeattachments,csinodes,csistoragecapacities,statefulsets,deployments,daemonsets"},
		"events.txt":   {"get", "events", "-A", "--sort-by=.metadata.creationTimestamp"},
		"describe.txt": {"describe", "-A", "nodes,pods,pvc,pv,volumeattachments,volumesnapshots,volumesnapshotcontents"},
	} {
		out, err := c.Kubectl(ctx, args...)
		if err != nil {
			out += "\n" + err.Error()
		}
		all = append(all, os.WriteFile(filepath.Join(dir, "cluster", name), []byte(out), 0o600))
	}
	return errors.Join(append(all, c.podLogs(ctx, filepath.Join(dir, "cluster")))...)
}

// podLogs keeps the logs of every container of the driver, and of the one before it if it was restarted.
func (c *Cluster) podLogs(ctx context.Context, dir string) error {
	var pods struct {
		Items []struct {
			Metadata struct{ Name, Namespace string }
		}
	}
	if err := c.Get(ctx, &pods, "pods", "-A"); err != nil {
		return nil //nolint:nilerr // a cluster without an API has no more to tell
	}
	for _, p := range pods.Items {
		if p.Metadata.Namespace == "default" {
			continue
		}
		out, err := c.Kubectl(ctx, "logs", "--namespace="+p.Metadata.Namespace, p.Metadata.Name, "--all-containers", "--prefix", "--tail=3000")
		before, _ := c.Kubectl(ctx, "logs", "--namespace="+p.Metadata.Namespace, p.Metadata.Name, "--all-containers", "--prefix", "--previous", "--ignore-errors")
		if err != nil {
			out += "\n" + err.Error()
		}
		if err := os.WriteFile(filepath.Join(dir, p.Metadata.Name+".log"), []byte(out+before), 0o600); err != nil {
			return err
		}
	}
	return nil
}
