// Command images packs programs as container images into one archive, which containerd imports, without a
// container engine or a registry. It reads a JSON list of images.
package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image is one program with what a container engine expects around it.
type image struct {
	Names   []string // repository:tag
	Program string   // file of this host
	Path    string   // where it is in the image, and what the image runs
	Links   []string // more names of it, beside it
	Shell   bool     // the image runs nothing by itself
}

func main() {
	out := flag.String("o", "", "archive to write")
	flag.Parse()
	if err := run(*out); err != nil {
		log.Fatal(err)
	}
}

func run(out string) error {
	var images []image
	if err := json.NewDecoder(os.Stdin).Decode(&images); err != nil {
		return fmt.Errorf("read the list of images: %w", err)
	}
	all := map[name.Tag]v1.Image{}
	for _, i := range images {
		built, err := i.build()
		if err != nil {
			return fmt.Errorf("%v: %w", i.Names, err)
		}
		for _, n := range i.Names {
			tag, err := name.NewTag(n)
			if err != nil {
				return err
			}
			all[tag] = built
		}
	}
	return tarball.MultiWriteToFile(out, all)
}

func (i image) build() (v1.Image, error) {
	content, err := i.layer()
	if err != nil {
		return nil, err
	}
	base, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		static.NewLayer(content, types.OCIUncompressedLayer)) // guests have no time to unpack
	if err != nil {
		return nil, err
	}
	config, err := base.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	// Emulated processors pay for each thread that spins, and for each signal that preempts.
	config.Config.Env = []string{"PATH=/bin", "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1"}
	if i.Shell {
		config.Config.Cmd = []string{"/bin/sh"}
	} else {
		config.Config.Entrypoint = []string{i.Path}
	}
	return mutate.ConfigFile(base, config)
}

// layer is a root file system with the program. The times in it are zero, so that the same program gives the
// same image.
func (i image) layer() ([]byte, error) {
	program, err := os.ReadFile(i.Program)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, dir := range []string{"bin", "dev", "etc", "proc", "run", "sys", "tmp"} {
		if err := w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	files := map[string]struct {
		mode    int64
		content []byte
	}{
		"etc/passwd":                    {0o644, []byte("root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532:nonroot:/:/bin/sh\n")},
		"etc/group":                     {0o644, []byte("root:x:0:\nnonroot:x:65532:\n")},
		strings.TrimPrefix(i.Path, "/"): {0o755, program},
	}
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		f := files[n]
		if err := w.WriteHeader(&tar.Header{Name: n, Typeflag: tar.TypeReg, Mode: f.mode, Size: int64(len(f.content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	for _, link := range i.Links {
		if err := w.WriteHeader(&tar.Header{Name: "bin/" + link, Typeflag: tar.TypeSymlink, Linkname: i.Path, Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), w.Close()
}
