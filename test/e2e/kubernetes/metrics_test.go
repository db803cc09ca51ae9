package kubernetes

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestMetricsOfCallsAddUp(t *testing.T) {
	got := Spent{}
	for _, page := range []string{
		`# HELP csi_sidecar_operations_seconds
csi_sidecar_operations_seconds_bucket{driver_name="dsp.csi.daterainc.io",grpc_status_code="OK",method_name="/csi.v1.Controller/CreateVolume",le="0.1"} 1
csi_sidecar_operations_seconds_sum{driver_name="dsp.csi.daterainc.io",grpc_status_code="OK",method_name="/csi.v1.Controller/CreateVolume"} 1.5
csi_sidecar_operations_seconds_count{driver_name="dsp.csi.daterainc.io",grpc_status_code="OK",method_name="/csi.v1.Controller/CreateVolume"} 2
csi_sidecar_operations_seconds_sum{driver_name="dsp.csi.daterainc.io",grpc_status_code="Aborted",method_name="/csi.v1.Controller/CreateVolume"} 0.5
csi_sidecar_operations_seconds_count{driver_name="dsp.csi.daterainc.io",grpc_status_code="Aborted",method_name="/csi.v1.Controller/CreateVolume"} 1
`, `csi_operations_seconds_sum{driver_name="dsp.csi.daterainc.io",grpc_status_code="OK",method_name="/csi.v1.Node/NodeStageVolume",migrated="false"} 3
csi_operations_seconds_count{driver_name="dsp.csi.daterainc.io",grpc_status_code="OK",method_name="/csi.v1.Node/NodeStageVolume",migrated="false"} 3
csi_operations_seconds_count{driver_name="another",grpc_status_code="OK",method_name="/csi.v1.Node/NodeStageVolume",migrated="false"} 9
`,
	} {
		if err := got.add(page); err != nil {
			t.Fatal(err)
		}
	}
	want := Spent{"CreateVolume": {3, 2}, "NodeStageVolume": {3, 3}}
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-9)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
