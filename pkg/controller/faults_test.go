package controller_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

// final are the codes after which the provisioner forgets the volume.
func final(err error) bool {
	switch status.Code(err) {
	case codes.OK, codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.Aborted:
		return false
	default:
		return true
	}
}

// FM 33: the work is done and the answer is lost, in every way an answer can be
// lost. However often the call is repeated, there is one volume.
func TestLostAnswersMakeOneVolume(t *testing.T) {
	for name, fault := range map[string]sim.Fault{
		"reset after the work": {LoseAnswer: true}, "half an answer": {Truncate: true},
	} {
		for _, times := range []int{1, 2, 3, 5} {
			t.Run(fmt.Sprintf("%s %d times", name, times), func(t *testing.T) {
				l := start(t)
				fault.Times = times
				l.array.Fail(simtest.Post("/app_instances"), fault)
				for try := 0; ; try++ {
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
					_, err := l.CreateVolume(ctx, createRequest("pvc-1"))
					cancel()
					if err == nil {
						break
					}
					if final(err) || try > 10 {
						t.Fatalf("try %d: %v", try, err)
					}
				}
				if n := len(l.objects(t)); n != 1 {
					t.Errorf("%d app instances, want 1", n)
				}
			})
		}
	}
}

// A caller that gives up while the array works finds the volume when it comes
// back.
func TestCreateAfterTheCallerGaveUp(t *testing.T) {
	l := start(t)
	l.create(t, "warm-up")
	for range 5 {
		l.array.Fail(simtest.Post("/app_instances"), sim.Fault{Delay: 30 * time.Millisecond, LoseAnswer: true})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := l.CreateVolume(ctx, createRequest("pvc-1"))
		cancel()
		if final(err) {
			t.Fatalf("got %v, want an answer that is not final", err)
		}
	}
	l.array.Array.ClearFaults()
	l.create(t, "pvc-1")
	if n := len(l.objects(t)); n != 2 {
		t.Errorf("%d app instances, want 2", n)
	}
}

func TestLostAnswersOfEveryOtherCall(t *testing.T) {
	for _, match := range []sim.Match{
		simtest.Put("/app_instances/*"), simtest.Delete("/app_instances/*"), simtest.Get("/app_instances/*"),
		simtest.Post("/initiators"), simtest.Put("/app_instances/*/storage_instances/*/acl_policy/initiators"),
		simtest.Put("/app_instances/*/storage_instances/*/volumes/*"),
	} {
		l := start(t)
		id := l.create(t, "pvc-1")
		steps := []struct {
			name string
			do   func(context.Context) error
		}{
			{"publish", func(ctx context.Context) error { _, err := l.publish(ctx, id, node1); return err }},
			{"expand", func(context.Context) error { _, err := l.expand(t, id, 12*gib, 0); return err }},
			{"unpublish", func(ctx context.Context) error { return l.unpublish(ctx, id, node1) }},
			{"delete", func(ctx context.Context) error { return l.delete(ctx, id) }},
		}
		for _, step := range steps {
			l.array.Array.ClearFaults()
			l.array.Fail(match, sim.Fault{LoseAnswer: true})
			for try := 0; ; try++ {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				err := step.do(ctx)
				cancel()
				if err == nil {
					break
				}
				if try > 3 {
					t.Fatalf("%s with a lost %s %s: %v", step.name, match.Method, match.Path, err)
				}
			}
		}
		if n := len(l.objects(t)); n != 0 {
			t.Errorf("%s %s: %d app instances are left", match.Method, match.Path, n)
		}
	}
}

// The array's refusals have specific codes, its own words, and leave nothing.
func TestRefusalsOfTheArray(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault sim.Fault
		code  codes.Code
	}{
		{"validation", sim.Fault{Status: 422, Body: `{"name":"ValidationFailedError","code":1,"http":422,"message":"the array says no"}`}, codes.InvalidArgument},
		{"refusal", sim.Fault{Status: 400, Body: `{"name":"InvalidRequestError","code":1,"http":400,"message":"the array says no"}`}, codes.InvalidArgument},
		{"permission", sim.Fault{Status: 403, Body: `{"name":"PermissionDeniedError","code":1,"http":403,"message":"the array says no"}`}, codes.PermissionDenied},
		{"credentials", sim.Fault{Status: 401, Body: `{"name":"AuthFailedError","code":1,"http":401,"message":"the array says no"}`}, codes.Unauthenticated},
		{"space", sim.Fault{Status: 507, Body: `{"name":"InsufficientStorageError","code":1,"http":507,"message":"the array says no"}`}, codes.ResourceExhausted},
		{"unavailable", sim.Fault{Status: 503, Body: `{"message":"the array says no"}`}, codes.Unavailable},
		{"failure", sim.Fault{Status: 500, Body: `{"name":"InternalError","code":1,"http":500,"message":"the array says no"}`}, codes.Unavailable},
	} {
		l := start(t)
		l.create(t, "warm-up")
		c.fault.Times = -1
		l.array.Fail(simtest.Post("/app_instances"), c.fault)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, err := l.CreateVolume(ctx, createRequest("pvc-1"))
		cancel()
		wantCode(t, c.name, err, c.code, "CSI-pvc-1", "the array says no")
		if n := len(l.objects(t)); n != 1 {
			t.Errorf("%s: %d app instances, want only the first", c.name, n)
		}
	}
}

