package iscsi_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/pkg/iscsi"
)

// preflight is what Inspect finds besides what is fine, as severity and check.
func preflight(t *testing.T, h *host, change ...func(*iscsi.Config)) (found []string, words string) {
	t.Helper()
	for _, f := range h.initiator(change...).Preflight(t.Context()) {
		if f.Severity != iscsi.Fine {
			found = append(found, string(f.Severity)+" "+f.Check)
			words += f.What + " " + f.Remedy + "\n"
		}
		if f.Severity != iscsi.Fine && f.Remedy == "" {
			t.Errorf("no remedy: %+v", f)
		}
	}
	return found, words
}

// shipped is the drop-in as multipath -t shows it beside its defaults.
func shipped(t *testing.T) string {
	t.Helper()
	conf, err := os.ReadFile("../../deploy/multipath/datera.conf")
	if err != nil {
		t.Fatal(err)
	}
	return "defaults {\n\tuser_friendly_names \"yes\"\n\tpath_grouping_policy \"failover\"\n}\nblacklist {\n\tdevnode \"!^(sd[a-z]|dasd[a-z]|nvme[0-9])\"\n" +
		"\tdevice {\n\t\tvendor \"SGI\"\n\t\tproduct \"Universal Xport\"\n\t}\n}\n" + string(conf)
}

// FM 26
func TestPreflightSaysWhatIsMissingAndWhatToDo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*host)
		want   []string
		word   string
	}{
		"nothing":         {func(*host) {}, nil, ""},
		"no iscsid":       {func(h *host) { h.write("proc/1/net/unix", "") }, []string{"unfit iscsid"}, "systemctl enable --now iscsid.socket"},
		"no name":         {func(h *host) { h.write("etc/iscsi/initiatorname.iscsi", "") }, []string{"unfit initiator name"}, "iscsi-iname"},
		"no open-iscsi":   {func(h *host) { h.exits["iscsiadm --version"] = 127 }, []string{"unfit host's tools"}, "install open-iscsi"},
		"not executable":  {func(h *host) { h.exits["iscsiadm --version"] = 126 }, []string{"unfit host's tools"}, "install open-iscsi"},
		"no multipathd":   {func(h *host) { h.remove("proc/4711") }, []string{"warning multipathd"}, "systemctl enable --now multipathd"},
		"no dm_multipath": {func(h *host) { h.exits["modprobe --dry-run --quiet dm_multipath"] = 1 }, []string{"warning module dm_multipath"}, "the kernel does not have it"},
		"records that log in at boot": {
			func(h *host) {
				h.write("etc/iscsi/nodes/"+iqnB+"/10.0.0.1,3260,1", "# BEGIN\nnode.name = "+iqnB+"\nnode.startup = automatic\n# END RECORD\n")
			},
			[]string{"warning node records"}, iqnB,
		},
		"a session under another name": {
			func(h *host) {
				h.addSession(iqnB, portals()[0])
				h.write("sys/class/iscsi_session/session1/initiatorname", "iqn.1993-08.org.debian:01:before\n")
			},
			[]string{"warning initiator name"}, "debian:01:before",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t).runMultipathd()
			h.multipathConf = shipped(t)
			c.change(h)
			got, words := preflight(t, h)
			if diff := cmp.Diff(c.want, got); diff != "" || !strings.Contains(words, c.word) {
				t.Errorf("%s%s", diff, words)
			}
			if len(h.writes) > 0 {
				t.Errorf("wrote %q", h.writes)
			}
		})
	}
}

// What a tool said is how it is, not what to do.
func TestPreflightTellsARemedyFromATool(t *testing.T) {
	t.Parallel()
	h := newHost(t).runMultipathd()
	h.remove("sys/class/iscsi_transport")
	h.exits["modprobe iscsi_tcp"] = 1
	for _, f := range h.initiator().Preflight(t.Context()) {
		if f.Check != "module iscsi_tcp" {
			continue
		}
		if f.Severity != iscsi.Unfit || !strings.Contains(f.What, "modprobe: exit 1") || f.Remedy != "install the kernel's extra modules" {
			t.Errorf("got %+v", f)
		}
		return
	}
	t.Error("the module was not looked at")
}

