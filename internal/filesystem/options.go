package filesystem

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// option is one flag of mkfs with its value, e.g. -m reflink=1,rmapbt=0.
type option struct {
	flag string
	keys []keyValue // of a flag that takes key=value; else one with an empty key
}

type keyValue struct{ key, value string }

func (k keyValue) String() string {
	switch {
	case k.key == "":
		return k.value
	case k.value == "":
		return k.key
	}
	return k.key + "=" + k.value
}

type options []option

// maxOptions is the length of a volume_context's value (CSI v1.13 allows 4 KiB in
// all).
const maxOptions = 1024

// Forms of values.
var (
	number  = regexp.MustCompile(`^[0-9]{1,15}$`)
	size    = regexp.MustCompile(`^[0-9]{1,15}[bskmgtBSKMGT]?$`)
	onOff   = regexp.MustCompile(`^[01]$`)
	percent = regexp.MustCompile(`^[0-9]{1,2}(\.[0-9]{1,3})?$`)
	block   = regexp.MustCompile(`^(1024|2048|4096|1k|2k|4k)$`)         // more than a page is no file system that every kernel mounts
	label   = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,11}$`) // one that looks like a flag is a flag without its value
	bare    = regexp.MustCompile(`^$`)
)

// takes is what a flag may be followed by: key=value pairs, or a plain value.
type takes struct {
	keys  map[string]*regexp.Regexp
	plain *regexp.Regexp
}

// allowed is every flag that a class may give mkfs. What is not here is refused:
// above all what would force it, point it at another device or file, or make it
// read its work from one.
func allowed(fsType string) map[string]takes {
	if fsType == Ext4 {
		return map[string]takes{
			"-b": {plain: block},
			"-C": {plain: size},
			"-e": {plain: regexp.MustCompile(`^(continue|remount-ro)$`)},
			"-E": {keys: map[string]*regexp.Regexp{
				"stride": number, "stripe_width": number, "stripe-width": number, "resize": size, "num_backup_sb": regexp.MustCompile(`^[012]$`),
				"lazy_itable_init": onOff, "lazy_journal_init": onOff, "packed_meta_blocks": onOff, "nodiscard": bare,
			}},
			"-g": {plain: number},
			"-G": {plain: number},
			"-i": {plain: number},
			"-I": {plain: regexp.MustCompile(`^(256|512|1024|2048|4096)$`)}, // in 128 bytes no date after 2038 fits
			"-J": {keys: map[string]*regexp.Regexp{"size": number, "fast_commit_size": number}},
			"-L": {plain: label},
			"-m": {plain: percent},
			"-N": {plain: number},
			"-O": {keys: extKeys()},
			"-T": {plain: regexp.MustCompile(`^(news|largefile|largefile4|small|big|huge)$`)},
		}
	}
	return map[string]takes{
		"-b": {keys: map[string]*regexp.Regexp{"size": block}},
		"-d": {keys: map[string]*regexp.Regexp{
			"agcount": number, "agsize": size, "su": size, "sw": number, "sunit": number, "swidth": number, "noalign": bare,
			"extszinherit": number, "cowextsize": number, "concurrency": number,
		}},
		"-i": {keys: map[string]*regexp.Regexp{
			"size": number, "perblock": number, "maxpct": regexp.MustCompile(`^([0-9]{1,2}|100)$`), "sparse": onOff, "nrext64": onOff, "exchange": onOff,
		}},
		"-l": {keys: map[string]*regexp.Regexp{"size": size, "su": size, "sunit": number, "lazy-count": onOff, "concurrency": number}},
		"-L": {plain: label},
		"-m": {keys: map[string]*regexp.Regexp{"bigtime": onOff, "finobt": onOff, "inobtcount": onOff, "reflink": onOff, "rmapbt": onOff}},
		"-n": {keys: map[string]*regexp.Regexp{"size": size, "ftype": regexp.MustCompile(`^1$`), "version": regexp.MustCompile(`^(2|ci)$`), "parent": onOff}},
		"-s": {keys: map[string]*regexp.Regexp{"size": regexp.MustCompile(`^(512|1024|2048|4096|1k|2k|4k)$`)}},
	}
}

func extKeys() map[string]*regexp.Regexp {
	keys := map[string]*regexp.Regexp{}
	for _, f := range extFeatures() {
		keys[f.key] = bare
	}
	for _, name := range extBase()[1:] {
		keys[name] = bare
	}
	for _, name := range extRemovable() {
		keys["^"+name] = bare
	}
	return keys
}

// why says what is wrong with options that people are likely to try.
func why(flag, key string) string {
	switch flag + " " + key {
	case "-f ", "-F ":
		return "it would make mkfs overwrite what it finds"
	case "-E discard":
		return "discarding a thin volume takes minutes and gains nothing"
	case "-d file", "-d name", "-l logdev", "-l name", "-l file", "-r rtdev", "-J device", "-E offset":
		return "the driver decides where the file system is made"
	case "-m uuid", "-U ":
		return "every volume has a UUID of its own"
	case "-d size":
		return "a file system is as large as its volume"
	case "-c ", "-d ", "-l ", "-p ", "-z ", "-S ":
		return "it reads or writes files, or every block of the volume"
	case "-O ^has_journal":
		return "a volume that can lose its path needs a journal"
	case "-m crc":
		return "kernels cease to mount xfs without checksums"
	}
	return ""
}

// parseOptions reads options as they would stand on a command line, without
// quotes: every flag and every value is a word.
func parseOptions(fsType, text string) (options, error) {
	if len(text) > maxOptions {
		return nil, fmt.Errorf("%d bytes are too long, at most %d are allowed", len(text), maxOptions)
	}
	words := strings.Fields(text)
	if len(words) == 0 {
		return nil, nil
	}
	table := allowed(fsType)
	var parsed options
	for len(words) > 0 {
		flag := words[0]
		value, known := table[flag]
		switch {
		case !known:
			return nil, refusal(fsType, flag, "", names(table))
		case len(words) < 2:
			return nil, fmt.Errorf("%q of %s needs a value", flag, fsType)
		case slices.ContainsFunc(parsed, func(o option) bool { return o.flag == flag }):
			return nil, fmt.Errorf("%q is there twice; join its values with a comma", flag)
		}
		o, err := value.parse(fsType, flag, words[1])
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, o)
		words = words[2:]
	}
	return parsed, nil
}

func (t takes) parse(fsType, flag, text string) (option, error) {
	if t.keys == nil {
		if !t.plain.MatchString(text) {
			return option{}, fmt.Errorf("%s %q does not look like %s", flag, text, t.plain)
		}
		return option{flag, []keyValue{{value: text}}}, nil
	}
	o := option{flag: flag}
	for pair := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(pair, "=")
		form, known := t.keys[key]
		switch {
		case !known:
			return option{}, refusal(fsType, flag, key, names(t.keys))
		case !form.MatchString(value):
			return option{}, fmt.Errorf("%s %q: the value does not look like %s", flag, pair, form)
		case o.has(key):
			return option{}, fmt.Errorf("%s %s is there twice", flag, key)
		}
		o.keys = append(o.keys, keyValue{key, value})
	}
	return o, nil
}

func refusal(fsType, flag, key string, known []string) error {
	what := strings.TrimSpace(flag + " " + key)
	if reason := why(flag, key); reason != "" {
		return fmt.Errorf("%q is not allowed: %s", what, reason)
	}
	return fmt.Errorf("%q is not known or not allowed; for %s there are %s", what, fsType, strings.Join(known, ", "))
}

func names[T any](m map[string]T) []string {
	var all []string
	for name := range m {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

func (o option) has(key string) bool {
	return slices.ContainsFunc(o.keys, func(k keyValue) bool { return k.key == key })
}

// find returns the flag's option, with no keys when it is not there.
func (all options) find(flag string) option {
	i := slices.IndexFunc(all, func(o option) bool { return o.flag == flag })
	if i < 0 {
		return option{flag: flag}
	}
	return all[i]
}

// mountableBy says whether the kernel mounts what these options ask for.
func (all options) mountableBy(k Kernel) error {
	var errs []error
	for _, f := range slices.Concat(xfsFeatures(), extFeatures()) {
		for _, pair := range all.find(f.flag).keys {
			if pair.key == f.key && pair.value != "0" && k.before(f.since) {
				errs = append(errs, fmt.Errorf("%s %s needs Linux %s on every node", f.flag, pair, f.since))
			}
		}
	}
	return errors.Join(errs...)
}
