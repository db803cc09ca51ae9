package dateraclient_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

func TestCallersShareOneLogin(t *testing.T) {
	f, s := newFake(t)
	f.login = func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(50 * time.Millisecond) // so that all of them meet it under way
		f.logIn(w, r)
	}
	c := client(t, s.URL)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := c.System(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if f.logins != 1 {
		t.Errorf("%d logins for 50 callers, want 1", f.logins)
	}
}

func TestLoginOutlivesTheCallerWhoBeganIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logins, finish := 0, make(chan struct{})
		slow := roundTrip(func(r *http.Request) (*http.Response, error) {
			if strings.HasSuffix(r.URL.Path, "/login") {
				logins++
				select {
				case <-finish:
				case <-r.Context().Done():
					return nil, r.Context().Err()
				}
			}
			return wire(func(*http.Request) (int, string) { return 200, `{"data":{}}` }).RoundTrip(r)
		})
		c := client(t, "http://array", func(cfg *dateraclient.Config) { cfg.HTTP = &http.Client{Transport: slow} })
		leaderCtx, leave := context.WithCancel(t.Context())
		leader, follower := make(chan error, 1), make(chan error, 1)
		go func() { _, err := c.System(leaderCtx); leader <- err }()
		synctest.Wait() // the login is under way
		go func() { _, err := c.System(t.Context()); follower <- err }()
		synctest.Wait() // the follower has joined
		leave()
		if err := <-leader; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller who gave up heard %v, want canceled", err)
		}
		close(finish)
		if err := <-follower; err != nil {
			t.Errorf("the caller who stayed heard %v", err)
		}
		if logins != 1 {
			t.Errorf("%d logins, want 1", logins)
		}
	})
}

func TestFollowerMayLeaveALogin(t *testing.T) {
	f, s := newFake(t)
	begun, finish := make(chan struct{}), make(chan struct{})
	f.login = func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-finish
		f.logIn(w, r)
	}
	c := client(t, s.URL)
	leader := make(chan error, 1)
	go func() { _, err := c.System(t.Context()); leader <- err }()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.System(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the follower heard %v, want deadline exceeded", err)
	}
	close(finish)
	if err := <-leader; err != nil {
		t.Errorf("the leader heard %v", err)
	}
}

func TestLoginEndsWithTheLastWhoWaits(t *testing.T) {
	f, s := newFake(t)
	begun, ended := make(chan struct{}), make(chan struct{})
	first := func(_ http.ResponseWriter, r *http.Request) {
		_ = r.Body.Close()
		close(begun)
		<-r.Context().Done()
		close(ended)
	}
	f.login = answers(first, f.logIn)
	c := client(t, s.URL)
	ctx, leave := context.WithCancel(t.Context())
	only := make(chan error, 1)
	go func() { _, err := c.System(ctx); only <- err }()
	<-begun
	leave()
	if err := <-only; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the login that nobody waits for goes on")
	}
	if _, err := c.System(t.Context()); err != nil {
		t.Errorf("the next caller: %v", err)
	}
}