// FM 28
func TestPreflightKnowsAMultipathConfigurationThatHurts(t *testing.T) {
	t.Parallel()
	good := shipped(t)
	for name, c := range map[string]struct {
		conf string
		want []string
	}{
		"the drop-in":                  {good, nil},
		"queueing for ever":            {strings.Replace(good, "no_path_retry 12", "no_path_retry queue", 1), []string{"warning multipath no_path_retry"}},
		"no queueing":                  {strings.Replace(good, "no_path_retry 12", "no_path_retry fail", 1), []string{"warning multipath no_path_retry"}},
		"by features":                  {strings.Replace(good, "no_path_retry 12", `features "1 queue_if_no_path"`, 1), []string{"warning multipath no_path_retry"}},
		"an override that wins":        {good + "overrides {\n\tno_path_retry queue\n}\n", []string{"warning multipath no_path_retry"}},
		"blacklisted by vendor":        {good + "blacklist {\n\tdevice {\n\t\tvendor \".*\"\n\t\tproduct \".*\"\n\t}\n}\n", []string{"warning multipath blacklist"}},
		"blacklisted, but excepted":    {good + "blacklist {\n\tdevice {\n\t\tvendor \".*\"\n\t}\n}\nblacklist_exceptions {\n\tdevice {\n\t\tvendor DATERA\n\t}\n}\n", nil},
		"blacklisted by name":          {good + "blacklist {\n\tdevnode \"^sd\" # all\n}\n", []string{"warning multipath blacklist"}},
		"another array's section only": {"devices {\n\tdevice {\n\t\tvendor X\n\t\tproduct Y\n\t}\n}\n", []string{"warning multipath device", "warning multipath no_path_retry", "warning multipath path_grouping_policy"}},
		"a section on one line":        {"devices { device { vendor DATERA } }\n", []string{"warning multipath device", "warning multipath no_path_retry", "warning multipath path_grouping_policy"}},
		"names by serial number":       {strings.Replace(good, "no_path_retry 12", "no_path_retry 12\n\t\tgetuid_callout \"/lib/udev/scsi_id --whitelisted --replace-whitespace --page=0x80 --device=/dev/%n\"", 1), []string{"unfit multipath names"}},
		"names by another attribute":   {good + "overrides {\n\tuid_attribute ID_SCSI_SERIAL\n}\n", []string{"unfit multipath names"}},
		"names as they are":            {good + "overrides {\n\tuid_attribute ID_SERIAL\n}\n", nil},
		"nothing at all":               {"}\n}\n{\n\"", []string{"warning multipath device", "warning multipath no_path_retry", "warning multipath path_grouping_policy"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t).runMultipathd()
			h.multipathConf = c.conf
			got, words := preflight(t, h)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s%s", diff, words)
			}
		})
	}
	for name, c := range map[string]struct {
		files, running string
		want           []string
	}{
		"the files changed and it was not told": {good, strings.Replace(good, "no_path_retry 12", "no_path_retry queue", 1), []string{"warning multipath no_path_retry", "warning multipathd"}},
		"a blacklist it does not know of yet":   {good + "blacklist {\n\tdevnode \"^sd\"\n}\n", good, []string{"warning multipathd"}},
		"a comment":                             {good + "# x\n", good, nil},
	} {
		h := newHost(t).runMultipathd()
		h.multipathConf, h.multipathRuns = c.files, c.running
		if got, words := preflight(t, h); !cmp.Equal(c.want, got) {
			t.Errorf("%s: got %q\n%s", name, got, words)
		}
	}
	deaf := newHost(t).runMultipathd()
	deaf.multipathConf, deaf.exits["multipathd show config"] = good, 1
	if got, words := preflight(t, deaf); len(got) > 0 {
		t.Errorf("a multipathd that does not tell: %q\n%s", got, words)
	}
	h := newHost(t).runMultipathd()
	h.multipathConf = good + "blacklist {\n\tdevnode \"^sd\"\n}\n"
	if got, _ := preflight(t, h, func(c *iscsi.Config) { c.Multipath = iscsi.MultipathRequire }); !cmp.Equal(got, []string{"unfit multipath blacklist"}) {
		t.Errorf("required, and excluded: %q", got)
	}
}

// FM 28
func TestPreflightKnowsAMultipathdThatTakesWhatItMustNot(t *testing.T) {
	t.Parallel()
	const blacklist = "blacklist {\n\tdevice {\n\t\tvendor \"DATERA\"\n\t\tproduct \"IBLOCK\"\n\t}\n}\n"
	for name, c := range map[string]struct {
		conf string
		want []string
	}{
		"a map over each LUN":           {"defaults {\n\tfind_multipaths \"no\"\n}\n", []string{"warning multipathd"}},
		"a map over each after a while": {"defaults {\n\tfind_multipaths \"smart\"\n}\n", []string{"warning multipathd"}},
		"the array is excluded":         {"defaults {\n\tfind_multipaths \"no\"\n}\n" + blacklist, nil},
		"a map over what it was told":   {"defaults {\n\tfind_multipaths \"strict\"\n}\n", nil},
		"a map over two paths":          {"defaults {\n\tfind_multipaths \"yes\"\n}\n", nil},
	} {
		h := newHost(t).runMultipathd()
		h.multipathConf = c.conf
		if got, words := preflight(t, h, multipath(iscsi.MultipathOff)); !cmp.Equal(c.want, got) {
			t.Errorf("%s: got %q\n%s", name, got, words)
		}
	}
	h := newHost(t)
	h.multipathConf = "defaults {\n\tfind_multipaths \"no\"\n}\n"
	if got, words := preflight(t, h, multipath(iscsi.MultipathOff)); len(got) > 0 {
		t.Errorf("no multipathd runs: %q\n%s", got, words)
	}
}
