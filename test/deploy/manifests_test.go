// Package deploy_test builds what deploy/ holds as its users do, and checks it
// against the types of Kubernetes and the help of the binaries.
package deploy_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

const manifests = "../../deploy/kubernetes"

// ours are the images that this repository builds.
const ours = "ghcr.io/datera-csi/"

// build builds a kustomization and returns its objects, decoded strictly: an unknown
// field, a field given twice and a wrong type are errors.
func build(t *testing.T, dir string) []runtime.Object {
	t.Helper()
	found, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []runtime.Object
	for _, r := range found.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		if obj := decode(t, r.CurId().String(), text); obj != nil {
			all = append(all, obj)
		}
	}
	return all
}

func decode(t *testing.T, name string, text []byte) runtime.Object {
	t.Helper()
	known := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(known), snapshotv1.AddToScheme(known)); err != nil {
		t.Fatal(err)
	}
	strict := serializer.NewCodecFactory(known, serializer.EnableStrict)
	obj, _, err := strict.UniversalDeserializer().Decode(text, nil, nil)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return nil
	}
	return obj
}

// kustomizations are the directories of deploy/kubernetes that can be built by
// themselves.
func kustomizations(t *testing.T) []string {
	t.Helper()
	var dirs []string
	err := filepath.WalkDir(manifests, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "kustomization.yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		if !strings.Contains(string(text), "kind: Component") {
			dirs = append(dirs, filepath.Dir(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) == 0 {
		t.Fatal("no kustomization found")
	}
	return dirs
}

// pod is the template of a workload, with the workload's name.
type pod struct {
	name string
	spec *corev1.PodSpec
}

func pods(objects []runtime.Object) []pod {
	var all []pod
	for _, obj := range objects {
		switch o := obj.(type) {
		case *appsv1.Deployment:
			all = append(all, pod{o.Name, &o.Spec.Template.Spec})
		case *appsv1.DaemonSet:
			all = append(all, pod{o.Name, &o.Spec.Template.Spec})
		case *appsv1.StatefulSet:
			all = append(all, pod{o.Name, &o.Spec.Template.Spec})
		case *corev1.Pod:
			all = append(all, pod{o.Name, &o.Spec})
		}
	}
	return all
}

func (p pod) containers() []corev1.Container {
	return slices.Concat(p.spec.InitContainers, p.spec.Containers)
}

// ofDriver says whether the pod is part of the driver, and not an example's.
func (p pod) ofDriver() bool { return strings.HasPrefix(p.name, "datera-") }

func TestEveryKustomizationBuilds(t *testing.T) {
	for _, dir := range kustomizations(t) {
		t.Run(strings.TrimPrefix(dir, manifests+"/"), func(t *testing.T) {
			if len(build(t, dir)) == 0 {
				t.Error("it holds nothing")
			}
		})
	}
}

func TestImagesArePinned(t *testing.T) {
	for _, dir := range kustomizations(t) {
		for _, p := range pods(build(t, dir)) {
			for _, c := range p.containers() {
				_, tag, tagged := strings.Cut(c.Image[strings.LastIndex(c.Image, "/")+1:], ":")
				if !tagged || tag == "latest" || !strings.HasPrefix(tag, "v") && !strings.ContainsAny(tag, "0123456789") {
					t.Errorf("%s: %s/%s: image %q has no version", dir, p.name, c.Name, c.Image)
				}
			}
		}
	}
}

// TestTheSnapshotControllerIsAsOldAsItsSidecar: install.md names the one, the base the other.
func TestTheSnapshotControllerIsAsOldAsItsSidecar(t *testing.T) {
	install, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods(build(t, filepath.Join(manifests, "base"))) {
		for _, c := range p.containers() {
			_, version, found := strings.Cut(c.Image, "/csi-snapshotter:v")
			if !found {
				continue
			}
			minor := version[:strings.LastIndex(version, ".")]
			if !strings.Contains(string(install), "external-snapshotter) "+minor+",") {
				t.Errorf("docs/install.md does not name external-snapshotter %s", minor)
			}
			return
		}
	}
	t.Error("the base has no snapshotter")
}

// privileged are the node plugin, which mounts, and the simulator, which works the
// kernel's target.
func privileged(p pod, c corev1.Container) bool {
	return p.name == "datera-csi-node" && c.Name == "datera-csi" || p.name == "datera-sim"
}

func TestPodsHaveTheLeastRights(t *testing.T) {
	for _, dir := range kustomizations(t) {
		for _, p := range pods(build(t, dir)) {
			if !p.ofDriver() {
				continue
			}
			for _, c := range p.containers() {
				for _, finding := range excess(p, c) {
					t.Errorf("%s: %s/%s: %s", dir, p.name, c.Name, finding)
				}
			}
		}
	}
}

func excess(p pod, c corev1.Container) []string {
	var found []string
	s := c.SecurityContext
	if s == nil {
		return []string{"no securityContext"}
	}
	if s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
		found = append(found, "its root file system can be written")
	}
	if privileged(p, c) {
		return found
	}
	if s.Privileged != nil && *s.Privileged || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
		found = append(found, "it may gain privileges")
	}
	if s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") {
		found = append(found, "it keeps capabilities")
	}
	root := c.Name == "csi-node-driver-registrar" // writes into a directory of the kubelet
	whole := p.spec.SecurityContext
	nonRoot := s.RunAsNonRoot != nil && *s.RunAsNonRoot || whole != nil && whole.RunAsNonRoot != nil && *whole.RunAsNonRoot
	if !nonRoot && !root {
		found = append(found, "it may run as root")
	}
	return found
}

