package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// installModules puts the wanted modules into the root tree, and those that are loaded before it is mounted
// into boot, beside a file "order" that lists them in the order to load them.
func installModules(ctx context.Context, kernel, root, boot string) error {
	versions, err := os.ReadDir(filepath.Join(kernel, "lib/modules"))
	if err != nil {
		return err
	}
	if len(versions) != 1 {
		return fmt.Errorf("expected the modules of one kernel, got %d", len(versions))
	}
	version := versions[0].Name()
	tree := filepath.Join(root, "usr/lib/modules", version)
	if err = os.MkdirAll(filepath.Dir(tree), 0o755); err != nil {
		return err
	}
	if err = os.Rename(filepath.Join(kernel, "lib/modules", version), tree); err != nil {
		return err
	}
	if _, err = run(ctx, "chroot", root, "depmod", version); err != nil {
		return err
	}
	index, err := readIndex(tree)
	if err != nil {
		return err
	}
	keep, err := index.closure(modules)
	if err != nil {
		return err
	}
	early, err := index.closure(bootModules)
	if err != nil {
		return err
	}
	if err = copyBoot(tree, boot, early); err != nil {
		return err
	}
	for path := range index.needs {
		if slices.Contains(keep, path) {
			continue
		}
		if err = os.Remove(filepath.Join(tree, path)); err != nil {
			return err
		}
	}
	_, err = run(ctx, "chroot", root, "depmod", version)
	return err
}

func copyBoot(tree, boot string, paths []string) error {
	if err := os.Mkdir(boot, 0o755); err != nil {
		return err
	}
	var order strings.Builder
	for _, path := range paths {
		content, err := os.ReadFile(filepath.Join(tree, path))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(boot, filepath.Base(path)), content, 0o644); err != nil {
			return err
		}
		fmt.Fprintln(&order, filepath.Base(path))
	}
	return os.WriteFile(filepath.Join(boot, "order"), []byte(order.String()), 0o644)
}

// moduleIndex is what depmod knows.
type moduleIndex struct {
	needs   map[string][]string // path of a module, and the paths of all it needs, nearest first
	builtIn []string            // paths of what the kernel has inside
}

func readIndex(tree string) (*moduleIndex, error) {
	dep, err := os.ReadFile(filepath.Join(tree, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtIn, err := os.ReadFile(filepath.Join(tree, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	return parseIndex(dep, builtIn)
}

func parseIndex(dep, builtIn []byte) (*moduleIndex, error) {
	index := &moduleIndex{needs: map[string][]string{}, builtIn: strings.Fields(string(builtIn))}
	lines := bufio.NewScanner(bytes.NewReader(dep))
	for lines.Scan() {
		path, needs, ok := strings.Cut(lines.Text(), ":")
		if !ok {
			return nil, fmt.Errorf("modules.dep has a line without a colon: %q", lines.Text())
		}
		index.needs[path] = strings.Fields(needs)
	}
	return index, lines.Err()
}

// moduleName is the name that the kernel gives to the module in a file.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// closure is the modules that the patterns name and all they need, each after what it needs.
func (m *moduleIndex) closure(patterns []string) ([]string, error) {
	var all []string
	add := func(path string) {
		if !slices.Contains(all, path) {
			all = append(all, path)
		}
	}
	var missing []error
	for _, pattern := range patterns {
		found := slices.ContainsFunc(m.builtIn, func(path string) bool { return matches(pattern, path) })
		for _, path := range m.sorted() {
			if !matches(pattern, path) {
				continue
			}
			found = true
			for _, need := range slices.Backward(m.needs[path]) {
				add(need)
			}
			add(path)
		}
		if !found {
			missing = append(missing, fmt.Errorf("the kernel has no module %s", pattern))
		}
	}
	return all, errors.Join(missing...)
}

func (m *moduleIndex) sorted() []string {
	paths := make([]string, 0, len(m.needs))
	for path := range m.needs {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

func matches(pattern, path string) bool {
	ok, err := filepath.Match(pattern, moduleName(path))
	return err == nil && ok
}
