package iscsi

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// How the array's LUNs call themselves to multipath (INQUIRY).
const (
	arrayVendor  = "DATERA"
	arrayProduct = "IBLOCK"
)

// section is a part of multipath.conf, as `multipath -t` prints what is in effect.
type section struct {
	name     string
	values   []setting
	sections []*section
}

// parseMultipathConf reads sections of one keyword and its value a line. What it
// cannot understand it leaves out: it serves to warn, not to decide.
func parseMultipathConf(text string) *section {
	root := &section{}
	open := []*section{root}
	for line := range strings.Lines(text) {
		words := confWords(line)
		now := open[len(open)-1]
		switch {
		case len(words) == 0:
		case words[0] == "}":
			if len(open) > 1 {
				open = open[:len(open)-1]
			}
		case words[len(words)-1] == "{":
			inner := &section{name: words[0]}
			now.sections = append(now.sections, inner)
			open = append(open, inner)
		case len(words) == 2:
			now.values = append(now.values, setting{words[0], words[1]})
		}
	}
	return root
}

// confWords splits a line at blanks outside of quotes, and ends it at a comment.
func confWords(line string) []string {
	var words []string
	for {
		line = strings.TrimLeft(line, " \t\r\n")
		if line == "" || line[0] == '#' || line[0] == '!' {
			return words
		}
		if line[0] == '"' {
			word, rest, _ := strings.Cut(line[1:], `"`)
			words, line = append(words, word), rest
			continue
		}
		end := strings.IndexAny(line, " \t\r\n\"#")
		if end < 0 {
			end = len(line)
		}
		words, line = append(words, line[:end]), line[end:]
	}
}

// all lists the sections of a name below this one.
func (s *section) all(names ...string) []*section {
	found := []*section{s}
	for _, name := range names {
		var below []*section
		for _, f := range found {
			for _, inner := range f.sections {
				if inner.name == name {
					below = append(below, inner)
				}
			}
		}
		found = below
	}
	return found
}

// value is the last one of a key; "" is none.
func (s *section) value(key string) string {
	for _, v := range slices.Backward(s.values) {
		if v.key == key {
			return v.value
		}
	}
	return ""
}

// ours lists the device sections that match the array's LUNs.
func ours(devices []*section) []*section {
	return slices.DeleteFunc(slices.Clone(devices), func(d *section) bool {
		vendor, product := d.value("vendor"), d.value("product")
		return vendor == "" && product == "" || !confMatches(vendor, arrayVendor) || !confMatches(product, arrayProduct)
	})
}

// confMatches is multipath's: an extended regular expression, found anywhere; a
// leading ! turns it round. An expression that Go does not know matches nothing.
func confMatches(pattern, text string) bool {
	inverse := strings.HasPrefix(pattern, "!")
	re, err := regexp.CompilePOSIX(strings.TrimPrefix(pattern, "!"))
	return err == nil && re.MatchString(text) != inverse
}

// effective is what is in effect for the array's LUNs: overrides, else the last
// device section that says something, else the defaults.
func (s *section) effective(key string) string {
	for _, where := range [][]*section{s.all("overrides"), ours(s.all("devices", "device")), s.all("defaults")} {
		for _, w := range slices.Backward(where) {
			if v := w.value(key); v != "" {
				return v
			}
		}
	}
	return ""
}

// like says whether another configuration means the same for the array's LUNs.
func (s *section) like(other *section) bool {
	for _, key := range []string{"no_path_retry", "features", "path_grouping_policy", "fast_io_fail_tmo", "user_friendly_names", "find_multipaths", "getuid_callout", "uid_attribute"} {
		if s.effective(key) != other.effective(key) {
			return false
		}
	}
	return s.excludes() == other.excludes() && (len(ours(s.all("devices", "device"))) == 0) == (len(ours(other.all("devices", "device"))) == 0)
}

// takesSinglePaths says that multipathd makes a map over a LUN that has one path
// without being told.
func (s *section) takesSinglePaths() bool {
	return slices.Contains([]string{"no", "off", "greedy", "smart"}, s.effective("find_multipaths")) && s.excludes() == ""
}

