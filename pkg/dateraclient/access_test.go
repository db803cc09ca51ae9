package dateraclient_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

const aclPath = "/app_instances/*/storage_instances/storage-1/acl_policy/initiators"

func mustGrant(t *testing.T, c *dateraclient.Client, v *dateraclient.Volume, iqn string) *dateraclient.Volume {
	t.Helper()
	out, err := c.Grant(t.Context(), v, iqn)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// known makes an initiator known to the array.
func known(t *testing.T, s *simtest.Server, iqns ...string) {
	t.Helper()
	for _, iqn := range iqns {
		administrator(t, s, "/root", "POST", "/initiators", fmt.Sprintf(`{"id":%q,"name":"a host"}`, iqn))
	}
}

// admitGroup admits a group rack-1 with one member, which the array knows.
func admitGroup(t *testing.T, s *simtest.Server, app, iqn string) {
	t.Helper()
	administrator(t, s, "/root", "POST", "/initiator_groups", `{"name":"rack-1","members":[{"path":"/initiators/`+iqn+`"}]}`)
	administrator(t, s, "/root", "PUT", "/app_instances/"+app+"/storage_instances/storage-1/acl_policy/initiator_groups",
		`{"path":"/initiator_groups/rack-1","op":"add"}`)
}

func TestGrantOfAKnownInitiatorIsTwoRequests(t *testing.T) {
	s, c := simulated(t)
	known(t, s, hostA)
	v := mustCreate(t, c, small("CSI-a"))
	s.ResetRequests()
	v = mustGrant(t, c, v, hostA)
	wantRequests(t, s, "PUT "+aclPath, "GET /app_instances/*")
	if diff := cmp.Diff([]string{hostA}, v.Initiators); diff != "" || !v.Exported || !v.Online {
		t.Errorf("got %+v, ACL %s", v, diff)
	}
	mustGrant(t, c, v, hostA)
	wantRequests(t, s) // the view shows that nothing is left to do
}

func TestGrantIntroducesAnInitiatorOnce(t *testing.T) {
	s, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	s.ResetRequests()
	mustGrant(t, c, v, hostA)
	wantRequests(t, s, "PUT "+aclPath, "GET /app_instances/*", "POST /initiators", "PUT "+aclPath, "GET /app_instances/*")
	made := administrator(t, s, "/root", "GET", "/initiators/"+hostA, "")["data"].(map[string]any)
	if made["name"] != "CSI-"+strings.ReplaceAll(hostA, ":", "-") {
		t.Errorf("got %v", made)
	}
}

// An array that takes two spellings for one name refuses the second as a conflict.
func TestGrantBesideAnotherSpellingOfTheName(t *testing.T) {
	s, c := simulated(t)
	capitals := strings.ToUpper(hostA[len("iqn.1993-08."):])
	v := mustGrant(t, c, mustCreate(t, c, small("CSI-a")), "iqn.1993-08."+capitals)
	s.Fail(simtest.Put(aclPath), sim.Fault{Status: 409, Times: -1})
	v = mustGrant(t, c, v, hostA)
	if diff := cmp.Diff([]string{"iqn.1993-08." + capitals}, v.Initiators); diff != "" {
		t.Error(diff)
	}
}

func TestGrantKeepsTheOthers(t *testing.T) {
	_, c := simulated(t)
	stale := mustCreate(t, c, small("CSI-a"))
	mustGrant(t, c, stale, hostA)
	v := mustGrant(t, c, stale, hostB) // from a view without hostA
	if diff := cmp.Diff([]string{hostA, hostB}, v.Initiators); diff != "" {
		t.Error(diff)
	}
	v = mustGrant(t, c, stale, hostB) // somebody was faster
	if diff := cmp.Diff([]string{hostA, hostB}, v.Initiators); diff != "" {
		t.Error(diff)
	}
}

func TestGrantBringsOnlineAndWaitsForTheExport(t *testing.T) {
	_, c := simulated(t, func(cfg *sim.Config) { cfg.ExportDelay = 200 * time.Millisecond })
	v := mustCreate(t, c, small("CSI-a"))
	if v.Exported {
		t.Fatal("exported at once")
	}
	if v = mustGrant(t, c, v, hostA); !v.Exported {
		t.Error("not exported after Grant")
	}
}

func TestGrantOfAnOfflineVolume(t *testing.T) {
	s, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	administrator(t, s, "/root", "PUT", "/app_instances/CSI-a", `{"admin_state":"offline"}`)
	v = mustGrant(t, c, v, hostA) // the view is from before
	if !v.Online || !v.Exported {
		t.Errorf("got %+v, want online", v)
	}
	administrator(t, s, "/root", "PUT", "/app_instances/CSI-a/storage_instances/storage-1", `{"admin_state":"offline"}`)
	v = mustGrant(t, c, mustRead(t, c, "CSI-a"), hostA)
	if !v.Online || !v.Exported {
		t.Errorf("storage instance: got %+v, want online", v)
	}
}

func TestGrantGivesUpInTime(t *testing.T) {
	_, c := simulated(t, func(cfg *sim.Config) { cfg.ExportDelay = time.Hour })
	v := mustCreate(t, c, small("CSI-a"))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := c.Grant(ctx, v, hostA)
	if !errors.Is(err, dateraclient.ErrUnavailable) || !strings.Contains(err.Error(), "exported false") {
		t.Errorf("got %v, want ErrUnavailable that says what is missing", err)
	}
}

func TestGrantOfAMissingVolume(t *testing.T) {
	s, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	if err := c.DeleteVolume(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Grant(t.Context(), v, hostA); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	if left := administrator(t, s, "/root", "GET", "/initiators", "")["data"].([]any); len(left) > 0 {
		t.Errorf("an initiator was left behind: %v", left)
	}
}

func TestGrantRefusesAVolumeOpenToAll(t *testing.T) {
	s, c := simulated(t)
	administrator(t, s, "/root", "POST", "/app_instances", `{"name":"open","access_control_mode":"allow_all",
		"storage_instances":[{"name":"storage-1","volumes":[{"name":"volume-1","size":1}]}]}`)
	v := mustRead(t, c, "open")
	if _, err := c.Grant(t.Context(), v, hostA); !errors.Is(err, dateraclient.ErrInUse) {
		t.Errorf("Grant: %v, want ErrInUse", err)
	}
	if err := c.Revoke(t.Context(), v, hostA); !errors.Is(err, dateraclient.ErrInUse) {
		t.Errorf("Revoke: %v, want ErrInUse: nobody is fenced by an ACL that does not count", err)
	}
}

func TestGrantAndRevokeGetThroughFaults(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]sim.Fault{
		"lost": {LoseAnswer: true}, "lost twice": {LoseAnswer: true, Times: 2}, "reset": {Reset: true}, "half": {Truncate: true},
		"busy": {Status: 503, Times: 2}, "unknown token": {ExpireToken: true}, "bad gateway": {Status: 502}, "empty": {Empty: true},
	} {
		for _, where := range []string{aclPath, "/initiators", "/app_instances/*"} {
			t.Run(name+" "+where, func(t *testing.T) {
				s, c := simulated(t)
				v := mustCreate(t, c, small("CSI-a"))
				s.Fail(simtest.Any(where), f)
				v = mustGrant(t, c, v, hostA)
				if diff := cmp.Diff([]string{hostA}, v.Initiators); diff != "" {
					t.Error(diff)
				}
				s.Fail(simtest.Any(where), f)
				if err := c.Revoke(t.Context(), v, hostA); err != nil {
					t.Error(err)
				}
				if v = mustRead(t, c, "CSI-a"); len(v.Initiators) != 0 {
					t.Errorf("still admitted: %v", v.Initiators)
				}
			})
		}
	}
}

// Whatever the array takes for a name can be admitted and kept out again.
func TestNamesThatTheArrayTakesAreAdmittedAndExpelled(t *testing.T) {
	_, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	for _, iqn := range []string{
		"iqn.1993-08.a:01", "iqn.2026-01.org.example:with_underscore", "iqn.2026-01.org.example:" + strings.Repeat("x", 199),
		"eui.02004567A425678D",
	} {
		v = mustGrant(t, c, v, iqn)
		if err := c.Revoke(t.Context(), v, iqn); err != nil {
			t.Errorf("%s: %v", iqn, err)
		}
		if v = mustRead(t, c, "CSI-a"); len(v.Initiators) != 0 {
			t.Errorf("still admitted: %v", v.Initiators)
		}
	}
	for _, iqn := range []string{
		"", "worker-1", "iqn.1993-08.a:1", "iqn.1993-13.org.debian:01:a", "iqn.1993-08.org/../x", "iqn.2026-01.org.example:" + strings.Repeat("x", 200),
		"eui.02004567", "naa.52004567BA64678D",
	} {
		if _, err := c.Grant(t.Context(), v, iqn); !errors.Is(err, dateraclient.ErrInvalid) {
			t.Errorf("grant %q: got %v, want ErrInvalid", iqn, err)
		}
		if err := c.Revoke(t.Context(), v, iqn); !errors.Is(err, dateraclient.ErrInvalid) {
			t.Errorf("revoke %q: got %v, want ErrInvalid", iqn, err)
		}
	}
}

// Of a name that stands in the ACL the array has judged: it is taken out, whatever
// this client thinks of it.
func TestRevokeTakesOutWhatItWouldNotAdmit(t *testing.T) {
	const odd = "iqn.2026-00.-odd"
	s, c := simulated(t)
	mustCreate(t, c, small("CSI-a"))
	known(t, s, odd)
	administrator(t, s, "/root", "PUT", "/app_instances/CSI-a/storage_instances/storage-1/acl_policy/initiators", `{"path":"/initiators/`+odd+`","op":"add"}`)
	if err := c.Revoke(t.Context(), mustRead(t, c, "CSI-a"), odd); err != nil {
		t.Error(err)
	}
	if v := mustRead(t, c, "CSI-a"); len(v.Initiators) != 0 {
		t.Errorf("still admitted: %v", v.Initiators)
	}
}

func TestRevokeIsTwoRequests(t *testing.T) {
	s, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	mustGrant(t, c, v, hostB)
	v = mustGrant(t, c, v, hostA)
	s.LogIn(t, v.IQN, hostA)
	s.LogIn(t, v.IQN, hostB)
	v = mustRead(t, c, "CSI-a")
	s.ResetRequests()
	if err := c.Revoke(t.Context(), v, hostA); err != nil {
		t.Fatal(err)
	}
	wantRequests(t, s, "PUT "+aclPath, "GET /app_instances/*")
	v = mustRead(t, c, "CSI-a")
	if !slices.Equal(v.Initiators, []string{hostB}) || !slices.Equal(v.ActiveInitiators, []string{hostB}) {
		t.Errorf("ACL %v, sessions %v, want only %s in both", v.Initiators, v.ActiveInitiators, hostB)
	}
	s.ResetRequests()
	if err := c.Revoke(t.Context(), v, hostA); err != nil {
		t.Fatal(err)
	}
	wantRequests(t, s) // the view shows that it is gone
}

func TestRevokeFromAStaleViewFindsItGone(t *testing.T) {
	_, c := simulated(t)
	v := mustGrant(t, c, mustCreate(t, c, small("CSI-a")), hostA)
	for range 2 { // the second removes what is not there
		if err := c.Revoke(t.Context(), v, hostA); err != nil {
			t.Fatal(err)
		}
	}
}

// FM 4: a volume that an administrator deletes under its hosts takes no change any more,
// and lets them go with its end.
func TestRevokeWaitsForTheEndOfAVolumeThatIsDeleted(t *testing.T) {
	s, c := simulated(t, func(cfg *sim.Config) { cfg.DeleteDelay = time.Second })
	v := mustGrant(t, c, mustCreate(t, c, small("CSI-a")), hostA)
	administrator(t, s, "/root", "PUT", "/app_instances/CSI-a", `{"admin_state":"offline","force":true}`)
	administrator(t, s, "/root", "DELETE", "/app_instances/CSI-a", `{"force":true}`)
	leaving := mustRead(t, c, "CSI-a")
	if !leaving.Leaving() {
		t.Fatalf("the array is %q", leaving.OpState)
	}
	if err := c.DeleteSnapshot(t.Context(), leaving, "1.5"); !errors.Is(err, dateraclient.ErrUnavailable) {
		t.Errorf("a snapshot of it: got %v, want ErrUnavailable", err)
	}
	if err := c.Revoke(t.Context(), v, hostA); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound once it is gone", err)
	}
}

