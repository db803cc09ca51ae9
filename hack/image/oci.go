package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Media types of the OCI image specification 1.1.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// archive is an image for one or more architectures as one file: an OCI layout that
// also has what "docker load" reads.
type archive struct {
	name    string // repository:tag
	created time.Time
	blobs   map[string][]byte // by digest
	images  []descriptor
	docker  []dockerImage
}

type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// settings are those of the image's config that depend on the program.
type settings struct {
	Entrypoint []string          `json:"Entrypoint"`
	Env        []string          `json:"Env"`
	User       string            `json:"User"`
	Labels     map[string]string `json:"Labels"`
}

// add adds the image of an architecture, made of layers, and returns the size of
// what a node downloads.
func (a *archive) add(arch string, s settings, layers ...tree) (compressed int, err error) {
	var described []descriptor
	var diffIDs []string
	docker := dockerImage{RepoTags: []string{a.name}}
	for _, layer := range layers {
		var plain, packed []byte
		if plain, err = layer.tar(a.created); err != nil {
			return 0, err
		}
		if packed, err = compress(plain); err != nil {
			return 0, err
		}
		d := a.blob(typeLayer, packed)
		diffIDs = append(diffIDs, digest(plain))
		described = append(described, d)
		docker.Layers = append(docker.Layers, blobPath(d.Digest))
		compressed += d.Size
	}
	config, err := a.json(typeConfig, map[string]any{
		"architecture": arch, "os": "linux", "created": a.created.Format(time.RFC3339),
		"config": s, "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return 0, err
	}
	manifest, err := a.json(typeManifest, map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest, "config": config, "layers": described,
	})
	if err != nil {
		return 0, err
	}
	manifest.Platform = &platform{Architecture: arch, OS: "linux"}
	docker.Config = blobPath(config.Digest)
	a.images = append(a.images, manifest)
	a.docker = append(a.docker, docker)
	return compressed, nil
}

// write writes the archive and returns the digest by which the image is pulled.
func (a *archive) write(w io.Writer) (string, error) {
	top := a.images[0]
	if len(a.images) > 1 {
		var err error
		if top, err = a.json(typeIndex, map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": a.images}); err != nil {
			return "", err
		}
	}
	_, tag, _ := strings.Cut(path.Base(a.name), ":")
	top.Annotations = map[string]string{"io.containerd.image.name": a.name, "org.opencontainers.image.ref.name": tag}
	files := tree{"blobs": {dir: true, mode: 0o755}, "blobs/sha256": {dir: true, mode: 0o755}}
	for name, content := range map[string]any{
		"oci-layout":    map[string]string{"imageLayoutVersion": "1.0.0"},
		"index.json":    map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": []descriptor{top}},
		"manifest.json": a.docker[:1], // docker load knows one architecture
	} {
		text, err := json.Marshal(content)
		if err != nil {
			return "", err
		}
		files[name] = file{mode: 0o644, content: text}
	}
	for digest, content := range a.blobs {
		files[blobPath(digest)] = file{mode: 0o644, content: content}
	}
	all, err := files.tar(a.created)
	if err != nil {
		return "", err
	}
	_, err = w.Write(all)
	return top.Digest, err
}

func (a *archive) blob(mediaType string, content []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: digest(content), Size: len(content)}
	a.blobs[d.Digest] = content
	return d
}

func (a *archive) json(mediaType string, content any) (descriptor, error) {
	text, err := json.Marshal(content)
	if err != nil {
		return descriptor{}, err
	}
	return a.blob(mediaType, text), nil
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func blobPath(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }

func compress(plain []byte) ([]byte, error) {
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err = w.Write(plain); err != nil {
		return nil, err
	}
	err = w.Close()
	return packed.Bytes(), err
}

// tar packs a tree so that the same tree gives the same bytes: sorted, all of one
// time, all of root. Parents come before what they hold.
func (t tree) tar(when time.Time) ([]byte, error) {
	whole := maps.Clone(t)
	for name := range t {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := whole[dir]; !ok {
				whole[dir] = file{mode: 0o755, dir: true}
			}
		}
	}
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for _, name := range slices.Sorted(maps.Keys(whole)) {
		f := whole[name]
		head := &tar.Header{Name: name, Mode: f.mode, ModTime: when, Format: tar.FormatUSTAR, Size: int64(len(f.content)), Typeflag: tar.TypeReg}
		switch {
		case f.dir:
			head.Name, head.Typeflag = name+"/", tar.TypeDir
		case f.link != "":
			head.Linkname, head.Typeflag = f.link, tar.TypeSymlink
		}
		if err := w.WriteHeader(head); err != nil {
			return nil, fmt.Errorf("pack %s: %w", name, err)
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, fmt.Errorf("pack %s: %w", name, err)
		}
	}
	err := w.Close()
	return packed.Bytes(), err
}
