package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// packed is an archive as mmdebstrap makes it: some packages still use /bin and /lib.
func packed(t *testing.T) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	add := func(head tar.Header, content string) {
		head.Size = int64(len(content))
		if head.Mode == 0 {
			head.Mode = 0o644
		}
		if err := w.WriteHeader(&head); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	add(tar.Header{Name: "./bin/mount", Mode: 0o4755}, "mount")
	add(tar.Header{Name: "./usr/sbin/tune2fs", Mode: 0o755}, "tune2fs")
	add(tar.Header{Name: "./usr/sbin/e2label", Typeflag: tar.TypeLink, Linkname: "./usr/sbin/tune2fs"}, "")
	add(tar.Header{Name: "./etc/os-release", Typeflag: tar.TypeSymlink, Linkname: "../usr/lib/os-release"}, "")
	add(tar.Header{Name: "./usr/lib/os-release"}, "ID=debian")
	add(tar.Header{Name: "./etc/debian_version"}, "12")
	for _, owner := range []string{"base-files", "ca-certificates", "unused"} {
		add(tar.Header{Name: "./" + notes + "/" + owner + ".control"}, "Package: "+owner+"\n")
		add(tar.Header{Name: "./usr/share/doc/" + owner + "/copyright"}, "free")
	}
	add(tar.Header{Name: "./" + notes + "/base-files.files"}, "./usr/lib/\n./usr/lib/os-release\n")
	add(tar.Header{Name: "./" + notes + "/unused.files"}, "./usr/lib/\n./usr/lib/unused\n")
	for i := range 60 {
		add(tar.Header{Name: "./usr/share/ca-certificates/mozilla/" + string(rune('A'+i)) + ".crt"}, "cert\n\n")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

func TestATreeIsUsrMergedAndHasNoSetuid(t *testing.T) {
	got, err := readTree(bytes.NewReader(packed(t)))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]file{
		"usr/bin/mount":    {mode: 0o755, content: []byte("mount")},
		"usr/sbin/e2label": {mode: 0o755, content: []byte("tune2fs")},
		"etc/os-release":   {mode: 0o777, link: "../usr/lib/os-release"},
	}
	for name, f := range want {
		if d := cmp.Diff(got[name], f, cmp.AllowUnexported(file{})); d != "" {
			t.Errorf("%s: got (-), want (+):\n%s", name, d)
		}
	}
}

func TestRootHoldsWhatIsKeptWithItsLicenceAndNothingElse(t *testing.T) {
	all, err := readTree(bytes.NewReader(packed(t)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := root(all, "datera-sim")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if f := got[name]; !f.dir && f.link == "" {
			names = append(names, name)
		}
	}
	want := []string{
		"etc/debian_version", "etc/group", "etc/nsswitch.conf", "etc/passwd", "etc/selinux/config",
		"etc/ssl/certs/ca-certificates.crt", "usr/lib/os-release",
		"usr/share/doc/base-files/copyright", "usr/share/doc/ca-certificates/copyright",
		"var/lib/dpkg/status.d/base-files", "var/lib/dpkg/status.d/ca-certificates",
	}
	if d := cmp.Diff(names, want); d != "" {
		t.Errorf("got (-), want (+):\n%s", d)
	}
	if n := bytes.Count(got["etc/ssl/certs/ca-certificates.crt"].content, []byte("cert\n")); n != 60 {
		t.Errorf("%d certificates in one file, want 60", n)
	}
}

func TestAFileThatNoPackageHasIsAnError(t *testing.T) {
	all, err := readTree(bytes.NewReader(packed(t)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = root(all, plugin); err == nil || !strings.Contains(err.Error(), "no package has usr/bin/nsenter") {
		t.Errorf("got %v", err)
	}
}

func TestLibrariesComeByWayOfEachOther(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if linked, needsErr := needs(self); needsErr != nil || slices.Contains(linked, "libz.so.1") {
		t.Errorf("this test needs %v, %v", linked, needsErr)
	}
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	needed, err := needs(shell)
	if err != nil || !slices.Contains(needed, "libc.so.6") || !slices.ContainsFunc(needed, func(n string) bool { return strings.HasPrefix(n, "/lib") }) {
		t.Fatalf("/bin/sh needs %v, %v; want libc and the linker", needed, err)
	}
	all := tree{
		"usr/lib/x86_64-linux-gnu/libc.so.6":    {mode: 0o777, link: "libc-2.36.so"},
		"usr/lib/x86_64-linux-gnu/libc-2.36.so": {mode: 0o644, content: []byte("libc")},
		"usr/lib/x86_64-linux-gnu/libother.so":  {mode: 0o644},
	}
	for _, n := range needed {
		if strings.HasPrefix(n, "/") {
			all[merged(n)] = file{mode: 0o755, content: []byte("linker")}
		}
	}
	picked := tree{"usr/bin/sh": {mode: 0o755, content: shell}}
	if err := addLibraries(all, picked); err != nil {
		t.Fatal(err)
	}
	if _, ok := picked["usr/lib/x86_64-linux-gnu/libc-2.36.so"]; !ok || len(picked) != 4 {
		t.Errorf("picked %v", slices.Sorted(maps.Keys(picked)))
	}
	delete(all, "usr/lib/x86_64-linux-gnu/libc.so.6")
	if err := addLibraries(all, tree{"usr/bin/sh": {content: shell}}); err == nil || !strings.Contains(err.Error(), "usr/bin/sh: no package has the library libc.so.6") {
		t.Errorf("got %v", err)
	}
}

func TestTheSameFilesGiveTheSameArchive(t *testing.T) {
	var first, second bytes.Buffer
	for _, to := range []*bytes.Buffer{&first, &second} {
		a := &archive{name: "example.com/x:v1", created: time.Unix(0, 0).UTC(), blobs: map[string][]byte{}}
		for _, arch := range []string{"amd64", "arm64"} {
			layer := tree{}
			for i := range 26 {
				layer["a/b/"+string(rune('a'+i))] = file{mode: 0o644, content: []byte(arch)}
			}
			if _, err := a.add(arch, settings{User: "1"}, layer, tree{"bin": {mode: 0o777, link: "a"}}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.write(to); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two archives of the same files differ")
	}
	index := map[string]json.RawMessage{}
	for entries := tar.NewReader(&first); ; {
		head, err := entries.Next()
		if err != nil {
			break
		}
		content, err := io.ReadAll(entries)
		if err != nil {
			t.Fatal(err)
		}
		index[head.Name] = content
		if sum, isBlob := strings.CutPrefix(head.Name, "blobs/sha256/"); isBlob && sum != "" && digest(content) != "sha256:"+sum {
			t.Errorf("%s is not what its name says", head.Name)
		}
	}
	if !bytes.Contains(index["index.json"], []byte(typeIndex)) || !bytes.Contains(index["manifest.json"], []byte("example.com/x:v1")) {
		t.Errorf("index.json %s, manifest.json %s", index["index.json"], index["manifest.json"])
	}
}

// TestTheDockerfileSaysTheSame: user, path, entry point and labels are in two places.
func TestTheDockerfileSaysTheSame(t *testing.T) {
	text, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	s := options{program: plugin, version: "${VERSION}", commit: "${COMMIT}"}.settings()
	for _, want := range []string{"USER " + s.User, "ENV " + s.Env[0], `ENTRYPOINT ["` + s.Entrypoint[0] + `"]`} {
		if !strings.Contains(string(text), "\n"+want+"\n") {
			t.Errorf("the Dockerfile has no line %q", want)
		}
	}
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(org\.opencontainers\.image\.\w+)="([^"]*)"`).FindAllSubmatch(text, -1) {
		got[string(m[1])] = string(m[2])
	}
	if d := cmp.Diff(got, s.Labels); d != "" {
		t.Errorf("labels: got (-), want (+):\n%s", d)
	}
}
