package controller

import (
	"errors"
	"testing"
	"time"
)

// The uuids of the vendor's driver: Python's uuid.uuid5 in its namespace.
func TestSnapshotUUIDsAreTheVendors(t *testing.T) {
	for name, want := range map[string]string{
		"snapshot-5f0c6e4e-1f6f-4b77-9a0e-2f5d2b1c0001": "29f622d7-c3de-5360-adf3-6a445c439d45",
		"a":      "bc042c53-3aca-54bd-a76e-db8eafcae24c",
		"snap ü": "1115ddfe-44a8-5e28-a607-5cf9d63133f1",
	} {
		if got := snapshotUUID(name); got != want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
	}
}

func TestSnapshotIDsRoundTrip(t *testing.T) {
	for text, want := range map[string]snapshotID{
		"CSI-pvc-1:1446076293.118600738":     {volumeID{"default", "CSI-pvc-1"}, "1446076293.118600738"},
		"east/CSI-pvc-1:1446076384.00607846": {volumeID{"east", "CSI-pvc-1"}, "1446076384.00607846"},
		"by_hand:1.5":                        {volumeID{"default", "by_hand"}, "1.5"},
	} {
		got, err := parseSnapshotID(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s: got %+v (%s), %v", text, got, got, err)
		}
	}
	for text, foreign := range map[string]bool{
		"reallyfakesnapshotid": true, "CSI-a:": true, "CSI-a:1": true, "CSI-a:1.": true, "CSI-a:x.y": true, "CSI-a:1.5:2.5": true,
		":1.5": true, "default/CSI-a:1.5": true, "East/CSI-a:1.5": true, "a/b/c:1.5": true, "CSI-a:01234567890123.5": true,
		"": false, "CSI-a:1..5": false, "CSI-a\n:1.5": false,
		"/app_instances/x/storage_instances/storage-1/volumes/volume-1/snapshots/1.5": false,
	} {
		if got, err := parseSnapshotID(text); err == nil || errors.Is(err, errForeignID) != foreign {
			t.Errorf("%q: got %+v, %v, want an error, that of a foreign id: %t", text, got, err, foreign)
		}
	}
}

// The array cuts zeros off the end of the fraction, never off its beginning.
func TestCreationTimesAreExact(t *testing.T) {
	for key, want := range map[string]time.Time{
		"1446076293.118600738":  time.Unix(1446076293, 118600738),
		"1446076384.00607846":   time.Unix(1446076384, 6078460),
		"1446076384.5":          time.Unix(1446076384, 500000000),
		"1446076384.000000001":  time.Unix(1446076384, 1),
		"1446076384.1234567899": time.Unix(1446076384, 123456789),
	} {
		if got, err := (snapshotID{UTCTS: key}).created(); err != nil || !got.Equal(want) {
			t.Errorf("%s: got %v, %v, want %v", key, got, err, want)
		}
	}
	for _, key := range []string{"", "x.1", "1.x"} {
		if got, err := (snapshotID{UTCTS: key}).created(); err == nil {
			t.Errorf("%q: got %v", key, got)
		}
	}
}

func TestKeysAreOrderedByTime(t *testing.T) {
	inOrder := []string{"9.9", "10.00000001", "10.0001", "10.1", "10.11", "10.2", "1446076293.1", "1446076293.118600738"}
	for i, a := range inOrder {
		for j, b := range inOrder {
			if got := compareKeys(a, b); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("%s and %s: got %d", a, b, got)
			}
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	var m memory[snapshotID]
	for i := range remembered + 10 {
		m.note(time.Unix(int64(i), 0).String(), snapshotID{UTCTS: "1.5"})
		m.note("again", snapshotID{UTCTS: "2.5"})
	}
	if len(m.byKey) != remembered || len(m.order) != remembered {
		t.Errorf("got %d and %d, want %d", len(m.byKey), len(m.order), remembered)
	}
}
