package deploy_test

import (
	"bytes"
	gocmp "cmp"
	"encoding/base64"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/kustomize/kyaml/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

const chartDir = "../../deploy/charts/datera-csi"

var update = flag.Bool("update", false, "write the table of values in the chart's README anew")

func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.LoadDir(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// render renders the chart as "helm install --namespace datera-csi" does on the
// newest Kubernetes, the check of the values against their schema included.
func render(t *testing.T, values string) (map[string]string, error) {
	t.Helper()
	return renderFor(t, "v1.37.0", values)
}

func renderFor(t *testing.T, kubernetes, values string) (map[string]string, error) {
	t.Helper()
	c := loadChart(t)
	given, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	options := chartutil.ReleaseOptions{Name: "datera-csi", Namespace: "datera-csi", IsInstall: true, Revision: 1}
	cluster := chartutil.DefaultCapabilities.Copy()
	cluster.KubeVersion = chartutil.KubeVersion{Version: kubernetes}
	all, err := chartutil.ToRenderValues(c, given, options, cluster)
	if err != nil {
		return nil, err
	}
	return engine.Render(c, all)
}

// objects decodes what the chart renders, strictly.
func objects(t *testing.T, values string) []runtime.Object {
	t.Helper()
	out, err := render(t, values)
	if err != nil {
		t.Fatal(err)
	}
	var all []runtime.Object
	for _, name := range slices.Sorted(maps.Keys(out)) {
		if filepath.Ext(name) != ".yaml" {
			continue
		}
		for doc := range strings.SplitSeq(out[name], "\n---") {
			if strings.TrimSpace(strings.Trim(doc, "-")) == "" {
				continue
			}
			if obj := decode(t, name, []byte(doc)); obj != nil {
				all = append(all, obj)
			}
		}
	}
	return all
}

// plain is every object by kind and name, without the labels by which Helm marks
// what is its own, and with volumes in the order of their names: kustomize has one of
// its own, and none counts.
func plain(t *testing.T, all []runtime.Object) map[string]map[string]any {
	t.Helper()
	for _, p := range pods(all) {
		slices.SortFunc(p.spec.Volumes, func(a, b corev1.Volume) int { return strings.Compare(a.Name, b.Name) })
		for _, c := range p.containers() {
			slices.SortFunc(c.VolumeMounts, func(a, b corev1.VolumeMount) int { return strings.Compare(a.MountPath, b.MountPath) })
		}
	}
	found := map[string]map[string]any{}
	for _, obj := range all {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
		if err != nil {
			t.Fatal(err)
		}
		metadata := content["metadata"].(map[string]any)
		if labels, ok := metadata["labels"].(map[string]any); ok {
			delete(labels, "app.kubernetes.io/managed-by")
			delete(labels, "helm.sh/chart")
		}
		found[fmt.Sprintf("%s/%s", content["kind"], metadata["name"])] = content
	}
	return found
}

// TestTheChartIsTheBase, and each overlay is the chart with some values.
func TestTheChartIsTheBase(t *testing.T) {
	for dir, values := range map[string]string{
		"base":                    "",
		"overlays/single-replica": "controller: {replicas: 1}",
		"overlays/startup-taint":  "node: {startupTaint: true}",
		"overlays/several-backends": "backends: [{name: east}, {name: west}]\n" +
			"node: {topologyKeys: [topology.kubernetes.io/zone]}",
	} {
		t.Run(dir, func(t *testing.T) {
			want := plain(t, build(t, filepath.Join(manifests, dir)))
			delete(want, "Namespace/datera-csi") // helm makes it
			if diff := cmp.Diff(plain(t, objects(t, values)), want); diff != "" {
				t.Errorf("chart (-), kustomize (+):\n%s", diff)
			}
		})
	}
}

func TestTheChartsVersionIsTheImages(t *testing.T) {
	c := loadChart(t)
	if c.Metadata.AppVersion != "v"+c.Metadata.Version {
		t.Errorf("version %s of appVersion %s", c.Metadata.Version, c.Metadata.AppVersion)
	}
	install, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	if command := "make image VERSION=" + c.Metadata.AppVersion + " "; !strings.Contains(string(install), command) {
		t.Errorf("docs/install.md does not say %q", command)
	}
}

func TestTheChartMakesBackendsAndClasses(t *testing.T) {
	all := plain(t, objects(t, `
backends:
  - name: default
    endpoint: https://10.0.0.5:7718
    username: admin
    password: "p:ä#"
    tenant: /root/prod
    caCert: |
      -----BEGIN CERTIFICATE-----
      x
  - name: laboratory
    endpoint: https://10.0.0.6:7718
    username: admin
    password: x
    insecureSkipTLSVerify: true
    proxy: https://proxy:3129
    topology: topology.kubernetes.io/zone=east
  - name: made-by-hand
storageClasses:
  - name: fast
    annotations: {storageclass.kubernetes.io/is-default-class: "true"}
    parameters: {replica_count: 3, total_bandwidth_max: 1024000, round_robin: true, csi.storage.k8s.io/fstype: xfs}
    allowVolumeExpansion: false
    allowedTopologies:
      - matchLabelExpressions: [{key: topology.kubernetes.io/zone, values: [east, west]}]
snapshots: false
seLinuxMount: false
networkPolicy: false
`))
	secret := decoded(t, all["Secret/datera-csi-backend-default"]["data"])
	want := map[string]any{"endpoint": "https://10.0.0.5:7718", "username": "admin", "password": "p:ä#", "tenant": "/root/prod", "ca.crt": "-----BEGIN CERTIFICATE-----\nx\n"}
	if d := cmp.Diff(secret, any(want)); d != "" {
		t.Errorf("backend: got (-), want (+):\n%s", d)
	}
	secret = decoded(t, all["Secret/datera-csi-backend-laboratory"]["data"])
	want = map[string]any{"endpoint": "https://10.0.0.6:7718", "username": "admin", "password": "x", "insecure-skip-tls-verify": "true",
		"proxy": "https://proxy:3129", "topology": "topology.kubernetes.io/zone=east"}
	if d := cmp.Diff(secret, any(want)); d != "" {
		t.Errorf("laboratory: got (-), want (+):\n%s", d)
	}
	class := all["StorageClass/fast"]
	if d := cmp.Diff(class["parameters"], any(map[string]any{"replica_count": "3", "total_bandwidth_max": "1024000", "round_robin": "true", "csi.storage.k8s.io/fstype": "xfs"})); d != "" {
		t.Errorf("class: got (-), want (+):\n%s", d)
	}
	if class["allowVolumeExpansion"] != false || class["volumeBindingMode"] != string(storagev1.VolumeBindingWaitForFirstConsumer) {
		t.Errorf("class %v", class)
	}
	zones := []any{map[string]any{"matchLabelExpressions": []any{map[string]any{"key": "topology.kubernetes.io/zone", "values": []any{"east", "west"}}}}}
	if d := cmp.Diff(class["allowedTopologies"], any(zones)); d != "" {
		t.Errorf("where its volumes may be: got (-), want (+):\n%s", d)
	}
	if spec := all["CSIDriver/dsp.csi.daterainc.io"]["spec"].(map[string]any); spec["seLinuxMount"] != false {
		t.Errorf("driver %v", spec)
	}
	for _, name := range []string{"Secret/datera-csi-backend-made-by-hand", "NetworkPolicy/datera-csi-node"} {
		if all[name] != nil {
			t.Errorf("%s is made, too", name)
		}
	}
	if text := fmt.Sprint(all["Deployment/datera-csi-controller"], all["ClusterRole/datera-csi-controller"]); strings.Contains(text, "snapshot") {
		t.Error("without snapshots there is still a snapshotter or its rights")
	}
}

// decoded is the data of a Secret as it reaches a pod.
func decoded(t *testing.T, data any) any {
	t.Helper()
	files := map[string]any{}
	for name, content := range data.(map[string]any) {
		plain, err := base64.StdEncoding.DecodeString(content.(string))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		files[name] = string(plain)
	}
	return files
}

// TestWhereThePluginRuns: on Linux, said once, and wherever the startup taint is that it is to remove.
func TestWhereThePluginRuns(t *testing.T) {
	node := templates(objects(t, `
controller: {nodeSelector: {kubernetes.io/os: linux, infra: "yes"}}
node:
  startupTaint: true
  nodeSelector: {kubernetes.io/os: linux, disk: "yes"}
  tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists}]
`))
	for pod, want := range map[string]map[string]string{
		"datera-csi-controller": {"kubernetes.io/os": "linux", "infra": "yes"},
		"datera-csi-node":       {"kubernetes.io/os": "linux", "disk": "yes"},
	} {
		if d := cmp.Diff(node[pod].Spec.NodeSelector, want); d != "" {
			t.Errorf("%s: got (-), want (+):\n%s", pod, d)
		}
	}
	want := []corev1.Toleration{
		{Key: "node-role.kubernetes.io/control-plane", Operator: corev1.TolerationOpExists},
		{Key: "dsp.csi.daterainc.io/starting", Operator: corev1.TolerationOpExists},
	}
	if d := cmp.Diff(node["datera-csi-node"].Spec.Tolerations, want); d != "" {
		t.Errorf("got (-), want (+):\n%s", d)
	}
	alone := templates(objects(t, "node: {startupTaint: true, tolerations: null}"))["datera-csi-node"].Spec.Tolerations
	if d := cmp.Diff(alone, want[1:]); d != "" {
		t.Errorf("no other taint: got (-), want (+):\n%s", d)
	}
	files, err := render(t, "node: {nodeSelector: {kubernetes.io/os: linux}}\ncontroller: {nodeSelector: {kubernetes.io/os: linux}}")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if n := strings.Count(text, "kubernetes.io/os:"); n > 1 {
			t.Errorf("%s names its system %d times, which a parser that takes no key twice refuses", name, n)
		}
	}
}

// TestTheLogLevelIsThatOfOurPrograms: sidecars stay at the level that the base has.
func TestTheLogLevelIsThatOfOurPrograms(t *testing.T) {
	for _, p := range pods(objects(t, "logLevel: 5")) {
		for _, c := range p.containers() {
			want := "-v=2"
			if strings.HasPrefix(c.Image, ours) {
				want = "-v=5"
			}
			if !slices.Contains(c.Args, want) {
				t.Errorf("%s/%s: %v, want %s", p.name, c.Name, c.Args, want)
			}
		}
	}
}

// TestValuesReachThePods: each in the pods and the container that it is of, and nowhere else.
func TestValuesReachThePods(t *testing.T) {
	before, after := templates(objects(t, "")), templates(objects(t, `
podLabels: {team: storage}
podAnnotations: {example.com/scrape: "true"}
controller:
  priorityClassName: high
  resources: {requests: {cpu: 1}, limits: null}
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms: [{matchExpressions: [{key: infra, operator: Exists}]}]
node:
  priorityClassName: higher
  resources: {limits: {memory: 2Gi}}
`))
	infra := corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "infra", Operator: corev1.NodeSelectorOpExists}}}
	controller, node := before["datera-csi-controller"], before["datera-csi-node"]
	controller.Spec.PriorityClassName, node.Spec.PriorityClassName = "high", "higher"
	controller.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{infra}},
	}}
	controller.Spec.Containers[0].Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("40Mi")},
	}
	node.Spec.InitContainers[0].Resources.Limits = corev1.ResourceList{"memory": resource.MustParse("2Gi")}
	for _, pod := range before {
		pod.Labels["team"], pod.Annotations["example.com/scrape"] = "storage", "true"
	}
	if d := cmp.Diff(after, before); d != "" {
		t.Errorf("got (-), want (+):\n%s", d)
	}
}

