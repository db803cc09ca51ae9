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
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
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
	cmd.Env = append(os.Environ(), "ARRAY="+l.array.URL, "ARRAY_USER="+l.array.User, "ARRAY_PASSWORD="+l.array.Password, "PAGE=3")
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
	for i := range 5 { // more than a page
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

// TestRunbookTakesOutWhatAnotherDriverLeft in an access list: it is seen there with
// whether it has a session, and the volume is free for the node that wants it.
func TestRunbookTakesOutWhatAnotherDriverLeft(t *testing.T) {
	l := start(t)
	const busy = "iqn.2001-01.com.example:busy"
	l.vendorVolume(t, "CSI-pvc-1", node1, node2)
	l.vendorVolume(t, "CSI-pvc-2", busy)
	var used object
	l.api(t, http.MethodGet, "/app_instances/CSI-pvc-2", nil, &used)
	l.array.LogIn(t, used.StorageInstances[0].Access.IQN, busy)
	said := l.runbook(t, "operate-initiators.md", "admitted; take_out CSI-pvc-1 "+node2+"; admitted; take_out CSI-pvc-3 "+node2+" 2>/dev/null || echo no")
	row := func(cells ...string) string { return strings.Join(cells, "\t") + "\n" }
	want := row("CSI-pvc-1", node1, "idle") + row("CSI-pvc-1", node2, "idle") + row("CSI-pvc-2", busy, "in use") +
		node2 + " is out of CSI-pvc-1\n" + row("CSI-pvc-1", node1, "idle") + row("CSI-pvc-2", busy, "in use") + "no\n"
	if diff := cmp.Diff(said, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	if _, err := l.publish(t.Context(), "CSI-pvc-1", node1); err != nil {
		t.Error(err)
	}
}

// What is not known whole proves of no initiator that nothing names it: a page that
// fails, and a list that changes between two pages, spare all of them.
func TestPruningNeedsEveryPage(t *testing.T) {
	l := start(t)
	id := ""
	for i := range 4 { // a page and a bit
		id = l.create(t, fmt.Sprintf("pvc-%d", i))
	}
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Fatal(err)
	}
	const old = "iqn.2001-01.com.example:old"
	l.api(t, http.MethodPost, "/initiators", map[string]any{"id": old, "name": "CSI-old"}, nil)
	plan := func(path string, answered ...int) { // and then one that is refused, each time
		for _, n := range answered {
			l.array.Fail(simtest.Get(path), sim.Fault{Delay: 1, Times: n})
			l.array.Fail(simtest.Get(path), sim.Fault{Status: http.StatusForbidden})
		}
	}
	plan("/initiators", 2)       // the first look is the document's own
	plan("/app_instances", 4, 1) // in the second try of these it is the first page, in the third the second
	plan("/initiator_groups", 1) // in the fourth
	said := l.runbook(t, "operate-initiators.md", `
		for fault in "initiators" "app instances" "app instances, page 2" "groups"; do
			prune_initiators || echo "$fault: spared"
		done
		eval "ask_$(declare -f array)"
		array() {
			[[ $2 != /app_instances*offset=2 ]] || ask_array DELETE /app_instances/CSI-pvc-0 '{"force": true}' >/dev/null
			ask_array "$@"
		}
		prune_initiators || echo "changed: spared"
		eval "$(declare -f ask_array | sed 1s/ask_//)"
		prune_initiators`)
	said = regexp.MustCompile("(?m)^curl: .*\n").ReplaceAllString(said, "")
	want := "initiators: spared\napp instances: spared\napp instances, page 2: spared\ngroups: spared\n" +
		"/app_instances has changed while it was read: try again\nchanged: spared\n" + old + " is deleted\n"
	if diff := cmp.Diff(said, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

// FM 10: names that several nodes have are found, whatever their case.
func TestRunbookFindsSharedInitiators(t *testing.T) {
	said := start(t).runbook(t, "operate-initiators.md", `kubectl() { cat <<'EOF'
{"items": [
  {"metadata": {"name": "a"}, "spec": {"drivers": [{"name": "dsp.csi.daterainc.io", "nodeID": "iqn.2001-01.com.example:x"}]}},
  {"metadata": {"name": "b"}, "spec": {"drivers": [{"name": "dsp.csi.daterainc.io", "nodeID": "iqn.2001-01.com.example:y"}]}},
  {"metadata": {"name": "c"}, "spec": {"drivers": [{"name": "other", "nodeID": "iqn.2001-01.com.example:y"},
                                                   {"name": "dsp.csi.daterainc.io", "nodeID": "iqn.2001-01.com.example:X"}]}},
  {"metadata": {"name": "d"}, "spec": {"drivers": null}}]}
EOF
}
shared_names`)
	if want := "iqn.2001-01.com.example:x: a, c\n"; said != want {
		t.Errorf("got %q, want %q", said, want)
	}
}

// FM 33: what no PersistentVolume names is listed, and nothing when the cluster or
// the array is not heard to the end.
func TestRunbookListsOrphans(t *testing.T) {
	l := start(t)
	for i := range 4 {
		l.create(t, fmt.Sprint("pvc-", i))
	}
	l.api(t, http.MethodPost, "/app_instances", map[string]any{"name": "foreign", "storage_instances": []any{}}, nil)
	said := l.runbook(t, "operate-retained-volumes.md", `kubectl() { cat <<'EOF'
{"items": [
  {"spec": {"csi": {"driver": "dsp.csi.daterainc.io", "volumeHandle": "CSI-pvc-0"}}},
  {"spec": {"csi": {"driver": "dsp.csi.daterainc.io", "volumeHandle": "east/CSI-pvc-1"}}},
  {"spec": {"csi": {"driver": "other", "volumeHandle": "CSI-pvc-2"}}},
  {"spec": {"nfs": {}}}]}
EOF
}
orphans
echo east; orphans east
kubectl() { return 1; }
orphans || echo "no cluster"`)
	want := "CSI-pvc-1\nCSI-pvc-2\nCSI-pvc-3\neast\nCSI-pvc-0\nCSI-pvc-2\nCSI-pvc-3\nno cluster\n"
	if diff := cmp.Diff(said, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}
