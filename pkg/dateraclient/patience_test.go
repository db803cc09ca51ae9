package dateraclient_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// In these tests time is virtual, so that minutes pass at once.

func TestNobodyWaitsForADeadArrayForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		c := wired(t, func(*http.Request) (int, string) { tries++; return 503, `{"message":"electing"}` })
		begun := time.Now()
		_, err := c.Volume(t.Context(), "CSI-a")
		if !errors.Is(err, dateraclient.ErrUnavailable) || !strings.Contains(err.Error(), "electing") {
			t.Errorf("got %v, want ErrUnavailable in the array's words", err)
		}
		if waited := time.Since(begun); waited < time.Minute || waited > 2*time.Minute {
			t.Errorf("waited %s, want 1 to 2 minutes", waited)
		}
		if tries < 20 || tries > 60 {
			t.Errorf("%d tries: the waits should grow to some seconds and not beyond", tries)
		}
	})
}

// silent is a transport to an array that takes requests and never answers.
type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "CSI-a") || r.Method == http.MethodPost {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return wire(func(*http.Request) (int, string) { return 200, `{"data":[]}` }).RoundTrip(r)
}

func TestSilentArrayIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := client(t, "http://array", func(cfg *dateraclient.Config) { cfg.HTTP = &http.Client{Transport: silent{}} })
		_, err := c.Volume(t.Context(), "CSI-a")
		if !errors.Is(err, dateraclient.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("read: got %v, want ErrUnavailable: it was not the caller's deadline", err)
		}
		_, _, err = c.CreateSnapshot(t.Context(), "CSI-b", dateraclient.SnapshotSpec{UUID: "u"})
		if !errors.Is(err, dateraclient.ErrUnavailable) {
			t.Errorf("create: got %v, want ErrUnavailable", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err = c.Volume(ctx, "CSI-a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a deadline: got %v, want deadline exceeded", err)
		}
	})
}

// slow is a transport to an array that answers reads at once, and changes after a time.
type slow struct {
	after        time.Duration
	begun, ended int // changes
}

func (s *slow) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/app_instances/") {
		s.begun++
		select {
		case <-time.After(s.after):
			s.ended++
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	return wire(func(*http.Request) (int, string) { return 200, oneVolume }).RoundTrip(r)
}

// A change of the ACL is not given up with its caller, but not awaited for ever, and not
// begun when the caller has left already.
func TestChangesOfTheACLAreNotLeftUnderWay(t *testing.T) {
	for _, tc := range []struct{ answer, leave, want time.Duration }{
		{70 * time.Second, time.Minute, 70 * time.Second},
		{time.Hour, time.Minute, 2 * time.Minute},
		{70 * time.Second, 0, 0},
	} {
		for name, change := range map[string]func(context.Context, *dateraclient.Client, *dateraclient.Volume) error{
			"add": func(ctx context.Context, c *dateraclient.Client, v *dateraclient.Volume) error {
				_, err := c.Grant(ctx, v, hostA)
				return err
			},
			"remove": func(ctx context.Context, c *dateraclient.Client, v *dateraclient.Volume) error {
				v.Initiators = []string{hostA}
				return c.Revoke(ctx, v, hostA)
			},
		} {
			synctest.Test(t, func(t *testing.T) {
				var array slow
				array.after = tc.answer
				c := client(t, "http://array", func(cfg *dateraclient.Config) { cfg.HTTP = &http.Client{Transport: &array} })
				if _, err := c.Volume(t.Context(), "CSI-a"); err != nil { // logs in
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), tc.leave)
				defer cancel()
				begun := time.Now()
				err := change(ctx, c, unlucky())
				if took := time.Since(begun); took != tc.want || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s, answered after %s: %v after %s, want the caller's end after %s", name, tc.answer, err, took, tc.want)
				}
				if want := tc.leave > 0; (array.begun > 0) != want || (array.ended > 0) != (want && tc.answer < time.Hour) {
					t.Errorf("%s, answered after %s: %d changes begun, %d ended", name, tc.answer, array.begun, array.ended)
				}
			})
		}
	}
}

