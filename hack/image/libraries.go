package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// addLibraries adds the dynamic linker and the shared libraries that the programs in
// the tree need, directly or by way of each other, and nothing else.
func addLibraries(all, picked tree) error {
	queue := slices.Sorted(maps.Keys(picked))
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		needed, err := needs(picked[name].content)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, lib := range needed {
			at, err := find(all, lib)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			for {
				f := all[at]
				if _, have := picked[at]; have {
					break
				}
				picked[at] = f
				queue = append(queue, at)
				if f.link == "" {
					break
				}
				at = target(at, f.link)
			}
		}
	}
	return nil
}

// find is where the dynamic linker finds a library, or the kernel the linker, which
// is named by its path.
func find(all tree, lib string) (string, error) {
	if path.IsAbs(lib) {
		if name := merged(lib); all[name].mode != 0 {
			return name, nil
		}
		return "", fmt.Errorf("no package has %s", lib)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if ok, err := path.Match("usr/lib/*-linux-*/"+lib, name); ok || err != nil {
			return name, err
		}
	}
	return "", fmt.Errorf("no package has the library %s", lib)
}

// needs are the libraries and the interpreter of a program or library; nothing for
// what is neither.
func needs(content []byte) ([]string, error) {
	if !bytes.HasPrefix(content, []byte(elf.ELFMAG)) {
		return nil, nil
	}
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		interp := make([]byte, p.Filesz)
		if _, err := p.ReadAt(interp, 0); err != nil {
			return nil, err
		}
		needed = append(needed, strings.TrimRight(string(interp), "\x00"))
	}
	return needed, nil
}
