package iscsi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Severity says what a finding means for the host.
type Severity string

// The severities of a Finding.
const (
	Fine    Severity = "fine"
	Warning Severity = "warning" // volumes work, until something else fails
	Unfit   Severity = "unfit"   // no volume can work here
)

// Finding is one thing that was looked at.
type Finding struct {
	Severity Severity `json:"severity"`
	Check    string   `json:"check"` // what was looked at
	What     string   `json:"what"`  // how it is
	Remedy   string   `json:"remedy,omitempty"`
}

// Preflight looks at all of this host that attaching depends on, and says how each
// thing is. It changes nothing, but that a missing transport module is loaded.
func (i *Initiator) Preflight(ctx context.Context) []Finding {
	const limit = 15 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tools := i.inspectTools(ctx)
	found := append([]Finding{tools}, i.inspectName()...)
	found = append(found, judged("iscsid", "listens", i.daemonListens()))
	if tools.Severity == Fine { // else everything below would only say so again
		found = append(found, judged("module iscsi_tcp", "loaded", i.transport(ctx)))
		found = append(found, i.inspectMultipath(ctx)...)
	}
	return append(found, i.inspectStartup())
}

// judged turns an error of Ready into a finding.
func judged(check, fine string, err error) Finding {
	if err == nil {
		return Finding{Fine, check, fine, ""}
	}
	if e, ok := errors.AsType[unready](err); ok {
		return Finding{Unfit, check, e.what.Error(), e.remedy}
	}
	return Finding{Unfit, check, err.Error(), ""}
}

// inspectTools runs the tool that everything needs, in the way that all are run.
func (i *Initiator) inspectTools(ctx context.Context) Finding {
	const check = "host's tools"
	out, err := i.cfg.Host.Run(ctx, "iscsiadm", "--version")
	var exit *ExitError
	switch {
	case err == nil:
		return Finding{Fine, check, oneLine(string(out)), ""}
	case errors.As(err, &exit) && exit.NoSuchTool() && exit.Tool != "nsenter":
		return Finding{Unfit, check, err.Error(), "install open-iscsi (Debian, Ubuntu, SUSE) or iscsi-initiator-utils (Red Hat) on the host"}
	case errors.Is(err, ErrNotReady):
		return judged(check, "", err)
	case errors.As(err, &exit):
		return Finding{Unfit, check, err.Error(), "run in a privileged pod with hostPID, in an image that has nsenter; on the host itself use --host-exec=direct"}
	}
	return Finding{Warning, check, err.Error(), "run it on the host: iscsiadm --version"}
}

// inspectName looks for signs that other hosts have the same initiator name, of
// which no host can be sure by itself: the array only sees that a name logs in
// (FM 10).
func (i *Initiator) inspectName() []Finding {
	const check, remedy = "initiator name", "if this host was cloned: InitiatorName=$(iscsi-iname) into /etc/iscsi/initiatorname.iscsi, and restart iscsid"
	name, err := i.Name()
	if err != nil {
		return []Finding{judged(check, "", err)}
	}
	found := []Finding{{Fine, check, name, ""}}
	named, errName := os.Stat(filepath.Join(i.cfg.Root, "etc/iscsi/initiatorname.iscsi"))
	machine, errMachine := os.Stat(filepath.Join(i.cfg.Root, "etc/machine-id"))
	const apart = time.Hour // an installation writes one after the other
	if errName == nil && errMachine == nil && named.ModTime().Add(apart).Before(machine.ModTime()) {
		found = append(found, Finding{Warning, check, "is older than /etc/machine-id, as on a host that was made from an image; another host of that image has the same name, and both would take it for theirs", remedy})
	}
	others, err := i.otherNames(name)
	if err == nil && len(others) > 0 {
		found = append(found, Finding{Warning, check, "sessions were made as " + strings.Join(others, ", ") + ": iscsid has not read the file since it changed, and the array refuses what it does not know", "as long as volumes are attached by the old name, write that back into the file; to change it, drain the node first, then restart iscsid"})
	}
	return found
}

// otherNames are initiator names that sessions of this host have, besides this one.
func (i *Initiator) otherNames(name string) ([]string, error) {
	sessions, err := i.sysfs.sessions(anyTarget)
	var others []string
	for _, s := range sessions {
		if used, readErr := attribute(s.class, "initiatorname"); readErr == nil && used != "" && used != name && !slices.Contains(others, used) {
			others = append(others, used)
		}
	}
	return others, err
}

func (i *Initiator) inspectMultipath(ctx context.Context) []Finding {
	const check = "multipathd"
	if i.cfg.Multipath == MultipathOff {
		return []Finding{i.inspectUnused(ctx)}
	}
	lacking := Warning
	if i.cfg.Multipath == MultipathRequire {
		lacking = Unfit
	}
	found := []Finding{i.inspectMapper(ctx, lacking)}
	runs, err := i.multipathdRuns()
	if err != nil || !runs {
		return append(found, Finding{lacking, check, "does not run: each volume gets one path, and an outage of that portal stops it", "systemctl enable --now multipathd (on RHEL and its kin after mpathconf --enable); or say that one path is meant by --multipath=off"})
	}
	return append(found, i.inspectMultipathConf(ctx, lacking)...)
}