// templates are those of the pods of each workload, by its name.
func templates(all []runtime.Object) map[string]*corev1.PodTemplateSpec {
	found := map[string]*corev1.PodTemplateSpec{}
	for _, obj := range all {
		switch o := obj.(type) {
		case *appsv1.Deployment:
			found[o.Name] = &o.Spec.Template
		case *appsv1.DaemonSet:
			found[o.Name] = &o.Spec.Template
		}
	}
	return found
}

// TestThePolicyLetsOutWhatTheValuesName: an endpoint or a proxy on a port of its own
// is the controller's, what networkPolicyPorts adds is everybody's.
func TestThePolicyLetsOutWhatTheValuesName(t *testing.T) {
	common := []string{"443/TCP", "6443/TCP"}
	controller := slices.Concat([]string{"53/UDP", "53/TCP"}, common, []string{"7717-7718/TCP"})
	for name, c := range map[string]struct {
		values           string
		controller, node []string // besides what there is always
	}{
		"no port":         {"backends: [{name: a, endpoint: 'https://10.0.0.5', username: u, password: p}]", nil, nil},
		"the array's own": {"backends: [{name: a, endpoint: 'https://10.0.0.5:7718', username: u, password: p}]", nil, nil},
		"others, once each": {"backends: [{name: a, endpoint: 'https://10.0.0.5:8443', username: u, password: p, proxy: 'http://proxy:3128/'},\n" +
			"{name: b, endpoint: 'https://[fd00::5]:8443/', username: u, password: p, proxy: 'http://[fd00::6]'}]",
			[]string{"8443/TCP", "3128/TCP", "80/TCP"}, nil},
		"a proxy by TLS": {"backends: [{name: a, endpoint: 'http://array', username: u, password: p, proxy: 'https://proxy'}]", nil, nil},
		"what else": {"networkPolicyPorts: [5353, 16443]",
			[]string{"5353/TCP", "5353/UDP", "16443/TCP", "16443/UDP"}, []string{"5353/TCP", "5353/UDP", "16443/TCP", "16443/UDP"}},
	} {
		t.Run(name, func(t *testing.T) {
			want := map[string][]string{"datera-csi-controller": slices.Concat(controller, c.controller), "datera-csi-node": slices.Concat(common, c.node)}
			if d := cmp.Diff(egress(objects(t, c.values)), want); d != "" {
				t.Errorf("got (-), want (+):\n%s", d)
			}
		})
	}
}

