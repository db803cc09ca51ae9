package chap_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/internal/chap"
)

func TestSecretsAreRefusedWithoutTellingThem(t *testing.T) {
	good := chap.Secrets{User: "canary-user", Password: "canary-pass-1", UserIn: "canary-in", PasswordIn: "canary-pass-2"}
	for name, c := range map[string]struct {
		spoil func(*chap.Secrets)
		words string // "" when they are taken
	}{
		"mutual":            {func(*chap.Secrets) {}, ""},
		"one way":           {func(s *chap.Secrets) { s.UserIn, s.PasswordIn = "", "" }, ""},
		"any name":          {func(s *chap.Secrets) { s.User = "canary user" }, ""},
		"16 characters":     {func(s *chap.Secrets) { s.Password = "canary-pass-1!~#" }, ""},
		"no user":           {func(s *chap.Secrets) { s.User = "" }, chap.User + " and " + chap.Password + " come together"},
		"no password":       {func(s *chap.Secrets) { s.Password = "" }, "come together"},
		"only the target's": {func(s *chap.Secrets) { s.User, s.Password = "", "" }, "come together"},
		"no target's user":  {func(s *chap.Secrets) { s.UserIn = "" }, chap.UserIn + " and " + chap.PasswordIn + " come together"},
		"no target's pass":  {func(s *chap.Secrets) { s.PasswordIn = "" }, "come together"},
		"short":             {func(s *chap.Secrets) { s.Password = "canary-pass" }, "has 11 bytes"},
		"long":              {func(s *chap.Secrets) { s.PasswordIn = "canary-password-2" }, chap.PasswordIn + " has 17 bytes"},
		"a space":           {func(s *chap.Secrets) { s.Password = "canary pass-1" }, "a space"},
		"a line":            {func(s *chap.Secrets) { s.Password = "canary-pass-\n" }, "a space"},
		"delete":            {func(s *chap.Secrets) { s.Password = "canary-pass-\x7f" }, "a space"},
		"beyond ASCII":      {func(s *chap.Secrets) { s.PasswordIn = "canary-pässe" }, "beyond ASCII"},
		"equal":             {func(s *chap.Secrets) { s.PasswordIn = s.Password }, "are the same"},
	} {
		s := good
		c.spoil(&s)
		err := s.Check()
		if (err == nil) != (c.words == "") || err != nil && !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: got %v, want %q", name, err, c.words)
		}
		if strings.Contains(fmt.Sprint(err), "canary") || strings.Contains(fmt.Sprintf("%v %+v %#v %s", s, s, &s, s), "canary") {
			t.Errorf("%s: a secret is told: %v", name, err)
		}
	}
}

func TestSecretsComeByTheirKeys(t *testing.T) {
	got := chap.Of(map[string]string{
		"node.session.auth.username": "a", "node.session.auth.password": "b",
		"node.session.auth.username_in": "c", "node.session.auth.password_in": "d", "other": "e",
	})
	if got != (chap.Secrets{User: "a", Password: "b", UserIn: "c", PasswordIn: "d"}) {
		t.Error("got other values")
	}
	if chap.Of(nil) != (chap.Secrets{}) {
		t.Error("nothing has secrets")
	}
}
