// Package walkthrough is the article's story on a cluster, told and proven step by step. The manifests are
// the shipped examples.
package walkthrough

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
	"github.com/datera-csi/datera-csi/test/e2e/tell"
	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

const (
	set       = "test-petset"
	first     = set + "-0"
	patience  = 5 * time.Minute
	staticApp = "CSI-pv-datera-0" // what the example static.yaml names
	staticPod = "kube-pv-demo"    // and its pod
)

// Play tells the whole story.
func Play(ctx context.Context, t *tell.Teller, c *kubernetes.Cluster) error {
	root, err := testbed.ModuleRoot()
	if err != nil {
		return err
	}
	s := &story{tell: t, cluster: c, examples: filepath.Join(root, "deploy", "kubernetes", "examples")}
	for _, chapter := range []func(context.Context) error{
		s.introduce, s.static, s.provision, s.scale, s.move, s.lose, s.comeBack, s.tidy,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	t.Ended()
	return nil
}

type story struct {
	tell     *tell.Teller
	cluster  *kubernetes.Cluster
	examples string
	checksum string // of what pod 0 wrote
	dead     string // the node that was lost
}

// show runs kubectl and shows the command and its output.
func (s *story) show(ctx context.Context, args ...string) (string, error) {
	out, err := s.cluster.Kubectl(ctx, args...)
	if err != nil {
		return "", err
	}
	shown := make([]string, len(args))
	for i, arg := range args {
		shown[i] = strings.TrimPrefix(arg, filepath.Dir(filepath.Dir(filepath.Dir(s.examples)))+"/")
		if strings.ContainsAny(arg, " {") {
			shown[i] = "'" + arg + "'"
		}
	}
	s.tell.Output("", "kubectl "+strings.Join(shown, " "), []byte(out))
	return out, nil
}

// shows is show for those who read the output only.
func (s *story) shows(ctx context.Context, args ...string) error {
	_, err := s.show(ctx, args...)
	return err
}

func (s *story) apply(ctx context.Context, example string) error {
	return s.shows(ctx, "apply", "-f", filepath.Join(s.examples, example))
}

// onNode shows a command on a node.
func (s *story) onNode(ctx context.Context, node, command string) (string, error) {
	guest, err := s.cluster.Worker(node)
	if err != nil {
		return "", err
	}
	out, err := guest.Shell(ctx, command)
	if err != nil {
		return "", err
	}
	s.tell.Output(node, command, out)
	return string(out), nil
}

func (s *story) introduce(ctx context.Context) error {
	s.tell.Step("The cluster, the driver, and a StorageClass")
	return errors.Join(
		s.shows(ctx, "get", "nodes"),
		s.shows(ctx, "get", "pods", "--namespace="+kubernetes.Namespace),
		s.apply(ctx, "storageclass-xfs.yaml"),
		s.shows(ctx, "get", "storageclass"),
	)
}

// static is the article's first half: a volume that an administrator made, a claim for it, a pod.
func (s *story) static(ctx context.Context) error {
	s.tell.Step("An administrator has made a volume on the array; a pod uses it")
	if err := s.makeApp(ctx); err != nil {
		return err
	}
	if err := s.useStatic(ctx); err != nil {
		return err
	}
	if err := errors.Join(s.shows(ctx, "get", "pv"), s.shows(ctx, "get", "pvc"), s.shows(ctx, "get", "pods", "-o", "wide")); err != nil {
		return err
	}
	mounts, err := s.show(ctx, "exec", staticPod, "--", "sh", "-c", "mount | grep /data; df -h /data")
	if err != nil {
		return err
	}
	if !strings.Contains(mounts, "on /data type xfs") {
		return errors.New("/data is no xfs")
	}
	node, err := s.cluster.Field(ctx, "{.spec.nodeName}", "pod", staticPod)
	if err != nil {
		return err
	}
	disks, err := s.onNode(ctx, node, "lsscsi")
	if err != nil {
		return err
	}
	if !strings.Contains(disks, "DATERA") || !strings.Contains(disks, "IBLOCK") || !strings.Contains(disks, "4.0") {
		return errors.New("lsscsi shows no DATERA IBLOCK 4.0")
	}
	if err = s.awaitPaths(ctx, node, staticApp, 2); err != nil {
		return err
	}
	s.tell.Proved("the pod's /data is xfs on a volume of the array, by two paths")
	return s.retain(ctx)
}

// useStatic makes the volume's PersistentVolume, the claim and the pod, and waits for the pod.
func (s *story) useStatic(ctx context.Context) error {
	if err := s.apply(ctx, "article/static.yaml"); err != nil {
		return err
	}
	_, err := s.cluster.Kubectl(ctx, "wait", "--for=condition=Ready", "pod/"+staticPod, "--timeout=5m")
	return err
}

// awaitPaths waits until a volume has that many disks on a node, all beneath one map.
func (s *story) awaitPaths(ctx context.Context, node, app string, paths int) error {
	access, err := s.cluster.AccessOf(ctx, app)
	if err != nil {
		return err
	}
	guest, err := s.cluster.Worker(node)
	if err != nil {
		return err
	}
	// The map of each disk of each session to the volume's target, one a line.
	script := "for session in $(grep -lxF " + access.IQN + " /sys/class/iscsi_session/*/targetname); do" +
		" for disk in ${session%/*}/device/target*/*/block/*; do ls $disk/holders; done; done"
	return kubernetes.Eventually(ctx, fmt.Sprintf("%d paths of %s on %s", paths, app, node), patience, func() error {
		out, err := guest.Shell(ctx, script)
		maps := strings.Fields(string(out))
		if err == nil && (len(maps) != paths || len(slices.Compact(maps)) != 1) {
			err = fmt.Errorf("the maps of its disks are %q", out)
		}
		return err
	})
}

// retain takes pod, claim and PersistentVolume away, and looks whether the volume is still there, and with it
// what the pod wrote.
func (s *story) retain(ctx context.Context) error {
	checksum, err := s.write(ctx, staticPod)
	if err != nil {
		return err
	}
	if err = s.release(ctx); err != nil {
		return err
	}
	if err = s.useStatic(ctx); err != nil {
		return err
	}
	if err = s.expect(ctx, staticPod, checksum); err != nil {
		return err
	}
	s.tell.Proved("Retain: the volume is still on the array, with its data")
	if err = s.release(ctx); err != nil {
		return err
	}
	return s.cluster.DeleteApp(ctx, staticApp)
}

// release takes pod, claim and PersistentVolume away; Retain keeps the volume.
func (s *story) release(ctx context.Context) error {
	if err := s.shows(ctx, "delete", "-f", filepath.Join(s.examples, "article", "static.yaml")); err != nil {
		return err
	}
	if err := s.gone(ctx, "volumeattachments"); err != nil {
		return err
	}
	apps, err := s.cluster.Array.AppInstances(ctx)
	if err != nil {
		return err
	}
	if strings.Join(apps, " ") != staticApp {
		return fmt.Errorf("the array has %v, want the retained volume", apps)
	}
	return nil
}

// makeApp does what the administrator does on the array.
func (s *story) makeApp(ctx context.Context) error {
	s.tell.Say("On the array: app instance %s, one volume of 100 GiB, three replicas.", staticApp)
	return s.cluster.MakeApp(ctx, staticApp, 100)
}

func (s *story) gone(ctx context.Context, kind string) error {
	return kubernetes.Eventually(ctx, "the last of "+kind+" to go", patience, func() error {
		left, err := s.cluster.Kubectl(ctx, "get", kind, "-o", "name")
		if err == nil && strings.TrimSpace(left) != "" {
			err = fmt.Errorf("there are %s", strings.Fields(left))
		}
		return err
	})
}

func (s *story) rollout(ctx context.Context) error {
	_, err := s.cluster.Kubectl(ctx, "rollout", "status", "statefulset/"+set, "--timeout=5m")
	return err
}

// provision is the StatefulSet of two.
func (s *story) provision(ctx context.Context) error {
	s.tell.Step("A StatefulSet of two brings two volumes to life")
	if err := s.apply(ctx, "article/statefulset.yaml"); err != nil {
		return err
	}
	if err := s.rollout(ctx); err != nil {
		return err
	}
	return errors.Join(s.shows(ctx, "get", "pods", "-o", "wide"), s.shows(ctx, "get", "pvc"), s.shows(ctx, "get", "pv"))
}

func (s *story) scale(ctx context.Context) error {
	s.tell.Step("Scaled to three, the third volume comes to life by itself")
	if err := s.shows(ctx, "patch", "statefulset", set, "-p", `{"spec":{"replicas":3}}`); err != nil {
		return err
	}
	began := time.Now()
	if err := s.rollout(ctx); err != nil {
		return err
	}
	if err := errors.Join(s.shows(ctx, "get", "pods", "-o", "wide"), s.shows(ctx, "get", "pvc")); err != nil {
		return err
	}
	s.tell.Proved("claim, volume, admission, login, mkfs.xfs, mount, pod: %.1f s", time.Since(began).Seconds())
	return nil
}

// write puts data into a pod's volume, synced as a database does, and returns what expect wants to read.
func (s *story) write(ctx context.Context, pod string) (checksum string, err error) {
	checksum, err = s.cluster.Exec(ctx, pod, "dd if=/dev/urandom of=/data/rows bs=1M count=8 conv=fsync 2>/dev/null; sha256sum /data/rows")
	s.tell.Say("%s has written 8 MiB of random data, SHA-256 %s", pod, strings.Fields(checksum + " ?")[0])
	return checksum, err
}

// expect reads what was written.
func (s *story) expect(ctx context.Context, pod, checksum string) error {
	got, err := s.cluster.Exec(ctx, pod, "sha256sum /data/rows")
	if err == nil && got != checksum {
		err = fmt.Errorf("the data has changed: %s, was %s", got, checksum)
	}
	return err
}

// same tells whether pod 0 still reads what it wrote, from the disk of the node that it is on now.
func (s *story) same(ctx context.Context, node string) error {
	if err := s.expect(ctx, first, s.checksum); err != nil {
		return err
	}
	s.tell.Proved("on %s it reads the same SHA-256", node)
	return nil
}

// awaitOn waits until pod 0 is ready on a node as another pod than before.
func (s *story) awaitOn(ctx context.Context, node, before string) error {
	return kubernetes.Eventually(ctx, first+" on "+node, patience, func() error {
		state, err := s.cluster.Field(ctx, `{.metadata.uid} {.spec.nodeName} {.status.conditions[?(@.type=="Ready")].status}`, "pod", first)
		fields := strings.Fields(state)
		if err == nil && (len(fields) != 3 || fields[0] == before || fields[1] != node || fields[2] != "True") {
			err = fmt.Errorf("it is %q", state)
		}
		return err
	})
}