// A transport that does not say how far a request came must not make the client
// believe that a create was never sent.
func TestTransportWithoutMarksIsNotTrusted(t *testing.T) {
	posts := 0
	c := client(t, "http://array", func(cfg *dateraclient.Config) {
		cfg.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPost {
				posts++
				return nil, errors.New("something happened")
			}
			return wire(func(*http.Request) (int, string) { return 200, `{"data":[]}` }).RoundTrip(r)
		})}
	})
	_, _, err := c.CreateSnapshot(t.Context(), "CSI-b", dateraclient.SnapshotSpec{UUID: "u"})
	if !errors.Is(err, dateraclient.ErrAnswerLost) || posts != 1 {
		t.Errorf("got %v after %d POSTs, want ErrAnswerLost after 1", err, posts)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestDeletionInProgressIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gets := 0
		c := wired(t, func(r *http.Request) (int, string) {
			if r.Method != http.MethodGet {
				return 200, strings.Replace(oneVolume, `"id":"1"`, `"id":"1","op_state":"deleting"`, 1)
			}
			if gets++; gets < 5 {
				return 200, oneVolume
			}
			return 404, `{"name":"NotFoundError","http":404,"message":"CSI-a does not exist"}`
		})
		if err := c.DeleteVolume(t.Context(), unlucky()); err != nil || gets != 5 {
			t.Errorf("%v after %d reads, want success after 5", err, gets)
		}
	})
}

func TestDeletionThatNeverEndsIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := wired(t, func(*http.Request) (int, string) {
			return 200, strings.Replace(oneVolume, `"id":"1"`, `"id":"1","op_state":"deleting"`, 1)
		})
		if err := c.DeleteVolume(t.Context(), unlucky()); !errors.Is(err, dateraclient.ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
	})
}

// An array may want to be forced for other reasons than a session.
func TestDeleteForcesOnlyWhenNobodyIsLoggedIn(t *testing.T) {
	for _, loggedIn := range []bool{false, true} {
		var sent []string
		c := wired(t, func(r *http.Request) (int, string) {
			text := make([]byte, 200)
			n := 0
			if r.Body != nil {
				n, _ = r.Body.Read(text)
			}
			sent = append(sent, r.Method+string(text[:n]))
			switch {
			case r.Method == http.MethodPut && !strings.Contains(string(text[:n]), "force"):
				return 400, `{"name":"InvalidRequestError","message":"override this warning"}`
			case r.Method == http.MethodGet && loggedIn:
				return 200, strings.Replace(oneVolume, `"name":"storage-1"`, `"name":"storage-1","active_initiators":["`+hostA+`"]`, 1)
			default:
				return 200, oneVolume
			}
		})
		err := c.DeleteVolume(t.Context(), unlucky())
		want := `PUT{"admin_state":"offline"} GET`
		if loggedIn != errors.Is(err, dateraclient.ErrInUse) {
			t.Errorf("logged in %t: got %v", loggedIn, err)
		}
		if !loggedIn {
			want += ` PUT{"admin_state":"offline","force":true} DELETE`
		}
		if got := strings.Join(sent, " "); got != want {
			t.Errorf("logged in %t: sent\n%s\nwant\n%s", loggedIn, got, want)
		}
	}
}

func TestDescriptionsFitTheArray(t *testing.T) {
	for in, want := range map[string]string{
		"PVC shop/data":                   `"PVC shop-data"`,
		"9 lives":                         `"_ lives"`,
		"ab":                              ``,
		"":                                ``,
		"größe:x":                         `"gr--e-x"`,
		strings.Repeat("a", 200) + "tail": `"` + strings.Repeat("a", 128) + `"`,
	} {
		var sent string
		c := wired(t, func(r *http.Request) (int, string) {
			text := make([]byte, 1000)
			n, _ := r.Body.Read(text)
			sent = string(text[:n])
			return 200, oneVolume
		})
		spec := small("CSI-a")
		spec.Description = in
		mustCreate(t, c, spec)
		if want == "" && strings.Contains(sent, "descr") || !strings.Contains(sent, want) {
			t.Errorf("%q: sent %s, want %s", in, sent, want)
		}
	}
}
