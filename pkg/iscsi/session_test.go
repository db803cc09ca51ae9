package iscsi

import "testing"

func TestASessionThatHasEndedIsNamedByItsTarget(t *testing.T) {
	t.Parallel()
	s := session{id: 3, iqn: "iqn.x:a", class: t.TempDir() + "/session3"}
	if got, want := s.String(), "session 3 of iqn.x:a"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
