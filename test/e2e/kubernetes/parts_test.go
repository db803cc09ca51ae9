package kubernetes

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/test/e2e/testbed"
)

// The cluster runs sidecars by the names that the manifests give them, so what is built must be what they say.
func TestSidecarsAreOfTheVersionsThatTheManifestsName(t *testing.T) {
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	named := map[string]string{}
	for _, m := range regexp.MustCompile(`sig-storage/csi-(\w+)\n\s+newTag: (v\S+)`).FindAllStringSubmatch(read("deploy/kubernetes/base/kustomization.yaml"), -1) {
		named[m[1]] = m[2]
	}
	built := map[string]string{}
	for _, m := range regexp.MustCompile(`kubernetes-csi/external-(\w+)/v\d+ (v\S+)`).FindAllStringSubmatch(read("test/e2e/kubernetes/binaries/go.mod"), -1) {
		built[m[1]] = m[2]
	}
	if len(named) == 0 || len(built) == 0 {
		t.Fatalf("found %v and %v", named, built)
	}
	if diff := cmp.Diff(named, built); diff != "" {
		t.Errorf("-manifests +test/e2e/kubernetes/binaries/go.mod:\n%s", diff)
	}
}

// What helm does to the chart on the cluster is what test/deploy renders.
func TestHelmIsOfTheVersionThatRendersTheChart(t *testing.T) {
	root, err := testbed.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	version := func(module string) string {
		content, err := os.ReadFile(filepath.Join(root, module, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`helm\.sh/helm/v3 (v\S+)`).FindSubmatch(content)
		if found == nil {
			t.Fatalf("%s/go.mod does not name helm", module)
		}
		return string(found[1])
	}
	if here, there := version("test/e2e/kubernetes/helm"), version("test/deploy"); here != there {
		t.Errorf("test/e2e/kubernetes/helm has %s, test/deploy %s", here, there)
	}
}

func TestAnImageThatTheLaboratoryLacksIsNamed(t *testing.T) {
	if got, err := programOf("registry.k8s.io/sig-storage/csi-node-driver-registrar:v2.17.0"); got != "registrar" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := programOf("quay.io/other/thing:v1"); err == nil || err.Error() != "the manifests name the image quay.io/other/thing:v1, which the laboratory does not have" {
		t.Errorf("got %v", err)
	}
}
