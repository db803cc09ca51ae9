package sim_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

func TestFaultsHitWhatTheyNameAndNoMore(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	s.Fail(simtest.Get("/app_instances/*/storage_instances/**"), sim.Fault{Status: 503, Times: 2})
	s.Fail(simtest.Post("/app_instances"), sim.StillInitializing())
	c.data("GET", "/system", nil)
	if status, out, _ := c.send("POST", "/app_instances", simple("demo", 1)); status != 500 || !strings.Contains(out["message"].(string), "REST server is still initializing") {
		t.Errorf("got %d %v", status, out)
	}
	c.refused(404, "NotFoundError", "GET", "/app_instances/demo", nil)
	c.data("POST", "/app_instances", simple("demo", 1))
	for range 2 {
		if status, out, _ := c.send("GET", demoVolume, nil); status != 503 || out["message"] == nil || out["name"] != nil {
			t.Errorf("got %d %v", status, out)
		}
	}
	c.data("GET", demoVolume, nil)
}

func TestFaultWordsFollowTheStatus(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	for status, name := range map[int]string{400: "InvalidRequestError", 401: "AuthFailedError", 403: "PermissionDeniedError",
		404: "NotFoundError", 409: "ConflictError", 422: "ValidationFailedError", 500: "InternalError", 507: "InternalError"} {
		s.Fail(simtest.Any("/**"), sim.Fault{Status: status})
		if got := c.refused(status, name, "GET", "/system", nil); got["http"] != float64(status) {
			t.Errorf("%d: http is %v", status, got["http"])
		}
	}
}

func TestLostAnswerMeansDoneWork(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	s.Fail(simtest.Post("/app_instances"), sim.Fault{LoseAnswer: true})
	if _, out, err := c.send("POST", "/app_instances", simple("demo", 1)); err == nil {
		t.Errorf("got an answer: %v", out)
	}
	c.data("GET", "/app_instances/demo", nil)
}

func TestResetMeansNoWork(t *testing.T) {
	for _, start := range []func(testing.TB, ...func(*sim.Config)) *simtest.Server{simtest.Start, simtest.StartTLS} {
		s := start(t)
		c := dial(t, s)
		s.Fail(simtest.Post("/app_instances"), sim.Fault{Reset: true})
		if _, out, err := c.send("POST", "/app_instances", simple("demo", 1)); err == nil {
			t.Errorf("got an answer: %v", out)
		}
		c.refused(404, "NotFoundError", "GET", "/app_instances/demo", nil)
	}
}

func TestSpoiledAnswers(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	for want, f := range map[string]sim.Fault{
		"<html>": {HTML: true}, "": {Empty: true}, `{"tenant":`: {Truncate: true}, "hello": {Body: "hello"},
	} {
		s.Fail(simtest.Get("/system"), f)
		status, out, err := c.send("GET", "/system", nil)
		if raw, ok := out["raw"].(string); err != nil || status != 200 || !ok || !strings.HasPrefix(raw, want) {
			t.Errorf("%+v: got %d %v %v", f, status, out, err)
		}
	}
}

func TestDelayHoldsTheAnswerBack(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	s.Fail(simtest.Get("/system"), sim.Fault{Delay: 50 * time.Millisecond})
	start := time.Now()
	c.data("GET", "/system", nil)
	if took := time.Since(start); took < 50*time.Millisecond {
		t.Errorf("it took %s", took)
	}
}

func TestAChangeIsMadeAfterItsClientHasLeft(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	for _, step := range []struct {
		method, path string
		body         any
		then         int // the status of the object
	}{
		{"POST", "/app_instances", simple("demo", 1), http.StatusOK},
		{"PUT", "/app_instances/demo", map[string]any{"admin_state": "offline"}, http.StatusOK},
		{"DELETE", "/app_instances/demo", nil, http.StatusNotFound},
	} {
		s.Fail(sim.Match{Method: step.method, Path: step.path}, sim.Fault{Delay: 100 * time.Millisecond})
		c.http.Timeout = 10 * time.Millisecond
		if status, _, err := c.send(step.method, step.path, step.body); err == nil {
			t.Errorf("%s %s was answered: %d", step.method, step.path, status)
		}
		c.http.Timeout = 0
		made := func() bool {
			status, out, _ := c.send("GET", "/app_instances/demo", nil)
			data, _ := out["data"].(map[string]any)
			return status == step.then && (step.method != "PUT" || data["admin_state"] == "offline")
		}
		for end := time.Now().Add(10 * time.Second); !made(); <-time.After(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s %s was not carried out", step.method, step.path)
			}
		}
	}
}

func TestExpiredTokenNeedsANewLogin(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	s.Fail(simtest.Get("/system"), sim.Fault{ExpireToken: true})
	c.refused(401, "InvalidSessionKeyError", "GET", "/system", nil)
	c.login(s.User, s.Password)
	c.data("GET", "/system", nil)
}

func TestTokensAgeOnlyUnused(t *testing.T) {
	now := time.Unix(1700000000, 0)
	c := dial(t, simtest.Start(t, func(cfg *sim.Config) { cfg.Clock = func() time.Time { return now } }))
	for range 3 {
		now = now.Add(14 * time.Minute)
		c.data("GET", "/system", nil)
	}
	now = now.Add(15*time.Minute + time.Second)
	c.refused(401, "InvalidSessionKeyError", "GET", "/system", nil)
}

func TestLeaderChangeEnds(t *testing.T) {
	now := time.Unix(1700000000, 0)
	s := simtest.Start(t, func(cfg *sim.Config) { cfg.Clock = func() time.Time { return now } })
	c := dial(t, s)
	s.Array.ChangeLeader(10 * time.Second)
	if status, _, _ := c.send("GET", "/system", nil); status != http.StatusServiceUnavailable {
		t.Errorf("status is %d", status)
	}
	now = now.Add(10 * time.Second)
	c.data("GET", "/system", nil)
}

func TestFaultForATime(t *testing.T) {
	now := time.Unix(1700000000, 0)
	s := simtest.Start(t, func(cfg *sim.Config) { cfg.Clock = func() time.Time { return now } })
	c := dial(t, s)
	s.Fail(simtest.Any("/system"), sim.Fault{Status: 503, For: time.Minute})
	for range 3 {
		if status, _, _ := c.send("GET", "/system", nil); status != 503 {
			t.Errorf("status is %d", status)
		}
	}
	now = now.Add(time.Minute + time.Second)
	c.data("GET", "/system", nil)
}

func TestRequestsAreCounted(t *testing.T) {
	s := simtest.Start(t)
	c := dial(t, s)
	s.ResetRequests()
	c.refused(404, "NotFoundError", "GET", "/app_instances/none", nil)
	c.list("/initiators?limit=5")
	s.Fail(simtest.Get("/system"), sim.Fault{LoseAnswer: true})
	_, _, _ = c.send("GET", "/system", nil)
	want := []sim.Request{
		{Method: "GET", Path: "/app_instances/none", Version: "v2.2", Status: 404},
		{Method: "GET", Path: "/initiators", Query: "limit=5", Version: "v2.2", Status: 200},
		{Method: "GET", Path: "/system", Version: "v2.2"},
	}
	got := s.Requests()
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Errorf("request %d of %v is not %v", i, got, want[i])
		}
	}
}
