package controller_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/controller"
)

var (
	modelOps  = flag.Int("model.ops", 600, "random operations of TestModel; the long run takes 10000")
	modelSeed = flag.Uint64("model.seed", 0, "seed of TestModel; 0 takes a new one")
)

const modelWorkers = 8

// TestModel runs random sequences of all controller RPCs against a simulated array
// and compares the array with a model after each step. Workers run in parallel,
// each with volumes and snapshots of its own, over two controllers that know
// nothing of each other. With faults, an answer may also be one that asks to come
// back; then what the array holds must lie between before and after, key by key,
// and the model goes on from there.
func TestModel(t *testing.T) {
	for name, disturbed := range map[string]bool{"calm": false, "faults": true} {
		t.Run(name, func(t *testing.T) {
			seed := *modelSeed
			if seed == 0 {
				seed = rand.Uint64()
			}
			t.Logf("repeat with -model.seed=%d -model.ops=%d", seed, *modelOps)
			runModel(t, seed, disturbed)
		})
	}
}

func runModel(t *testing.T, seed uint64, disturbed bool) {
	array := simtest.Start(t, func(c *sim.Config) {
		c.Record = false
		c.SnapshotDelay, c.ExportDelay, c.ResizeDelay, c.CloneDelay = 15*time.Millisecond, 10*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	})
	dir := array.BackendDir(t, "default")
	serve(array, dir).api(t, http.MethodPost, "/app_templates", gold(), nil)
	replicas := []*controller.Server{serve(array, dir).Server, serve(array, dir).Server}
	var wait sync.WaitGroup
	workers := make([]*worker, modelWorkers)
	for i := range workers {
		workers[i] = newWorker(t, i, seed, array, replicas, disturbed)
		wait.Go(func() {
			for range *modelOps / modelWorkers {
				if t.Failed() {
					return
				}
				workers[i].step()
			}
		})
	}
	wait.Wait()
	array.Array.ClearFaults()
	if t.Failed() {
		return
	}
	for _, w := range workers {
		w.emptyOut()
	}
	checkLeaks(t, witness{t, array.Array})
	report(t, workers)
}

// checkLeaks looks for what no operation should have left: at the end every volume
// and snapshot was deleted or retained, and initiators are known once.
func checkLeaks(t *testing.T, w witness) {
	t.Helper()
	var apps []found
	w.get("/app_instances", nil, &apps)
	for _, a := range apps {
		if retiredFrom(a.Name) == "" {
			t.Errorf("app instance %s is left", a.Name)
		}
	}
	var initiators []named
	w.get("/initiators", nil, &initiators)
	seen := map[string]bool{}
	for _, i := range initiators {
		if seen[i.ID] || !slices.Contains(modelNodes(), i.ID) {
			t.Errorf("initiator %s is doubled or of nobody", i.ID)
		}
		seen[i.ID] = true
	}
}

// report tells which operations ended how, so that a run which only met errors
// shows.
func report(t *testing.T, workers []*worker) {
	t.Helper()
	counts := map[string]map[codes.Code]int{}
	for _, w := range workers {
		for name, ended := range w.ended {
			if counts[name] == nil {
				counts[name] = map[codes.Code]int{}
			}
			for code, n := range ended {
				counts[name][code] += n
			}
		}
	}
	for name, ended := range counts {
		t.Logf("%-22s %v", name, ended)
		total := 0
		for _, n := range ended {
			total += n
		}
		if ended[codes.OK] == 0 && total >= 50 {
			t.Errorf("%s never succeeded", name)
		}
	}
}

func modelNodes() []string {
	var nodes []string
	for i := range 4 {
		nodes = append(nodes, fmt.Sprintf("iqn.1993-08.org.debian:01:%012x", i+1))
	}
	return nodes
}

// worker owns the volumes whose names begin with its prefix.
type worker struct {
	t         *testing.T
	r         *rand.Rand
	array     *simtest.Server
	witness   witness
	replicas  []*controller.Server
	disturbed bool
	offers    map[csi.ControllerServiceCapability_RPC_Type]bool

	prefix string // of CSI names
	model  state
	asked  map[string]*csi.CreateVolumeRequest // what made a volume, by app instance name
	trail  []string                            // operations and their ends, for the log of a failure
	ended  map[string]map[codes.Code]int
}

