// Package health puts together what is wrong with a volume, in the form and within
// the bounds in which it can be told. CSI wants each (status, reason) once. The API
// of Kubernetes bounds entries, reasons and messages (k8s.io/api, core/v1
// VolumeHealthCondition and storage/v1 StorageHealthCondition), and the kubelet
// passes them on as they are: one message too long, and the whole status of the pod
// is refused for as long as the finding stays.
package health

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// The bounds of the API: entries, and bytes of a reason and of a message.
const (
	maxEntries = 16
	maxReason  = 256
	maxMessage = 1024
)

// What is wrong with a volume.
const (
	Degraded     = csi.VolumeHealthErrorType_DEGRADED
	Inaccessible = csi.VolumeHealthErrorType_INACCESSIBLE
	DataLoss     = csi.VolumeHealthErrorType_DATA_LOSS
)

// Findings are what is wrong with one volume. The zero value finds nothing.
type Findings struct {
	entries []*csi.VolumeHealth_VolumeHealthEntry
}

// Add notes one finding. A second one with its status and reason adds its words to
// the first.
func (f *Findings) Add(status csi.VolumeHealthErrorType, reason, message string) {
	reason = Cut(reason, maxReason)
	for _, e := range f.entries {
		if e.GetStatus() == status && e.GetReason() == reason {
			e.Message = Message(e.GetMessage() + "; " + message)
			return
		}
	}
	f.entries = append(f.entries, &csi.VolumeHealth_VolumeHealthEntry{Status: status, Reason: reason, Message: Message(message)})
}

// Entries are all findings in the order in which they were noted. Of more than can be
// told the least serious are left out.
func (f *Findings) Entries() []*csi.VolumeHealth_VolumeHealthEntry {
	if len(f.entries) <= maxEntries {
		return f.entries
	}
	worst := slices.Clone(f.entries)
	slices.SortStableFunc(worst, func(a, b *csi.VolumeHealth_VolumeHealthEntry) int { return cmp.Compare(severity(b), severity(a)) })
	return slices.DeleteFunc(slices.Clone(f.entries), func(e *csi.VolumeHealth_VolumeHealthEntry) bool {
		return !slices.Contains(worst[:maxEntries], e)
	})
}

// severity grows with what a user loses.
func severity(e *csi.VolumeHealth_VolumeHealthEntry) int {
	return slices.Index([]csi.VolumeHealthErrorType{Degraded, Inaccessible, DataLoss}, e.GetStatus())
}

// Message is as much of a message as can be told.
func Message(s string) string { return Cut(s, maxMessage) }

// Cut shortens s to size bytes, of whole characters, and shows that it did.
func Cut(s string, size int) string {
	const more = "…"
	s = strings.ToValidUTF8(s, "?") // of names that others chose
	if len(s) <= size {
		return s
	}
	end := size - len(more)
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + more
}