// Something else answers where the array should be. No answer of this kind is
// final, nor does it mean that a volume is gone.
func TestArraysThatAreNone(t *testing.T) {
	for name, fault := range map[string]sim.Fault{
		"HTML": {HTML: true}, "HTML 404": {HTML: true, Status: 404}, "empty": {Empty: true}, "empty 404": {Empty: true, Status: 404},
		"half JSON": {Truncate: true}, "other JSON": {Body: `{"hello":"world"}`, Status: 200}, "a list": {Body: `[1,2,3]`, Status: 200},
		"foreign 404": {Body: `{"message":"no such page"}`, Status: 404},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := start(t)
			id := l.create(t, "warm-up")
			fault.Times = -1
			l.array.Fail(simtest.Any("/app_instances/**"), fault)
			patient := func() context.Context { // with one call: what one takes no other lacks
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				t.Cleanup(cancel)
				return ctx
			}
			_, err := l.CreateVolume(patient(), createRequest("pvc-1"))
			if err == nil || final(err) {
				t.Errorf("create: got %v, want an error that is not final", err)
			}
			wantCode(t, "delete", l.delete(patient(), id), codes.Unavailable, id)
			wantCode(t, "unpublish", l.unpublish(patient(), id, node1), codes.Unavailable, id)
			_, err = l.publish(patient(), id, node1)
			wantCode(t, "publish", err, codes.Unavailable, id)
			l.array.Array.ClearFaults()
			if err := l.delete(t.Context(), "CSI-pvc-1"); err != nil { // half JSON comes after the work
				t.Error(err)
			}
			if objects := l.objects(t); len(objects) != 1 || objects[0].Name != id {
				t.Errorf("got %+v, want only %s", objects, id)
			}
		})
	}
}

func TestAnArrayOfAnotherAPIVersion(t *testing.T) {
	l := start(t, func(cfg *sim.Config) { cfg.APIVersions = []string{"v2", "v2.1"} })
	_, err := l.CreateVolume(t.Context(), createRequest("pvc-1"))
	wantCode(t, "create", err, codes.Unavailable, "v2.1", "v2.2")
	wantCode(t, "delete", l.delete(t.Context(), "CSI-pvc-1"), codes.Unavailable)
	if n := len(l.changes(t)); n != 0 {
		t.Errorf("%d requests changed something", n)
	}
}

// changes are the requests that may have changed something.
func (l *lab) changes(tb testing.TB) []string {
	tb.Helper()
	var list []string
	for _, r := range l.requests() {
		if !strings.HasPrefix(r, "GET ") {
			list = append(list, r)
		}
	}
	return list
}

