package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/datera-csi/datera-csi/internal/health"
	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// NodeGetStorageHealth tells how this node reaches its arrays: by iscsid, by
// multipathd, and by the portals of the volumes that are staged here. It takes no
// lock and asks neither a device nor an array.
func (s *Server) NodeGetStorageHealth(ctx context.Context, _ *csi.NodeGetStorageHealthRequest) (*csi.NodeGetStorageHealthResponse, error) {
	const moment = 5 * time.Second // for a module to load, if it is missing
	limited, cancel := context.WithTimeout(ctx, moment)
	defer cancel()
	fabric, err := s.attacher.Fabric(limited)
	if err != nil {
		return nil, statusOf(fmt.Errorf("health of this node's storage: %w", err))
	}
	records, unread := s.records.list()
	return &csi.NodeGetStorageHealthResponse{BackendHealth: storageHealth(fabric, records, unread)}, nil
}

const (
	storageDegraded    = csi.StorageHealthErrorType_STORAGE_DEGRADED
	storageUnreachable = csi.StorageHealthErrorType_STORAGE_UNREACHABLE
)

// storageHealth compares the sessions there are with those the records want. A record
// that cannot be read is told of; what the others say holds all the same.
func storageHealth(f iscsi.Fabric, records []*record, unread []error) []*csi.NodeGetStorageHealthResponse_StorageBackendHealth {
	var found []*csi.NodeGetStorageHealthResponse_StorageBackendHealth
	add := func(status csi.StorageHealthErrorType, reason, message string) {
		found = append(found, &csi.NodeGetStorageHealthResponse_StorageBackendHealth{Status: status, Reason: reason, Message: health.Message(message)})
	}
	works := slices.ContainsFunc(f.Sessions, iscsi.Session.Live)
	if f.Ready != nil {
		status := storageUnreachable
		if works { // what is attached goes on, until a session breaks
			status = storageDegraded
		}
		add(status, "InitiatorNotReady", f.Ready.Error())
	}
	if f.Unwatched > 0 {
		add(storageDegraded, string(ReasonUnwatched), unwatched(f.Unwatched))
	}
	if len(unread) > 0 {
		add(storageDegraded, "RecordUnreadable", errors.Join(unread...).Error())
	}
	var dead, unreachable []string
	for _, a := range arrays(records) {
		if down := a.down(f.Sessions); len(down) == len(a.portals) {
			dead = append(dead, a.String())
		} else if len(down) > 0 {
			unreachable = append(unreachable, join(down)+" of "+a.String())
		}
	}
	const remedy = "; see that the network from this node to them works, and that the array serves them"
	if len(dead) > 0 {
		add(storageUnreachable, "ArrayUnreachable", "no session to any portal is live: "+strings.Join(dead, "; ")+remedy)
	}
	if len(unreachable) > 0 {
		add(storageDegraded, "PortalUnreachable", "no session is live to "+strings.Join(unreachable, "; ")+remedy)
	}
	return found
}

// array is what this node knows of one: the portals that its volumes share, and
// the targets behind them.
type array struct {
	portals []netip.AddrPort
	targets []recordTarget
}

func (a array) String() string {
	return fmt.Sprintf("array at %s with %d volumes here", join(a.portals), len(a.targets))
}

// arrays sorts the volumes that are staged, or are to be, by array: volumes that have a
// portal in common are of one.
func arrays(records []*record) []array {
	var all []array
	for _, rec := range records {
		merged := array{portals: slices.Clone(rec.Target.Portals), targets: []recordTarget{rec.Target}}
		var rest []array
		for _, a := range all {
			if !slices.ContainsFunc(a.portals, func(p netip.AddrPort) bool { return slices.Contains(merged.portals, p) }) {
				rest = append(rest, a)
				continue
			}
			merged.portals = append(merged.portals, a.portals...)
			merged.targets = append(merged.targets, a.targets...)
		}
		slices.SortFunc(merged.portals, netip.AddrPort.Compare)
		merged.portals = slices.Compact(merged.portals)
		rest = append(rest, merged)
		all = rest
	}
	return all
}

// down lists the portals to which sessions were wanted or are, and none is live.
// A portal that no session was ever made to, because one is all that a volume
// takes without multipath, is down only when the volumes have no live session.
func (a array) down(sessions []iscsi.Session) []netip.AddrPort {
	ours := slices.DeleteFunc(slices.Clone(sessions), func(s iscsi.Session) bool {
		return !slices.ContainsFunc(a.targets, func(t recordTarget) bool { return t.IQN == s.IQN })
	})
	works := slices.ContainsFunc(ours, iscsi.Session.Live)
	return slices.DeleteFunc(slices.Clone(a.portals), func(p netip.AddrPort) bool {
		here := slices.DeleteFunc(slices.Clone(ours), func(s iscsi.Session) bool { return s.Portal != p })
		if len(here) == 0 {
			return works
		}
		return slices.ContainsFunc(here, iscsi.Session.Live)
	})
}

func join(portals []netip.AddrPort) string {
	words := make([]string, len(portals))
	for i, p := range portals {
		words[i] = p.String()
	}
	return strings.Join(words, ", ")
}