func newWorker(t *testing.T, i int, seed uint64, array *simtest.Server, replicas []*controller.Server, disturbed bool) *worker {
	t.Helper()
	w := &worker{
		t: t, r: rand.New(rand.NewPCG(seed, uint64(i))), array: array, witness: witness{t, array.Array},
		replicas: replicas, disturbed: disturbed, prefix: fmt.Sprintf("w%d-", i), model: state{},
		asked: map[string]*csi.CreateVolumeRequest{}, ended: map[string]map[codes.Code]int{},
		offers: map[csi.ControllerServiceCapability_RPC_Type]bool{},
	}
	res, err := replicas[0].ControllerGetCapabilities(t.Context(), &csi.ControllerGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range res.GetCapabilities() {
		w.offers[c.GetRpc().GetType()] = true
	}
	return w
}

// operation is one call with all that may come of it.
type operation struct {
	name  string
	call  func(context.Context, *controller.Server) error // checks its answer too
	codes []codes.Code                                    // each is right when nothing fails
	after state                                           // once it is OK
	loose map[string][]string                             // values that it may leave when it is cut off
}

// step runs one random operation, usually until it has a final answer.
func (w *worker) step() {
	if w.disturbed && w.r.IntN(3) == 0 {
		w.disturb()
	}
	build := w.choose()
	for attempt := 0; attempt < 20 && !w.t.Failed(); attempt++ {
		if final := w.run(build()); final || w.r.IntN(4) == 0 {
			return
		}
	}
}

// run calls an operation once, or twice at the same time, and judges it.
func (w *worker) run(op operation) (final bool) {
	before := w.model
	if op.after == nil {
		op.after = before
	}
	calls := 1
	if w.r.IntN(8) == 0 {
		calls = 2
	}
	got := make([]error, calls)
	first := w.r.IntN(2)
	var wait sync.WaitGroup
	for i := range got {
		server := w.replicas[(first+i)%len(w.replicas)]
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
			defer cancel()
			got[i] = op.call(ctx, server)
		})
	}
	wait.Wait()
	w.model = w.witness.observe("CSI-" + w.prefix)
	ok := false
	for _, err := range got {
		code := status.Code(err)
		w.note(op.name, code, err)
		ok = ok || code == codes.OK && slices.Contains(op.codes, codes.OK)
		known := slices.Contains(op.codes, code)
		final = final || known
		if !known && !w.mayAskToComeBack(op, code, calls) {
			w.fail(op, "answered %v, want %v", err, op.codes)
		}
	}
	switch {
	case ok: // then it is done, whatever the other call met
		if strange := w.model.between(op.after, op.after, nil); len(strange) > 0 {
			w.fail(op, "answered OK, and %s", strings.Join(strange, "; "))
		}
	case final:
		if strange := w.model.between(before, before, nil); len(strange) > 0 {
			w.fail(op, "was refused, and %s", strings.Join(strange, "; "))
		}
	default:
		after, loose := op.after, op.loose
		if calls == 1 && forgets(op, status.Code(got[0])) {
			after, loose = before, nil
		}
		if strange := w.model.between(before, after, loose); len(strange) > 0 {
			w.fail(op, "was cut off, and %s", strings.Join(strange, "; "))
		}
	}
	return final
}

// mayAskToComeBack says whether a code is one after which the caller repeats the
// call. Aborted needs another call under way, the others a fault.
func (w *worker) mayAskToComeBack(op operation, code codes.Code, calls int) bool {
	switch code {
	case codes.Aborted:
		return calls > 1 || w.disturbed
	case codes.Unavailable, codes.DeadlineExceeded:
		return w.disturbed || calls > 1
	case codes.Unauthenticated: // sessions ended twice in a row
		return w.disturbed
	case codes.Internal:
		return w.disturbed && !forgets(op, code)
	default:
		return false
	}
}

// forgets says whether the caller of an operation forgets what it asked for at
// this answer, so that nothing may have come of it.
func forgets(op operation, code codes.Code) bool {
	return strings.HasPrefix(op.name, "CreateVolume") && (code == codes.Internal || code == codes.Unauthenticated)
}

func (w *worker) note(name string, code codes.Code, err error) {
	if w.ended[name] == nil {
		w.ended[name] = map[codes.Code]int{}
	}
	w.ended[name][code]++
	w.trail = append(w.trail, fmt.Sprintf("%s: %v", name, err))
}

func (w *worker) fail(op operation, format string, args ...any) {
	w.t.Helper()
	var holds []string
	for _, key := range slices.Sorted(maps.Keys(w.model)) {
		holds = append(holds, key+" = "+w.model[key])
	}
	w.t.Errorf("worker %s: %s %s\nlast steps:\n\t%s\nthe array holds:\n\t%s", w.prefix, op.name, fmt.Sprintf(format, args...),
		strings.Join(w.trail[max(0, len(w.trail)-12):], "\n\t"), strings.Join(holds, "\n\t"))
}

// disturb plans a fault for one of the next requests, of whichever worker.
func (w *worker) disturb() {
	paths := []string{"/**", "/app_instances", "/app_instances/*", "/app_instances/**",
		"/app_instances/*/storage_instances/*/acl_policy/initiators", "/app_instances/*/storage_instances/*/volumes/**", "/initiators"}
	faults := []sim.Fault{
		{Status: 500}, {Status: 502}, {Status: 503}, {Status: 503, Times: 3}, sim.StillInitializing(),
		{Reset: true}, {LoseAnswer: true}, {LoseAnswer: true}, {LoseAnswer: true, Times: 2}, {Truncate: true},
		{HTML: true}, {Empty: true}, {ExpireToken: true}, {Delay: 20 * time.Millisecond}, {Delay: 10 * time.Millisecond, LoseAnswer: true},
	}
	methods := []string{"", "GET", "POST", "PUT", "DELETE"}
	w.array.Fail(sim.Match{Method: methods[w.r.IntN(len(methods))], Path: paths[w.r.IntN(len(paths))]}, faults[w.r.IntN(len(faults))])
	if w.r.IntN(10) == 0 {
		w.array.Array.ClearFaults() // some are for requests that never come
	}
}

// emptyOut takes down what is left, which must work now that nothing fails.
func (w *worker) emptyOut() {
	w.disturbed = false
	for _, name := range w.model.below("v") {
		for _, build := range append(w.snapshotDeletions(name), w.unpublishing(name, ""), w.deletion(name)) {
			if !w.run(build()) {
				w.run(build()) // two calls at once may have stood in each other's way
			}
		}
		if w.model["v/"+name+"/retain"] != "" { // its dated name may be taken in this second
			<-time.After(time.Second)
			w.run(w.deletion(name)())
		}
	}
	if len(w.model.below("v")) > 0 {
		w.t.Errorf("worker %s: left %v", w.prefix, w.model)
	}
}
