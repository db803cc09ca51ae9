package image

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestSourcesAreDebiansOwnInBothFormats(t *testing.T) {
	apt := fstest.MapFS{
		"sources.list": {Data: []byte(`# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian/ bookworm main contrib
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian bookworm-backports main
deb http://mirror.example/debian bookworm contrib
`)},
		"sources.list.d/other.list": {Data: []byte("deb https://packages.example/apt bookworm main\n" +
			"deb [signed-by=/usr/share/keyrings/runner.gpg arch=amd64] https://packages.example/runner/debian/ bookworm main\n")},
		"sources.list.d/cloud.list": {Data: []byte("deb mirror+file:/etc/apt/mirrors/debian.list bookworm main\n")},
		"sources.list.d/server.sources": {Data: []byte(`Types: deb
URIs: https://packages.example/server/debian
Suites: bookworm
Components: main
Signed-By: /etc/apt/keyrings/server.pgp

Types: deb
URIs: https://packages.example/prod/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----
`)},
		"sources.list.d/debian.sources": {Data: []byte(`Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
  http://second.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main non-free-firmware

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://deb.example/node
Suites: nodistro
Components: main
`)},
	}
	got, err := readSources(apt, Suite)
	if err != nil {
		t.Fatal(err)
	}
	want := []source{
		{"http://mirror.example/debian", "bookworm"},
		{"http://mirror.example/debian", "bookworm-updates"},
		{"http://mirror.example/debian-security", "bookworm-security"},
		{"http://second.example/debian", "bookworm"},
		{"http://second.example/debian", "bookworm-updates"},
		{"mirror+file:/etc/apt/mirrors/debian.list", "bookworm"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(source{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAMirrorOfAnotherReleaseCarriesTheGuests(t *testing.T) {
	apt := fstest.MapFS{"sources.list.d/debian.sources": {Data: []byte(
		"Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie trixie-updates trixie-backports\nComponents: main\n")}}
	got, err := readSources(apt, "trixie")
	if err != nil {
		t.Fatal(err)
	}
	want := []source{{"http://mirror.example/debian", Suite}, {"http://mirror.example/debian", Suite + "-updates"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(source{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

const dep = `kernel/net/core/failover.ko:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/md/dm-mod.ko:
kernel/drivers/md/dm-multipath.ko: kernel/drivers/md/dm-mod.ko
kernel/drivers/md/dm-round-robin.ko: kernel/drivers/md/dm-multipath.ko kernel/drivers/md/dm-mod.ko
kernel/fs/other.ko.xz:
`

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	index, err := parseIndex([]byte(dep), []byte("kernel/fs/ext4/ext4.ko\n"))
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct{ patterns, want []string }{
		"a chain": {[]string{"virtio_net"}, []string{
			"kernel/net/core/failover.ko", "kernel/drivers/net/net_failover.ko", "kernel/drivers/net/virtio_net.ko",
		}},
		"a pattern, with - for _": {[]string{"dm_*"}, []string{
			"kernel/drivers/md/dm-mod.ko", "kernel/drivers/md/dm-multipath.ko", "kernel/drivers/md/dm-round-robin.ko",
		}},
		"built in":   {[]string{"ext4"}, nil},
		"compressed": {[]string{"other"}, []string{"kernel/fs/other.ko.xz"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := index.closure(c.patterns)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	if _, err := index.closure([]string{"dm_mod", "gone", "absent_*"}); err == nil ||
		err.Error() != "the kernel has no module gone\nthe kernel has no module absent_*" {
		t.Errorf("missing modules: %v", err)
	}
}

func TestInitramfsIsInTheKernelsFormat(t *testing.T) {
	dir := t.TempDir()
	modules := filepath.Join(dir, "modules")
	if err := os.Mkdir(modules, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"agent": "program", "modules/order": "a.ko\n", "modules/a.ko": "module"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "initramfs")
	if err := (&Image{modules: modules}).WriteInitramfs(filepath.Join(dir, "agent"), path); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"init": "100755 program", "dev/console": "20600 ", "modules/a.ko": "100644 module", "modules/order": "100644 a.ko\n",
	}
	for _, name := range []string{"dev", "proc", "sys", "run", "modules", "image", "state", "newroot"} {
		want[name] = "40755 "
	}
	if diff := cmp.Diff(want, readCPIO(t, path)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if err := (&Image{modules: modules}).WriteInitramfs(filepath.Join(dir, "absent"), path); err == nil {
		t.Error("an initramfs without an agent was written")
	}
}
