package controller

import (
	"cmp"
	"crypto/sha1" //nolint:gosec // what version 5 of a UUID is made with (RFC 9562); it protects nothing
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// snapshotID names a snapshot of a volume: `[BACKEND/]APP_INSTANCE_NAME:UTC_TS`.
// The last part is the array's own key of it and is never reformatted.
type snapshotID struct {
	Volume volumeID
	UTCTS  string
}

func (id snapshotID) String() string { return id.Volume.String() + ":" + id.UTCTS }

// utcPattern has room for the ten and nine digits of the array's keys, and leaves ids
// and tokens as long as CSI allows, see maxID.
var utcPattern = regexp.MustCompile(`^[0-9]{1,11}\.[0-9]{1,9}$`)

// errForeignID is an id that this driver never gave to a snapshot, and so one of no
// snapshot.
var errForeignID = errors.New("is not the id of a snapshot")

// parseSnapshotID is the inverse of String.
func parseSnapshotID(s string) (snapshotID, error) {
	if err := checkText("snapshot id", s); err != nil {
		return snapshotID{}, err
	}
	if strings.HasPrefix(s, "/app_instances/") {
		return snapshotID{}, fmt.Errorf("snapshot id %q is of the form of the vendor's first releases; write APP_INSTANCE_NAME:UTC_TS into the VolumeSnapshotContent", s)
	}
	name, ts, found := strings.Cut(s, ":")
	if !found || !utcPattern.MatchString(ts) {
		return snapshotID{}, fmt.Errorf("%q %w, which has the form [BACKEND/]APP_INSTANCE_NAME:UTC_TS", s, errForeignID)
	}
	volume, err := parseVolumeID(name)
	if err != nil {
		return snapshotID{}, fmt.Errorf("%q %w: %w", s, errForeignID, err)
	}
	return snapshotID{Volume: volume, UTCTS: ts}, nil
}

// created is the moment of the snapshot. The fraction of the key has had zeros at
// its end cut off, and keeps those at its beginning.
func (id snapshotID) created() (time.Time, error) {
	whole, fraction, _ := strings.Cut(id.UTCTS, ".")
	const digits = len("123456789")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("snapshot %s: its key is not a time: %w", id, err)
	}
	nanos, err := strconv.ParseInt((fraction + "000000000")[:digits], 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("snapshot %s: its key is not a time: %w", id, err)
	}
	return time.Unix(seconds, nanos), nil
}

// compareKeys orders the keys of snapshots by time.
func compareKeys(a, b string) int {
	aSeconds, aFraction, _ := strings.Cut(a, ".")
	bSeconds, bFraction, _ := strings.Cut(b, ".")
	aSeconds, bSeconds = strings.TrimLeft(aSeconds, "0"), strings.TrimLeft(bSeconds, "0")
	return cmp.Or(
		cmp.Compare(len(aSeconds), len(bSeconds)), // longer is later
		cmp.Compare(aSeconds, bSeconds),
		cmp.Compare(aFraction, bFraction), // digits behind the point: a shorter beginning is earlier
	)
}

// snapshotUUID is the uuid that a CSI snapshot name has on the array: version 5 in
// the namespace of the vendor's driver, so that both find each other's snapshots.
// It never changes.
func snapshotUUID(name string) string {
	namespace := [16]byte{0x70, 0x79, 0xEA, 0xEC, 0x26, 0x60, 0x4A, 0x35, 0x9A, 0x48, 0x9C, 0x47, 0x20, 0x4C, 0x01, 0xA9}
	sum := sha1.Sum(append(namespace[:], name...)) //nolint:gosec // see the import
	u := sum[:16]
	u[6] = u[6]&0x0f | 0x50 // version 5
	u[8] = u[8]&0x3f | 0x80 // of RFC 9562
	s := hex.EncodeToString(u)
	return strings.Join([]string{s[:8], s[8:12], s[12:16], s[16:20], s[20:]}, "-")
}