// egress is what each network policy lets out.
func egress(all []runtime.Object) map[string][]string {
	found := map[string][]string{}
	for _, obj := range all {
		policy, ok := obj.(*networkingv1.NetworkPolicy)
		if !ok {
			continue
		}
		for _, rule := range policy.Spec.Egress {
			for _, port := range rule.Ports {
				text := port.Port.String()
				if port.EndPort != nil {
					text += fmt.Sprintf("-%d", *port.EndPort)
				}
				found[policy.Name] = append(found[policy.Name], text+"/"+string(*port.Protocol))
			}
		}
	}
	return found
}

func TestTheSchemaRefusesWhatNobodyReads(t *testing.T) {
	for name, c := range map[string]struct{ values, want string }{
		"a misspelt value":      {"controler: {replicas: 2}", "controler"},
		"none":                  {"controller: {replicas: 0}", "replicas"},
		"no version":            {"sidecars: {attacher: registry.k8s.io/sig-storage/csi-attacher}", "attacher"},
		"half a backend":        {"backends: [{name: a, endpoint: 'https://x'}]", "username"},
		"a password by itself":  {"backends: [{name: a, password: x}]", "endpoint"},
		"a class of no name":    {"storageClasses: [{parameters: {}}]", "name"},
		"an argument of no use": {"node: {extraArgs: [multipath]}", "extraArgs"},
		"a relative directory":  {"node: {kubeletDir: var/lib/kubelet}", "kubeletDir"},
		"a port of no number":   {"networkPolicyPorts: [dns]", "networkPolicyPorts"},
		"a label of ours":       {"podLabels: {app.kubernetes.io/component: storage}", "podLabels"},
		"an annotation of ours": {"podAnnotations: {kubectl.kubernetes.io/default-container: guard}", "podAnnotations"},
		"an unknown resource":   {"node: {resources: {cpu: 1}}", "resources"},
		"no priority":           {"node: {priorityClassName: ''}", "priorityClassName"},
		"a selector as such":    {"controller: {affinity: {infra: 'true'}}", "affinity"},
		"a place of no value":   {"storageClasses: [{name: a, parameters: {}, allowedTopologies: [{matchLabelExpressions: [{key: a}]}]}]", "values"},
		"a label no pod gets":   {"node: {topologyKeys: [example.com/rack]}", "topologyKeys"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := render(t, c.values); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to name %s", err, c.want)
			}
		})
	}
}

