//go:build e2e

// Package kubernetes_test proves on a real cluster, by kubectl, what users of the driver rely on; each
// promise is named by its test.
package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/kubernetes"
	"github.com/datera-csi/datera-csi/test/e2e/testbed"
	"github.com/datera-csi/datera-csi/test/e2e/vm"
	"github.com/datera-csi/datera-csi/test/e2e/vm/vmtest"
)

// patient is for one test; guests are slow under emulation. Tests of many pods have more.
const (
	patient     = 8 * time.Minute
	morePatient = 25 * time.Minute
)

func TestMain(m *testing.M) { vmtest.Main(m, shared.end) }

// sharedCluster is the cluster that all tests use, one after the other, each in a namespace of its own.
type sharedCluster struct {
	lab     *vm.Lab
	cluster *kubernetes.Cluster
	err     error // of the only try to start it
}

var shared sharedCluster

func (s *sharedCluster) start(ctx context.Context) error {
	if s.lab != nil || s.err != nil {
		return s.err
	}
	if s.lab, s.err = vm.Open(ctx, vm.Config{Progress: os.Stderr}); s.err != nil {
		return s.err
	}
	if s.cluster, s.err = kubernetes.Start(ctx, s.lab, kubernetes.Config{Helm: true, Progress: os.Stderr}); s.err != nil {
		return s.err
	}
	for _, example := range []string{"storageclass-xfs.yaml", "storageclass-ext4.yaml", "volumeattributesclass.yaml"} {
		if _, s.err = s.cluster.Kubectl(ctx, "apply", "-f", examples(example)); s.err != nil {
			return s.err
		}
	}
	return nil
}

// end may be called at any time. KEEP=1 keeps the cluster until Ctrl-C.
func (s *sharedCluster) end() {
	var errs []error
	if s.cluster != nil {
		if os.Getenv("KEEP") != "" {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
			s.cluster.Keep(ctx, os.Stderr)
			stop()
		}
		errs = append(errs, s.cluster.Close())
	}
	if s.lab != nil {
		errs = append(errs, s.lab.Close())
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// examples is the path of a shipped example.
func examples(name string) string {
	root, err := testbed.ModuleRoot()
	if err != nil {
		return name
	}
	return filepath.Join(root, "deploy", "kubernetes", "examples", name)
}

// room is a test's namespace.
type room struct {
	*testing.T
	*kubernetes.Cluster

	ctx       context.Context //nolint:containedctx // a test's own
	namespace string
}

// useCluster gives a test a namespace of the shared cluster. When the test ends it is deleted, and nothing
// may be left of its volumes.
func useCluster(t *testing.T) *room {
	t.Helper()
	return useClusterFor(t, patient)
}

func useClusterFor(t *testing.T, limit time.Duration) *room {
	t.Helper()
	vmtest.Require(t)
	if err := shared.start(context.WithoutCancel(t.Context())); err != nil {
		if shared.cluster != nil {
			vmtest.SaveLogs(t, shared.cluster.CollectLogs)
		}
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	name := strings.ToLower(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(strings.TrimPrefix(t.Name(), "Test"), "$1-$2"))
	r := &room{T: t, Cluster: shared.cluster, ctx: ctx, namespace: tailOf(name, 50)}
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			vmtest.SaveLogs(t, r.CollectLogs)
		}
		r.leave()
	})
	r.kubectl("create", "namespace", r.namespace)
	return r
}

func tailOf(s string, size int) string { return strings.Trim(s[max(0, len(s)-size):], "-") }

// leave deletes the namespace and waits until its volumes are gone.
func (r *room) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), patient) // the test's own has ended
	defer cancel()
	if _, err := r.Kubectl(ctx, "delete", "namespace", r.namespace, "--timeout=6m"); err != nil {
		r.Error(err)
		return
	}
	err := kubernetes.Eventually(ctx, "the volumes to be gone", 2*time.Minute, func() error {
		left, err := r.Kubectl(ctx, "get", "pv,volumeattachments", "-o", "name")
		if err == nil && strings.TrimSpace(left) != "" {
			err = fmt.Errorf("there are %s", strings.Fields(left))
		}
		if err != nil {
			return err
		}
		return r.NothingLeft(ctx)
	})
	if err != nil {
		r.Error(err)
	}
}

