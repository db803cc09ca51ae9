package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// source is one suite of one mirror.
type source struct{ uri, suite string }

func (s source) line() string {
	if _, err := os.Stat(keyring); err != nil {
		return "deb " + s.uri + " " + s.suite + " main"
	}
	return "deb [signed-by=" + keyring + "] " + s.uri + " " + s.suite + " main"
}

// hostSuite is the code name of the Debian release that this host runs, or "".
func hostSuite() string {
	content, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return ""
	}
	found := regexp.MustCompile(`(?m)^VERSION_CODENAME="?([a-z]+)`).FindSubmatch(content)
	if found == nil {
		return ""
	}
	return string(found[1])
}

// hostSources are the mirrors that this host itself uses for the guests' suite or, when it runs another
// release of Debian, for its own: a mirror carries every release.
func hostSources() ([]string, error) {
	found, err := readSources(os.DirFS("/etc/apt"), Suite)
	if err == nil && len(found) == 0 && hostSuite() != "" {
		found, err = readSources(os.DirFS("/etc/apt"), hostSuite())
	}
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("guest images are made of Debian %[1]s, and apt knows no mirror of it: "+
			"write \"deb MIRROR %[1]s main\" to /etc/apt/sources.list.d/%[1]s.list and run apt-get update", Suite)
	}
	lines := make([]string, 0, len(found))
	for _, s := range found {
		lines = append(lines, s.line())
	}
	return lines, nil
}

// Mirrors are the sources of Suite and the options by which apt reaches them, as this host uses them: for
// others that make something of Debian packages.
func Mirrors(ctx context.Context) (sources, aptOptions []string, err error) {
	if sources, err = hostSources(); err != nil {
		return nil, nil, err
	}
	aptOptions, err = hostAptOptions(ctx)
	return sources, aptOptions, err
}

// readSources reads which mirrors an /etc/apt directory names for a release of Debian, in both of apt's
// formats, and returns them as sources of the guests' suite.
func readSources(apt fs.FS, release string) ([]source, error) {
	var all []source
	for _, pattern := range []string{"sources.list", "sources.list.d/*.list", "sources.list.d/*.sources"} {
		names, err := fs.Glob(apt, pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			content, err := fs.ReadFile(apt, name)
			if err != nil {
				return nil, err
			}
			parse := parseLines
			if filepath.Ext(name) == ".sources" {
				parse = parseStanzas
			}
			all = append(all, parse(content)...)
		}
	}
	all = slices.DeleteFunc(all, func(s source) bool { return !serves(s, release) })
	for i, s := range all {
		all[i].suite = Suite + strings.TrimPrefix(s.suite, release)
	}
	slices.SortFunc(all, func(a, b source) int { return strings.Compare(a.uri+" "+a.suite, b.uri+" "+b.suite) })
	return slices.Compact(all), nil
}

// serves tells Debian's own archive from others that use the same suite names, as far as an address can.
func serves(s source, release string) bool {
	switch s.suite {
	case release, release + "-updates", release + "-security":
		return strings.Contains(s.uri, "debian")
	}
	return false
}

// foreign tells a source that names other keys than those of Debian's archive: somebody else's packages for Debian.
func foreign(signedBy []string) bool {
	return len(signedBy) > 0 && !slices.ContainsFunc(signedBy, func(key string) bool { return strings.Contains(key, "/debian-archive-") })
}

// parseLines reads the one-line format: deb [options] uri suite component...
func parseLines(content []byte) []source {
	options, keys := regexp.MustCompile(`\[[^]]*\]`), regexp.MustCompile(`[\[\s]signed-by=([^]\s]+)`)
	var all []source
	lines := bufio.NewScanner(bytes.NewReader(content))
	for lines.Scan() {
		words := strings.Fields(options.ReplaceAllString(lines.Text(), " "))
		if len(words) >= 4 && words[0] == "deb" && slices.Contains(words[3:], "main") && !foreign(keys.FindStringSubmatch(lines.Text())) {
			all = append(all, source{strings.TrimSuffix(words[1], "/"), words[2]})
		}
	}
	return all
}

// parseStanzas reads the deb822 format; a field may go on in indented lines.
func parseStanzas(content []byte) []source {
	var all []source
	for stanza := range bytes.SplitSeq(append(content, '\n'), []byte("\n\n")) {
		fields := map[string][]string{}
		key := ""
		for line := range strings.Lines(string(stanza)) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			value := line
			if line[0] != ' ' && line[0] != '\t' {
				key, value, _ = strings.Cut(line, ":")
				key = strings.ToLower(key)
			}
			fields[key] = append(fields[key], strings.Fields(value)...)
		}
		if !slices.Contains(fields["types"], "deb") || !slices.Contains(fields["components"], "main") || slices.Contains(fields["enabled"], "no") || foreign(fields["signed-by"]) {
			continue
		}
		for _, uri := range fields["uris"] {
			for _, suite := range fields["suites"] {
				all = append(all, source{strings.TrimSuffix(uri, "/"), suite})
			}
		}
	}
	return all
}

// hostAptOptions are this host's settings on how to reach mirrors: proxies, and the checks of dates.
func hostAptOptions(ctx context.Context) ([]string, error) {
	dump, err := run(ctx, "apt-config", "dump")
	if err != nil {
		return nil, errors.Join(errors.New("guest images are made of Debian packages, which needs apt"), err)
	}
	wanted := regexp.MustCompile(`(?im)^Acquire::(?:https?::Proxy(?:-Auto-Detect)?|https?::Proxy::\S+|Check-Valid-Until|Check-Date) ".+";$`)
	return wanted.FindAllString(string(dump), -1), nil
}