// TestPlacesByLabelNeedAKubernetesThatCopiesThem to pods; without them the chart
// would install, and every node would say that it is nowhere.
func TestPlacesByLabelNeedAKubernetesThatCopiesThem(t *testing.T) {
	const zone = "node: {topologyKeys: [topology.kubernetes.io/zone, topology.kubernetes.io/region]}"
	for _, old := range []string{"v1.34.0", "v1.34.9-gke.100"} {
		if _, err := renderFor(t, old, zone); err == nil || !strings.Contains(err.Error(), "--topology=") {
			t.Errorf("%s: got %v, want it to name the flag", old, err)
		}
		if _, err := renderFor(t, old, ""); err != nil {
			t.Errorf("%s without places: %v", old, err)
		}
	}
	for _, fit := range []string{"v1.35.0", "v1.35.0-eks.1", "v1.36.2+k3s1"} {
		if _, err := renderFor(t, fit, zone); err != nil {
			t.Errorf("%s: %v", fit, err)
		}
	}
}

func TestTheNotesSayWhatIsMissing(t *testing.T) {
	const file = "datera-csi/templates/NOTES.txt"
	out, err := render(t, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"create secret generic datera-csi-backend-default", "Make a StorageClass", "snapshot controller",
		"kubectl label namespace datera-csi pod-security.kubernetes.io/enforce=privileged"} {
		if !strings.Contains(out[file], want) {
			t.Errorf("the notes do not say %q:\n%s", want, out[file])
		}
	}
	out, err = render(t, "backends: [{name: default, endpoint: 'https://x', username: a, password: b}]\nsnapshots: false\nstorageClasses: [{name: a, parameters: {}}]")
	if err != nil {
		t.Fatal(err)
	}
	for _, not := range []string{"create secret", "StorageClass", "snapshot"} {
		if strings.Contains(out[file], not) {
			t.Errorf("the notes still say %q:\n%s", not, out[file])
		}
	}
}

