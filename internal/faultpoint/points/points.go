// Package points knows which fault points the source has: test support.
package points

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var call = regexp.MustCompile(`faultpoint\.At\("([^"]+)"\)`)

// Named lists the names of all fault points in the packages below root, sorted.
// A name that stands twice is an error: a test could not tell which one it hit.
func Named(root string, dirs ...string) ([]string, error) {
	var all []string
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			for _, found := range call.FindAllStringSubmatch(string(content), -1) {
				if slices.Contains(all, found[1]) || strings.Contains(found[1], "/") {
					return nil, fmt.Errorf("%s: the fault point %q is there already, or is no file name", file, found[1])
				}
				all = append(all, found[1])
			}
		}
	}
	slices.Sort(all)
	return all, nil
}
