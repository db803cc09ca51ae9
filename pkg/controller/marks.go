package controller

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// marks are what the array has no field for and a later call must know. They
// stand at the end of an app instance's description, behind "--", so that they
// come to be in the same request as the volume. An administrator may change the
// words before them.
type marks struct {
	Source    string // hash of the content source; "" if the volume began empty
	IOPS      rate   // total_iops_max follows the size
	Bandwidth rate   // total_bandwidth_max follows the size, KiB/s
	Retain    bool   // deletionPolicy: retain-offline
}

// rate is a limit that grows with the volume. The zero rate does not.
type rate struct {
	PerGiB int
	Most   int // however large the volume; 0 is no limit
}

const (
	marksBegin = " -- "
	markRetain = "retain-offline"
)

var (
	sourceMark    = regexp.MustCompile(`^from-([0-9a-v]{16})$`)
	iopsMark      = regexp.MustCompile(`^iops-per-GiB-([0-9]{1,8})-most-([0-9]{1,8})$`)
	bandwidthMark = regexp.MustCompile(`^KiBps-per-GiB-([0-9]{1,8})-most-([0-9]{1,8})$`)
)

// String is "" for no marks.
func (m marks) String() string {
	var words []string
	if m.Source != "" {
		words = append(words, "from-"+m.Source)
	}
	if m.IOPS != (rate{}) {
		words = append(words, fmt.Sprintf("iops-per-GiB-%d-most-%d", m.IOPS.PerGiB, m.IOPS.Most))
	}
	if m.Bandwidth != (rate{}) {
		words = append(words, fmt.Sprintf("KiBps-per-GiB-%d-most-%d", m.Bandwidth.PerGiB, m.Bandwidth.Most))
	}
	if m.Retain {
		words = append(words, markRetain)
	}
	return strings.Join(words, " ")
}

// parseMarks is the inverse of String on the description that describe makes.
// Descriptions of others have no marks, and words that are none are passed over.
func parseMarks(description string) marks {
	i := strings.LastIndex(description, marksBegin)
	if i < 0 {
		return marks{}
	}
	var m marks
	for _, word := range strings.Fields(description[i+len(marksBegin):]) {
		if found := sourceMark.FindStringSubmatch(word); found != nil {
			m.Source = found[1]
		}
		if found := iopsMark.FindStringSubmatch(word); found != nil {
			m.IOPS = parseRate(found)
		}
		if found := bandwidthMark.FindStringSubmatch(word); found != nil {
			m.Bandwidth = parseRate(found)
		}
		m.Retain = m.Retain || word == markRetain
	}
	return m
}

// sameClass says whether two volumes are noted to be of one class, as far as the
// notes go.
func (m marks) sameClass(x marks) bool {
	m.Source, x.Source = "", ""
	return m == x
}

func parseRate(found []string) rate {
	perGiB, _ := strconv.Atoi(found[1]) // at most eight digits: never fails
	most, _ := strconv.Atoi(found[2])
	return rate{perGiB, most}
}

// apply gives the limits that follow the size their value at a size.
func (m marks) apply(q dateraclient.QoS, size dateraclient.GiB) dateraclient.QoS {
	if m.IOPS.PerGiB > 0 {
		q.TotalIOPS = lower(m.IOPS.Most, m.IOPS.PerGiB, size, maxIOPS)
	}
	if m.Bandwidth.PerGiB > 0 {
		q.TotalBandwidth = lower(m.Bandwidth.Most, m.Bandwidth.PerGiB, size, maxBandwidth)
	}
	return q
}

// lower is the smaller of total and perGiB times size; zero means unlimited, most
// is the highest limit the array can express. size is at most 2^18 and perGiB at
// most 2^24, so the product fits.
func lower(total, perGiB int, size dateraclient.GiB, most int) int {
	limit := min(int64(perGiB)*int64(size), int64(most))
	if total == 0 || int64(total) > limit {
		return int(limit)
	}
	return total
}

// maxDescription is how long the array lets a description be.
const maxDescription = 128

// remark gives a description other marks and leaves its words.
func remark(description string, m marks) string {
	words, _, _ := strings.Cut(description, marksBegin)
	return withMarks(words, m)
}

// withMarks shortens the words where the marks need their room.
func withMarks(words string, m marks) string {
	if m == (marks{}) {
		return words[:min(len(words), maxDescription)]
	}
	if words == "" {
		words = "volume"
	}
	end := marksBegin + m.String()
	words = strings.TrimRight(words[:min(len(words), maxDescription-len(end))], " -")
	return words + end
}

// hash16 is a short name for a text, made of digits and lower-case letters.
func hash16(s string) string {
	sum := sha256.Sum256([]byte(s))
	return strings.ToLower(base32.HexEncoding.EncodeToString(sum[:10]))
}
