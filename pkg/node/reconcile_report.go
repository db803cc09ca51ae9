package node

import (
	"cmp"
	"time"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// Report is what one Reconcile found and did.
type Report struct {
	Mode     ReconcileMode `json:"mode"`
	Start    time.Time     `json:"start"`
	Took     time.Duration `json:"tookNanoseconds"`
	Volumes  int           `json:"volumes"`  // that are recorded
	Attached int           `json:"attached"` // of them, those of which anything is on this host
	Busy     int           `json:"busy"`     // passed over, because a call was at work on them
	Findings []Finding     `json:"findings"` // by volume and target

	Counts map[Reason]map[Outcome]int `json:"counts"` // of the findings
}

// Count counts the findings of a reason that came out like this; an empty word
// stands for all.
func (r Report) Count(reason Reason, outcome Outcome) int {
	n := 0
	for _, f := range r.Findings {
		if (reason == "" || f.Reason == reason) && (outcome == "" || f.Outcome == outcome) {
			n++
		}
	}
	return n
}

// counts are the findings by reason and outcome.
func (r Report) counts() map[Reason]map[Outcome]int {
	counts := make(map[Reason]map[Outcome]int)
	for _, f := range r.Findings {
		if counts[f.Reason] == nil {
			counts[f.Reason] = make(map[Outcome]int)
		}
		counts[f.Reason][f.Outcome]++
	}
	return counts
}

// Reason is a stable word for what is wrong.
type Reason string

// The reasons.
const (
	ReasonDegraded   Reason = iscsi.ReasonDegraded // a promised portal has no working session
	ReasonOutdated   Reason = "OutdatedSecrets"    // iscsid cannot bring a session back, for its secrets have changed
	ReasonNoPaths    Reason = "NoPaths"            // no session of an attached volume works
	ReasonNotShown   Reason = "LUNNotShown"        // a session works and does not show the LUN
	ReasonOutsideMap Reason = "PathOutsideMap"     // a disk works and its map does not have it
	ReasonOffline    Reason = "PathOffline"        // the kernel gave a disk up
	ReasonSuspended  Reason = "MapSuspended"
	ReasonLost       Reason = "DeviceLost"       // the volume is mounted, and nothing of its device is there
	ReasonForgotten  Reason = "ForgottenVolume"  // staged, used by nobody, and the array does not admit this node
	ReasonFenced     Reason = "FormerMount"      // mounted before the array took this node out and let it in again
	ReasonUnrecorded Reason = "UnrecordedVolume" // attached by this plugin or of its array, and without a record
	ReasonNodeRecord Reason = "BadNodeRecord"    // an entry of open-iscsi's database is corrupt, or lacking
	ReasonRecord     Reason = "BadRecord"        // a record of this plugin is unsound
	ReasonUnwatched  Reason = "MultipathdDown"   // nobody gives maps their lost paths back
	ReasonUnclear    Reason = "Unclear"          // what there is contradicts itself
)

// Outcome says what became of a finding.
type Outcome string

// The outcomes.
const (
	Seen   Outcome = "seen"          // it can only be told
	Waits  Outcome = "waits"         // it is not time yet
	Would  Outcome = "would-be-done" // this is a dry run
	Done   Outcome = "done"
	Failed Outcome = "failed"
)

// Finding is one thing that is not as it should be, and what was done about it.
type Finding struct {
	Reason   Reason  `json:"reason"`
	Outcome  Outcome `json:"outcome"`
	Volume   string  `json:"volume,omitempty"`
	Target   string  `json:"target,omitempty"`
	Portal   string  `json:"portal,omitempty"`
	Evidence string  `json:"evidence,omitempty"`
	Error    string  `json:"error,omitempty"`
}

// essence is the finding without what differs from pass to pass.
func (f Finding) essence() Finding {
	f.Evidence, f.Error = "", ""
	return f
}

func (f Finding) compare(g Finding) int {
	return cmp.Or(cmp.Compare(f.Volume, g.Volume), cmp.Compare(f.Target, g.Target), cmp.Compare(f.Reason, g.Reason), cmp.Compare(f.Portal, g.Portal), cmp.Compare(f.Evidence, g.Evidence))
}