func TestExpiredTokenIsRenewedOnce(t *testing.T) {
	f, s := newFake(t)
	c := client(t, s.URL)
	if _, err := c.System(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.expire()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := c.System(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if f.logins != 2 {
		t.Errorf("%d logins, want 2: one at the start, one for all who met the old token", f.logins)
	}
}

func TestTokenRefusedAgainIsErrAuth(t *testing.T) {
	f, s := newFake(t)
	f.login = func(w http.ResponseWriter, r *http.Request) {
		f.logIn(w, r)
		if f.logins > 1 {
			f.expire()
		}
	}
	f.rest = body(401, `{"name":"AuthFailedError","http":401,"message":"go away"}`)
	c := client(t, s.URL)
	_, err := c.Volume(t.Context(), "CSI-a")
	if !errors.Is(err, dateraclient.ErrAuth) {
		t.Errorf("got %v, want ErrAuth", err)
	}
	if f.logins != 2 {
		t.Errorf("%d logins, want 2", f.logins)
	}
}

func TestRefusedLoginIsNotRepeated(t *testing.T) {
	f, s := newFake(t)
	f.login = body(401, `{"name":"AuthFailedError","http":401,"message":"wrong password `+password+`"}`)
	c := client(t, s.URL)
	_, err := c.System(t.Context())
	if !errors.Is(err, dateraclient.ErrAuth) {
		t.Fatalf("got %v, want ErrAuth", err)
	}
	if n := f.count("PUT /v2.3/login"); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
	if !strings.Contains(err.Error(), user) || strings.Contains(err.Error(), password) {
		t.Errorf("the error must name the user and hide the password: %v", err)
	}
}

// Every call would log in, and arrays lock accounts for that: what was refused is
// tried again less and less often, and at once when it is something else.
func TestRefusedCredentialsAreTriedAgainLessAndLess(t *testing.T) {
	f, s := newFake(t)
	refuse := body(401, `{"name":"AuthFailedError","http":401,"message":"go away"}`)
	f.login = refuse
	var mu sync.Mutex
	secret, now := "first", time.Now()
	c := client(t, s.URL, func(cfg *dateraclient.Config) {
		cfg.Credentials = func() (string, string, error) {
			mu.Lock()
			defer mu.Unlock()
			return user, secret, nil
		}
		cfg.Clock = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return now
		}
	})
	after := func(pause time.Duration) (logins int) {
		t.Helper()
		mu.Lock()
		now = now.Add(pause)
		mu.Unlock()
		before, requests := f.count("PUT /v2.3/login"), f.count("GET /api_versions")
		for range 3 {
			if _, err := c.System(t.Context()); !errors.Is(err, dateraclient.ErrAuth) || !strings.Contains(err.Error(), "go away") {
				t.Errorf("got %v, want ErrAuth with what the array said", err)
			}
		}
		if logins = f.count("PUT /v2.3/login") - before; f.count("GET /api_versions")-requests != logins {
			t.Error("the array was asked something else meanwhile")
		}
		return logins
	}
	const moment = time.Millisecond
	for i, step := range []struct {
		pause time.Duration
		want  int
	}{
		{0, 1}, {30*time.Second - moment, 0}, {moment, 1}, {time.Minute - moment, 0}, {moment, 1}, {2 * time.Minute, 1}, {4 * time.Minute, 1},
		{5*time.Minute - moment, 0}, {moment, 1}, {5 * time.Minute, 1},
	} {
		if got := after(step.pause); got != step.want {
			t.Errorf("step %d, after %v: %d logins, want %d", i, step.pause, got, step.want)
		}
	}
	secret = "second"
	for _, want := range []int{1, 0} {
		if got := after(0); got != want {
			t.Errorf("with another password: %d logins, want %d", got, want)
		}
	}
	secret = "third"
	f.mu.Lock()
	f.login = nil
	f.mu.Unlock()
	if _, err := c.System(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.expire()
	f.mu.Lock()
	f.login = refuse
	f.mu.Unlock()
	for _, step := range []struct {
		pause time.Duration
		want  int
	}{{0, 1}, {30 * time.Second, 1}} { // a success begins anew
		if got := after(step.pause); got != step.want {
			t.Errorf("once it was right, after %v: %d logins, want %d", step.pause, got, step.want)
		}
	}
}

// What is no judgement of the credentials is not kept against them.
func TestALoginThatIsNotAnsweredIsTriedAgainAtOnce(t *testing.T) {
	f, s := newFake(t)
	f.login = answers(body(500, `{"name":"InternalError","http":500,"message":"oops"}`), f.logIn)
	c := client(t, s.URL)
	if _, err := c.System(t.Context()); !errors.Is(err, dateraclient.ErrFault) {
		t.Errorf("got %v, want ErrFault", err)
	}
	if _, err := c.System(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRotatedSecretIsUsedAtTheNextLogin(t *testing.T) {
	f, s := newFake(t)
	var mu sync.Mutex
	secret := "first"
	var seen []string
	f.login = func(w http.ResponseWriter, r *http.Request) {
		f.logIn(w, r)
	}
	c := client(t, s.URL, func(cfg *dateraclient.Config) {
		cfg.Credentials = func() (string, string, error) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, secret)
			return user, secret, nil
		}
	})
	if _, err := c.System(t.Context()); err != nil {
		t.Fatal(err)
	}
	secret = "second"
	f.expire()
	if _, err := c.System(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(seen, " "); got != "first second" {
		t.Errorf("credentials used: %s, want first second", got)
	}
}

func TestMissingCredentialsAreErrAuth(t *testing.T) {
	_, s := newFake(t)
	gone := errors.New("username: no such file")
	c := client(t, s.URL, func(cfg *dateraclient.Config) {
		cfg.Credentials = func() (string, string, error) { return "", "", gone }
	})
	if _, err := c.System(t.Context()); !errors.Is(err, dateraclient.ErrAuth) || !errors.Is(err, gone) {
		t.Errorf("got %v, want ErrAuth for %v", err, gone)
	}
}

func TestVersionIsTheBestThatBothSpeak(t *testing.T) {
	for _, tc := range []struct{ offer, want string }{
		{`{"api_versions":["v2","v2.1","v2.2","v2.3"]}`, "GET /v2.3/system"},
		{`{"api_versions":["v2","v2.1","v2.2"]}`, "GET /v2.2/system"},
		{`{"name":"InvalidRequestError","code":99,"http":400,"message":"no such route"}`, "GET /v2.3/system"},
	} {
		f, s := newFake(t)
		f.versions = tc.offer
		if _, err := client(t, s.URL).System(t.Context()); err != nil || f.count(tc.want) == 0 {
			t.Errorf("offered %s: %v, requests %v, want %s", tc.offer, err, f.counts, tc.want)
		}
	}
}

func TestOldArrayWithoutVersionListIsTriedVersionByVersion(t *testing.T) {
	f, s := newFake(t)
	f.versions = `{"name":"InvalidRequestError","code":99,"http":400}`
	f.login = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2.3/login" {
			reply(w, 404, `{"name":"InvalidRouteError","code":99,"http":404,"message":"no such route"}`)
			return
		}
		f.logIn(w, r)
	}
	if _, err := client(t, s.URL).System(t.Context()); err != nil || f.count("GET /v2.2/system") == 0 {
		t.Errorf("%v, requests %v, want GET /v2.2/system", err, f.counts)
	}
}

func TestNoVersionInCommonNamesWhatWasOffered(t *testing.T) {
	f, s := newFake(t)
	f.versions = `{"api_versions":["v2","v2.1","v4"]}`
	_, err := client(t, s.URL).System(t.Context())
	if !errors.Is(err, dateraclient.ErrNotDatera) || !strings.Contains(err.Error(), "v2, v2.1, v4") {
		t.Errorf("got %v, want ErrNotDatera with the versions", err)
	}
	if f.logins != 0 {
		t.Error("the password was sent to an array that we do not know")
	}
}

// An array that does not find the way to log in has not said that a volume is gone.
func TestALoginThatIsNotFoundIsNoMissingVolume(t *testing.T) {
	f, s := newFake(t)
	f.versions = `{"name":"InvalidRequestError","code":99,"http":400}`
	f.login = body(404, `{"name":"NotFoundError","http":404,"message":"no such object"}`)
	_, err := client(t, s.URL).Volume(t.Context(), "CSI-a")
	if !errors.Is(err, dateraclient.ErrNotDatera) || errors.Is(err, dateraclient.ErrNotFound) || !strings.Contains(err.Error(), "no such object") {
		t.Errorf("got %v, want ErrNotDatera with what the array says, and not ErrNotFound", err)
	}
}

func TestPasswordIsNotSentToAStranger(t *testing.T) {
	for _, page := range []string{"<html>It works!</html>", `{"hello":"world"}`, `[]`, `"v2.3"`} {
		f, s := newFake(t)
		f.versions = page
		_, err := client(t, s.URL).System(t.Context())
		if !errors.Is(err, dateraclient.ErrNotDatera) || f.logins != 0 {
			t.Errorf("%s: %v after %d logins, want ErrNotDatera and none", page, err, f.logins)
		}
	}
}

func TestUserWithoutRightToReadSystemCanWork(t *testing.T) {
	f, s := newFake(t)
	f.rest = body(200, `{"data":{}}`)
	f.product = "unused"
	denied := http.NewServeMux()
	denied.HandleFunc("/v2.3/system", body(403, `{"name":"PermissionDeniedError","http":403,"message":"not yours"}`))
	denied.Handle("/", f)
	s.Config.Handler = denied
	_, err := client(t, s.URL).Volume(t.Context(), "CSI-a")
	if !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("got %v, want the volume's own answer", err)
	}
	if _, err = client(t, s.URL).System(t.Context()); !errors.Is(err, dateraclient.ErrPermission) {
		t.Errorf("got %v, want ErrPermission", err)
	}
}
