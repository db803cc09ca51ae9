package layers_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	fenced    = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	codeSpan  = regexp.MustCompile("`[^`\n]*`")
	link      = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading   = regexp.MustCompile(`(?m)^#+ +(.+?) *$`)
	notInSlug = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)

	// named is a document that a text names by its place in the repository. What
	// follows an equals sign is where a command puts one.
	named = regexp.MustCompile(`(?:^|[^=/\w.-])(docs/[\w-]+\.md)`)
)

// TestWhatDocumentsNameIsThere: files and sections that a document links to, and
// documents that it, a manifest, a message or a comment names.
func TestWhatDocumentsNameIsThere(t *testing.T) {
	links, names := 0, 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != ".":
			return fs.SkipDir
		case entry.IsDir() || !slices.Contains([]string{".md", ".go", ".yaml", ".txt", ".json", ".conf"}, filepath.Ext(path)):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, found := range named.FindAllStringSubmatch(string(text), -1) {
			names++
			if _, err := os.Stat(found[1]); err != nil {
				t.Errorf("%s names a document: %v", path, err)
			}
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		prose := codeSpan.ReplaceAllString(fenced.ReplaceAllString(string(text), ""), "")
		for _, found := range link.FindAllStringSubmatch(prose, -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			links++
			if err := followed(path, found[1]); err != nil {
				t.Errorf("%s: link to %s: %v", path, found[1], err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if links < 30 || names < 30 {
		t.Errorf("only %d links and %d names found", links, names)
	}
}

// followed goes where a link of a document leads.
func followed(document, target string) error {
	file, section, _ := strings.Cut(target, "#")
	if file == "" {
		file = document
	} else {
		file = filepath.Join(filepath.Dir(document), filepath.FromSlash(file))
	}
	if _, err := os.Stat(file); err != nil || section == "" {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for _, found := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(string(text), ""), -1) {
		if slug(found[1]) == section {
			return nil
		}
	}
	return errors.New("no such section")
}

// slug is how a heading is called in links, as GitHub and others make it.
func slug(heading string) string {
	return strings.ReplaceAll(notInSlug.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

func TestSlug(t *testing.T) {
	for heading, want := range map[string]string{
		"One name, one host":    "one-name-one-host",
		"`fsck` of A & B (xfs)": "fsck-of-a--b-xfs",
		"Talos Linux":           "talos-linux",
	} {
		if got := slug(heading); got != want {
			t.Errorf("%q is called %q, want %q", heading, got, want)
		}
	}
}
