package controller_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"github.com/datera-csi/datera-csi/pkg/controller"
)

// sharing makes the lab's controller one that knows which nodes have which name.
func (l *lab) sharing(nodes map[string][]string) {
	backends := controller.OpenBackends(controller.BackendsConfig{Dir: l.dir, Concurrency: 16, Agent: "controller-test"})
	l.Server = controller.New(controller.Config{Backends: backends, Namesakes: func(_ context.Context, initiator string) []string {
		return nodes[strings.ToLower(initiator)]
	}})
}

// FM 10: nodes that share an initiator name get nothing that they have not, until each
// has a name of its own; what they have they keep, and can give back.
func TestNodesWithOneInitiatorNameGetNoVolume(t *testing.T) {
	l := start(t)
	shared := map[string][]string{}
	l.sharing(shared)
	id, had := l.create(t, "pvc-1"), l.create(t, "pvc-2")
	if _, err := l.publish(t.Context(), had, node1); err != nil {
		t.Fatal(err)
	}
	shared[node1] = []string{"worker-1", "worker-2"}
	l.requests()
	for what, volume := range map[string]string{"a volume": id, "a volume that is published to that name": had} {
		_, err := l.publish(t.Context(), volume, node1)
		wantCode(t, what, err, codes.FailedPrecondition, node1, "worker-1, worker-2", "docs/operate-initiators.md", "restart its iscsid", "delete the plugin's pod")
	}
	if asked := l.requests(); len(asked) != 0 {
		t.Errorf("the array was asked %q", asked)
	}
	if diff := cmp.Diff(l.acl(t, had), []string{node1}); diff != "" {
		t.Errorf("ACL of what was published before (-got +want):\n%s", diff)
	}
	if _, err := l.publish(t.Context(), id, node2); err != nil {
		t.Errorf("a node with a name of its own: %v", err)
	}
	for volume, node := range map[string]string{had: node1, id: node2} {
		if err := l.unpublish(t.Context(), volume, node); err != nil {
			t.Errorf("unpublish %s from %s: %v", volume, node, err)
		}
	}
	if err := l.delete(t.Context(), had); err != nil {
		t.Error(err)
	}
	delete(shared, node1) // worker-2 has got a name of its own
	if _, err := l.publish(t.Context(), id, node1); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(l.acl(t, id), []string{node1}); diff != "" {
		t.Errorf("ACL (-got +want):\n%s", diff)
	}
}

// An event holds a kilobyte, a rack of cloned nodes more names than that.
func TestTheRefusalOfManyNamesakesStaysShort(t *testing.T) {
	l := start(t)
	var nodes []string
	for i := range 500 {
		nodes = append(nodes, fmt.Sprintf("worker-%03d", i))
	}
	l.sharing(map[string][]string{node1: nodes})
	_, err := l.publish(t.Context(), l.create(t, "pvc-1"), node1)
	wantCode(t, "publish", err, codes.FailedPrecondition, "worker-000", "worker-007 and 492 more", "docs/operate-initiators.md")
	if n := len(err.Error()); n > 800 {
		t.Errorf("%d bytes: %v", n, err)
	}
}