func TestRevokeOfAMissingVolume(t *testing.T) {
	_, c := simulated(t)
	v := mustGrant(t, c, mustCreate(t, c, small("CSI-a")), hostA)
	if err := c.DeleteVolume(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := c.Revoke(t.Context(), v, hostA); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

func TestRevokeWaitsForTheSessionToEnd(t *testing.T) {
	s, c := simulated(t, func(cfg *sim.Config) { cfg.SessionsStick = true })
	v := mustGrant(t, c, mustCreate(t, c, small("CSI-a")), hostA)
	s.LogIn(t, v.IQN, hostA)
	begun := time.Now()
	time.AfterFunc(300*time.Millisecond, func() { s.LogOut(v.IQN, hostA) })
	if err := c.Revoke(t.Context(), v, hostA); err != nil {
		t.Fatal(err)
	}
	if time.Since(begun) < 300*time.Millisecond {
		t.Error("OK while the session was there")
	}
	if v = mustRead(t, c, "CSI-a"); !v.Online {
		t.Error("the volume was taken offline without need")
	}
}

// A session that the array keeps although its initiator is expelled is ended by
// taking the target down (FM 4).
func TestRevokeTakesDownATargetWithAStuckSession(t *testing.T) {
	t.Parallel()
	s, c := simulated(t, func(cfg *sim.Config) { cfg.SessionsStick = true })
	v := mustGrant(t, c, mustCreate(t, c, small("CSI-a")), hostA)
	s.LogIn(t, v.IQN, hostA)
	if err := c.Revoke(t.Context(), v, hostA); err != nil {
		t.Fatal(err)
	}
	v = mustRead(t, c, "CSI-a")
	if v.Online || len(v.ActiveInitiators) != 0 {
		t.Errorf("online %t, sessions %v, want offline and none", v.Online, v.ActiveInitiators)
	}
	if v = mustGrant(t, c, v, hostB); !v.Online || !v.Exported {
		t.Errorf("the next Grant: %+v, want online again", v)
	}
}

func TestRevokeNeverTakesDownATargetThatOthersUse(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string // who else is admitted
		admit func(t *testing.T, s *simtest.Server, c *dateraclient.Client, v *dateraclient.Volume)
	}{
		{hostB, func(t *testing.T, _ *simtest.Server, c *dateraclient.Client, v *dateraclient.Volume) {
			mustGrant(t, c, v, hostB)
		}},
		{"rack-1", func(t *testing.T, s *simtest.Server, _ *dateraclient.Client, _ *dateraclient.Volume) {
			known(t, s, hostB)
			admitGroup(t, s, "CSI-a", hostB)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s, c := simulated(t, func(cfg *sim.Config) { cfg.SessionsStick = true })
			v := mustCreate(t, c, small("CSI-a"))
			tc.admit(t, s, c, v)
			v = mustGrant(t, c, v, hostA)
			s.LogIn(t, v.IQN, hostA)
			err := c.Revoke(t.Context(), v, hostA)
			if !errors.Is(err, dateraclient.ErrInUse) || !strings.Contains(err.Error(), tc.name) {
				t.Errorf("got %v, want ErrInUse that names %s", err, tc.name)
			}
			if v = mustRead(t, c, "CSI-a"); !v.Online {
				t.Error("the volume was taken offline under another host")
			}
		})
	}
}

func TestRevokeIsNotOKWhileASessionOutlivesEverything(t *testing.T) {
	t.Parallel()
	s, c := simulated(t, func(cfg *sim.Config) { cfg.SessionsStick, cfg.OfflineSticks = true, true })
	v := mustGrant(t, c, mustCreate(t, c, small("CSI-a")), hostA)
	s.LogIn(t, v.IQN, hostA)
	if err := c.Revoke(t.Context(), v, hostA); !errors.Is(err, dateraclient.ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.Revoke(ctx, mustRead(t, c, "CSI-a"), hostA); err == nil {
		t.Error("OK while the session is there")
	}
}

// FM 4: whatever the array says to the removal, a host that is still in the ACL is
// not kept out, and no "not found" may pass for a volume that is gone.
func TestRevokeIsNotOKWhileTheInitiatorIsAdmitted(t *testing.T) {
	for _, status := range []int{400, 404, 409} {
		s, c := simulated(t)
		v := mustGrant(t, c, mustCreate(t, c, small("CSI-a")), hostA)
		s.Fail(simtest.Put(aclPath), sim.Fault{Status: status, Times: -1})
		err := c.Revoke(t.Context(), v, hostA)
		if !errors.Is(err, dateraclient.ErrInUse) || errors.Is(err, dateraclient.ErrNotFound) {
			t.Errorf("%d: got %v, want ErrInUse only", status, err)
		}
		for _, says := range []string{hostA, "CSI-a"} {
			if err != nil && !strings.Contains(err.Error(), says) {
				t.Errorf("%d: %v does not say %s", status, err, says)
			}
		}
	}
}

// FM 4: nor may a target that cannot be taken down pass for one that is gone.
func TestRevokeIsNotOKWhenTheTargetIsNotFound(t *testing.T) {
	t.Parallel() // it waits
	s, c := simulated(t, func(cfg *sim.Config) { cfg.SessionsStick = true })
	v := mustGrant(t, c, mustCreate(t, c, small("CSI-a")), hostA)
	s.LogIn(t, v.IQN, hostA)
	s.Fail(simtest.Put("/app_instances/*"), sim.Fault{Status: 404, Times: -1})
	if err := c.Revoke(t.Context(), v, hostA); !errors.Is(err, dateraclient.ErrInUse) || errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("got %v, want ErrInUse only", err)
	}
}

func TestRevokeOfAnUnreachableArrayIsAnError(t *testing.T) {
	s, c := simulated(t)
	v := mustGrant(t, c, mustCreate(t, c, small("CSI-a")), hostA)
	s.Array.ChangeLeader(time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.Revoke(ctx, v, hostA); !errors.Is(err, dateraclient.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

// Many publish and unpublish at once; nobody's entry may be lost (FM 9).
func TestConcurrentChangesOfOneACLLoseNothing(t *testing.T) {
	s, c := simulated(t)
	v := mustCreate(t, c, small("CSI-a"))
	var all sync.WaitGroup
	var mu sync.Mutex
	var want []string
	for i := range 40 {
		iqn := fmt.Sprintf("iqn.1993-08.org.debian:01:%012d", i)
		stays := rand.N(2) == 0
		if stays {
			want = append(want, iqn)
		}
		all.Go(func() {
			granted, err := c.Grant(t.Context(), v, iqn)
			if err == nil && !stays {
				err = c.Revoke(t.Context(), granted, iqn)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				t.Error(err)
			}
		})
	}
	all.Wait()
	got := mustRead(t, c, "CSI-a").Initiators
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, r := range requested(s) {
		if strings.HasSuffix(r, "/acl_policy") {
			t.Errorf("%s writes a whole list", r)
		}
	}
}

func TestGroupThatStillAdmitsIsNamed(t *testing.T) {
	s, c := simulated(t)
	v := mustGrant(t, c, mustCreate(t, c, small("CSI-a")), hostA)
	admitGroup(t, s, "CSI-a", hostA)
	err := c.Revoke(t.Context(), v, hostA)
	if !errors.Is(err, dateraclient.ErrInUse) || !strings.Contains(err.Error(), "rack-1") {
		t.Errorf("got %v, want ErrInUse that names the group", err)
	}
	mustGrant(t, c, v, hostB)
	if err = c.Revoke(t.Context(), mustRead(t, c, "CSI-a"), hostB); err != nil {
		t.Errorf("a host that is in no group: %v", err)
	}
}

func TestSubtenantGetsItsOwnInitiator(t *testing.T) {
	s := simtest.Start(t)
	administrator(t, s, "/root", "POST", "/tenants", `{"name":"prod"}`)
	c := clientOf(t, s, func(cfg *dateraclient.Config) { cfg.Tenant = "prod" })
	v := mustCreate(t, c, small("CSI-a"))
	if left := administrator(t, s, "/root", "GET", "/app_instances", "")["data"].([]any); len(left) > 0 {
		t.Errorf("the volume is in the parent: %v", left)
	}
	v = mustGrant(t, c, v, hostA)
	if err := c.Revoke(t.Context(), v, hostA); err != nil {
		t.Error(err)
	}
	known(t, s, hostB) // to the parent
	v = mustGrant(t, c, v, hostB)
	if err := c.Revoke(t.Context(), v, hostB); err != nil {
		t.Error(err)
	}
	other := clientOf(t, s)
	if _, err := other.Volume(t.Context(), "CSI-a"); !errors.Is(err, dateraclient.ErrNotFound) {
		t.Errorf("seen from /root: %v, want ErrNotFound", err)
	}
}
