package dateraclient_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

const (
	hostA = "iqn.1993-08.org.debian:01:aaaaaaaaaaaa"
	hostB = "iqn.1993-08.org.debian:01:bbbbbbbbbbbb"
)

// simulated is a whole simulated array and a client of it that is logged in.
func simulated(t *testing.T, opts ...func(*sim.Config)) (*simtest.Server, *dateraclient.Client) {
	t.Helper()
	s := simtest.Start(t, opts...)
	c := clientOf(t, s)
	s.ResetRequests()
	return s, c
}

func clientOf(t *testing.T, s *simtest.Server, opts ...func(*dateraclient.Config)) *dateraclient.Client {
	t.Helper()
	opts = append(opts, func(cfg *dateraclient.Config) {
		cfg.Credentials = func() (string, string, error) { return s.User, s.Password, nil }
	})
	c := client(t, s.URL, opts...)
	if _, err := c.System(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// requested are the requests since the last time as "METHOD /path".
func requested(s *simtest.Server) []string {
	var out []string
	for _, r := range s.Requests() {
		out = append(out, r.Method+" "+r.Path)
	}
	s.ResetRequests()
	return out
}

// wantRequests compares requests with patterns in which "*" is one segment.
func wantRequests(t *testing.T, s *simtest.Server, want ...string) {
	t.Helper()
	got := requested(s)
	same := slices.EqualFunc(got, want, func(g, w string) bool {
		return slices.EqualFunc(strings.Split(g, "/"), strings.Split(w, "/"), func(g, w string) bool { return w == "*" || g == w })
	})
	if !same {
		t.Errorf("requests (-want +got):\n%s", cmp.Diff(want, got))
	}
}

func mustCreate(t *testing.T, c *dateraclient.Client, spec dateraclient.VolumeSpec) *dateraclient.Volume {
	t.Helper()
	v, err := c.CreateVolume(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func small(name string) dateraclient.VolumeSpec {
	return dateraclient.VolumeSpec{Name: name, Size: 1, Replicas: 1}
}

func mustRead(t *testing.T, c *dateraclient.Client, name string) *dateraclient.Volume {
	t.Helper()
	v, err := c.Volume(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// administrator does with the array what the client has no words for.
func administrator(t *testing.T, s *simtest.Server, tenant, method, path, body string) map[string]any {
	t.Helper()
	return s.API(t, tenant, method, path, body)
}