// inspectMapper looks for the kernel's part of multipath, which is loaded when the
// first map is made.
func (i *Initiator) inspectMapper(ctx context.Context, lacking Severity) Finding {
	const module = "dm_multipath"
	const check = "module " + module
	if _, err := os.Stat(filepath.Join(i.cfg.Sysfs, "module", module)); err == nil {
		return Finding{Fine, check, "loaded", ""}
	}
	return InspectModule(ctx, i.cfg.Host, module, lacking)
}

// InspectModule asks the host whether a module that is not loaded could be: it may
// also be a part of the kernel.
func InspectModule(ctx context.Context, host Runner, module string, lacking Severity) Finding {
	check := "module " + module
	_, err := host.Run(ctx, "modprobe", "--dry-run", "--quiet", module)
	switch {
	case err == nil:
		return Finding{Fine, check, "can be loaded", ""}
	case exitedWith(err, 1):
		return Finding{lacking, check, "the kernel does not have it", "install the kernel's extra modules"}
	}
	return Finding{Warning, check, "is not loaded, and whether it can be is not known: " + err.Error(), "run it on the host: modprobe " + module}
}

// inspectMultipathConf judges what the running multipathd goes by. The files may
// say something else, until it is told to read them.
func (i *Initiator) inspectMultipathConf(ctx context.Context, lacking Severity) []Finding {
	const check = "multipathd"
	conf, written, err := i.multipathConf(ctx)
	if err != nil {
		return []Finding{unreadConf(err)}
	}
	found := append(conf.judge(lacking), conf.findMultipaths())
	if !conf.like(written) {
		found = append(found, Finding{Warning, check, "has not read its configuration since that was changed", "multipathd reconfigure"})
	}
	if !slices.ContainsFunc(found, func(f Finding) bool { return f.Severity != Fine }) {
		found = append(found, Finding{Fine, check, "runs, and suits the array", ""})
	}
	return found
}

// inspectUnused looks whether a multipathd that is not to be used leaves the array's
// LUNs alone: a disk that it has taken cannot be formatted or mounted (FM 28).
func (i *Initiator) inspectUnused(ctx context.Context) Finding {
	const check = "multipathd"
	unused := Finding{Fine, check, "not used: --multipath=off", ""}
	runs, err := i.multipathdRuns()
	if err != nil || !runs {
		return unused
	}
	conf, _, err := i.multipathConf(ctx)
	switch {
	case err != nil:
		return unreadConf(err)
	case conf.takesSinglePaths():
		return Finding{Warning, check, "runs, and makes a map over every LUN although --multipath=off: such a volume cannot be mounted",
			"exclude vendor " + arrayVendor + ", product " + arrayProduct + " by a blacklist in /etc/multipath.conf, then: multipathd reconfigure; or set --multipath=auto"}
	}
	return unused
}

// multipathConf is what the running multipathd goes by, and what its files say,
// which is taken for both where only they can be read.
func (i *Initiator) multipathConf(ctx context.Context) (running, written *section, err error) {
	files, filesErr := i.cfg.Host.Run(ctx, "multipath", "-t")
	told, err := i.cfg.Host.Run(ctx, "multipathd", "show", "config")
	switch {
	case err != nil && filesErr != nil:
		return nil, nil, filesErr
	case err != nil:
		told = files // it is busy, or of a release that does not tell
	case filesErr != nil:
		files = told
	}
	return parseMultipathConf(string(told)), parseMultipathConf(string(files)), nil
}

func unreadConf(err error) Finding {
	return Finding{Warning, "multipathd", "runs, but its configuration cannot be read: " + err.Error(), "run: multipath -t"}
}

// inspectStartup looks for node records that log in at boot, before and without
// the plugin (FM 29). Those of this plugin do not; it changes none.
func (i *Initiator) inspectStartup() Finding {
	const check = "node records"
	var automatic []string
	for _, base := range i.iscsiadm.db.databases() {
		dirs, err := os.ReadDir(filepath.Join(base, "nodes"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Finding{Warning, check, err.Error(), "see that the plugin may read it"}
		}
		for _, d := range dirs {
			all, err := i.iscsiadm.db.below(base, filepath.Join(base, "nodes", d.Name()))
			if err == nil && slices.ContainsFunc(all, func(r nodeRecord) bool { return value(r.text, "node.startup") == "automatic" }) {
				automatic = append(automatic, d.Name())
			}
		}
	}
	if len(automatic) == 0 {
		return Finding{Fine, check, "none logs in at boot", ""}
	}
	const some = 3
	return Finding{Warning, check, fmt.Sprintf("%d targets are logged in to at boot: %s", len(automatic), strings.Join(automatic[:min(some, len(automatic))], ", ")),
		"if they are volumes of this driver: iscsiadm -m node -T TARGET -o update -n node.startup -v manual"}
}