// TestWhoUsesTheHostsFilesMayWhereSELinuxEnforces: a container that is not privileged
// has a type there that reaches no directory of the host.
func TestWhoUsesTheHostsFilesMayWhereSELinuxEnforces(t *testing.T) {
	seen := 0
	for _, dir := range kustomizations(t) {
		for _, p := range pods(build(t, dir)) {
			for _, c := range p.containers() {
				if privileged(p, c) || !usesHost(p, c) {
					continue
				}
				seen++
				if o := c.SecurityContext.SELinuxOptions; o == nil || o.Type != "spc_t" {
					t.Errorf("%s: %s/%s: SELinux options %v", dir, p.name, c.Name, o)
				}
			}
		}
	}
	if seen == 0 {
		t.Error("no container seen")
	}
}

// usesHost says whether a container has a directory of the host mounted.
func usesHost(p pod, c corev1.Container) bool {
	return slices.ContainsFunc(p.spec.Volumes, func(v corev1.Volume) bool {
		return v.HostPath != nil && slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name })
	})
}

// TestThePluginHasNoToken: neither the controller nor the node plugin calls the
// Kubernetes API, and neither could.
func TestThePluginHasNoToken(t *testing.T) {
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount"
	for _, p := range pods(build(t, filepath.Join(manifests, "base"))) {
		if p.spec.AutomountServiceAccountToken == nil || *p.spec.AutomountServiceAccountToken {
			t.Errorf("%s: every container gets the token", p.name)
		}
		for _, c := range p.containers() {
			has := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == dir })
			want := c.Name != "datera-csi" && c.Name != "csi-node-driver-registrar"
			if has != want {
				t.Errorf("%s/%s: has a token %v, want %v", p.name, c.Name, has, want)
			}
		}
	}
}

// TestEveryRuleOfRBACHasItsReason, and is as narrow as it can be said.
func TestEveryRuleOfRBACHasItsReason(t *testing.T) {
	rules := 0
	err := filepath.WalkDir(manifests, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i, doc := range strings.Split(string(text), "\n---\n") {
			node, err := yaml.Parse(doc)
			if err != nil {
				return fmt.Errorf("%s, document %d: %w", path, i+1, err)
			}
			if kind := node.GetKind(); kind != "ClusterRole" && kind != "Role" {
				continue
			}
			list, err := node.Pipe(yaml.Lookup("rules"))
			if err != nil || list == nil {
				return fmt.Errorf("%s, document %d: no rules: %w", path, i+1, err)
			}
			for n, rule := range list.Content() {
				rules++
				text, err := yaml.NewRNode(rule).String()
				if err != nil {
					return err
				}
				if !strings.Contains(rule.HeadComment, ": ") {
					t.Errorf("%s: rule %d of %s has no comment \"who: what for\":\n%s", path, n+1, node.GetName(), text)
				}
				if strings.Contains(text, "*") {
					t.Errorf("%s: rule %d of %s has a wildcard:\n%s", path, n+1, node.GetName(), text)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if rules < 15 {
		t.Errorf("only %d rules found", rules)
	}
}
