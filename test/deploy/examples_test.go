package deploy_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
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
