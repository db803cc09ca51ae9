package controller_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/internal/sim"
)

// runbook runs the shell commands of a document in docs against the array, one
// after the other, and then script, and gives what script printed.
func (l *lab) runbook(t *testing.T, document, script string) string {
	t.Helper()
	for _, tool := range []string{"bash", "curl", "jq"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the commands in docs/%s need %s", document, tool)
		}
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", document))
	if err != nil {
		t.Fatal(err)
	}
	var commands strings.Builder
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(text, -1) {
		commands.Write(block[1])
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-e", "-u", "-o", "pipefail", "-c", commands.String()+"\necho '---'\n"+script)
	cmd.Env = append(os.Environ(), "ARRAY="+l.array.URL, "ARRAY_USER="+l.array.User, "ARRAY_PASSWORD="+l.array.Password)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("docs/%s: %v\n%s", document, err, out)
	}
	_, said, _ := strings.Cut(string(out), "---\n")
	return said
}

func TestRunbookOfRetainedVolumes(t *testing.T) {
	l := start(t)
	var names []string
	for i := range 120 { // more than a page
		names = append(names, l.create(t, fmt.Sprint("other-", i)))
	}
	id := l.create(t, "pvc-1", parameters("deletionPolicy", "retain-offline"))
	uuid := l.volume(t, id).UUID
	if err := l.delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	listed := l.runbook(t, "operate-retained-volumes.md", `list /app_instances | jq -r '.name' | grep ^RETAINED-`)
	name := strings.TrimSpace(listed)
	if !strings.HasSuffix(name, id) {
		t.Fatalf("listed: %q", listed)
	}
	said := l.runbook(t, "operate-retained-volumes.md", "restore "+name+" "+id+"; purge "+id+" || echo refused")
	if !strings.Contains(said, id+" is online") || !strings.Contains(said, "refused") || l.volume(t, id).UUID != uuid {
		t.Errorf("restored: %s", said)
	}
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Error(err)
	}
	if err := l.unpublish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	if err := l.delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	said = l.runbook(t, "operate-retained-volumes.md", "purge_older_than 1; echo so far; sleep 1.1; purge_older_than 0")
	if before, after, _ := strings.Cut(said, "so far"); before != "" || !strings.Contains(after, "is purged") {
		t.Errorf("purged: %s", said)
	}
	if l.api(t, http.MethodGet, "/app_instances/"+names[0], nil, nil); t.Failed() {
		t.Error("what was not retained is gone")
	}
}

// What any ACL or group names is spared, and so is what the driver has not made.
func TestRunbookOfInitiators(t *testing.T) {
	l := start(t, func(cfg *sim.Config) { cfg.Limits.Initiators = 4 })
	id := l.create(t, "pvc-1", func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = []*csi.VolumeCapability{shared()} })
	sharedRequest := func(id, node string) *csi.ControllerPublishVolumeRequest {
		return &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: node, VolumeCapability: shared()}
	}
	const old, grouped, foreign = "iqn.2001-01.com.example:old", "iqn.2001-01.com.example:grouped", "iqn.2001-01.com.example:foreign"
	for _, iqn := range []string{old, grouped, node1} {
		if _, err := l.publishAs(t.Context(), sharedRequest(id, iqn)); err != nil {
			t.Fatal(err)
		}
	}
	l.api(t, http.MethodPost, "/initiators", map[string]any{"id": foreign, "name": "by-hand"}, nil)
	l.api(t, http.MethodPost, "/initiator_groups", map[string]any{"name": "team", "members": []map[string]any{{"path": "/initiators/" + grouped}}}, nil)
	for _, iqn := range []string{old, grouped} {
		if err := l.unpublish(t.Context(), id, iqn); err != nil {
			t.Fatal(err)
		}
	}
	_, err := l.publishAs(t.Context(), sharedRequest(id, node2))
	wantCode(t, "one too many", err, codes.FailedPrecondition, node2, "limit of 4", "docs/operate-initiators.md")
	said := l.runbook(t, "operate-initiators.md", "prune_initiators")
	if strings.TrimSpace(said) != old+" is deleted" {
		t.Errorf("pruned: %q, want only %s", said, old)
	}
	if _, err = l.publishAs(t.Context(), sharedRequest(id, node2)); err != nil {
		t.Error(err)
	}
	if got := l.acl(t, id); len(got) != 2 {
		t.Errorf("admitted are %v, want both nodes", got)
	}
}
