package sanity_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// skip is a skip of csi-test's own: what it does not ask of a plugin that does
// not advertise the capability.
type skip struct {
	message    string // as csi-test gives it
	specs      int    // how many specs say so, in each suite
	capability string // while this is not advertised; "" when no capability decides
	reason     string // why the plugin is like that
}

// pending comes before the name of a spec that csi-test has switched off.
const pending = "pending: Controller Service [Controller Server] "

// skips lists every skip that is right. A spec that is skipped and not in here
// fails the test, as does an entry whose capability is advertised: the list
// shrinks as the plugin grows.
func skips() []skip {
	const (
		group   = "the array freezes volumes together only within one app instance, and each volume of ours has its own (docs/limits.md)"
		kubelet = "the scheduler keeps a node's limit; the array knows volumes of other drivers and none of a node's own disks"
	)
	return []skip{
		{"GroupControllerService not supported", 6, "plugin GROUP_CONTROLLER_SERVICE", group},
		{"SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported", 1, "plugin SNAPSHOT_ACCESSIBILITY_CONSTRAINTS",
			"alpha in CSI v1.13, and nothing to choose: a snapshot lies on the array of its volume"},
		{"ControllerPublishVolume.readonly field not supported", 1, "controller PUBLISH_READONLY",
			"the array admits an initiator for reading and writing or not at all; read-only is the node's doing"},
		{"testnodevolumeattachlimit not enabled", 1, "", kubelet},
		{pending + "ListVolumes pagination should detect volumes added between pages and accept tokens when the last volume from a page is deleted", 1, "",
			"csi-test itself has switched it off; TestTokensOutliveWhatTheyPointTo in pkg/controller is of the same kind"},
	}
}

// checkSkips compares what was skipped with what is listed, and logs both.
func checkSkips(t *testing.T, report ginkgo.Report, advertised []string) {
	t.Helper()
	got, ran := make(map[string]int), 0
	for _, spec := range report.SpecReports {
		switch {
		case spec.LeafNodeType != types.NodeTypeIt:
		case spec.State == types.SpecStateSkipped:
			got[spec.Failure.Message]++
		case spec.State == types.SpecStatePending:
			got["pending: "+strings.Join(append(spec.ContainerHierarchyTexts[1:], spec.LeafNodeText), " ")]++ // without the suite
		default:
			ran++
		}
	}
	want := make(map[string]int)
	t.Logf("advertised: %v", advertised)
	t.Logf("%d specs ran", ran)
	for _, s := range skips() {
		want[s.message] = s.specs * len(suites())
		t.Logf("%3d skipped: %s: %s", got[s.message], s.message, s.reason)
		if s.capability != "" && slices.Contains(advertised, s.capability) {
			t.Errorf("%s is advertised and yet %q is in the list of skips", s.capability, s.message)
		}
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("specs skipped, by reason: got (-), want (+):\n%s", d)
	}
	if ran == 0 {
		t.Error("no spec ran")
	}
}

// advertised are the names of all capabilities, with the service before them.
func advertised(t *testing.T, address string) []string {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var all []string
	plugin, err := csi.NewIdentityClient(conn).GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range plugin.GetCapabilities() {
		if s := c.GetService(); s != nil {
			all = append(all, "plugin "+s.GetType().String())
		}
		if e := c.GetVolumeExpansion(); e != nil {
			all = append(all, "plugin expansion "+e.GetType().String())
		}
	}
	controller, err := csi.NewControllerClient(conn).ControllerGetCapabilities(t.Context(), &csi.ControllerGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range controller.GetCapabilities() {
		all = append(all, "controller "+c.GetRpc().GetType().String())
	}
	node, err := csi.NewNodeClient(conn).NodeGetCapabilities(t.Context(), &csi.NodeGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range node.GetCapabilities() {
		all = append(all, "node "+c.GetRpc().GetType().String())
	}
	return all
}
