package dateraclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// golden is a file of answers in the forms that arrays are known to give.
func golden(tb testing.TB, name string) string {
	tb.Helper()
	raw, err := os.ReadFile("testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(raw)
}

func TestAnswersOfDifferentProductsAreUnderstood(t *testing.T) {
	portals := []netip.AddrPort{netip.MustParseAddrPort("172.28.94.11:3260"), netip.MustParseAddrPort("172.29.94.11:3260")}
	// What the older product leaves out, or sends in another form, is not lost.
	old := dateraclient.Volume{
		Name: "CSI-pvc-1", ID: "55e1a9dc-b0d7-4bd6-b3ad-a4e4e4a3b1d1", CreateMode: "kubernetes",
		Online: true, Exported: true, StorageInstance: "storage-1", Child: "volume-1", Size: 16, Replicas: 3,
		PlacementMode: "hybrid", IPPool: "default", CHAP: "none",
		UUID: "7c4f6d1e-09d5-4b6f-8bb4-5f2fbb0a1c55", UsedBytes: 3 << 29,
		IQN: "iqn.2013-05.com.daterainc:tc:01:sn:5f2fbb0a1c55aa01", Portals: portals,
		Initiators: []string{hostA},
		Health: dateraclient.Health{
			App:             dateraclient.Condition{Health: "ok", Deployment: "deployed"},
			StorageInstance: dateraclient.Condition{Health: "ok", OpState: "available"},
			Volume:          dateraclient.Condition{Health: "ok", OpState: "available", Deployment: "deployed"},
		},
	}
	recent := old
	recent.Description, recent.Template, recent.PlacementPolicy, recent.CHAP = "PVC data", "gold", "all-flash", "mchap"
	recent.OpState = "cloning"
	recent.Online, recent.Exported = false, false
	recent.QoS = dateraclient.QoS{ReadIOPS: 100, TotalBandwidth: 2048}
	recent.InitiatorGroups, recent.ActiveInitiators = []string{"rack-1"}, []string{hostA, hostB}
	recent.Health = dateraclient.Health{
		App:             dateraclient.Condition{OpState: "cloning"},
		StorageInstance: dateraclient.Condition{OpState: "unavailable", Causes: []string{"offline"}},
	}
	recent.Source.Snapshot = "/app_instances/0001/storage_instances/storage-1/volumes/volume-1/snapshots/1446076384.00607846"
	recent.Snapshots = []dateraclient.Snapshot{
		{Path: "/a/snapshots/1446076293.118600738", UTCTS: "1446076293.118600738", UUID: uuid1, Available: true},
		{Path: "/a/snapshots/1446076384.00607846", UTCTS: "1446076384.00607846", UUID: uuid2},
		{Path: "/app_instances/1/snapshots/1446076999.5", UTCTS: "1446076999.5", Available: true},
	}
	for file, want := range map[string]dateraclient.Volume{"volume-3.0.json": old, "volume-3.3.json": recent} {
		f, s := newFake(t)
		f.rest = body(200, golden(t, file))
		got, err := client(t, s.URL).Volume(t.Context(), "CSI-pvc-1")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}

func TestVolumesThatCannotBeAreRefused(t *testing.T) {
	good := golden(t, "volume-3.0.json")
	for name, change := range map[string][2]string{
		"no id":           {`"id": "55e1a9dc-b0d7-4bd6-b3ad-a4e4e4a3b1d1"`, `"id": ""`},
		"half a GiB":      {`"size": 16`, `"size": 16.5`},
		"no size":         {`"size": 16`, `"size": 0`},
		"negative size":   {`"size": 16`, `"size": -1`},
		"astronomic size": {`"size": 16`, `"size": 1e300`},
		"no address":      {`"172.28.94.11"`, `"array.example"`},
	} {
		if !strings.Contains(good, change[0]) {
			t.Fatalf("%s: the golden file has no %s", name, change[0])
		}
		f, s := newFake(t)
		f.rest = body(200, strings.Replace(good, change[0], change[1], 1))
		if _, err := client(t, s.URL).Volume(t.Context(), "CSI-pvc-1"); !errors.Is(err, dateraclient.ErrShape) {
			t.Errorf("%s: got %v, want ErrShape", name, err)
		}
	}
}

func TestListWithOneUnintelligibleElement(t *testing.T) {
	f, s := newFake(t)
	f.rest = body(200, `{"data":[`+item(0)+`,{"name":"CSI-b","storage_instances":"none"},`+item(2)+`],
		"metadata":{"total_count":3,"offset":0}}`)
	var got []string
	for v, err := range client(t, s.URL).Volumes(t.Context(), 0) {
		if err != nil {
			if !errors.Is(err, dateraclient.ErrShape) || !strings.Contains(err.Error(), "CSI-b") {
				t.Errorf("got %v, want ErrShape that shows the element", err)
			}
			got = append(got, "shape")
			continue
		}
		got = append(got, v.Name)
	}
	if diff := cmp.Diff([]string{"CSI-00000", "shape", "CSI-00002"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestListWithoutTotalEndsAtTheEmptyPage(t *testing.T) {
	f, s := newFake(t)
	f.rest = answers(body(200, `{"data":[`+item(0)+`]}`), body(200, `{"data":[`+item(1)+`]}`), body(200, `{"data":[]}`))
	if got := names(t, client(t, s.URL)); len(got) != 2 {
		t.Errorf("got %v, want 2", got)
	}
}

func TestListOfAnArrayThatIgnoresTheOffsetEnds(t *testing.T) {
	f, s := newFake(t)
	f.rest = body(200, `{"data":[`+item(0)+`],"metadata":{"total_count":5,"offset":0}}`)
	var last error
	steps := 0
	for _, err := range client(t, s.URL).Volumes(t.Context(), 0) {
		last = err
		steps++
	}
	if !errors.Is(last, dateraclient.ErrNotDatera) || steps != 2 {
		t.Errorf("%d steps, the last %v, want 2 and ErrNotDatera", steps, last)
	}
}

func item(i int) string {
	return fmt.Sprintf(`{"tenant":"/root","path":"/app_instances/%[1]d","name":"CSI-%05[1]d","id":"%[1]d","health":"ok",
	"app_template":{"path":"","resolved_path":"","resolved_tenant":""},"descr":"","admin_state":"online","create_mode":"kubernetes",
	"storage_instances":[{"health":"ok","path":"/app_instances/%[1]d/storage_instances/storage-1","name":"storage-1",
	"admin_state":"online","op_state":"available","volumes":[{"path":"/p","name":"volume-1","replica_count":3,
	"uuid":"7c4f6d1e-09d5-4b6f-8bb4-%012[1]d","size":16,"capacity_in_use":1.5,"snapshot_policies":[],"snapshots":[],
	"placement_mode":"hybrid","placement_policy":{"path":"/placement_policies/default"},"op_state":"available",
	"active_storage_nodes":[{"path":"/storage_nodes/1"}],"health":"ok","deployment_state":"deployed"}],
	"access_control_mode":"deny_all","acl_policy":{"path":"/p","initiators":[{"path":"/initiators/`+hostA+`"}],"initiator_groups":[]},
	"ip_pool":{"path":"/access_network_ip_pools/default","resolved_path":"","resolved_tenant":""},
	"access":{"path":"/p","ips":["172.28.94.11","172.29.94.11"],"iqn":"iqn.2013-05.com.daterainc:tc:01:sn:%016[1]x"},
	"auth":{"path":"/p","type":"none","initiator_user_name":"","initiator_pswd":"(hidden)","target_user_name":"","target_pswd":"(hidden)"},
	"active_initiators":["`+hostA+`"],"active_storage_nodes":[{"path":"/storage_nodes/1"}],"uuid":"7c4f6d1e-09d5-4b6f-8bb4-5f2fbb0a1c55"}],
	"uuid":"00000000-0000-0000-0000-000000000000","snapshots":[],"snapshot_policies":[],"deployment_state":"deployed"}`, i)
}

// wire answers without a network: logins and the like by itself, the rest by
// what it is given.
type wire func(r *http.Request) (status int, body string)

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	var text string
	status := 200
	switch r.URL.Path {
	case "/api_versions":
		text = `{"api_versions":["v2.3"]}`
	case "/v2.3/login":
		text = `{"key":"k"}`
	case "/v2.3/system":
		text = `{"data":{"sw_version":"3.3.4.0"}}`
	default:
		status, text = w(r)
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

func wired(tb testing.TB, w wire) *dateraclient.Client {
	tb.Helper()
	return client(tb, "http://array", func(cfg *dateraclient.Config) { cfg.HTTP = &http.Client{Transport: w} })
}

func FuzzAnswer(f *testing.F) {
	f.Add(200, golden(f, "volume-3.0.json"))
	f.Add(200, golden(f, "volume-3.3.json"))
	f.Add(200, `{"data":[`+item(0)+`],"metadata":{"total_count":1,"offset":0}}`)
	f.Add(404, `{"name":"NotFoundError","code":3,"http":404,"message":"no","errors":["a",{}]}`)
	f.Add(500, initializing)
	f.Add(200, "<html>")
	f.Add(200, `{"data":{"path":"/p","utc_ts":1.5,"uuid":"u","op_state":"available"}}`)
	f.Fuzz(func(t *testing.T, status int, text string) {
		if status < 200 || status > 599 {
			t.Skip("not HTTP")
		}
		c := wired(t, func(*http.Request) (int, string) { return status, text })
		// No time for a second attempt.
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Millisecond)
		defer cancel()
		v, err := c.Volume(ctx, "CSI-pvc-1")
		if (v == nil) == (err == nil) {
			t.Fatalf("got %v and %v", v, err)
		}
		if v != nil && (v.Name != "CSI-pvc-1" || v.ID == "" || v.Size <= 0 || v.Size.Bytes() <= 0) {
			t.Errorf("accepted %+v", v)
		}
		if err != nil && len(err.Error()) > 8000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		steps := 0
		for v, err := range c.Volumes(ctx, 0) {
			if (v == nil) == (err == nil) {
				t.Fatalf("got %v and %v", v, err)
			}
			if steps++; steps > 10_000 {
				break // the same page for ever, without an offset to tell
			}
		}
		_, _ = c.Snapshot(ctx, unlucky(), "1.5")
		_, _ = c.Template(ctx, "gold")
		_, _ = c.System(ctx)
	})
}

func BenchmarkReadVolume(b *testing.B) {
	answer := `{"data":` + item(7) + `}`
	c := wired(b, func(*http.Request) (int, string) { return 200, answer })
	b.ReportAllocs()
	b.SetBytes(int64(len(answer)))
	for b.Loop() {
		if _, err := c.Volume(b.Context(), "CSI-00007"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkListTenThousand(b *testing.B) {
	const total, most = 10_000, 100
	pages := map[string]string{}
	for offset := 0; offset < total; offset += most {
		items := make([]string, most)
		for i := range items {
			items[i] = item(offset + i)
		}
		pages[fmt.Sprint(offset)] = fmt.Sprintf(`{"data":[%s],"metadata":{"total_count":%d,"request_count":%d,"limit":%d,"offset":%d}}`,
			strings.Join(items, ","), total, most, most, offset)
	}
	c := wired(b, func(r *http.Request) (int, string) {
		q, _ := url.ParseQuery(r.URL.RawQuery)
		return 200, pages[q.Get("offset")]
	})
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for v, err := range c.Volumes(b.Context(), 0) {
			if err != nil || v.Size != 16 {
				b.Fatal(v, err)
			}
			n++
		}
		if n != total {
			b.Fatalf("%d volumes", n)
		}
	}
}
