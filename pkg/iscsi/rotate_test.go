package iscsi_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

var (
	oldSecret = &iscsi.CHAP{User: "u", Password: "secret-of-twelve"}
	newSecret = &iscsi.CHAP{User: "u", Password: "secret-of-today", UserIn: "t", PasswordIn: "secret-of-array"}
)

// welcoming is target A at two portals that let everybody log in, up to the
// secrets.
func welcoming(t *testing.T) iscsi.Target {
	t.Helper()
	target := targetA()
	target.Portals = nil
	for n := 1; n <= 2; n++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.%d:0", n))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				answer := make([]byte, 48)
				answer[0] = 0x23
				_, _ = conn.Read(make([]byte, 4096))
				_, _ = conn.Write(answer)
				_ = conn.Close()
			}
		}()
		target.Portals = append(target.Portals, netip.MustParseAddrPort(l.Addr().String()))
	}
	return target
}

// class is the directory of the session of target A to a portal.
func (h *host) class(portal netip.AddrPort) string {
	return fmt.Sprintf("sys/class/iscsi_session/session%d/", h.sessionTo(iqnA, portal))
}

// lose takes the session to a portal down; iscsid does not bring it back.
func (h *host) lose(portals ...netip.AddrPort) {
	for _, p := range portals {
		h.write(h.class(p)+"state", "FREE\n")
	}
}

// FM 40, 20: a secret has changed under a LUN in use. What runs is left alone, and
// whoever logs in next has the new one, from a file that root alone can read.
func TestANewSecretIsForTheNextLogin(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*host){
		"single": func(*host) {},
		"map":    func(h *host) { h.runMultipathd() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			prepare(h)
			i := h.initiator()
			want := attachWith(t, i, targetA(), oldSecret)
			before := h.left()
			h.forget()
			if got := attachWith(t, i, targetA(), newSecret); !cmp.Equal(got, want) {
				t.Errorf("got %+v, had %+v", got, want)
			}
			if diff := cmp.Diff(before, h.left()); diff != "" || len(h.ran()) > 0 {
				t.Errorf("ran %q, changed:\n%s", h.ran(), diff)
			}
			for _, path := range h.glob("etc/iscsi/nodes/" + iqnA + "/*") {
				info, err := os.Stat(h.path(path))
				if err != nil || info.Mode() != 0o600 {
					t.Errorf("%s: %v, %v", path, info.Mode(), err)
				}
				for key, v := range map[string]string{"username": "u", "password": newSecret.Password, "username_in": "t", "password_in": newSecret.PasswordIn} {
					if text := h.read(path); strings.Count(text, "node.session.auth."+key+" = ") != 1 || !strings.Contains(text, "node.session.auth."+key+" = "+v+"\n") {
						t.Errorf("%s: in\n%s", key, text)
					}
				}
			}
			if s := inspect(t, i); len(s.Outdated()) > 0 || s.Healable() {
				t.Errorf("sessions that run show as %+v", s)
			}
		})
	}
}

func sameAddrs(a, b []netip.AddrPort) bool {
	return slices.Equal(slices.SortedFunc(slices.Values(a), netip.AddrPort.Compare), slices.SortedFunc(slices.Values(b), netip.AddrPort.Compare))
}

// FM 20: iscsid tries to bring a session back with the secret that it had, in vain.
// It is made anew with the one of the node record, and so is one whose sibling is
// lost too: the map has a path all the time.
func TestASessionThatCannotComeBackIsMadeAnew(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]int{"one": 1, "both": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t).runMultipathd()
			i := h.initiator()
			target := welcoming(t)
			attachWith(t, i, target, oldSecret)
			attachWith(t, i, target, newSecret)
			h.lose(target.Portals[:lost]...)
			s, err := i.Inspect(t.Context(), target)
			if err != nil || !sameAddrs(s.Outdated(), target.Portals[:lost]) || !s.Healable() {
				t.Fatalf("it shows as %+v, %v", s, err)
			}
			h.forget()
			fewest := 2
			h.after["--logout"] = func() { fewest = min(fewest, len(h.glob("sys/block/dm-0/slaves/*"))) }
			done, err := i.Heal(t.Context(), target, nil)
			if err != nil || !sameAddrs(done.LoggedIn, target.Portals[:lost]) || len(done.Failed) > 0 {
				t.Fatalf("mended %+v, %v", done, err)
			}
			s, err = i.Inspect(t.Context(), target)
			if err != nil || len(s.Live()) != 2 || len(s.Disks()) != 2 || s.Healable() {
				t.Errorf("after it was mended it shows as %+v, %v", s, err)
			}
			if n := len(h.glob("sys/block/dm-0/slaves/*")); n != 2 || fewest < 1 {
				t.Errorf("the map has %d paths, and had %d meanwhile", n, fewest)
			}
			if logouts := h.ran("--logout"); len(logouts) != lost {
				t.Errorf("ended sessions: %q", logouts)
			}
		})
	}
}

