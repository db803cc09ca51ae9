package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/datera-csi/datera-csi/test/e2e/vm/image"
)

// file is one entry of a tree: a directory, a symbolic link or a regular file.
type file struct {
	mode    int64
	link    string // target of a symbolic link
	content []byte
	dir     bool
}

// tree maps clean relative paths to what is there.
type tree map[string]file

// notes is where the hook below leaves what each package is and holds.
const notes = "var/lib/dpkg/notes"

// hook notes, while the packages lie there, the control file and the list of each.
const hook = `mkdir -p "$1/` + notes + `"
for deb in "$1"/var/cache/apt/archives/*.deb; do
	name=$(dpkg-deb -f "$deb" Package)
	dpkg-deb -f "$deb" >"$1/` + notes + `/$name.control"
	dpkg-deb --fsys-tarfile "$deb" | tar -t >"$1/` + notes + `/$name.files"
done`

// unpack downloads the packages for an architecture and unpacks them, running none
// of their scripts, into a tar archive.
func unpack(ctx context.Context, arch string, to io.Writer) error {
	mode := "unshare"
	if os.Geteuid() == 0 {
		mode = "root"
	}
	sources, options, err := image.Mirrors(ctx)
	if err != nil {
		return err
	}
	argv := []string{
		"--quiet", "--mode=" + mode, "--variant=extract", "--format=tar", "--architectures=" + arch,
		"--include=" + strings.Join(packages(), ","),
		`--aptopt=APT::Install-Recommends "false"`, `--aptopt=Acquire::Languages "none"`, `--aptopt=Acquire::Retries "3"`,
		"--extract-hook=" + hook,
	}
	for _, option := range options {
		argv = append(argv, "--aptopt="+option)
	}
	return image.Mmdebstrap(ctx, to, append(append(argv, image.Suite, "-"), sources...)...)
}

// readTree reads an archive as a tree in which bin, sbin and lib* lie in usr, as in
// every Debian since its release 12, and hard links have their content.
func readTree(archive io.Reader) (tree, error) {
	all := tree{}
	for entries := tar.NewReader(archive); ; {
		head, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		name := merged(head.Name)
		switch head.Typeflag {
		case tar.TypeReg:
			content, err := io.ReadAll(entries)
			if err != nil {
				return nil, err
			}
			all[name] = file{mode: head.Mode & 0o755, content: content} // no setuid: mount(8) runs as root anyway
		case tar.TypeLink:
			all[name] = all[merged(head.Linkname)]
		case tar.TypeSymlink:
			all[name] = file{mode: 0o777, link: head.Linkname}
		}
	}
}

func merged(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	top, _, _ := strings.Cut(name, "/")
	if slices.Contains(usrMerged(), top) {
		return "usr/" + name
	}
	return name
}

func usrMerged() []string { return []string{"bin", "lib", "lib64", "sbin"} }

// root picks what the image of a program holds out of the unpacked packages.
func root(all tree, program string) (tree, error) {
	picked := tree{}
	for _, pattern := range kept(program) {
		if err := pick(all, picked, pattern); err != nil {
			return nil, err
		}
	}
	if err := addLibraries(all, picked); err != nil {
		return nil, err
	}
	if err := addPackages(all, picked); err != nil {
		return nil, err
	}
	bundle, err := certificateBundle(all)
	if err != nil {
		return nil, err
	}
	picked["etc/ssl/certs/ca-certificates.crt"] = file{mode: 0o644, content: bundle}
	for name, content := range written() {
		picked[name] = file{mode: 0o644, content: []byte(content)}
	}
	for _, name := range usrMerged() {
		picked[name] = file{mode: 0o777, link: "usr/" + name}
		picked["usr/"+name] = file{mode: 0o755, dir: true}
	}
	for _, name := range directories() {
		picked[name] = file{mode: 0o755, dir: true}
	}
	picked["tmp"] = file{mode: 0o1777, dir: true}
	picked["etc/mtab"] = file{mode: 0o777, link: "/proc/self/mounts"}
	return picked, nil
}

// pick copies what matches, and what links lead to. A pattern without a match is an
// error: a package has changed.
func pick(all, picked tree, pattern string) error {
	found := false
	for name, f := range all {
		ok, err := path.Match(pattern, name)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		found = true
		picked[name] = f
		if f.link != "" {
			if err := pick(all, picked, target(name, f.link)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if !found {
		return fmt.Errorf("no package has %s", pattern)
	}
	return nil
}

// target is where a link leads to.
func target(name, link string) string {
	if !path.IsAbs(link) {
		link = path.Join(path.Dir(name), link)
	}
	return merged(link)
}

// addPackages adds what scanners and licences ask for: of each package with a file
// in the image its control file, where such images keep it, and its copyright.
func addPackages(all, picked tree) error {
	owners := map[string]bool{}
	for name, f := range all {
		owner, isList := strings.CutSuffix(strings.TrimPrefix(name, notes+"/"), ".files")
		if !isList || path.Dir(name) != notes {
			continue
		}
		for lines := bufio.NewScanner(bytes.NewReader(f.content)); lines.Scan(); {
			if _, ok := picked[merged(lines.Text())]; ok && !strings.HasSuffix(lines.Text(), "/") {
				owners[owner] = true
			}
		}
	}
	owners["ca-certificates"] = true // in the bundle
	for owner := range owners {
		control, ok := all[notes+"/"+owner+".control"]
		if !ok {
			return fmt.Errorf("package %s has no control file", owner)
		}
		// dpkg -f leaves out the state of a package, which it has not before it is installed.
		picked["var/lib/dpkg/status.d/"+owner] = file{mode: 0o644, content: append([]byte("Status: install ok installed\n"), control.content...)}
		if err := pick(all, picked, "usr/share/doc/"+owner+"/copyright"); err != nil {
			return err
		}
	}
	return nil
}

func certificateBundle(all tree) ([]byte, error) {
	var names []string
	for name := range all {
		if ok, err := path.Match(certificates, name); err != nil {
			return nil, err
		} else if ok {
			names = append(names, name)
		}
	}
	if len(names) < 50 {
		return nil, fmt.Errorf("only %d root certificates in %s", len(names), certificates)
	}
	slices.Sort(names)
	var bundle []byte
	for _, name := range names {
		bundle = append(bytes.TrimSpace(append(bundle, all[name].content...)), '\n')
	}
	return bundle, nil
}
