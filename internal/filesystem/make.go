package filesystem

import (
	"fmt"
	"slices"
	"strings"
)

// Machine is where a file system is going to be made.
type Machine struct {
	Kernel Kernel // that runs; zero: not known
	Mkfs   Kernel // version of mkfs.xfs; of no meaning for ext4
}

// MkfsArguments is the command that makes a file system of the class: without
// discards, which take minutes on a thin volume and gain nothing (FM 35), and with
// features that both this kernel and the oldest one of the class mount (FM 24).
// The device comes last. over permits mkfs.xfs to overwrite what it finds; mke2fs
// needs no such permission.
func MkfsArguments(fsType, device string, c Class, m Machine, over bool) ([]string, error) {
	asked, err := parseOptions(fsType, c.Options)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", KeyOptions, err)
	}
	if m.Kernel == (Kernel{}) {
		m.Kernel = oldestKnown()
	}
	if err := asked.mountableBy(m.Kernel); err != nil {
		return nil, fmt.Errorf("%s: %w, and this one runs %s", KeyOptions, err, m.Kernel)
	}
	switch fsType {
	case XFS:
		argv := []string{"mkfs.xfs", "-q", "-K"}
		if over {
			argv = append(argv, "-f")
		}
		return append(asked.with(xfsLimits(asked, older(c.oldest(), m.Kernel), m.Mkfs)).append(argv), device), nil
	case Ext4:
		return append(asked.with(extSet()).append([]string{"mke2fs", "-q", "-t", "ext4"}), device), nil
	}
	return nil, fmt.Errorf("no way to make %q", fsType)
}

func older(a, b Kernel) Kernel {
	if b.before(a) {
		return b
	}
	return a
}

// xfsLimits turns off what the oldest kernel cannot mount, where the class does
// not speak of it and mkfs can be told.
func xfsLimits(asked options, oldest, mkfs Kernel) options {
	var off options
	for _, f := range xfsFeatures() {
		if oldest.before(f.since) && !mkfs.before(f.tool) && !asked.find(f.flag).has(f.key) {
			off = append(off, option{f.flag, []keyValue{{f.key, "0"}}})
		}
	}
	return off
}

// extSet is the same on every host.
func extSet() options {
	set := options{{"-E", []keyValue{{"nodiscard", ""}, {"lazy_itable_init", "1"}, {"lazy_journal_init", "1"}}}}
	features := option{flag: "-O"}
	for _, name := range extBase() {
		features.keys = append(features.keys, keyValue{key: name})
	}
	return append(set, features)
}

// with returns the driver's options and then these, one of a flag: tools take the
// last of two or refuse both. A key that is here too is left to these.
func (all options) with(ours options) options {
	var merged options
	for _, o := range slices.Concat(ours, all) {
		i := slices.IndexFunc(merged, func(m option) bool { return m.flag == o.flag })
		if i < 0 {
			merged = append(merged, option{o.flag, slices.Clone(o.keys)})
			continue
		}
		for _, pair := range o.keys {
			merged[i].keys = append(slices.DeleteFunc(merged[i].keys, func(k keyValue) bool { return k.key == pair.key }), pair)
		}
	}
	return merged
}

func (all options) append(argv []string) []string {
	for _, o := range all {
		pairs := make([]string, len(o.keys))
		for i, pair := range o.keys {
			pairs[i] = pair.String()
		}
		argv = append(argv, o.flag, strings.Join(pairs, ","))
	}
	return argv
}

// ParseMkfsVersion reads what mkfs.xfs -V says: "mkfs.xfs version 6.1.0".
func ParseMkfsVersion(out string) (Kernel, error) {
	_, version, found := strings.Cut(strings.TrimSpace(out), "version ")
	v, err := ParseKernel(version)
	if !found || err != nil {
		return Kernel{}, fmt.Errorf("mkfs.xfs -V says %q, which is no version", strings.TrimSpace(out))
	}
	return v, nil
}