// FM 20, 25: a portal that is dead does not keep the session to another from being made
// anew.
func TestADeadPortalDoesNotKeepAnothersSessionLost(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	i := h.initiator()
	target := welcoming(t)
	target.Portals[0] = netip.MustParseAddrPort("127.0.0.9:1")
	attachWith(t, i, target, oldSecret)
	attachWith(t, i, target, newSecret)
	h.lose(target.Portals...)
	h.forget()
	done, err := i.Heal(t.Context(), target, nil)
	if err != nil || !sameAddrs(done.LoggedIn, target.Portals[1:]) || len(done.Failed) > 0 {
		t.Fatalf("mended %+v, %v", done, err)
	}
	s, err := i.Inspect(t.Context(), target)
	if err != nil || !sameAddrs(s.Live(), target.Portals[1:]) || !sameAddrs(s.Outdated(), target.Portals[:1]) {
		t.Errorf("after it was mended it shows as %+v, %v", s, err)
	}
	if n := len(h.glob("sys/block/dm-0/slaves/*")); n != 2 || len(h.ran("--logout")) != 1 {
		t.Errorf("the map has %d paths; ran %q", n, h.ran())
	}
}

// FM 20: nothing else is reason enough to end a session.
func TestALostSessionIsLeftToIscsid(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		multipath bool
		spoil     func(*host, *iscsi.Target, *iscsi.Initiator)
	}{
		"the secrets are the same": {true, func(h *host, target *iscsi.Target, i *iscsi.Initiator) {
			attachWith(h.t, i, *target, oldSecret)
		}},
		"the kernel does not tell the secrets": {true, func(h *host, target *iscsi.Target, _ *iscsi.Initiator) {
			h.remove(h.class(target.Portals[0]) + "password")
		}},
		"there is no node record": {true, func(h *host, _ *iscsi.Target, _ *iscsi.Initiator) { h.remove("etc/iscsi/nodes") }},
		"it comes back": {true, func(h *host, target *iscsi.Target, _ *iscsi.Initiator) {
			h.write(h.class(target.Portals[0])+"state", "LOGGED_IN\n")
		}},
		"it is the only path": {true, func(h *host, target *iscsi.Target, _ *iscsi.Initiator) {
			other := h.sessionTo(iqnA, target.Portals[1])
			if h.logOut(fmt.Sprint(other)) != 0 {
				h.t.Error("no such session")
			}
		}},
		"it is mounted without a map": {false, func(h *host, _ *iscsi.Target, _ *iscsi.Initiator) {
			h.mount(h.read("sys/block/sdb/dev"), "/", "/var/lib/kubelet/x", "xfs", "/dev/sdb")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if c.multipath {
				h.runMultipathd()
			}
			i := h.initiator()
			target := welcoming(t)
			attachWith(t, i, target, oldSecret)
			attachWith(t, i, target, newSecret)
			h.lose(target.Portals[0])
			if h.sessionTo(iqnA, target.Portals[0]) == 0 {
				t.Fatal("there is no such session")
			}
			c.spoil(h, &target, i)
			h.forget()
			if done, err := i.Heal(t.Context(), target, nil); err != nil || len(done.LoggedIn) > 0 || len(h.ran("--log")) > 0 {
				t.Errorf("mended %+v, %v; ran %q", done, err, h.ran())
			}
		})
	}
	t.Run("the portal does not answer", func(t *testing.T) {
		t.Parallel()
		h := newHost(t).runMultipathd()
		i := h.initiator()
		target := targetA() // at addresses that nobody has
		target.Portals = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.2:1")}
		attachWith(t, i, target, oldSecret)
		attachWith(t, i, target, newSecret)
		h.lose(target.Portals[0])
		h.forget()
		if done, err := i.Heal(t.Context(), target, nil); err != nil || len(done.LoggedIn) > 0 || len(h.ran("--log")) > 0 {
			t.Errorf("mended %+v, %v; ran %q", done, err, h.ran())
		}
	})
}
