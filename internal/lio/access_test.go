package lio_test

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/datera-csi/datera-csi/internal/lio"
	"github.com/datera-csi/datera-csi/internal/sim"
)

func TestRevokedInitiatorHasNoSession(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	want := target(t)
	want.Initiators = []string{hostA, hostB}
	apply(t, e, want)
	logIn(t, k, hostA)
	logIn(t, k, hostB)
	logIn(t, k, hostB) // by the second portal

	want.Initiators = []string{hostA}
	apply(t, e, want)
	got, err := e.Sessions(iqn)
	if diff := cmp.Diff([]string{hostA}, got); diff != "" || err != nil {
		t.Errorf("sessions: %v %s", err, diff)
	}
	if err := k.logIn(t, iqn, hostB, nil); err == nil {
		t.Error("the revoked initiator came back")
	}
}

// Whatever else is wrong with a target, who is revoked is out.
func TestRevocationComesBeforeAnythingThatMayFail(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	want := target(t)
	apply(t, e, want)
	logIn(t, k, hostA)

	want.Initiators = nil
	if err := os.Remove(want.LUNs[0].File); err != nil {
		t.Fatal(err)
	}
	if err := e.Apply(t.Context(), want); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing backing file: got %v", err)
	}
	if got := k.loggedIn(iqn); got != nil {
		t.Errorf("%q is still in", got)
	}
}

func TestOpenTargetIsClosedToThoseWhoCameIn(t *testing.T) {
	k := newKernel(t)
	e := k.restart(t)
	want := target(t)
	want.AllowAll = true
	apply(t, e, want)
	logIn(t, k, hostB)
	got, err := e.Sessions(iqn)
	if diff := cmp.Diff([]string{hostB}, got); diff != "" || err != nil {
		t.Errorf("sessions of an open target: %v %s", err, diff)
	}

	want.AllowAll = false
	apply(t, e, want)
	if got := k.loggedIn(iqn); got != nil {
		t.Errorf("%q is still in", got)
	}
	if err := k.logIn(t, iqn, hostB, nil); err == nil {
		t.Error("a stranger is still admitted")
	}
	logIn(t, k, hostA)
}

func TestCHAPIsSetChangedAndCleared(t *testing.T) {
	auth := func(k *kernel, dir string) []string {
		var got []string
		for _, name := range []string{"userid", "password", "userid_mutual", "password_mutual"} {
			v, err := k.Read(under(dir + "/auth/" + name))
			must(t, err)
			got = append(got, strings.TrimSpace(v))
		}
		return got
	}
	k := newKernel(t)
	e := k.restart(t)
	want := target(t)
	acl := tpg + "/acls/" + hostA
	for _, step := range []struct {
		all      bool
		auth     sim.Auth
		acl, tpg []string
	}{
		{auth: sim.Auth{TargetUser: "user", TargetPassword: secret, InitiatorUser: "array", InitiatorPassword: back},
			acl: []string{"user", secret, "array", back}, tpg: []string{"", "", "", ""}},
		{auth: sim.Auth{TargetUser: "user", TargetPassword: "another-secret"},
			acl: []string{"user", "another-secret", "NULL", "NULL"}, tpg: []string{"", "", "", ""}},
		{auth: sim.Auth{}, acl: []string{"NULL", "NULL", "NULL", "NULL"}, tpg: []string{"", "", "", ""}},
		{all: true, auth: sim.Auth{TargetUser: "user", TargetPassword: secret}, tpg: []string{"user", secret, "", ""}},
		{auth: sim.Auth{TargetUser: "user", TargetPassword: secret},
			acl: []string{"user", secret, "", ""}, tpg: []string{"NULL", "NULL", "", ""}},
	} {
		want.AllowAll, want.Auth = step.all, step.auth
		apply(t, e, want)
		if diff := cmp.Diff(step.tpg, auth(k, tpg)); diff != "" {
			t.Errorf("%+v: portal group: %s", step.auth, diff)
		}
		k.writes = nil
		if apply(t, e, want); len(k.writes) > 0 {
			t.Errorf("%+v: a repeat changed %q", step.auth, k.writes)
		}
		if step.acl == nil {
			continue
		}
		if diff := cmp.Diff(step.acl, auth(k, acl)); diff != "" {
			t.Errorf("%+v: ACL: %s", step.auth, diff)
		}
		err := k.logIn(t, iqn, hostA, map[string]string{"userid": step.auth.TargetUser, "password": step.auth.TargetPassword})
		if err != nil {
			t.Errorf("%+v: %v", step.auth, err)
		}
	}
}

func TestSecretsStayOutOfErrors(t *testing.T) {
	want := target(t)
	want.Auth = sim.Auth{TargetUser: "user", TargetPassword: secret, InitiatorUser: "array", InitiatorPassword: back}
	for _, name := range []string{"userid", "password", "userid_mutual", "password_mutual"} {
		k := newKernel(t)
		e := k.restart(t)
		k.fail[under(tpg+"/acls/"+hostA+"/auth/"+name)] = syscall.EIO
		err := e.Apply(t.Context(), want)
		if !errors.Is(err, syscall.EIO) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	want.Auth.TargetPassword = "NULL" + secret
	k := newKernel(t)
	if err := k.restart(t).Apply(t.Context(), want); !errors.Is(err, lio.ErrInvalid) || strings.Contains(err.Error(), "canary") {
		t.Errorf("bad secret: %v", err)
	}
}

func TestSessionsAreThoseTheKernelHolds(t *testing.T) {
	for state, want := range map[string][]string{
		"TARG_SESS_STATE_LOGGED_IN":          {hostA},
		"TARG_SESS_STATE_FAILED":             {hostA}, // another portal's session may be alive behind it
		"TARG_SESS_STATE_IN_CONTINUE":        {hostA},
		"TARG_SESS_STATE_ACTIVE":             nil, // login not finished
		"TARG_SESS_FREE":                     nil,
		"ERROR: Unknown Session State!":      nil,
		"none (the initiator is logged out)": nil,
	} {
		k := newKernel(t)
		e := k.restart(t)
		apply(t, e, target(t))
		if !strings.HasPrefix(state, "none") {
			logIn(t, k, hostA)
			k.sessions[0].state = state
		}
		got, err := e.Sessions(iqn)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("%s: %v %s", state, err, diff)
		}
	}
}

func TestSessionsOfAnAbsentTargetAreNone(t *testing.T) {
	k := newKernel(t)
	got, err := k.restart(t).Sessions(iqn)
	if len(got) > 0 || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