// kubectl runs kubectl in the test's namespace; failure ends the test.
func (r *room) kubectl(args ...string) string {
	r.Helper()
	out, err := r.Kubectl(r.ctx, append([]string{"--namespace=" + r.namespace}, args...)...)
	if err != nil {
		r.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (r *room) field(path string, args ...string) string {
	r.Helper()
	return r.kubectl(append([]string{"get", "--ignore-not-found", "-o", "jsonpath=" + path}, args...)...)
}

func (r *room) apply(manifests ...string) {
	r.Helper()
	for _, m := range manifests {
		if err := r.Apply(r.ctx, r.in(m)); err != nil {
			r.Fatal(err)
		}
	}
}

// in puts an object into the test's namespace.
func (r *room) in(manifest string) string {
	return strings.Replace(manifest, "metadata: {", "metadata: {namespace: "+r.namespace+", ", 1)
}

// exec runs a script in a pod and returns its output, trimmed.
func (r *room) exec(pod, script string) string {
	r.Helper()
	return r.kubectl("exec", pod, "--", "/bin/sh", "-ec", script)
}

func (r *room) ready(pod string) {
	r.Helper()
	r.kubectl("wait", "--for=condition=Ready", "pod/"+pod, "--timeout=4m")
}

// node is the guest that a pod is on.
func (r *room) node(pod string) *vm.Guest {
	r.Helper()
	guest, err := r.Worker(r.field("{.spec.nodeName}", "pod", pod))
	if err != nil {
		r.Fatal(err)
	}
	return guest
}

// app is the app instance of a claim's volume.
func (r *room) app(claim string) string {
	r.Helper()
	return r.field("{.spec.csi.volumeHandle}", "pv", r.field("{.spec.volumeName}", "pvc", claim))
}

// eventually ends the test when a condition does not come to hold.
func (r *room) eventually(what string, try func() error) {
	r.Helper()
	if err := kubernetes.Eventually(r.ctx, what, 4*time.Minute, try); err != nil {
		r.Fatal(err)
	}
}

// emptied waits until no volume is left on the array.
func (r *room) emptied(limit time.Duration) {
	r.Helper()
	err := kubernetes.Eventually(r.ctx, "the array to be empty", limit, func() error {
		apps, err := r.Array.AppInstances(r.ctx)
		if err == nil && len(apps) > 0 {
			err = fmt.Errorf("it has %v", apps)
		}
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
}

// outlive gives a room whose test has ended more time, to put the cluster back.
func (r *room) outlive() context.CancelFunc {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), patient)
	r.ctx = ctx
	return cancel
}

// expect is eventually for one field of an object.
func (r *room) expect(want, path string, args ...string) {
	r.Helper()
	r.eventually(fmt.Sprintf("%s of %v to be %s", path, args, want), func() error {
		got, err := r.Kubectl(r.ctx, append([]string{"--namespace=" + r.namespace, "get", "--ignore-not-found", "-o", "jsonpath=" + path}, args...)...)
		if err == nil && got != want {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}

// claim is a claim of the class datera; more goes into its spec.
func claim(name string, gib int, more string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: %s}, spec: {storageClassName: datera,
  resources: {requests: {storage: %dGi}}, %s}}`, name, gib, more)
}

const once = "accessModes: [ReadWriteOnce]"

// pod is a pod with a shell and a claim at /data; more goes into its spec.
func pod(name, claim, more string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {terminationGracePeriodSeconds: 1, %s
  containers: [{name: shell, image: "%s", command: [sh, -c, "trap exit TERM; sleep infinity & wait"], volumeMounts: [{name: data, mountPath: /data}]}],
  volumes: [{name: data, persistentVolumeClaim: {claimName: %s}}]}}`, name, more, kubernetes.ShellImage, claim)
}
