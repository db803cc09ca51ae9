// Command images packs programs as container images into one archive, which containerd imports, without a
// container engine or a registry. It reads a JSON list of images.
package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image is one program, or a shell, with what a container engine expects around it.
type image struct {
	Names   []string // repository:tag
	Program string   // file of this host; empty for an image that runs a shell
	Path    string   // where it is in the image, and what the image runs
	Args    []string // of the program, unless a pod has its own
	Busybox string   // file of this host that makes the image's shell and tools; may be empty
	Tools   []string // their names
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
	if i.Program == "" {
		config.Config.Cmd = []string{"/bin/sh"}
	} else {
		config.Config.Entrypoint, config.Config.Cmd = []string{i.Path}, i.Args
	}
	return mutate.ConfigFile(base, config)
}

// layer is a root file system with the programs. The times in it are zero, so that the same programs give the
// same image.
func (i image) layer() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, dir := range []string{"bin", "dev", "etc", "proc", "run", "sys", "tmp"} {
		if err := w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	err := errors.Join(
		put(w, "etc/group", 0o644, []byte("root:x:0:\nnonroot:x:65532:\n")),
		put(w, "etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532:nonroot:/:/bin/sh\n")),
		copyTo(w, i.Path, i.Program),
		copyTo(w, shell, i.Busybox),
	)
	for _, tool := range i.Tools {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: "bin/" + tool, Typeflag: tar.TypeSymlink, Linkname: shell, Mode: 0o777}))
	}
	return buf.Bytes(), errors.Join(err, w.Close())
}

const shell = "/bin/busybox"

// copyTo puts a program of this host into the archive, if there is one.
func copyTo(w *tar.Writer, path, program string) error {
	if program == "" {
		return nil
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	return put(w, strings.TrimPrefix(path, "/"), 0o755, content)
}

func put(w *tar.Writer, name string, mode int64, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