// TestValuesAreInTheReadme keeps the table there: it is made of the comments.
func TestValuesAreInTheReadme(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	node, err := yaml.Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("| value | default | meaning |\n|---|---|---|\n")
	rows(t, &table, "", "", node.YNode())
	path := filepath.Join(chartDir, "README.md")
	readme, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const mark = "writes it anew. -->\n\n"
	head, _, found := bytes.Cut(readme, []byte(mark))
	if !found {
		t.Fatalf("%s has no mark", path)
	}
	want := string(head) + mark + table.String()
	if string(readme) == want {
		return
	}
	if !*update {
		t.Fatalf("the table in %s is out of date: go test ./... -run Values -update", path)
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// rows writes the values below a node, one a row; one without a comment has that of
// what it is in.
func rows(t *testing.T, to *strings.Builder, prefix, comment string, node *yaml.Node) {
	t.Helper()
	if node.Kind == yaml.DocumentNode {
		node = node.Content[0]
	}
	if node.Kind == yaml.MappingNode && len(node.Content) > 0 {
		for i := 0; i < len(node.Content); i += 2 {
			key := node.Content[i]
			rows(t, to, strings.TrimPrefix(prefix+"."+key.Value, "."), gocmp.Or(key.HeadComment, comment), node.Content[i+1])
		}
		return
	}
	words := strings.Join(strings.Fields(strings.ReplaceAll(comment, "#", " ")), " ")
	if words == "" {
		t.Errorf("values.yaml: %s has no comment", prefix)
	}
	var value any
	if err := node.Decode(&value); err != nil {
		t.Fatal(err)
	}
	text, err := sigsyaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	short := strings.Join(strings.Fields(strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", " ")), " ")
	fmt.Fprintf(to, "| `%s` | `%s` | %s |\n", prefix, short, words)
}