// findMultipaths says when multipathd makes a map over a LUN. Whatever it is told,
// a map comes to be: the plugin tells it of each LUN where it would wait for that.
func (s *section) findMultipaths() Finding {
	const check = "multipath find_multipaths"
	switch v := s.effective("find_multipaths"); v {
	case "no", "off", "greedy":
		return Finding{Fine, check, v + ": it makes a map over every LUN that it sees", ""}
	case "":
		return Finding{Fine, check, "not told: the plugin tells it of each LUN", ""}
	default:
		return Finding{Fine, check, v + ": it makes a map over LUNs that it knows, and the plugin tells it of each", ""}
	}
}

// judge says what in the configuration does not suit the array.
func (s *section) judge(lacking Severity) []Finding {
	if why := s.excludes(); why != "" {
		return []Finding{{lacking, "multipath blacklist", why + " excludes the array's LUNs, so each gets one path", "take it out of /etc/multipath.conf, then: multipathd reconfigure"}}
	}
	if why := s.misnames(); why != "" {
		return []Finding{{Unfit, "multipath names", why + ": maps are not named by the WWID of VPD page 0x83, and no volume can be used", "take it out of /etc/multipath.conf, then: multipathd reconfigure"}}
	}
	const shipped = "copy deploy/multipath/datera.conf to /etc/multipath/conf.d/, then: multipathd reconfigure"
	var found []Finding
	warn := func(check, what string) {
		found = append(found, Finding{Warning, "multipath " + check, what, shipped})
	}
	if len(ours(s.all("devices", "device"))) == 0 {
		warn("device", "no section for vendor DATERA, product IBLOCK; the defaults are those of some array")
	}
	retry := s.effective("no_path_retry")
	if retry == "" && strings.Contains(s.effective("features"), "queue_if_no_path") {
		retry = "queue"
	}
	switch n, err := strconv.Atoi(retry); {
	case retry == "queue":
		warn("no_path_retry", "queue: without a path everything that uses a volume waits for ever, umount and the kubelet too")
	case retry == "" || retry == "fail" || err == nil && n == 0:
		warn("no_path_retry", "fail: a moment without a path makes a file system read-only")
	}
	if policy := s.effective("path_grouping_policy"); policy == "" || policy == "failover" {
		warn("path_grouping_policy", "failover: all paths but one are idle")
	}
	if tmo := s.effective("fast_io_fail_tmo"); tmo == "off" {
		warn("fast_io_fail_tmo", "off: I/O on a dead path waits for as long as the session's replacement_timeout")
	}
	if names := s.effective("user_friendly_names"); names == "yes" || names == "1" {
		warn("user_friendly_names", "yes: a map's name passes from one volume to the next; the plugin goes by WWID, people who read logs may not")
	}
	return found
}

// misnames says which line has the array's LUNs named by something else than their WWID.
func (s *section) misnames() string {
	if v := s.effective("getuid_callout"); v != "" { // shown by releases before 0.9, which heed it
		return fmt.Sprintf("getuid_callout %q", v)
	}
	if v := s.effective("uid_attribute"); v != "" && v != "ID_SERIAL" {
		return fmt.Sprintf("uid_attribute %q", v)
	}
	return ""
}

// excludes says which line keeps multipath from the array's LUNs.
func (s *section) excludes() string {
	const disk, anyWWID = "sdb", "36001405"
	excepted := s.all("blacklist_exceptions")
	for _, b := range s.all("blacklist") {
		if d := ours(b.all("device")); len(d) > 0 && !exceptedDevice(excepted) {
			return fmt.Sprintf("blacklist, device with vendor %q and product %q,", d[0].value("vendor"), d[0].value("product"))
		}
		for _, v := range b.values {
			text := map[string]string{"devnode": disk, "wwid": anyWWID, "protocol": "scsi:iscsi"}[v.key]
			if text != "" && confMatches(v.value, text) && !exceptedValue(excepted, v.key, text) {
				return fmt.Sprintf("blacklist, %s %q,", v.key, v.value)
			}
		}
	}
	return ""
}

func exceptedDevice(exceptions []*section) bool {
	return slices.ContainsFunc(exceptions, func(e *section) bool { return len(ours(e.all("device"))) > 0 })
}

func exceptedValue(exceptions []*section, key, text string) bool {
	return slices.ContainsFunc(exceptions, func(e *section) bool {
		return slices.ContainsFunc(e.values, func(v setting) bool { return v.key == key && confMatches(v.value, text) })
	})
}
