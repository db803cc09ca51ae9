package deploy_test

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/controller"
)

const driver = "dsp.csi.daterainc.io"

// files reads every manifest below a directory.
func files(t *testing.T, dir string) map[string][]runtime.Object {
	t.Helper()
	all := map[string][]runtime.Object{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for doc := range strings.SplitSeq(string(text), "\n---\n") {
			if obj := decode(t, path, []byte(doc)); obj != nil {
				all[path] = append(all[path], obj)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestExamplesNameWhatTheyNeed: what an example refers to is in the examples, and
// belongs to this driver. That the driver takes their parameters is tested in
// pkg/controller.
func TestExamplesNameWhatTheyNeed(t *testing.T) {
	all := files(t, filepath.Join(manifests, "examples"))
	classes := map[string]bool{"": true}
	for path, objects := range all {
		for _, obj := range objects {
			switch o := obj.(type) {
			case *storagev1.StorageClass:
				classes[o.Name] = true
				if o.Provisioner != driver {
					t.Errorf("%s: class %s is made by %s", path, o.Name, o.Provisioner)
				}
			case *storagev1.VolumeAttributesClass:
				if o.DriverName != driver {
					t.Errorf("%s: class %s is of %s", path, o.Name, o.DriverName)
				}
			}
		}
	}
	if len(classes) < 8 {
		t.Errorf("only %d classes", len(classes)-1)
	}
	for path, objects := range all {
		for _, class := range namedClasses(objects) {
			if !classes[class] {
				t.Errorf("%s: no example has the StorageClass %s", path, class)
			}
		}
	}
}

// TestSnippetsOfTheDocuments: what install.md and configure.md show in YAML is taken by
// the base, if it is of a kustomization, else by the chart as values.
func TestSnippetsOfTheDocuments(t *testing.T) {
	base, err := filepath.Abs(filepath.Join(manifests, "base"))
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, doc := range []string{"install.md", "configure.md"} {
		text, err := os.ReadFile(filepath.Join("../../docs", doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			snippet := block[1]
			tried++
			if !strings.HasPrefix(snippet, "patches:") && !strings.HasPrefix(snippet, "images:") {
				objects(t, snippet)
				continue
			}
			dir := t.TempDir()
			there, err := filepath.Rel(dir, base)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte("resources: ["+there+"]\n"+snippet), 0o600); err != nil {
				t.Fatal(err)
			}
			build(t, dir)
		}
	}
	if tried < 2 {
		t.Errorf("only %d snippets", tried)
	}
}

// TestTheDocumentsShowLogsWhole: kubectl shows ten lines of each container that it finds
// by a label, and of a Deployment or a DaemonSet one pod.
func TestTheDocumentsShowLogsWhole(t *testing.T) {
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, doc := range docs {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range regexp.MustCompile("kubectl [^`\n|]* logs [^`\n|]*").FindAllString(string(text), -1) {
			tried++
			one := strings.Contains(command, " POD ")
			all := strings.Contains(command, " -l ") && strings.Contains(command, "--tail=-1") && strings.Contains(command, "--prefix")
			if !one && !all {
				t.Errorf("%s: %s", doc, command)
			}
		}
	}
	if tried < 5 {
		t.Errorf("only %d commands", tried)
	}
}

// namedClasses are the StorageClasses that claims, volumes, StatefulSets and pods name.
func namedClasses(objects []runtime.Object) []string {
	var names []string
	claim := func(spec corev1.PersistentVolumeClaimSpec) {
		if spec.StorageClassName != nil {
			names = append(names, *spec.StorageClassName)
		}
	}
	for _, obj := range objects {
		switch o := obj.(type) {
		case *corev1.PersistentVolumeClaim:
			claim(o.Spec)
		case *corev1.PersistentVolume:
			names = append(names, o.Spec.StorageClassName)
		case *appsv1.StatefulSet:
			for _, c := range o.Spec.VolumeClaimTemplates {
				claim(c.Spec)
			}
		case *corev1.Pod:
			for _, v := range o.Spec.Volumes {
				if v.Ephemeral != nil {
					claim(v.Ephemeral.VolumeClaimTemplate.Spec)
				}
			}
		}
	}
	return names
}

// start starts the driver's controller in front of a simulated array that has the
// app template of the examples.
func start(t *testing.T) *controller.Server {
	t.Helper()
	array := simtest.Start(t)
	array.API(t, "/root", http.MethodPost, "/app_templates", `{"name":"kubernetes-bronze","storage_templates":[{"name":"storage-1",
		"volume_templates":[{"name":"volume-1","size":10,"replica_count":2,"placement_mode":"hybrid"}]}]}`)
	backends := controller.OpenBackends(controller.BackendsConfig{Dir: array.BackendDir(t, "default"), Concurrency: 16, Agent: "test"})
	return controller.New(controller.Config{Backends: backends})
}

// TestTheDriverTakesTheExamples: every class makes a volume, every attributes class
// changes one, every snapshot class makes a snapshot, as the sidecars would ask.
func TestTheDriverTakesTheExamples(t *testing.T) {
	server := start(t)
	tried := 0
	for path, objects := range files(t, filepath.Join(manifests, "examples")) {
		secrets := map[string]string{}
		for _, obj := range objects {
			if s, ok := obj.(*corev1.Secret); ok {
				secrets = s.StringData
			}
		}
		for _, obj := range objects {
			var err error
			switch o := obj.(type) {
			case *storagev1.StorageClass:
				err = provision(t, server, o, secrets)
			case *storagev1.VolumeAttributesClass:
				_, err = server.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{
					VolumeId: volume(t, server, "modified-by-"+o.Name), MutableParameters: o.Parameters})
			case *snapshotv1.VolumeSnapshotClass:
				_, err = server.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{
					Name: "snapshot-" + o.Name, SourceVolumeId: volume(t, server, "snapshot-of-"+o.Name), Parameters: o.Parameters})
			default:
				continue
			}
			tried++
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	if tried < 10 {
		t.Errorf("only %d classes tried", tried)
	}
}

// provision makes a volume of a class as the provisioner does: keys with its prefix
// are its own, secrets come if the class names one.
func provision(t *testing.T, server *controller.Server, class *storagev1.StorageClass, secrets map[string]string) error {
	t.Helper()
	const own = "csi.storage.k8s.io/"
	parameters := map[string]string{}
	for key, value := range class.Parameters {
		if !strings.HasPrefix(key, own) {
			parameters[key] = value
		}
	}
	if class.Parameters[own+"provisioner-secret-name"] == "" {
		secrets = nil
	}
	_, err := server.CreateVolume(t.Context(), request(class.Name, class.Parameters[own+"fstype"], parameters, secrets))
	return err
}

func volume(t *testing.T, server *controller.Server, name string) string {
	t.Helper()
	answer, err := server.CreateVolume(t.Context(), request(name, "xfs", nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetVolume().GetVolumeId()
}

func request(name, fsType string, parameters, secrets map[string]string) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, Parameters: parameters, Secrets: secrets,
		CapacityRange: &csi.CapacityRange{RequiredBytes: 100 << 30},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType}},
		}},
	}
}