func TestWrongCredentialsAndTheirCorrection(t *testing.T) {
	l := start(t)
	password := filepath.Join(l.dir, "default", "password")
	if err := os.WriteFile(password, []byte("canary-wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := l.CreateVolume(t.Context(), createRequest("pvc-1"))
	// The array refuses to say whether an earlier call has made the volume.
	wantCode(t, "create", err, codes.Unavailable, "username and password")
	_, err = l.expand(t, "CSI-pvc-1", 20*gib, 0)
	wantCode(t, "expand", err, codes.Unauthenticated)
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("the password is in %v", err)
	}
	if err = os.Remove(password); err != nil {
		t.Fatal(err)
	}
	_, err = l.CreateVolume(t.Context(), createRequest("pvc-1"))
	wantCode(t, "no password", err, codes.Unavailable, password)
	if err = os.WriteFile(password, []byte(l.array.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.create(t, "pvc-1")
	l.array.Array.ExpireSessions()
	l.create(t, "pvc-2")
}

func TestAnUntrustedArrayIsNotSpokenTo(t *testing.T) {
	array := simtest.StartTLS(t)
	dir := array.BackendDir(t, "default")
	l := serve(array, dir)
	l.create(t, "pvc-1")
	if err := os.Remove(filepath.Join(dir, "default", "ca.crt")); err != nil {
		t.Fatal(err)
	}
	array.ResetRequests()
	_, err := l.CreateVolume(t.Context(), createRequest("pvc-2"))
	wantCode(t, "without its CA", err, codes.Unavailable, "ca.crt")
	if got := l.array.Requests(); len(got) != 0 {
		t.Errorf("the array was asked %v", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "default", "insecure-skip-tls-verify"), []byte("true"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.create(t, "pvc-2")
}

func TestAnUnreachableArray(t *testing.T) {
	l := start(t)
	if err := os.WriteFile(filepath.Join(l.dir, "default", "endpoint"), []byte("http://127.0.0.1:1"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func(context.Context) error{
		"create":    func(ctx context.Context) error { _, err := l.CreateVolume(ctx, createRequest("pvc-1")); return err },
		"delete":    func(ctx context.Context) error { return l.delete(ctx, "CSI-pvc-1") },
		"publish":   func(ctx context.Context) error { _, err := l.publish(ctx, "CSI-pvc-1", node1); return err },
		"unpublish": func(ctx context.Context) error { return l.unpublish(ctx, "CSI-pvc-1", node1) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		wantCode(t, name, call(ctx), codes.Unavailable, "CSI-pvc-1")
		cancel()
	}
}

func TestACallerThatGivesUpHearsSo(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1")
	l.array.Fail(simtest.Any("/app_instances/**"), sim.Fault{Delay: time.Second, Times: -1})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	wantCode(t, "canceled", l.delete(ctx, id), codes.Canceled)
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	wantCode(t, "out of time", l.unpublish(ctx, id, node1), codes.DeadlineExceeded)
}

func TestOneCallAVolume(t *testing.T) {
	made := start(t)
	id := made.create(t, "pvc-1")
	l, until, release := made.gated(t, http.MethodGet, waiting(20*time.Millisecond))
	done := until(func() error { return l.delete(t.Context(), id) })
	_, err := l.publish(t.Context(), id, node1)
	wantCode(t, "publish", err, codes.Aborted, id)
	_, err = l.CreateVolume(t.Context(), createRequest("pvc-1"))
	wantCode(t, "create", err, codes.Aborted, id)
	wantCode(t, "unpublish", l.unpublish(t.Context(), id, node1), codes.Aborted, id)
	wantCode(t, "delete", l.delete(t.Context(), id), codes.Aborted, id)
	_, err = l.expand(t, id, 20*gib, 0)
	wantCode(t, "expand", err, codes.Aborted, id)
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// FM 40: no secret leaves by an answer, an error or a publish context, whatever
// the array does; not even when it echoes the request.
func TestSecretsStayInside(t *testing.T) {
	l := start(t)
	const canary = "canary-passwd"
	var said []string
	hear := func(answer fmt.Stringer, err error) {
		said = append(said, fmt.Sprintf("%v %+v %#v", answer, err, err))
	}
	req := createRequest("pvc-1", func(req *csi.CreateVolumeRequest) {
		req.Secrets = map[string]string{
			"node.session.auth.username": "initiator", "node.session.auth.password": canary,
			"node.session.auth.username_in": "target", "node.session.auth.password_in": canary + "-2",
		}
	})
	for _, fault := range []sim.Fault{
		{Status: 422, Body: `{"name":"ValidationFailedError","http":422,"message":"bad auth: ` + canary + `","errors":["target_pswd ` + canary + `-2 is bad"]}`},
		{Status: 400, Body: `not an error but ` + canary},
		{Truncate: true}, {LoseAnswer: true}, {HTML: true},
	} {
		l.array.Fail(simtest.Post("/app_instances"), fault)
		res, err := l.CreateVolume(t.Context(), req)
		hear(res, err)
	}
	res, err := l.CreateVolume(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	hear(res, err)
	pub, err := l.ControllerPublishVolume(t.Context(), publishRequest(res.GetVolume().GetVolumeId(), node1))
	hear(pub, err)
	req.Secrets["node.session.auth.password_in"] = canary
	again, err := l.CreateVolume(t.Context(), req)
	hear(again, err)
	for _, s := range said {
		if strings.Contains(s, canary) || strings.Contains(s, l.array.Password+"\"") {
			t.Errorf("a secret is in %s", s)
		}
	}
}

// FM 33: a volume that is not as asked is named and kept, even when the array
// says that it has just made it. Nothing tells it from one with data.
func TestCreateNeverDeletes(t *testing.T) {
	l := start(t)
	id := l.create(t, "pvc-1", bytesAsked(11*gib, 0))
	var made json.RawMessage
	l.api(t, http.MethodGet, "/app_instances/"+id, nil, &made)
	l.array.Fail(simtest.Post("/app_instances"), sim.Fault{Status: http.StatusOK, Body: `{"data":` + string(made) + `}`})
	l.requests()
	for range 2 {
		_, err := l.CreateVolume(t.Context(), createRequest("pvc-1", bytesAsked(10*gib, 10*gib)))
		wantCode(t, "create", err, codes.AlreadyExists, id, "size is 11 GiB")
	}
	for _, r := range l.requests() {
		if !strings.HasPrefix(r, "GET ") && r != "POST /app_instances" {
			t.Errorf("the array was asked to %s", r)
		}
	}
}
