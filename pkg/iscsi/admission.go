package iscsi

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Verdict is what a portal says of a login by this host.
type Verdict int

// The verdicts.
const (
	Unknown  Verdict = iota // none: no answer, or one that says nothing of this host
	Admitted                // the portal would let this host log in
	Refused                 // this host is not admitted there
	NoTarget                // the portal does not serve the target
)

// Admission is the answer of one portal.
type Admission struct {
	Verdict Verdict
	Detail  string // of Unknown: what came instead of a verdict
}

func (a Admission) String() string {
	switch a.Verdict {
	case Admitted:
		return "it would let this host log in"
	case Refused:
		return "it does not admit this host"
	case NoTarget:
		return "it does not serve the target"
	default:
		return a.Detail
	}
}

// Refusal is what the portals of a target say about this host.
type Refusal map[netip.AddrPort]Admission

// Final says that the target does not admit this host: a portal says so and none
// says otherwise. Silence is no evidence either way.
func (r Refusal) Final() bool {
	return r.has(Refused) && !r.Admits()
}

// Admits says that a portal would let this host in.
func (r Refusal) Admits() bool { return r.has(Admitted) }

// Gone says that a portal answers that it does not serve the target, and none that
// it would let this host in. By itself it is no refusal: an array that starts or
// takes a volume offline says so too. After a refusal it is what a deletion looks like.
func (r Refusal) Gone() bool {
	return r.has(NoTarget) && !r.Admits()
}

func (r Refusal) has(v Verdict) bool {
	for _, a := range r {
		if a.Verdict == v {
			return true
		}
	}
	return false
}

// refusedBy are the portals that do not admit this host, in order.
func (r Refusal) refusedBy() []netip.AddrPort {
	var all []netip.AddrPort
	for portal, a := range r {
		if a.Verdict == Refused {
			all = append(all, portal)
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all
}

// Others are the portals that say anything else, or nothing.
func (r Refusal) Others() map[netip.AddrPort]Admission {
	others := maps.Clone(r)
	maps.DeleteFunc(others, func(_ netip.AddrPort, a Admission) bool { return a.Verdict == Refused })
	return others
}

// String is the evidence that speaks for taking this host for refused.
func (r Refusal) String() string {
	return fmt.Sprintf("not admitted, says %v, others %v", r.refusedBy(), r.Others())
}

// AskAdmission begins a login at every portal of the target and leaves after the
// first answer, which says whether the target admits this host's name at all: that
// is decided before any secret is asked for (RFC 7143, 11.13.5: class 2, detail 2).
// No session comes of it and none is disturbed, because the login is of another
// ISID than any of the host's. It is how a lost network, which also ends sessions,
// is told from an array that has taken this host out of the volume's ACL.
//
// It asks from where iscsid logs in, Config.Network, and by the name that the
// target's sessions have: those go on under it after the host was given another.
func (i *Initiator) AskAdmission(ctx context.Context, t Target) (Refusal, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	name, err := i.nameAt(t.IQN)
	if err != nil {
		return nil, err
	}
	portals := t.portals()
	answers := eachOf(portals, func(p netip.AddrPort) Admission { return i.askPortal(ctx, p, name, t.IQN) })
	r := make(Refusal, len(portals))
	for n, p := range portals {
		r[p] = answers[n]
	}
	return r, nil
}

// nameAt is the name under which this host has sessions of a target; without one, the
// name it would log in by.
func (i *Initiator) nameAt(iqn string) (string, error) {
	sessions, err := i.sysfs.sessions(iqn)
	if err != nil {
		return "", err
	}
	for _, s := range sessions {
		if name, err := attribute(s.class, "initiatorname"); err == nil && validName(name) {
			return name, nil
		}
	}
	return i.Name()
}

// askPortal begins a login at one portal.
func (i *Initiator) askPortal(ctx context.Context, portal netip.AddrPort, initiator, target string) Admission {
	const limit = 3 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := inNetwork(i.cfg.Network, func() (net.Conn, error) { // an address needs no resolver, so the dialer stays on this thread
		var d net.Dialer
		return d.DialContext(ctx, "tcp", portal.String())
	})
	if err != nil {
		return Admission{Detail: err.Error()}
	}
	defer conn.Close()                                                               //nolint:errcheck // whatever it says, nobody waits for it
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })() // ends what waits
	if _, err := conn.Write(loginRequest(initiator, target)); err != nil {
		return Admission{Detail: err.Error()}
	}
	answer := make([]byte, headerBytes)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return Admission{Detail: err.Error()}
	}
	return readAdmission(answer)
}

const (
	headerBytes   = 48
	opLogin       = 0x43 // immediate
	opLoginAnswer = 0x23
)

// loginRequest is the first request of a login (RFC 7143, 11.12), in security
// negotiation and ready to leave it.
func loginRequest(initiator, target string) []byte {
	keys := strings.Join([]string{"InitiatorName=" + initiator, "TargetName=" + target, "SessionType=Normal", "AuthMethod=CHAP,None", ""}, "\x00")
	pdu := make([]byte, headerBytes, headerBytes+len(keys)+3)
	pdu[0], pdu[1] = opLogin, 0x81
	binary.BigEndian.PutUint32(pdu[4:], uint32(len(keys))) // the first byte, of extra headers, stays 0
	_, _ = rand.Read(pdu[8:14])                            // never fails
	pdu[8] = pdu[8]&0x3f | 0x80                            // an ISID of the random kind, which open-iscsi never uses
	pdu = append(pdu, keys...)
	for len(pdu)%4 != 0 {
		pdu = append(pdu, 0)
	}
	return pdu
}

// readAdmission reads the status of a login answer (RFC 7143, 11.13.5).
func readAdmission(answer []byte) Admission {
	const (
		success, initiatorError, targetError = 0, 2, 3 // classes
		forbidden, notFound, removed         = 2, 3, 4 // details of initiatorError
		unavailable                          = 1       // of targetError; what Linux' target says of one it does not have
	)
	class, detail := answer[36], answer[37]
	switch {
	case answer[0]&0x3f != opLoginAnswer:
		return Admission{Detail: fmt.Sprintf("it does not speak iSCSI: opcode %#x", answer[0])}
	case class == success:
		return Admission{Verdict: Admitted}
	case class == initiatorError && detail == forbidden:
		return Admission{Verdict: Refused}
	case class == initiatorError && (detail == notFound || detail == removed), class == targetError && detail == unavailable:
		return Admission{Verdict: NoTarget}
	}
	return Admission{Detail: fmt.Sprintf("it answers the login with status %#02x%02x", class, detail)}
}
